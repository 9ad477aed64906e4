//! Rows in, launches out, results back: the host's half of the kernels, the same for every driver.

use super::abi::{Batch, RowDescriptor, RowDraw, RowOutcome};
use super::driver::{Driver, Launch, Part};
use super::plan::{Layout, Shape, draws_at};
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::plan::Plan;
use crate::backend::adjusted::Adjuster;
use crate::backend::cpu::{Cpu, CpuOptions};
use crate::backend::{Backend, DeviceError, DeviceInfo};
use crate::batch::{Draw, Outcome, Results, Row, RowStatus, Slot};
use std::collections::VecDeque;
use std::mem::size_of;
use std::ops::Range;
use std::time::{Duration, Instant};

/// A backend over a driver.
///
/// A batch is cut into launches that fit the driver's slots. While one launch runs, the rows of the next
/// are copied into another slot, so that copying and computing overlap. A row that is lent and lies in the
/// device's memory does not pass through the host's.
pub struct Launcher<D> {
    driver: D,
    /// The device's id, by which lent rows know whether they lie there.
    id: String,
    layouts: Vec<Layout>,
    flights: VecDeque<Flight>,
    copy_time: Duration,
    adjuster: Adjuster,
    /// What adjustments made of rows, as many as a batch had at most.
    adjusted: Vec<Vec<u8>>,
    /// Who samples rows of which more than tokens is asked; nobody before there is one.
    host: Option<Cpu>,
    host_results: Results,
}

/// A launch on its way: which slot it is in and which rows it has.
struct Flight {
    slot: usize,
    rows: Range<usize>,
}

impl<D: Driver> Launcher<D> {
    /// A backend over a driver that is ready to work.
    pub fn new(driver: D) -> Self {
        let slots = driver.slots();
        let layouts = (0..slots).map(|_| Layout::default()).collect();
        let flights = VecDeque::with_capacity(slots);
        let id = driver.device().id.clone();
        Self {
            driver,
            id,
            layouts,
            flights,
            copy_time: Duration::ZERO,
            adjuster: Adjuster::default(),
            adjusted: vec![],
            host: None,
            host_results: Results::default(),
        }
    }

    /// The driver.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// The driver, for what does not go through a batch of rows.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Samples every row. No kernel finds log-probabilities or kept ids: rows of which these are asked are sampled by
    /// the processor, which has the same bits, and the others are launched. One that lies in the device's memory is
    /// copied to the host by whoever lent it.
    fn run_all(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), String> {
        let asks = |row: &Row<'_>| row.inspect().is_some();
        if !rows.iter().any(asks) {
            return self.run_adjusted(rows, results.slots());
        }
        let on_host: Vec<Row<'_>> = rows.iter().copied().filter(asks).collect();
        let launched: Vec<Row<'_>> = rows.iter().copied().filter(|row| !asks(row)).collect();
        let (host_slots, slots): (Vec<_>, Vec<_>) =
            results.slots().partition(|slot| slot.inspection.is_some());
        if !launched.is_empty() {
            self.run_adjusted(&launched, slots.into_iter())?;
        }
        let host = match &mut self.host {
            Some(host) => host,
            none => none.insert(Cpu::new(CpuOptions::default()).map_err(|e| e.to_string())?),
        };
        host.sample(&on_host, &mut self.host_results).map_err(|error| error.reason)?;
        for (slot, found) in host_slots.into_iter().zip(self.host_results.slots()) {
            *slot.outcome = *found.outcome;
            slot.draws.copy_from_slice(found.draws);
            if let (Some(inspection), Some(found)) = (slot.inspection, found.inspection) {
                *inspection = std::mem::take(found);
            }
        }
        Ok(())
    }

    /// Launches everything, each row as its adjustments make it.
    fn run_adjusted<'r>(
        &mut self,
        rows: &[Row<'_>],
        slots: impl Iterator<Item = Slot<'r>>,
    ) -> Result<(), String> {
        if rows.iter().all(|row| row.adjustments().is_none()) {
            return self.run(rows, slots);
        }
        let begun = Instant::now();
        let mut adjusted = std::mem::take(&mut self.adjusted);
        adjusted.resize_with(adjusted.len().max(rows.len()), Vec::new);
        let copies = rows.iter().zip(&mut adjusted);
        let rows: Vec<_> = copies.map(|(row, copy)| self.adjuster.apply(row, copy)).collect();
        self.copy_time += begun.elapsed();
        let run = self.run(&rows, slots);
        self.adjusted = adjusted;
        run
    }

    /// Launches everything, taking results as slots are needed again.
    fn run<'r>(
        &mut self,
        rows: &[Row<'_>],
        mut slots: impl Iterator<Item = Slot<'r>>,
    ) -> Result<(), String> {
        let mut next = 0;
        let mut slot = 0;
        while next < rows.len() {
            if self.flights.len() == self.layouts.len() {
                self.land(rows, &mut slots)?;
            }
            let taken = self.take_off(slot, &rows[next..])?;
            self.flights.push_back(Flight { slot, rows: next..next + taken });
            next += taken;
            slot = (slot + 1) % self.layouts.len();
        }
        while !self.flights.is_empty() {
            self.land(rows, &mut slots)?;
        }
        Ok(())
    }

    /// Starts a launch of as many rows as fit.
    fn take_off(&mut self, slot: usize, rows: &[Row<'_>]) -> Result<usize, String> {
        let launch = self.prepare(slot, rows);
        self.driver.start(slot, &launch)?;
        Ok(launch.batch.row_count as usize)
    }

    /// How the first of some rows, as many as fit, are launched.
    pub fn shape(&self, rows: &[Row<'_>]) -> Shape {
        let properties = *self.driver.properties();
        let mut layout = Layout::default();
        layout.fill(rows, self.driver.capacity(), properties.packing);
        Shape::choose(&layout, &properties)
    }

    /// Lays out as many rows as fit in a slot that is free, without starting the launch.
    pub fn prepare(&mut self, slot: usize, rows: &[Row<'_>]) -> Launch {
        let properties = *self.driver.properties();
        let layout = &mut self.layouts[slot];
        let taken = layout.fill(rows, self.driver.capacity(), properties.packing);
        let addresses = self.driver.addresses(slot);
        let begun = Instant::now();
        let descriptors = Part::Host { at: 0, bytes: taken * size_of::<RowDescriptor>() };
        let mut parts = vec![descriptors];
        let input = self.driver.input(slot);
        for (i, row) in rows[..taken].iter().enumerate() {
            let at = layout.logits_at[i];
            let address = addresses.input + at as u64;
            let first_draw = layout.first_draws[i];
            let ids = layout.ids_at[i].map_or(0, |at| addresses.input + at as u64);
            let descriptor = RowDescriptor::new(row, &layout.plans[i], address, ids, first_draw);
            input[i * size_of::<RowDescriptor>()..][..size_of::<RowDescriptor>()]
                .copy_from_slice(descriptor.as_bytes());
            let bytes = row.bytes();
            let part = match row.address_on(&self.id) {
                Some(from) => Part::Device { from, at, bytes },
                None => {
                    row.copy_to(0, &mut input[at..at + bytes]);
                    Part::Host { at, bytes }
                }
            };
            Part::push(&mut parts, part);
            if let Some(at) = layout.ids_at[i] {
                let bytes = row.ids().expect("ids that are asked for");
                input[at..at + bytes.len()].copy_from_slice(bytes);
                Part::push(&mut parts, Part::Host { at, bytes: bytes.len() });
            }
        }
        self.copy_time += begun.elapsed();
        let shape = Shape::choose(layout, &properties);
        let batch = Batch {
            rows: addresses.input,
            outcomes: addresses.output,
            draws: addresses.output + draws_at(taken) as u64,
            control: addresses.control,
            scratch: addresses.scratch,
            tiles: addresses.tiles,
            row_count: taken as u32,
            team_blocks: shape.team_blocks,
            tile_capacity: layout.tile_capacity as u32,
            stage_bytes: shape.stage_bytes,
        };
        Launch {
            batch,
            kernel: shape.kernel,
            shared_bytes: shape.shared_bytes,
            input_bytes: layout.input_bytes,
            input: parts,
            output_bytes: draws_at(taken) + layout.draws * size_of::<RowDraw>(),
        }
    }

    /// Waits for the launch that was started first and takes its results.
    fn land<'r>(
        &mut self,
        rows: &[Row<'_>],
        slots: &mut impl Iterator<Item = Slot<'r>>,
    ) -> Result<(), String> {
        let Flight { slot, rows: range } =
            self.flights.pop_front().expect("a launch is on its way");
        let layout = &self.layouts[slot];
        self.driver.finish(slot)?;
        self.copy_time += self.driver.upload_time();
        let output = self.driver.output(slot);
        let (outcomes, draws) = output.split_at(draws_at(range.len()));
        let (outcomes, _) = outcomes.as_chunks();
        let (draws, _) = draws.as_chunks();
        for (i, row) in rows[range].iter().enumerate() {
            let place = slots.next().expect("as many places as rows");
            let first = layout.first_draws[i] as usize;
            let draws = &draws[first..first + place.draws.len()];
            let outcome = RowOutcome::from_bytes(&outcomes[i]);
            take_row(row, &layout.plans[i], &outcome, draws, place)?;
        }
        Ok(())
    }
}

impl<D: Driver> Backend for Launcher<D> {
    fn device(&self) -> &DeviceInfo {
        self.driver.device()
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        results.reset(rows);
        // Whatever an earlier failure left behind is not waited for: a failed device has no more work.
        self.flights.clear();
        self.copy_time = Duration::ZERO;
        self.run_all(rows, results)
            .map_err(|reason| DeviceError { device: self.device().id.clone(), reason })
    }

    /// Into the slots, and from there to the device. Part of it may have passed while the device computed.
    fn copy_time(&self) -> Duration {
        self.copy_time
    }
}

/// Turns what the kernels said of a row into its result. What cannot be is the device's failure.
fn take_row(
    row: &Row<'_>,
    plan: &Plan,
    outcome: &RowOutcome,
    draws: &[[u8; size_of::<RowDraw>()]],
    place: Slot<'_>,
) -> Result<(), String> {
    let Some(status) = outcome.row_status() else {
        return Err(format!("it returned the status {}, which there is not", outcome.status));
    };
    if status != RowStatus::Ok {
        *place.outcome = Outcome::failed(status);
        return Ok(());
    }
    *place.outcome = Outcome { status, kept: outcome.kept, kept_mass: outcome.kept_mass };
    let max = f32::from_bits(outcome.max);
    for (draw, bytes) in place.draws.iter_mut().zip(draws) {
        let RowDraw { token, logit } = RowDraw::from_bytes(bytes);
        if token >= row.vocab_size() {
            return Err(format!("it returned token {token} of {}", row.vocab_size()));
        }
        // Both zeros come back as +0.0, so a token that ties with the maximum is at distance +0.0. By the
        // definition -0.0 may be at distance -0.0 from +0.0, but then two tokens are kept, whose
        // logarithm is not zero, and no sign is left to differ.
        let x = f32::from_bits(logit);
        let logprob = match plan {
            Plan::Greedy => 0.0,
            Plan::Draw(chain) => logprob(x, max, chain.scale, outcome.kept_mass),
        };
        *draw = Draw { token, logprob };
    }
    Ok(())
}
