//! Launches on the device's own clock, against the bandwidth of its memory.
//!
//! Each row has its own top_k, top_p and seed. A launch is timed with its logits in the device's memory but
//! not in its caches, at once again, and with upload and download; the copy that its bandwidth is
//! compared with runs between. The kernels for adjustments, for cuts before others and for questions are timed apart. Medians of all passes are taken.

use super::cases::{CASES, Case};
use super::measure::check_backend;
use super::median;
use logitd_core::backend::Backend;
use logitd_core::backend::cuda::device::launch_bytes_min;
use logitd_core::backend::cuda::device::stopwatch::{Pass, Stopwatch};
use logitd_core::backend::cuda::driver::Launch;
use logitd_core::backend::cuda::{Cuda, CudaOptions};
use logitd_core::batch::{Results, Row};
use logitd_core::params::ParamsSpec;
use std::error::Error;
use std::time::Duration;

/// The cases that are timed: of real rows, and with nothing that a kernel does not do.
pub const NAMES: [&str; 12] = [
    "top_k_top_p",
    "top_p",
    "greedy",
    "race_top_k",
    "race",
    "bitmask",
    "adjusted",
    "adjusted_temperature",
    "logprobs_top20",
    "top_n_sigma",
    "typical_p",
    "xtc",
];

/// The cases that are timed, in the order of the report.
pub fn cases() -> Vec<&'static Case> {
    let find = |name| CASES.iter().find(|case| case.name == name).expect("the name of a case");
    NAMES.map(find).to_vec()
}

/// What a case asks of one row: where it has top_k or top_p, each row has another.
pub fn params_of(case: &Case, row: u32) -> ParamsSpec {
    let spec = case.params();
    ParamsSpec {
        top_k: spec.top_k * (20 + row % 64) / 50,
        top_p: if spec.top_p < 1.0 { 0.8 + 0.01 * (row % 19) as f32 } else { spec.top_p },
        ..spec
    }
}

/// One line of the report.
#[derive(serde::Serialize)]
pub struct Measurement {
    /// The name of the case.
    pub case: &'static str,
    /// The device.
    pub device: String,
    /// Its model.
    pub name: String,
    /// What the kernels were compiled for.
    pub isa: String,
    /// How the logits are stored.
    pub dtype: &'static str,
    /// Rows of the launch.
    pub rows: usize,
    /// Tokens a row.
    pub vocab_size: u32,
    /// Blocks that shared a row.
    pub team_blocks: u32,
    /// Shared memory of a block for its slice of the row; 0: it was read again.
    pub stage_bytes: u32,
    /// Passes that the medians are of.
    pub passes: usize,
    /// The sampling kernel's time, with the logits in the device's memory but in no cache. Adjusted logits were written just
    /// before, and may be in the L2 cache.
    pub kernel_us: f64,
    /// The same at once again.
    pub kernel_cached_us: f64,
    /// The kernel that makes the adjustments, with the logits in no cache.
    pub adjust_us: f64,
    /// The kernel of cuts that go before those of the sampling kernel, with the logits where the one before left them.
    pub cut_us: f64,
    /// The kernel that computes log-probabilities, after the one that draws.
    pub inspect_us: f64,
    /// With upload and download.
    pub uploaded_us: f64,
    /// Bytes of logits over the kernel's time.
    pub read_gb_per_s: f64,
    /// Bytes read and written by a copy in the device's memory, over its time.
    pub copy_gb_per_s: f64,
    /// The kernel's time over that of reading the logits once at the copy's bandwidth.
    pub ratio: f64,
}

/// A device, and its clock.
pub struct Subject {
    /// Of the device, and therefore in front of it.
    stopwatch: Stopwatch,
    cuda: Cuda,
}

impl Subject {
    /// Opens a device with room for so many rows of so many bytes.
    pub fn open(ordinal: u32, rows: usize, row_bytes: usize) -> Result<Self, Box<dyn Error>> {
        // What a row has beside its logits.
        let row_bytes = row_bytes + 256;
        let options = CudaOptions {
            launch_rows_max: rows,
            launch_bytes_max: launch_bytes_min(rows).max(rows * row_bytes),
            ..CudaOptions::default()
        };
        let mut cuda = Cuda::open(ordinal, &options)
            .map_err(|e| format!("{e}; without --device the processor is timed"))?;
        let stopwatch = cuda.driver_mut().stopwatch()?;
        Ok(Self { stopwatch, cuda })
    }

    /// The device.
    pub fn backend(&self) -> &Cuda {
        &self.cuda
    }

    /// Compares a launch with the reference, and times it.
    pub fn measure(
        &mut self,
        case: &'static str,
        batch: &[Row<'_>],
        passes: usize,
    ) -> Result<Measurement, Box<dyn Error>> {
        check_backend(case, batch, &mut self.cuda, &mut Results::default())?;
        let launch = self.cuda.prepare(0, batch);
        assert_eq!(launch.batch.row_count as usize, batch.len(), "room was made for every row");
        let (passes, mut bandwidths) = self.time(passes, &launch)?;
        let us = |part: fn(&Pass) -> Duration| {
            median(
                &mut passes.iter().map(|pass| part(pass).as_secs_f64() * 1e6).collect::<Vec<_>>(),
            )
        };
        let kernel_us = us(|pass| pass.cold.sample);
        let bytes: usize = batch.iter().map(Row::bytes).sum();
        let copy_gb_per_s = median(&mut bandwidths) / 1e9;
        let read_gb_per_s = bytes as f64 / kernel_us.max(1e-3) / 1e3;
        let device = self.cuda.device();
        Ok(Measurement {
            case,
            device: device.id.clone(),
            name: device.name.clone(),
            isa: device.isa.clone(),
            dtype: batch[0].dtype().name(),
            rows: batch.len(),
            vocab_size: batch[0].vocab_size(),
            team_blocks: launch.batch.team_blocks,
            stage_bytes: launch.batch.stage_bytes,
            passes: passes.len(),
            kernel_us,
            kernel_cached_us: us(|pass| pass.cached.sample),
            adjust_us: us(|pass| pass.cold.adjust),
            cut_us: us(|pass| pass.cold.cut),
            inspect_us: us(|pass| pass.cold.inspect),
            uploaded_us: us(|pass| pass.uploaded),
            read_gb_per_s,
            copy_gb_per_s,
            ratio: copy_gb_per_s / read_gb_per_s,
        })
    }

    /// The passes, and the bandwidth of a copy beside each. The first of either warms up.
    fn time(&mut self, passes: usize, launch: &Launch) -> Result<(Vec<Pass>, Vec<f64>), String> {
        let driver = self.cuda.driver_mut();
        let (mut times, mut bandwidths) = (Vec::new(), Vec::new());
        for pass in 0..=passes {
            let time = driver.time(&self.stopwatch, launch)?;
            let bandwidth = driver.copy_bandwidth(&self.stopwatch)?;
            if pass > 0 {
                times.push(time);
                bandwidths.push(bandwidth);
            }
        }
        Ok((times, bandwidths))
    }
}
