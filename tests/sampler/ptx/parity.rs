//! What nvcc made of the kernels returns the oracle's bits, through the host code that a device has.

use super::driver::{Options, open, probe};
use super::nvcc::{CHIPS, Kernels, kernels, nvcc_or_skip};
use crate::common::known::{self, Answer, Rows};
use crate::common::real::{CARRIED, carried_prefix};
use crate::common::{Case, Panel, beside, cuts};
use logitd::tools::generate::{Random, Values};
use logitd_core::backend::Backend;
use logitd_core::backend::cuda::plan::{Kernel, Packing};
use logitd_core::batch::{Dtype, Results};
use logitd_core::params::ParamsSpec;
use logitd_shim::Build;
use std::path::Path;
use std::sync::Arc;

/// The oldest chip, and the first with clusters: what they have in common, all chips have.
const TARGETS: [(u32, Kernel); 3] = [(75, Kernel::Grid), (90, Kernel::Grid), (90, Kernel::Cluster)];

/// Targets in every build, each with another team, layout and order than the one before.
fn one_of_each() -> impl Iterator<Item = Options> {
    let builds = TARGETS.into_iter().flat_map(|target| Build::ALL.map(|build| (target, build)));
    builds.enumerate().map(|(i, ((chip, kernel), build))| Options {
        chip,
        build,
        kernel,
        seed: i as u64,
        resident_blocks: 8,
        team_blocks: [None, Some(2), Some(1), Some(4)][i % 4],
        stage: [None, Some(true), Some(false)][i % 3],
        packing: [Packing::Aligned, Packing::Tight][i / 2 % 2],
    })
}

/// The oracle against these.
fn panel(nvcc: &Path, options: impl IntoIterator<Item = Options>) -> Panel {
    let open = |options: Options| -> Box<dyn Backend> {
        Box::new(open(kernels(nvcc, options.chip, options.build), options))
    };
    Panel::of(options.into_iter().map(open).collect())
}

#[test]
fn the_compiler_kept_to_the_arithmetic() {
    let Some(nvcc) = nvcc_or_skip("the_compiler_kept_to_the_arithmetic") else { return };
    for chip in CHIPS {
        assert_eq!(probe(&kernels(nvcc, chip, Build::Shipped).probe), Ok(()), "sm_{chip}");
    }
}

/// Every edge that the golden tests know: signed zeros, NaN, infinities, ties, constant rows, in every
/// dtype, with every parameter.
#[test]
fn known_answers() {
    let Some(nvcc) = nvcc_or_skip("known_answers") else { return };
    let Rows { rows, cases } = known::read("rows.json");
    let batch: Vec<Case> = cases.iter().map(|c| rows[c.row].case(&c.params)).collect();
    let placed: Vec<_> = batch.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for options in one_of_each() {
        let mut ptx = open(kernels(nvcc, options.chip, options.build), options);
        ptx.sample(&rows, &mut results).unwrap_or_else(|e| panic!("{options:?}: {e}"));
        for ((case, expected), result) in batch.iter().zip(&cases).zip(results.iter()) {
            assert_eq!(Answer::from(result), expected.result, "{options:?}: {case}");
        }
    }
}

/// Dtypes, odd sizes and parameters side by side, greedy rows among sampled ones.
#[test]
fn mixed_batches_in_several_orders_of_threads() {
    let Some(nvcc) = nvcc_or_skip("mixed_batches_in_several_orders_of_threads") else { return };
    for seed in 0..4 {
        let options = one_of_each().map(|options| Options { seed, ..options });
        let case = |row| Case::generated(40 + seed, row, 2000);
        panel(nvcc, options).check(&(0..12).map(case).collect::<Vec<_>>());
    }
}

#[test]
fn every_team_layout_and_way_of_reading_again() {
    let Some(nvcc) = nvcc_or_skip("every_team_layout_and_way_of_reading_again") else { return };
    for (i, team_blocks) in [1, 2, 4, 8].into_iter().enumerate() {
        for (packing, stage) in [(Packing::Aligned, true), (Packing::Tight, false)] {
            let options = one_of_each().map(|options| Options {
                team_blocks: Some(team_blocks),
                packing,
                stage: Some(stage ^ (i % 2 == 1)),
                ..options
            });
            let case = |row| Case::generated(u64::from(team_blocks), row, 4000);
            panel(nvcc, options).check(&(0..6).map(case).collect::<Vec<_>>());
        }
    }
}

/// Every fifth of them, so that each size and dtype comes up.
#[test]
fn rows_with_adjustments_and_questions() {
    let Some(nvcc) = nvcc_or_skip("rows_with_adjustments_and_questions") else { return };
    let cases: Vec<Case> = beside::all().into_iter().step_by(5).collect();
    panel(nvcc, one_of_each()).check(&cases);
}

/// Every third of them, likewise.
#[test]
fn rows_with_cuts() {
    let Some(nvcc) = nvcc_or_skip("rows_with_cuts") else { return };
    let cases: Vec<Case> = cuts::all().into_iter().step_by(3).collect();
    panel(nvcc, one_of_each()).check(&cases);
}

/// Blocks of a team wait for each other; that a launch ends must not need all of them to fit.
#[test]
fn a_device_that_holds_one_team_is_enough() {
    let Some(nvcc) = nvcc_or_skip("a_device_that_holds_one_team_is_enough") else { return };
    let options = one_of_each().filter(|options| options.build == Build::Small);
    let options = options.map(|o| Options { resident_blocks: 2, team_blocks: Some(2), ..o });
    let case = |row| Case::generated(5, row, 1500);
    panel(nvcc, options).check(&(0..10).map(case).collect::<Vec<_>>());
}

/// A row as long as in service, of each kind of parameters.
#[test]
fn a_real_row() {
    let Some(nvcc) = nvcc_or_skip("a_real_row") else { return };
    let base = ParamsSpec { seed: Some(7), draws: 4, ..Default::default() };
    let settings = [
        ParamsSpec { temperature: 0.0, ..base },
        base,
        ParamsSpec { temperature: 0.8, top_k: 50, top_p: 0.95, ..base },
        ParamsSpec { temperature: 0.8, top_p: 0.95, ..base },
        ParamsSpec { min_p: 0.1, ..base },
        ParamsSpec { temperature: 3.0, top_k: 3000, top_p: 0.9, min_p: 0.001, ..base },
        ParamsSpec { temperature: 1.5, top_n_sigma: 1.0, ..base },
        ParamsSpec { typical_p: 0.9, ..base },
        ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.05, ..base },
    ];
    let shipped =
        one_of_each().filter(|options| options.build == Build::Shipped).collect::<Vec<_>>();
    for (i, setting) in settings.into_iter().enumerate() {
        let options = Options { team_blocks: None, ..shipped[i % shipped.len()] };
        panel(nvcc, [options]).check(&[carried_prefix(i % CARRIED.len(), 128_256, setting)]);
    }
}

/// The code for the other chips, over one batch.
#[test]
fn every_chip() {
    let Some(nvcc) = nvcc_or_skip("every_chip") else { return };
    for (i, chip) in CHIPS.into_iter().enumerate() {
        let kernel = if chip >= 90 { Kernel::Cluster } else { Kernel::Grid };
        let options = one_of_each().nth(i % 2).expect("there are more");
        let options = Options { chip, kernel, build: Build::Shipped, seed: i as u64, ..options };
        let case = |row| Case::generated(60, row, 3000);
        panel(nvcc, [options]).check(&(0..24).map(case).collect::<Vec<_>>());
    }
}

/// The tests above can fail: changed instructions are noticed, by their results or by the machine.
#[test]
fn planted_faults_are_found() {
    let Some(nvcc) = nvcc_or_skip("planted_faults_are_found") else { return };
    let options = Options { seed: 3, ..one_of_each().nth(1).expect("the small build") };
    let good = kernels(nvcc, options.chip, options.build);
    let finds = |text: String| {
        let kernels = Arc::new(Kernels::read(text).expect("what was planted is PTX"));
        let mut ptx = open(kernels, options);
        let mut panel = Panel::of(Vec::new());
        let generated = (1..40).map(|row| Case::generated(70, row, 1500));
        [flat(), level()].into_iter().chain(generated).any(|case| {
            panel.check(std::slice::from_ref(&case));
            let mut got = Results::default();
            let answer = ptx.sample(&[case.place().row()], &mut got);
            answer.is_err() || got.row(0) != panel.expected().row(0)
        })
    };
    assert!(!finds(good.text.clone()), "what nothing was changed in is right");
    let start = good.text.find(".entry logitd_sample_grid").expect("its entry");
    let (head, body) = good.text.split_at(start);
    let without = |what: &str, instead: &str| format!("{head}{}", body.replace(what, instead));
    assert!(finds(without("bar.sync \t0;", "")), "no barrier");
    // Off by 16 units of the last place: by one, few rows would have another sum.
    assert!(finds(without("0f3C1D96A6", "0f3C1D96B6")), "a coefficient");
    assert!(finds(without("setp.ge.f32", "setp.gt.f32")), "a comparison");
    assert!(finds(format!("{head}{}", unfused(body))), "contraction undone");
}

/// The same of the kernel of cuts, by rows that have some.
#[test]
fn planted_faults_of_cuts_are_found() {
    let Some(nvcc) = nvcc_or_skip("planted_faults_of_cuts_are_found") else { return };
    let options = Options { seed: 3, ..one_of_each().nth(1).expect("the small build") };
    let good = kernels(nvcc, options.chip, options.build);
    let cases = cuts::all();
    let finds = |text: String| {
        let kernels = Arc::new(Kernels::read(text).expect("what was planted is PTX"));
        let mut ptx = open(kernels, options);
        let mut panel = Panel::of(Vec::new());
        cases.iter().any(|case| {
            panel.check(std::slice::from_ref(case));
            let mut got = Results::default();
            let answer = ptx.sample(&[case.place().row()], &mut got);
            answer.is_err() || got.row(0) != panel.expected().row(0)
        })
    };
    let start = good.text.find(".entry logitd_cut").expect("its entry");
    let end = good.text.find(".entry logitd_inspect").expect("the one after it");
    let (head, body, tail) = (&good.text[..start], &good.text[start..end], &good.text[end..]);
    let without = |what: &str, instead: &str| {
        assert!(body.contains(what), "{what}");
        format!("{head}{}{tail}", body.replace(what, instead))
    };
    assert!(!finds(good.text.clone()), "what nothing was changed in is right");
    assert!(finds(without("0fC5000000", "0fC7000000")), "what is far is not near");
    assert!(finds(without("0d3F50000000000000", "0d3F60000000000000")), "units of twice the size");
    assert!(finds(without("sqrt.rn.f64", "mov.f64")), "no root");
    assert!(finds(without("setp.ge.f32", "setp.gt.f32")), "a comparison");
    assert!(finds(without("bar.sync \t0;", "")), "no barrier");
}

/// A row that has a part of the mass in every token.
fn flat() -> Case {
    let logits = Values::Model.logits(&mut Random::new(1, 1), Dtype::F32, 1500, 1.0);
    Case::new("flat", Dtype::F32, logits, ParamsSpec { temperature: 2.0, ..Default::default() })
}

/// A row of one value, of which a few tokens are kept: all of them equal the floor of top-k.
fn level() -> Case {
    let logits = Values::Constant.logits(&mut Random::new(1, 2), Dtype::F32, 1500, 1.0);
    Case::new("level", Dtype::F32, logits, ParamsSpec { top_k: 3, ..Default::default() })
}

/// Every fused multiply-add as a product and a sum.
fn unfused(text: &str) -> String {
    let line = |line: &str| match line.trim().strip_prefix("fma.rn.f32") {
        None => line.to_owned(),
        Some(operands) => {
            let operands = operands.trim().trim_end_matches(';');
            let [d, a, b, c] = operands.split(", ").collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            format!(
                "{{ .reg .f32 %product; mul.rn.f32 %product, {a}, {b}; \
                 add.rn.f32 {d}, %product, {c}; }}"
            )
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
