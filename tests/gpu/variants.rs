//! The kernels on a GPU: every variant that can be forced returns the oracle's bits.
//!
//! `LOGITD_TEST_FAKE_GPU=1` runs the same over the fake driver, with fewer rows, to test the tests.

use crate::common::compare::first_difference;
use crate::common::known::{self, Answer, Rows};
use crate::common::real::{CARRIED, Recording, carried, carried_prefix};
use crate::common::{Case, Panel, beside, cuts, skipped};
use logitd::tools::generate::{Random, Values};
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::backend::cuda::plan::{Kernel, Packing};
use logitd_core::backend::cuda::region::ImportedRegion;
use logitd_core::backend::cuda::{Cuda, CudaOptions};
use logitd_core::backend::reference::Reference;
use logitd_core::batch::{Dtype, Loan, Results, Row, VOCAB_SIZE_MAX};
use logitd_core::params::{DRAWS_MAX, ParamsSpec};
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

/// Every test, by its name.
pub const TESTS: &[(&str, fn())] = &[
    ("the_compiler_kept_to_the_arithmetic", the_compiler_kept_to_the_arithmetic),
    ("known_answers", known_answers),
    ("rows_in_memory_of_the_device", rows_in_memory_of_the_device),
    ("generated_rows", generated_rows),
    ("generated_rows_of_every_size", generated_rows_of_every_size),
    ("real_rows", real_rows),
    ("recorded_rows", recorded_rows),
    ("ties_zeros_and_what_has_no_token", ties_zeros_and_what_has_no_token),
    ("rows_with_adjustments_and_questions", rows_with_adjustments_and_questions),
    ("rows_with_cuts", rows_with_cuts),
    ("every_place_in_a_batch", every_place_in_a_batch),
    ("the_largest_rows_and_the_most_draws", the_largest_rows_and_the_most_draws),
    ("batches_of_many_launches", batches_of_many_launches),
];

pub fn is_fake() -> bool {
    std::env::var("LOGITD_TEST_FAKE_GPU").is_ok_and(|value| value == "1")
}

/// So many on a device, fewer where the processor stands in for it.
fn count(rows: u64) -> u64 {
    if is_fake() { (rows / 40).max(4) } else { rows }
}

fn options() -> CudaOptions {
    CudaOptions { launch_rows_max: 64, launch_bytes_max: 12 << 20, ..Default::default() }
}

/// Every kernel, team, way of reading again and layout. Each is opened with a self-test, which takes the
/// processor a second, so that over the fake every test takes a few others of them.
fn variants(test: &str) -> Vec<CudaOptions> {
    let mut all = all_variants();
    if is_fake() {
        let mut places = test.len()..;
        all.retain(|_| places.next().is_some_and(|place| place % 6 == 0));
    }
    all
}

fn all_variants() -> Vec<CudaOptions> {
    let mut all = vec![options()];
    for kernel in [Kernel::Grid, Kernel::Cluster] {
        for team_blocks in [1, 2, 4, 8] {
            for stage in [false, true] {
                let packing = match (team_blocks > 2) ^ stage {
                    true => Packing::Tight,
                    false => Packing::Aligned,
                };
                all.push(CudaOptions {
                    kernel: Some(kernel),
                    team_blocks: Some(team_blocks),
                    stage: Some(stage),
                    packing,
                    ..options()
                });
            }
        }
    }
    all
}

fn open(options: &CudaOptions) -> Option<Cuda> {
    match Cuda::open(0, options) {
        Ok(cuda) => Some(cuda),
        Err(why) if why.reason.contains("no thread-block clusters") => None,
        Err(why) if why.reason.contains("thread-block clusters do not launch") => None,
        Err(why) => panic!("{options:?}: {why}"),
    }
}

/// The oracle against one variant after another: `each(panel, index of the variant)`.
fn for_variants(test: &str, mut each: impl FnMut(&mut Panel, u64)) {
    let mut left_out = 0;
    for (i, options) in variants(test).iter().enumerate() {
        match open(options) {
            Some(cuda) => each(&mut Panel::of(vec![Box::new(cuda)]), i as u64),
            None => left_out += 1,
        }
    }
    if left_out > 0 {
        skipped(test, format!("{left_out} variants: no clusters"));
    }
}

fn the_compiler_kept_to_the_arithmetic() {
    let mut cuda = open(&options()).expect("the best kernel of the chip");
    assert_eq!(cuda.driver_mut().probe(), Ok(()));
    let _ = writeln!(std::io::stderr(), "gpu: {:?}", cuda.device());
}

fn known_answers() {
    let Rows { rows, cases } = known::read("rows.json");
    let batch: Vec<Case> = cases.iter().map(|c| rows[c.row].case(&c.params)).collect();
    let placed: Vec<_> = batch.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for options in variants("known_answers") {
        let Some(mut cuda) = open(&options) else { continue };
        cuda.sample(&rows, &mut results).unwrap();
        for ((case, expected), result) in batch.iter().zip(&cases).zip(results.iter()) {
            assert_eq!(Answer::from(result), expected.result, "{options:?}: {case}");
        }
    }
}

/// Rows that another process has written to the device's memory, beside rows of the host's: in place of the other
/// process, the descriptor is imported here.
fn rows_in_memory_of_the_device() {
    let test = "rows_in_memory_of_the_device";
    let mut cuda = open(&options()).expect("the best kernel of the chip");
    let regions = match cuda.driver().regions() {
        Ok(regions) => regions,
        Err(reason) => return skipped(test, reason),
    };
    let (region, descriptor) = regions.make(24 << 20).unwrap();
    let patience = Duration::from_secs(10);
    let bytes = region.bytes() as u64;
    let client = ImportedRegion::open(regions.uuid(), descriptor.as_fd(), bytes, patience).unwrap();
    drop(descriptor);
    let mut cpu = Cpu::new(CpuOptions::default()).unwrap();
    let mut random = Random::new(77, 0);
    for batch in 0..count(200) {
        let rows = 1 + random.below(80);
        let cases: Vec<_> = (0..rows).map(|i| Case::generated(7000 + batch, i, 20_000)).collect();
        let placed: Vec<_> = cases.iter().map(Case::place).collect();
        let here: Vec<_> = placed.iter().map(|p| p.row()).collect();
        let mut at = 64;
        let lent: Vec<_> = here
            .iter()
            .map(|row| {
                if random.below(4) == 0 {
                    return *row;
                }
                client.write(at, row.logits()).unwrap();
                let lent = Row::lent(row.dtype(), &region, at, row.bytes(), *row.params()).unwrap();
                let lent = lent
                    .with_adjustments(row.adjustments())
                    .with_inspect(row.inspect())
                    .with_draft(row.draft());
                // At any place of a multiple of the dtype's size, mostly one right after the other.
                at = (at + row.bytes() + 2 * random.below(2) as usize).next_multiple_of(4);
                lent
            })
            .collect();
        let (mut expected, mut found) = (Results::default(), Results::default());
        Reference::default().sample(&here, &mut expected).unwrap();
        let backends: [&mut dyn Backend; 2] = [&mut cuda, &mut cpu];
        for backend in backends {
            backend.sample(&lent, &mut found).unwrap();
            let difference = first_difference(&expected, &found);
            assert_eq!(difference, None, "batch {batch}, {}", backend.device().id);
        }
        assert_eq!(region.check(), Ok(()));
    }
}

/// Mixed batches: dtypes, sizes and parameters side by side, greedy rows among sampled ones.
fn generated_rows() {
    for_variants("generated_rows", |panel, variant| {
        for batch in 0..count(200) / 4 {
            let case = |row| Case::generated(variant, batch * 24 + row, 5000);
            panel.check(&(0..24).map(case).collect::<Vec<_>>());
        }
    });
}

fn generated_rows_of_every_size() {
    for_variants("generated_rows_of_every_size", |panel, variant| {
        let size = if is_fake() { 20_000 } else { VOCAB_SIZE_MAX };
        for row in 0..count(60) / 2 {
            panel.check(&[Case::generated(1000 + variant, row, size)]);
        }
    });
}

fn real_rows() {
    let spec = |temperature, top_k, top_p, min_p| {
        let (seed, draws) = (Some(7), 4);
        ParamsSpec { temperature, top_k, top_p, min_p, seed, draws, ..Default::default() }
    };
    let settings = [
        spec(0.0, 0, 1.0, 0.0),
        spec(1.0, 0, 1.0, 0.0),
        spec(0.8, 50, 0.95, 0.0),
        spec(0.8, 0, 0.95, 0.0),
        spec(1.0, 51, 1.0, 0.0),
        spec(1.0, 0, 1.0, 0.1),
        spec(10.0, 0, 0.9, 0.0),
        spec(1e4, 200_000, 0.5, 0.0),
    ];
    for_variants("real_rows", |panel, variant| {
        let taken = if is_fake() { 1 } else { settings.len() };
        let from = variant as usize;
        for i in (from..).take(taken) {
            let (row, setting) = (i % CARRIED.len(), settings[i % settings.len()]);
            let prefix = carried_prefix((row + 3) % CARRIED.len(), 128_256, setting);
            panel.check(&[carried(row, setting), prefix]);
        }
    });
}

/// The whole recording, where it lies beside the project.
fn recorded_rows() {
    let recording = match Recording::open() {
        Ok(recording) => recording,
        Err(why) => {
            return skipped("recorded_rows", why);
        }
    };
    let cuda = open(&options()).expect("the best kernel of the chip");
    let mut panel = Panel::of(vec![Box::new(cuda)]);
    for row in (0..64).take(count(64) as usize) {
        let spec = match row % 3 {
            0 => ParamsSpec { temperature: 0.7, top_k: 40, top_p: 0.9, ..Default::default() },
            1 => ParamsSpec { top_p: 0.95, ..Default::default() },
            _ => ParamsSpec { temperature: 1.3, min_p: 0.02, draws: 9, ..Default::default() },
        };
        let logits = recording.row(row).to_vec();
        panel.check(&[Case::new(format!("recorded row {row}"), Dtype::F16, logits, spec)]);
    }
}

fn ties_zeros_and_what_has_no_token() {
    let spec = |temperature, top_k, top_p| {
        let draws = 5;
        ParamsSpec { temperature, top_k, top_p, draws, seed: Some(3), ..Default::default() }
    };
    let mut cases = Vec::new();
    for dtype in Dtype::ALL {
        for (i, setting) in
            [spec(0.0, 0, 1.0), spec(1.0, 7, 1.0), spec(1.0, 0, 0.5), spec(2.0, 9, 0.9)]
                .into_iter()
                .enumerate()
        {
            let zeros: Vec<f32> =
                (0..700).map(|t| if (t + i) % 3 == 0 { 0.0 } else { -0.0 }).collect();
            cases.push(Case::values("zeros of both signs", dtype, &zeros, setting));
            cases.push(Case::values("one value", dtype, &vec![1.5; 1025], setting).at(i * 2));
            let mut border: Vec<f32> = (0..600).map(|t| -((t / 4) as f32)).collect();
            border.reverse();
            cases.push(Case::values("ties at the border", dtype, &border, setting));
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = vec![f32::NEG_INFINITY; 300];
                row[299] = value;
                cases.push(Case::values("no token", dtype, &row, setting));
            }
        }
    }
    for_variants("ties_zeros_and_what_has_no_token", |panel, _| panel.check(&cases));
}

/// Adjusted where they lie, and asked about beside their tokens, among rows that are not.
fn rows_with_adjustments_and_questions() {
    let mut cases = beside::all();
    cases.extend((0..20).map(|row| Case::generated(55, row, 3000)));
    let step = if is_fake() { 7 } else { 1 };
    let cases: Vec<Case> = cases.into_iter().step_by(step).collect();
    let test = "rows_with_adjustments_and_questions";
    for_variants(test, |panel, _| panel.check(&cases));
}

/// Cut on the device before they are sampled.
fn rows_with_cuts() {
    let step = if is_fake() { 7 } else { 1 };
    let cases: Vec<Case> = cuts::all().into_iter().step_by(step).collect();
    for_variants("rows_with_cuts", |panel, _| panel.check(&cases));
}

/// A row's answer is its own, wherever it stands and whoever stands beside it.
fn every_place_in_a_batch() {
    for_variants("every_place_in_a_batch", |panel, variant| {
        let one = Case::generated(77, variant, 3000);
        for place in (0..70).step_by(if is_fake() { 35 } else { 7 }) {
            let mut batch: Vec<Case> =
                (0..70).map(|row| Case::generated(78 + variant, row, 200)).collect();
            batch[place as usize] = one.clone();
            panel.check(&batch);
        }
    });
}

fn the_largest_rows_and_the_most_draws() {
    for_variants("the_largest_rows_and_the_most_draws", |panel, variant| {
        if is_fake() && variant % 6 != 0 {
            return;
        }
        let dtype = Dtype::ALL[variant as usize % 3];
        let vocab_size = VOCAB_SIZE_MAX - variant as u32 % 2;
        let values = [Values::Model, Values::Constant, Values::Coarse][variant as usize / 2 % 3];
        let logits = values.logits(&mut Random::new(3, variant), dtype, vocab_size, 1.0);
        let spec = ParamsSpec { draws: DRAWS_MAX, top_p: 0.9, seed: Some(1), ..Default::default() };
        panel.check(&[Case::new(format!("{values:?}"), dtype, logits, spec)]);
    });
}

/// More rows and bytes than one launch takes, so that launches overlap.
fn batches_of_many_launches() {
    for_variants("batches_of_many_launches", |panel, variant| {
        if is_fake() && variant % 4 != 0 {
            return;
        }
        let cases: Vec<Case> = (0..300).map(|row| Case::generated(9 + variant, row, 700)).collect();
        panel.check(&cases);
    });
}
