//! What the engine counts. Handles are made once: looking a label up costs more than counting.

use logitd_core::batch::{Results, RowStatus};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

const STATUSES: [RowStatus; 4] =
    [RowStatus::Ok, RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::NoCandidate];

/// Of the whole engine.
pub(super) struct Metrics {
    pub batches: Counter,
    pub batch_rows: Histogram,
    pub queue_rows: Gauge,
    pub queue_wait: Histogram,
    pub copy: Histogram,
    pub compute: Histogram,
    pub parity_checks: Counter,
    pub parity_skips: Counter,
    pub parity_mismatches: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        describe();
        Self {
            batches: counter!("logitd_batches_total"),
            batch_rows: histogram!("logitd_batch_rows"),
            queue_rows: gauge!("logitd_queue_rows"),
            queue_wait: histogram!("logitd_queue_wait_seconds"),
            copy: histogram!("logitd_copy_seconds"),
            compute: histogram!("logitd_compute_seconds"),
            parity_checks: counter!("logitd_parity_checks_total"),
            parity_skips: counter!("logitd_parity_skips_total"),
            parity_mismatches: counter!("logitd_parity_mismatches_total"),
        }
    }
}

fn describe() {
    describe_counter!("logitd_batches_total", Unit::Count, "Batches sampled.");
    describe_histogram!("logitd_batch_rows", Unit::Count, "Rows in a batch.");
    describe_gauge!("logitd_queue_rows", Unit::Count, "Rows that wait for a device.");
    describe_histogram!(
        "logitd_queue_wait_seconds",
        Unit::Seconds,
        "From acceptance of a request to the start of its batch."
    );
    describe_histogram!(
        "logitd_copy_seconds",
        Unit::Seconds,
        "Copying the logits of a batch to its device; 0 where they are read in place."
    );
    describe_histogram!("logitd_compute_seconds", Unit::Seconds, "Computing a batch.");
    describe_counter!("logitd_rows_total", Unit::Count, "Rows sampled, by status and device.");
    describe_counter!(
        "logitd_parity_checks_total",
        Unit::Count,
        "Batches computed a second time and compared."
    );
    describe_counter!(
        "logitd_parity_skips_total",
        Unit::Count,
        "Batches chosen for a comparison that was skipped, because the one before still ran or logits were on loan."
    );
    describe_counter!(
        "logitd_parity_mismatches_total",
        Unit::Count,
        "Batches whose second computation gave other bits."
    );
    describe_gauge!(
        "logitd_device_up",
        Unit::Count,
        "1 where the device takes work, 0 where it failed."
    );
}

/// Of one device.
pub(super) struct DeviceMetrics {
    pub up: Gauge,
    rows: [Counter; 4],
}

impl DeviceMetrics {
    pub fn new(device: &str) -> Self {
        let rows = STATUSES.map(|status| {
            counter!("logitd_rows_total", "status" => status.name(), "device" => device.to_owned())
        });
        Self { up: gauge!("logitd_device_up", "device" => device.to_owned()), rows }
    }

    /// Counts the rows of a batch by their status.
    pub fn count_rows(&self, results: &Results) {
        let mut counts = [0; 4];
        for result in results.iter() {
            counts[result.outcome.status as usize] += 1;
        }
        for (counter, count) in self.rows.iter().zip(counts).filter(|&(_, count)| count > 0) {
            counter.increment(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_in_the_order_of_their_numbers() {
        for (i, status) in STATUSES.into_iter().enumerate() {
            assert_eq!(status as usize, i);
        }
    }
}
