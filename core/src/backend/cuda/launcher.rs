//! Rows in, launches out, results back: the host's half of the kernels, the same for every driver.

use super::abi::{Batch, Plain, RowDescriptor, RowDraw, RowOutcome, bytes_of};
use super::adjust::{AdjustBatch, Change};
use super::cuts::{self, CutBatch, CutsBefore};
use super::driver::{Driver, Launch, Part};
use super::inspect::{self, Answers, InspectBatch, InspectDescriptor};
use super::plan::{self, LaunchShape, Layout, answers_at, draws_at};
use crate::adjustments::changes;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::plan::Plan;
use crate::backend::cpu::{Cpu, CpuOptions};
use crate::backend::team::Team;
use crate::backend::{Backend, DeviceError, DeviceInfo};
use crate::batch::{Draw, Outcome, Results, Row, RowStatus, Slot};
use std::collections::VecDeque;
use std::mem::size_of;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of logits for which one thread more is worth its waking up.
const BYTES_OF_THREAD: usize = 512 << 10;
/// Logits are shared out to threads in pieces of so many bytes.
const PIECE_BYTES: usize = 128 << 10;

/// A backend over a driver.
///
/// A batch is cut into launches that fit the driver's slots. While one launch runs, the rows of the next
/// are copied into another slot, so that copying and computing overlap. A row that is lent and lies in the
/// device's memory does not pass through the host's.
///
/// A row with cuts that have no kernel, with a draft, or whose continuations are asked for, or that does not fit a launch with its adjustments and what is asked of it beside
/// tokens, is sampled by the processor, which has the same bits.
pub struct Launcher<D> {
    driver: D,
    /// The device's id, by which lent rows know whether they lie there.
    id: String,
    /// The threads that copy logits into slots.
    copiers: Team,
    layouts: Vec<Layout>,
    flights: VecDeque<Flight>,
    copy_time: Duration,
    buffers: changes::Buffers,
    /// The adjustments of a launch's rows, worked out.
    changes: Vec<Change>,
    /// How many of them count: none where no row has any.
    changed: usize,
    /// One row, for a look at what it takes.
    layout_alone: Layout,
    change_alone: Change,
    /// Who samples rows that do not fit; nobody before there is one.
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
            copiers: Team::ALONE,
            layouts,
            flights,
            copy_time: Duration::ZERO,
            buffers: changes::Buffers::default(),
            changes: vec![],
            changed: 0,
            layout_alone: Layout::default(),
            change_alone: Change::default(),
            host: None,
            host_results: Results::default(),
        }
    }

    /// Has so many threads, the caller's among them, copy the logits of a large batch together.
    pub fn with_copy_threads(mut self, threads: usize) -> Result<Self, String> {
        let team = Team::new(threads, "copy");
        self.copiers =
            team.map_err(|error| format!("{threads} threads that copy logits: {error}"))?;
        Ok(self)
    }

    /// The driver.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// The driver, for what does not go through a batch of rows.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Whether the processor has sampled a row: one with cuts that have no kernel, or one that did not fit a launch.
    pub fn has_used_host(&self) -> bool {
        self.host.is_some()
    }

    /// Samples every row: on the device, but for those that are for the processor.
    fn run_all(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), String> {
        let begun = Instant::now();
        let on_host: Vec<bool> = rows.iter().map(|row| self.is_for_host(row)).collect();
        self.copy_time += begun.elapsed();
        if on_host.contains(&true) {
            self.run_with_host(rows, &on_host, results)
        } else {
            self.run(rows, results.slots())
        }
    }

    /// Works out the adjustments of the first of some rows: of no more than one launch may have, so that what is held
    /// stays within its limits. How many rows that is.
    fn work_out(&mut self, rows: &[Row<'_>]) -> usize {
        self.changed = 0;
        if rows.iter().all(|row| row.adjustments().is_none()) {
            return rows.len();
        }
        let capacity = self.driver.capacity();
        let mut bytes = 0;
        for row in &rows[..rows.len().min(capacity.rows)] {
            if self.changes.len() == self.changed {
                self.changes.push(Change::default());
            }
            let change = &mut self.changes[self.changed];
            change.set(row, &mut self.buffers);
            self.changed += 1;
            bytes += row.bytes() + change.bytes();
            if bytes > capacity.input_bytes {
                break;
            }
        }
        self.changed
    }

    /// Whether a row goes to the processor: one with cuts that have no kernel, with a draft to decide about or to draw, or with continuations; and one with adjustments, or of which more
    /// than tokens is asked, that does not fit a launch. Others always do.
    fn is_for_host(&mut self, row: &Row<'_>) -> bool {
        let goes_on = row.inspect().is_some_and(|asked| asked.continuations.is_some());
        let drafts = row.draft().is_some() || row.params().is_draft();
        let has_kernels = cuts::have_kernels(row.params())
            && !CutsBefore::of(row.params()).are_asked_too_much(row);
        if !has_kernels || drafts || goes_on {
            return true;
        }
        let asks = row.adjustments().is_some() || row.inspect().is_some();
        let (capacity, packing) = (self.driver.capacity(), self.driver.properties().packing);
        if !asks || plan::surely_fits(row, capacity) {
            return false;
        }
        self.change_alone.set(row, &mut self.buffers);
        let change = std::slice::from_ref(&self.change_alone);
        !self.layout_alone.fits_alone(row, change, capacity, packing)
    }

    /// Has the processor sample some rows. One that lies in the device's memory is copied to the host by whoever lent it.
    fn run_with_host(
        &mut self,
        rows: &[Row<'_>],
        on_host: &[bool],
        results: &mut Results,
    ) -> Result<(), String> {
        let of = |wanted: bool| {
            let all = rows.iter().zip(on_host).filter(move |(_, on_host)| **on_host == wanted);
            all.map(|(row, _)| *row).collect::<Vec<Row<'_>>>()
        };
        let (launched, host_rows) = (of(false), of(true));
        results.set_on_host(on_host);
        let slots = results.slots().zip(on_host);
        let (host_slots, slots): (Vec<_>, Vec<_>) = slots.partition(|(_, on_host)| **on_host);
        if !launched.is_empty() {
            self.run(&launched, slots.into_iter().map(|(slot, _)| slot))?;
        }
        let host = match &mut self.host {
            Some(host) => host,
            none => none.insert(Cpu::new(CpuOptions::default()).map_err(|e| e.to_string())?),
        };
        host.sample(&host_rows, &mut self.host_results).map_err(|error| error.reason)?;
        for ((slot, _), found) in host_slots.into_iter().zip(self.host_results.slots()) {
            *slot.outcome = *found.outcome;
            slot.draws.copy_from_slice(found.draws);
            if let (Some(inspection), Some(found)) = (slot.inspection, found.inspection) {
                *inspection = std::mem::take(found);
            }
            if let (Some(state), Some(found)) = (slot.state, found.state) {
                *state = *found;
            }
            if let (Some(accepted), Some(found)) = (slot.accepted, found.accepted) {
                *accepted = *found;
            }
        }
        Ok(())
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
    pub fn shape(&self, rows: &[Row<'_>]) -> LaunchShape {
        let properties = *self.driver.properties();
        let mut layout = Layout::default();
        layout.fill(rows, &[], self.driver.capacity(), properties.packing);
        LaunchShape::choose(&layout, &properties)
    }

    /// Lays out as many rows as fit in a slot that is free, without starting the launch.
    pub fn prepare(&mut self, slot: usize, rows: &[Row<'_>]) -> Launch {
        let properties = *self.driver.properties();
        let begun = Instant::now();
        let rows = &rows[..self.work_out(rows)];
        let changes = &self.changes[..self.changed];
        let addresses = self.driver.addresses(slot);
        let layout = &mut self.layouts[slot];
        let taken = layout.fill(rows, changes, self.driver.capacity(), properties.packing);
        let shape = LaunchShape::choose(layout, &properties);
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
        let answers_at = answers_at(taken, layout.draws);
        let mut filling = Filling {
            id: &self.id,
            layout,
            at: addresses.input,
            answers: addresses.output + answers_at as u64,
            input: self.driver.input(slot),
            parts: vec![],
            copies: vec![],
            described: [0; 4],
        };
        filling.begin(taken);
        for (i, row) in rows[..taken].iter().enumerate() {
            filling.add(i, row, changes.get(i));
        }
        let Filling { parts, described: counts, copies, input, .. } = filling;
        copy_logits(rows, &copies, input, &self.copiers);
        self.copy_time += begun.elapsed();
        let [changes_at, cuts_at, sampled_at, stored_at] = layout.descriptors_at;
        let address = |at: usize| addresses.input + at as u64;
        let adjust = (counts[0] > 0).then(|| {
            let longest = rows[..taken].iter().map(Row::vocab_size).max().unwrap_or(1);
            let threads = properties.geometry.threads;
            AdjustBatch::new(address(changes_at), counts[0], longest, threads)
        });
        let of_some = |row_count: u32| Batch { row_count, stage_bytes: 0, ..batch };
        let cut =
            (counts[1] > 0).then(|| CutBatch { batch: of_some(counts[1]), cuts: address(cuts_at) });
        let inspect = [(sampled_at, counts[2]), (stored_at, counts[3])].map(|(at, row_count)| {
            let batch = of_some(row_count);
            (row_count > 0).then(|| InspectBatch { batch, asked: address(at) })
        });
        Launch {
            adjust,
            cut,
            batch,
            kernel: shape.kernel,
            shared_bytes: shape.shared_bytes,
            inspect,
            input_bytes: layout.input_bytes,
            input: parts,
            output_bytes: match inspect {
                [None, None] => draws_at(taken) + layout.draws * size_of::<RowDraw>(),
                _ => answers_at + layout.answer_bytes,
            },
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
        let answers = answers_at(range.len(), layout.draws);
        let (outcomes, draws) = output.split_at(draws_at(range.len()));
        let (outcomes, _) = outcomes.as_chunks();
        let (draws, _) = draws.as_chunks();
        for (i, row) in rows[range].iter().enumerate() {
            let mut place = slots.next().expect("as many places as rows");
            let first = layout.first_draws[i] as usize;
            let draws = &draws[first..first + place.draws.len()];
            let outcome = RowOutcome::from_bytes(&outcomes[i]);
            take_row(row, &layout.plans[i], &outcome, draws, &mut place)?;
            if let (Some(asked), Some(inspection)) = (row.inspect(), place.inspection) {
                let answers =
                    answers_of(layout, i, row, |at, bytes| &output[answers + at..][..bytes]);
                let plan = &layout.plans[i];
                let Slot { outcome, draws, .. } = place;
                *inspection = inspect::inspection(row, asked, plan, outcome, draws, answers)?;
            }
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

/// A launch's input, while it is written.
struct Filling<'a> {
    /// The device's id.
    id: &'a str,
    layout: &'a Layout,
    /// The device's address of the input.
    at: u64,
    /// The device's address of what will be said of rows beside their tokens.
    answers: u64,
    input: &'a mut [u8],
    parts: Vec<Part>,
    /// Rows whose logits are to be copied, and where to, by ascending place.
    copies: Vec<(usize, usize)>,
    /// Descriptors so far: of changes, of cuts, and of what is asked of sampled and of stored rows.
    described: [u32; 4],
}

impl Filling<'_> {
    /// The device's address of a place in the input.
    fn address(&self, at: usize) -> u64 {
        self.at + at as u64
    }

    /// Makes room for the descriptors of so many rows, and for all others.
    fn begin(&mut self, rows: usize) {
        let end = match self.layout.descriptors_at {
            [at, .., end] if at == end => rows * size_of::<RowDescriptor>(),
            _ => self.layout.descriptors_end,
        };
        self.parts.push(Part::Host { at: 0, bytes: end });
    }

    /// Writes a descriptor of these.
    fn describe(&mut self, which: usize, descriptor: &impl Plain) {
        let place = self.described[which] as usize * size_of_val(descriptor);
        let at = self.layout.descriptors_at[which] + place;
        self.input[at..at + size_of_val(descriptor)].copy_from_slice(descriptor.bytes());
        self.described[which] += 1;
    }

    /// Writes what the host has.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.input[at..at + bytes.len()].copy_from_slice(bytes);
        Part::push(&mut self.parts, Part::Host { at, bytes: bytes.len() });
    }

    fn add(&mut self, i: usize, row: &Row<'_>, change: Option<&Change>) {
        let layout = self.layout;
        let stored_at = layout.logits_at[i];
        self.add_logits(i, row, stored_at);
        if let Some(at) = layout.ids_at[i] {
            self.put(at, row.ids().expect("ids that are asked for"));
        }
        let stored = self.address(stored_at);
        let ids = layout.ids_at[i].map_or(0, |at| self.address(at));
        let plan = &layout.plans[i];
        let described = RowDescriptor::new(row, plan, stored, ids, layout.first_draws[i]);
        let mut sampled = described;
        if let (Some(change), Some(places)) = (change, layout.changes[i]) {
            let made = places.made_at.map(|at| self.address(layout.made_at + at));
            sampled.logits = made.unwrap_or(stored);
            sampled.dtype = change.dtype(row) as u32;
            self.put(places.mask_at, bytes_of(&change.mask));
            self.put(places.touches_at, bytes_of(&change.touches));
            let [mask, touches] = [places.mask_at, places.touches_at].map(|at| self.address(at));
            let addresses = [stored, sampled.logits, mask, touches];
            self.describe(0, &change.descriptor(row, addresses));
        }
        let mut drawn = sampled;
        let cuts = CutsBefore::of(row.params());
        if cuts.are_some() {
            let apart = layout.cut_at[i].map(|at| self.address(layout.made_at + at));
            let to = apart.unwrap_or(sampled.logits);
            self.describe(1, &cuts.descriptor(row, sampled, to));
            drawn = cuts.left(sampled, to);
        }
        let at = i * size_of::<RowDescriptor>();
        self.input[at..at + size_of::<RowDescriptor>()].copy_from_slice(drawn.bytes());
        if let (Some(asked), Some(places)) = (row.inspect(), layout.inspects[i]) {
            self.put(places.ids_at, bytes_of(&asked.ids));
            let (scale, raw) = (inspect::scale(plan), inspect::raw_scale());
            for (which, row) in [sampled, described].into_iter().enumerate() {
                let flags = places.questions[which];
                if flags == 0 {
                    continue;
                }
                let descriptor = InspectDescriptor {
                    row: RowDescriptor { c: scale.c, dmin: scale.dmin, ..row },
                    ids: self.address(places.ids_at),
                    answer: self.answers + places.answers_at[which] as u64,
                    kept: self.answers + places.kept_at as u64,
                    sampled: i as u32,
                    flags,
                    id_count: asked.ids.len() as u32,
                    top: asked.top,
                    raw_c: raw.c,
                    raw_dmin: raw.dmin,
                };
                self.describe(2 + which, &descriptor);
            }
        }
    }

    /// Where the logits come from.
    fn add_logits(&mut self, i: usize, row: &Row<'_>, at: usize) {
        let bytes = row.bytes();
        let part = match row.address_on(self.id) {
            Some(from) => Part::Device { from, at, bytes },
            None => {
                self.copies.push((i, at));
                Part::Host { at, bytes }
            }
        };
        Part::push(&mut self.parts, part);
    }
}

/// Copies the logits of rows to their places. One thread copies 7 to 8 GB/s on the processor of the H200 of the record, while
/// the device takes 49: so where there are many, several threads do.
fn copy_logits(rows: &[Row<'_>], copies: &[(usize, usize)], input: &mut [u8], team: &Team) {
    let bytes: usize = copies.iter().map(|&(row, _)| rows[row].bytes()).sum();
    let threads = (bytes / BYTES_OF_THREAD).clamp(1, team.threads());
    let mut pieces = Vec::with_capacity(copies.len() + bytes / PIECE_BYTES);
    let (mut rest, mut begins) = (input, 0);
    for &(row, at) in copies {
        let row = &rows[row];
        let (into, behind) = rest.split_at_mut(at - begins).1.split_at_mut(row.bytes());
        // What lies on another device comes by one way, however many ask.
        let is_elsewhere = row.is_lent() && row.mapped().is_none();
        let bytes = if is_elsewhere { into.len().max(1) } else { PIECE_BYTES };
        let piece = |(i, into)| Piece { row, from: i * bytes, into };
        pieces.extend(into.chunks_mut(bytes).enumerate().map(piece));
        (rest, begins) = (behind, at + row.bytes());
    }
    let run = pieces.len().div_ceil(threads).max(1);
    team.each(pieces.chunks_mut(run), |run| run.iter_mut().for_each(Piece::copy));
}

/// A part of a row's logits, and its place.
struct Piece<'a> {
    row: &'a Row<'a>,
    from: usize,
    into: &'a mut [u8],
}

impl Piece<'_> {
    fn copy(&mut self) {
        self.row.copy_to(self.from, self.into);
    }
}

/// The answers to what is asked of a row, of which `part` has the bytes.
fn answers_of<'a>(
    layout: &Layout,
    i: usize,
    row: &Row<'_>,
    part: impl Fn(usize, usize) -> &'a [u8],
) -> Answers<'a> {
    let (Some(asked), Some(places)) = (row.inspect(), layout.inspects[i]) else {
        return Answers::default();
    };
    let bytes = inspect::answer_bytes(asked, row.params().draws() as usize);
    let answer = |which: usize| {
        let asked = places.questions[which] > 0;
        asked.then(|| part(places.answers_at[which], bytes))
    };
    let kept = places.questions[0] & inspect::flags::SAY_KEPT > 0;
    Answers {
        sampled: answer(0),
        stored: answer(1),
        kept: kept.then(|| part(places.kept_at, inspect::kept_bytes(row.vocab_size()))),
    }
}

/// Turns what the kernels said of a row into its result. What cannot be is the device's failure.
fn take_row(
    row: &Row<'_>,
    plan: &Plan,
    outcome: &RowOutcome,
    draws: &[[u8; size_of::<RowDraw>()]],
    place: &mut Slot<'_>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Dtype;
    use crate::params::ParamsSpec;

    #[test]
    fn logits_are_copied_to_their_places_by_any_number_of_threads() {
        let tokens = [1, 70_000, 300_000, 5, 128_256, 1];
        let bytes: Vec<u8> = (0..300_000 * 2u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let params = ParamsSpec::default().parse(|| 0).unwrap();
        let row = |n: usize| Row::new(Dtype::F16, &bytes[n % 3..][..n * 2], params).unwrap();
        let rows = tokens.map(row);
        // One row lies elsewhere, and the places have others between them.
        let (mut copies, mut end) = (Vec::new(), 100);
        for (i, row) in rows.iter().enumerate().filter(|&(i, _)| i != 3) {
            copies.push((i, end));
            end += row.bytes() + 40;
        }
        let mut expected = vec![0xee; end];
        for &(i, at) in &copies {
            rows[i].copy_to(0, &mut expected[at..at + rows[i].bytes()]);
        }
        for threads in [1, 2, 3, 16] {
            let (mut input, team) = (vec![0xee; end], Team::new(threads, "copy").unwrap());
            copy_logits(&rows, &copies, &mut input, &team);
            assert!(input == expected, "{threads} threads");
        }
        copy_logits(&rows, &[], &mut [], &Team::ALONE);
    }
}
