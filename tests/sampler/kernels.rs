//! Whole kernels on the CPU: the `.cu` text that is shipped, run thread by thread on the shim, returns the
//! oracle's bits, in every build, with every kernel, team and layout, and in whatever order threads run.
//!
//! The other suites run on the shim too, which takes minutes:
//!
//!     LOGITD_TEST_BACKENDS=shim cargo test --release --test sampler -- golden parity traps
//!
//! That all of this would notice a wrong kernel is shown by `tests/sampler/proof/`.

use crate::common::candidates::shim_options;
use crate::common::case::pattern;
use crate::common::known::{self, Answer, Rows};
use crate::common::real::{CARRIED, Recording, carried, carried_prefix, settings};
use crate::common::{Case, Panel};
use crate::common::{beside, borders, cuts};
use logitd::tools::generate::{self, Random, Values};
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::backend::Backend;
use logitd_core::backend::cuda::plan::{Geometry, Kernel, Packing};
use logitd_core::backend::cuda::self_test;
use logitd_core::batch::{Dtype, Results, RowStatus, VOCAB_SIZE_MAX};
use logitd_core::params::{DRAWS_MAX, ParamsSpec};
use logitd_shim::{Build, Order, ShimOptions};
use std::path::Path;

/// The oracle against these.
fn panel(options: impl IntoIterator<Item = ShimOptions>) -> Panel {
    let open = |options| -> Box<dyn Backend> { Box::new(logitd_shim::open(options)) };
    Panel::of(options.into_iter().map(open).collect())
}

/// Every kernel of every build, each with another team, layout and order than the one before.
fn one_of_each() -> impl Iterator<Item = ShimOptions> {
    (0..4).map(shim_options)
}

#[test]
fn the_compiler_kept_to_the_arithmetic() {
    for build in Build::ALL {
        let shim = logitd_shim::open(ShimOptions { build, ..Default::default() });
        assert_eq!(shim.driver().probe(), Ok(()), "{build:?}");
    }
}

#[test]
fn their_numbers_are_those_that_devices_are_planned_with() {
    assert_eq!(logitd_shim::geometry(Build::Shipped), Geometry::SHIPPED);
}

#[test]
fn they_pass_the_self_test_of_devices() {
    assert_eq!(self_test::run(&mut logitd_shim::open(ShimOptions::default())), Ok(()));
}

#[test]
fn known_answers() {
    let Rows { rows, cases } = known::read("rows.json");
    let batch: Vec<Case> = cases.iter().map(|c| rows[c.row].case(&c.params)).collect();
    let placed: Vec<_> = batch.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for options in one_of_each() {
        let mut shim = logitd_shim::open(options);
        shim.sample(&rows, &mut results).unwrap();
        for ((case, expected), result) in batch.iter().zip(&cases).zip(results.iter()) {
            assert_eq!(Answer::from(result), expected.result, "{options:?}: {case}");
        }
        assert!(shim.driver().is_clean(), "{options:?}");
    }
}

/// The device's half of the arithmetic stands in files of the same names, with the same names in the same order.
#[test]
fn device_functions_stand_as_the_arithmetic_does() {
    // What one side alone needs: the host prepares cuts and scales and ends with logprobs; the CPU has keys
    // of 16 bits, names of rules, a coin for XTC, and rows with drafts; devices take all words of a generator's round. C++ has one
    // namespace for all, no array constants, and nothing that is for one folder only.
    let host_only = [
        "top_p_fraction",
        "min_p_distance",
        "key16",
        "bits16",
        "new",
        "C",
        "ALL",
        "name",
        "named",
        "truncated",
        "PURPOSE_XTC",
        "PURPOSE_DRAFT",
        "PURPOSE_ACCEPTANCE",
        "PURPOSE_RESIDUAL",
        "PURPOSE_RACE_DRAFT",
        "bits",
        "and",
    ];
    let device_only = [
        "min_p_keeps",
        "C1",
        "C2",
        "C3",
        "C4",
        "C5",
        "C6",
        "Words",
        "philox4x32_10_words",
        "Split",
        "Power",
        "split",
        "power",
        "BIT",
        "SHIFT_MAX",
        "FAR",
        "wide_to_double",
    ];
    for file in ["key", "mass", "surprisal", "cut", "philox", "draw", "deviation"] {
        let read = |path: String| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let host = read(format!("core/src/arithmetic/{file}.rs"));
        let host = host.split("#[cfg(test)]").next().expect("a first part");
        let host = names(host, &["pub fn ", "pub const fn ", "pub const ", "pub struct "]);
        let device = read(format!("kernels/{file}.cuh"));
        let device = names(&device, &["DEVICE ", "constexpr ", "struct "]);
        let host: Vec<_> = host.into_iter().filter(|name| !host_only.contains(&&**name)).collect();
        let device: Vec<_> = device
            .into_iter()
            .filter(|name| !device_only.contains(&&**name))
            .map(|name| name.trim_start_matches("draw_").to_owned())
            .collect();
        assert_eq!(host, device, "core/src/arithmetic/{file}.rs and kernels/{file}.cuh");
        assert!(!host.is_empty(), "{file}");
    }
}

/// What is declared in lines that begin with one of these words: the last word before `(`, `:`, `=`, `{` or `;`.
fn names(text: &str, words: &[&str]) -> Vec<String> {
    let declared = |line: &str| {
        let word = words.iter().find(|word| line.trim_start().starts_with(**word))?;
        let rest = &line.trim_start()[word.len()..];
        let end = rest.find(['(', ':', '=', '{', ';']).unwrap_or(rest.len());
        rest[..end].split_whitespace().last().map(str::to_owned)
    };
    text.lines().filter_map(declared).collect()
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
    for team_blocks in 1..=8 {
        for packing in [Packing::Aligned, Packing::Tight] {
            for stage in [false, true] {
                let options = one_of_each().map(|options| ShimOptions {
                    team_blocks: Some(team_blocks),
                    packing,
                    stage: Some(stage),
                    ..options
                });
                let case = |row| Case::generated(u64::from(team_blocks), row, 6000);
                panel(options).check(&(0..5).map(case).collect::<Vec<_>>());
            }
        }
    }
}

/// Every kind of value at sizes to both sides of every edge: of a share, a warp's tile, a few tiles, a block.
#[test]
fn every_kind_of_value_at_edges_of_size() {
    let sizes = [1, 2, 7, 8, 9, 31, 33, 64, 255, 256, 257, 511, 513, 1025, 2047, 2049];
    for (i, vocab_size) in sizes.into_iter().enumerate() {
        let case = |(j, values): (usize, Values)| {
            let mut random = Random::new(u64::from(vocab_size), j as u64);
            let dtype = Dtype::ALL[(i + j) % 3];
            let temperature = generate::temperature(&mut random);
            let made = generate::Case::new(&mut random, dtype, vocab_size, values, temperature);
            let name = format!("{values:?}, stream ({vocab_size}, {j})");
            Case::new(name, dtype, made.logits, crate::common::case::spec(&made.params))
        };
        let cases: Vec<Case> = Values::ALL.into_iter().enumerate().map(case).collect();
        panel([shim_options(2 * i), shim_options(2 * i + 1)]).check(&cases);
    }
}

/// One odd token at every place: a maximum, a NaN, an infinity, the only candidate.
#[test]
fn one_odd_token_at_every_place() {
    for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
        let bits = |x| pattern(dtype, x);
        let odd = [
            (bits(2.0), bits(3.0), 0.0),
            (bits(3.0), bits(f32::NEG_INFINITY), 1.0),
            (bits(f32::NEG_INFINITY), bits(2.0), 1.0),
            (bits(2.0), bits(f32::NAN), 1.0),
            (bits(2.0), bits(f32::NEG_INFINITY) + 1, 1.0),
            (bits(2.0), bits(f32::INFINITY), 0.0),
        ];
        for vocab_size in [1, 2, 33, 260] {
            let cases = (0..vocab_size).map(|place| {
                let (rest, odd, temperature) = odd[place % odd.len()];
                let mut patterns = vec![rest; vocab_size];
                patterns[place] = odd;
                let spec = ParamsSpec { temperature, draws: 2, ..Default::default() };
                Case::bits(&format!("{odd:#x} at {place}"), dtype, &patterns, spec)
            });
            panel([shim_options(i), shim_options(i + 5)]).check(&cases.collect::<Vec<_>>());
        }
    }
}

#[test]
fn rows_on_a_border() {
    panel(one_of_each()).check(&borders::all());
}

#[test]
fn rows_with_adjustments_and_questions() {
    let cases = beside::all();
    panel(one_of_each()).check(&cases);
    in_teams_of(&[1, 3, 8], &cases);
}

#[test]
fn rows_with_cuts() {
    let cases = cuts::all();
    assert!(!is_helped(&cases));
    panel(one_of_each()).check(&cases);
    in_teams_of(&[3], &cases);
}

/// Each case once more, in teams of one of these sizes: kernels, builds and sizes take turns.
fn in_teams_of(sizes: &[u32], cases: &[Case]) {
    let of_size = |&size: &u32| {
        one_of_each().map(move |options| ShimOptions { team_blocks: Some(size), ..options })
    };
    let each: Vec<ShimOptions> = sizes.iter().flat_map(of_size).collect();
    for (i, &options) in each.iter().enumerate() {
        // One place further in each round, or kinds of cases that alternate would meet half of the options.
        let round = each.len();
        let is_own = |at: usize| (at + at / round) % round == i;
        let own = cases.iter().enumerate().filter(|(at, _)| is_own(*at));
        panel([options]).check(&own.map(|(_, case)| case.clone()).collect::<Vec<_>>());
    }
}

/// Samples these on the shim by itself. Whether the processor had to help.
fn is_helped(cases: &[Case]) -> bool {
    let placed: Vec<_> = cases.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|place| place.row()).collect();
    let mut shim = logitd_shim::open(shim_options(0));
    shim.sample(&rows, &mut Results::default()).unwrap();
    shim.has_used_host()
}

/// Nothing of a row is sampled by the processor instead where it fits; a row that does not fit is, with the same bits.
#[test]
fn a_row_that_does_not_fit_is_sampled_all_the_same() {
    assert!(!is_helped(&beside::all()));
    let logits = Values::Model.logits(&mut Random::new(4, 4), Dtype::F32, VOCAB_SIZE_MAX, 1.0);
    let spec = ParamsSpec { top_k: 40, draws: 2, ..Default::default() };
    let lists = AdjustmentsSpec { logit_bias: vec![(5, 1.5)], ..Default::default() };
    let large = Case::new("8 MiB and more", Dtype::F32, logits, spec).adjusted(lists);
    let small = beside::all().swap_remove(40);
    let cases = [small.clone(), large, small];
    panel([shim_options(0)]).check(&cases);
    assert!(is_helped(&cases));
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
        Err(why) => return crate::common::skipped("recorded_rows", why),
    };
    for row in 0..64 {
        let spec = match row % 7 {
            0 => ParamsSpec { temperature: 0.7, top_k: 40, top_p: 0.9, ..Default::default() },
            1 => ParamsSpec { top_p: 0.95, ..Default::default() },
            2 => ParamsSpec { temperature: 0.0, ..Default::default() },
            3 => ParamsSpec { temperature: 1.5, top_n_sigma: 1.0, ..Default::default() },
            4 => ParamsSpec { typical_p: 0.9, ..Default::default() },
            5 => ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.05, ..Default::default() },
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
    let kinds = [
        Values::Constant,
        Values::Model,
        Values::Coarse,
        Values::Cliff,
        Values::AnyFinite,
        Values::Model,
        Values::AnyFinite,
        Values::Model,
        Values::Coarse,
    ];
    let base = ParamsSpec { draws: 3, seed: Some(11), ..Default::default() };
    let settings = [
        base,
        ParamsSpec { temperature: 0.0, ..base },
        ParamsSpec { top_k: VOCAB_SIZE_MAX / 2 + 1, top_p: 0.5, ..base },
        ParamsSpec { temperature: 1e4, top_p: 1f32.next_down(), ..base },
        ParamsSpec { temperature: 0.7, top_p: 0.9, min_p: 0.001, ..base },
        ParamsSpec { top_n_sigma: 1.0, temperature: 3.0, ..base },
        ParamsSpec { top_n_sigma: 2.0, top_p: 0.9, ..base },
        ParamsSpec { typical_p: 0.5, temperature: 2.0, ..base },
        ParamsSpec { xtc_probability: 1.0, xtc_threshold: 1e-6, ..base },
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
        let mut shim = logitd_shim::open(options);
        let mut results = Results::default();
        for row in 0..25 {
            let case = Case::generated(21, row, 4000);
            shim.sample(&[case.place().row()], &mut results).unwrap();
            assert!(shim.driver().is_clean(), "{options:?}: {case}");
        }
    }
}
