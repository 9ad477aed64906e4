//! Whole kernels on the CPU: the `.cu` text that is shipped, run thread by thread on the shim, returns the
//! oracle's bits, in every build, with every kernel, team and layout, and in whatever order threads run.
//!
//! The other suites run on the shim too, which takes minutes:
//!
//!     LOGITD_TEST_BACKENDS=shim cargo test --release --test golden --test parity --test traps

mod common;

use common::candidates::shim_options;
use common::known::{self, Answer, Rows};
use common::real::{CARRIED, Recording, carried, carried_prefix, settings};
use common::{Case, Panel};
use logitd::backend::Backend;
use logitd::backend::cuda::plan::{Kernel, Packing};
use logitd::backend::cuda::shim::{Build, Order, Shim, ShimOptions};
use logitd::batch::{Dtype, Results, RowStatus, VOCAB_SIZE_MAX};
use logitd::generate::{Random, Values};
use logitd::params::{DRAWS_MAX, ParamsSpec};

/// The oracle against these.
fn panel(options: impl IntoIterator<Item = ShimOptions>) -> Panel {
    let open = |options| -> Box<dyn Backend> { Box::new(Shim::open(options)) };
    Panel::of(options.into_iter().map(open).collect())
}

/// Every kernel of every build, each with another team, layout and order than the one before.
fn one_of_each() -> impl Iterator<Item = ShimOptions> {
    (0..4).map(shim_options)
}

#[test]
fn the_compiler_kept_to_the_arithmetic() {
    for build in Build::ALL {
        let shim = Shim::open(ShimOptions { build, ..Default::default() });
        assert_eq!(shim.driver().probe(), Ok(()), "{build:?}");
    }
}

#[test]
fn known_answers() {
    let Rows { rows, cases } = known::read("rows.json");
    let batch: Vec<Case> = cases.iter().map(|c| rows[c.row].case(&c.params)).collect();
    let placed: Vec<_> = batch.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for options in one_of_each() {
        let mut shim = Shim::open(options);
        shim.sample(&rows, &mut results).unwrap();
        for ((case, expected), result) in batch.iter().zip(&cases).zip(results.iter()) {
            assert_eq!(Answer::from(result), expected.result, "{options:?}: {case}");
        }
        assert!(shim.driver().is_clean(), "{options:?}");
    }
}

/// Mixed batches: dtypes, sizes and parameters side by side, greedy rows among sampled ones.
#[test]
fn mixed_batches_in_every_order_of_threads() {
    let orders = [Order::First, Order::Last].into_iter().chain((1..=8).map(Order::Shuffled));
    for (i, order) in orders.enumerate() {
        let mut panel = panel(one_of_each().map(|options| ShimOptions { order, ..options }));
        for batch in 0..3u64 {
            let case = |row| Case::generated(i as u64, batch * 12 + row, 3000);
            panel.check(&(0..12).map(case).collect::<Vec<_>>());
        }
    }
}

#[test]
fn every_team_layout_and_way_of_reading_again() {
    for team_blocks in [1, 2, 4, 8] {
        for packing in [Packing::Aligned, Packing::Tight] {
            for stage in [false, true] {
                let options = one_of_each().map(|options| ShimOptions {
                    team_blocks: Some(team_blocks),
                    packing,
                    stage: Some(stage),
                    ..options
                });
                let case = |row| Case::generated(u64::from(team_blocks), row, 6000);
                panel(options).check(&(0..8).map(case).collect::<Vec<_>>());
            }
        }
    }
}

/// Blocks of a team wait for each other; that a launch ends must not need all of them to fit.
#[test]
fn a_device_that_holds_one_team_is_enough() {
    let options = [2, 8].map(|team_blocks| ShimOptions {
        build: Build::Small,
        kernel: Kernel::Grid,
        resident_blocks: team_blocks,
        team_blocks: Some(team_blocks),
        ..Default::default()
    });
    let case = |row| Case::generated(5, row, 2000);
    panel(options).check(&(0..20).map(case).collect::<Vec<_>>());
}

#[test]
fn real_rows() {
    for (i, setting) in settings(7, 4).enumerate() {
        let mut panel = panel([shim_options(2 * i), shim_options(2 * i + 1)]);
        let row = i % CARRIED.len();
        panel.check(&[
            carried(row, setting),
            carried_prefix((row + 3) % CARRIED.len(), 128_256, setting),
        ]);
    }
}

/// The whole recording, where it lies beside the project.
#[test]
fn recorded_rows() {
    let recording = match Recording::open() {
        Ok(recording) => recording,
        Err(why) => return eprintln!("SKIPPED recorded_rows: {why}"),
    };
    for row in 0..64 {
        let spec = match row % 4 {
            0 => ParamsSpec { temperature: 0.7, top_k: 40, top_p: 0.9, ..Default::default() },
            1 => ParamsSpec { top_p: 0.95, ..Default::default() },
            2 => ParamsSpec { temperature: 0.0, ..Default::default() },
            _ => ParamsSpec { temperature: 1.3, min_p: 0.02, draws: 9, ..Default::default() },
        };
        let logits = recording.row(row).to_vec();
        let case = Case::new(format!("recorded row {row}"), Dtype::F16, logits, spec);
        panel([shim_options(row)]).check(&[case]);
    }
}

/// Flat, tied and enormous rows, with cuts that fall anywhere in them.
#[test]
fn the_largest_rows() {
    let kinds = [Values::Constant, Values::Model, Values::Coarse, Values::Cliff, Values::AnyFinite];
    let base = ParamsSpec { draws: 3, seed: Some(11), ..Default::default() };
    let settings = [
        base,
        ParamsSpec { temperature: 0.0, ..base },
        ParamsSpec { top_k: VOCAB_SIZE_MAX / 2 + 1, top_p: 0.5, ..base },
        ParamsSpec { temperature: 1e4, top_p: 1f32.next_down(), ..base },
        ParamsSpec { temperature: 0.7, top_p: 0.9, min_p: 0.001, ..base },
    ];
    for (i, (values, spec)) in kinds.into_iter().zip(settings).enumerate() {
        let dtype = Dtype::ALL[i % 3];
        let vocab_size = VOCAB_SIZE_MAX - (i as u32 % 2);
        let mut random = Random::new(3, i as u64);
        let logits = values.logits(&mut random, dtype, vocab_size, spec.temperature);
        let mut panel = panel([shim_options(i)]);
        panel.check(&[Case::new(format!("{values:?}"), dtype, logits, spec)]);
        assert_eq!(panel.expected().row(0).outcome.status, RowStatus::Ok);
    }
}

#[test]
fn the_most_draws_of_one_row() {
    let mut panel = panel([shim_options(0), shim_options(3)]);
    for (i, values) in [Values::Model, Values::Constant, Values::Coarse].into_iter().enumerate() {
        for top_k in [0, 20] {
            let logits = values.logits(&mut Random::new(1, i as u64), Dtype::F16, 3001, 1.0);
            let spec = ParamsSpec { top_k, draws: DRAWS_MAX, ..Default::default() };
            panel.check(&[Case::new(format!("{values:?}"), Dtype::F16, logits, spec)]);
        }
    }
}

/// A batch of more rows, draws and bytes than a launch takes.
#[test]
fn batches_of_several_launches() {
    let mut cases: Vec<Case> = (0..90).map(|row| Case::generated(9, row, 700)).collect();
    let large = Values::Model.logits(&mut Random::new(2, 2), Dtype::F32, 800_000, 1.0);
    for draws in [1, 1000, 1024] {
        let spec = ParamsSpec { top_k: 30, draws, ..Default::default() };
        let name = format!("large, {draws} draws");
        cases.insert(20 * cases.len() % 77, Case::new(name, Dtype::F32, large.clone(), spec));
    }
    panel([ShimOptions { build: Build::Small, ..shim_options(1) }]).check(&cases);
}

#[test]
fn memory_is_left_as_it_was_found() {
    for options in one_of_each() {
        let mut shim = Shim::open(options);
        let mut results = Results::default();
        for row in 0..25 {
            let case = Case::generated(21, row, 4000);
            shim.sample(&[case.place().row()], &mut results).unwrap();
            assert!(shim.driver().is_clean(), "{options:?}: {case}");
        }
    }
}
