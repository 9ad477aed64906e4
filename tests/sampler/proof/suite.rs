//! A small suite that reaches every line of the kernels, and the oracle's answers to it.

use super::runner::Runner;
use crate::common::compare::first_difference;
use crate::common::{Case, beside, borders, cuts, known};
use logitd::tools::generate::{Random, Values};
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::backend::cuda::plan::{Kernel, Packing};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results};
use logitd_core::params::{DrawRule, ParamsSpec};
use logitd_shim::{Order, ShimOptions};
use std::path::Path;
use std::sync::LazyLock;

/// A batch, and what the oracle says of it.
struct Batch {
    cases: Vec<Case>,
    expected: Results,
}

/// How the suite fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An answer is not the oracle's.
    Bits(String),
    /// A launch says what is wrong with it.
    Report(String),
}

/// Runs the suite until it fails.
pub fn first_failure(program: &Path, fault: u32) -> Option<Failure> {
    first_failure_of(program, fault, variants(), BATCHES.len())
}

/// Runs a part of it that still reaches every line: sanitized programs take ten times as long.
pub fn first_failure_of_part(program: &Path, fault: u32) -> Option<Failure> {
    first_failure_of(program, fault, variants().step_by(3), CROWDS)
}

fn first_failure_of(
    program: &Path,
    fault: u32,
    mut variants: impl Iterator<Item = ShimOptions>,
    batches: usize,
) -> Option<Failure> {
    let probed =
        Runner::start(program, fault, ShimOptions::default()).and_then(|mut runner| runner.probe());
    if let Err(why) = probed {
        return Some(Failure::Report(why));
    }
    variants.find_map(|options| {
        let mut backend = Runner::backend(program, fault, options);
        let mut got = Results::default();
        // The crowds take long, and what they show depends on blocks of many tokens.
        let few_blocks = options.team_blocks <= Some(3);
        let batches = if few_blocks { batches } else { batches.min(CROWDS) };
        BATCHES[..batches].iter().find_map(|Batch { cases, expected }| {
            let placed: Vec<_> = cases.iter().map(Case::place).collect();
            let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
            match backend.sample(&rows, &mut got) {
                Err(error) => Some(Failure::Report(error.to_string())),
                Ok(()) => first_difference(expected, &got)
                    .map(|at| Failure::Bits(format!("{options:?}: {}", cases[at].name))),
            }
        })
    })
}

/// Every kernel with teams of one, a few and many; staged or not; packed either way; in every kind of
/// order, and on a device that holds one team.
fn variants() -> impl Iterator<Item = ShimOptions> {
    let orders = [Order::Last, Order::First].into_iter().chain((1..).map(Order::Shuffled));
    let teams = [3, 1, 8, 2, 4, 5, 7, 6, 8, 4];
    teams.into_iter().zip(orders).enumerate().map(|(i, (team, order))| ShimOptions {
        kernel: [Kernel::Grid, Kernel::Cluster][i % 2],
        order,
        resident_blocks: if i < 4 { team } else { 16 },
        team_blocks: Some(team),
        stage: Some(i / 2 % 2 == 0),
        packing: [Packing::Tight, Packing::Aligned][i / 2 % 2],
        ..Default::default()
    })
}

/// Where [`crowds`] is among the batches.
const CROWDS: usize = 7;

static BATCHES: LazyLock<Vec<Batch>> = LazyLock::new(|| {
    let known::Rows { rows, cases } = known::read("rows.json");
    let known = cases.iter().map(|c| rows[c.row].case(&c.params)).collect();
    let generated = |seed, size| (0..24).map(|row| Case::generated(seed, row, size)).collect();
    let batches = [
        known,
        borders::all(),
        edges(),
        adjusted_and_asked(),
        cuts::all(),
        generated(1, 300),
        generated(2, 4000),
        crowds(),
    ];
    let batch = |cases: Vec<Case>| {
        let placed: Vec<_> = cases.iter().map(Case::place).collect();
        let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
        let mut expected = Results::default();
        Reference::default().sample(&rows, &mut expected).expect("the oracle does not fail");
        drop(rows);
        drop(placed);
        Batch { cases, expected }
    };
    batches.into_iter().map(batch).collect()
});

/// Sizes about the edges of a share, a tile and several; all alignments that a tight packing makes; and more draws than
/// a block takes at once, of a whole row and by race of a row of few, where noise of either half of its range can win; and a race
/// that tokens of every block can win.
fn edges() -> Vec<Case> {
    let sizes = [1, 2, 7, 8, 9, 15, 16, 17, 255, 256, 257, 511, 513, 2047, 2049];
    let case = |(i, vocab_size): (usize, u32)| {
        let dtype = Dtype::ALL[i % 3];
        let logits = Values::Model.logits(&mut Random::new(3, i as u64), dtype, vocab_size, 1.0);
        let spec = ParamsSpec { draws: 3, seed: Some(i as u64), ..Default::default() };
        let spec = match i % 4 {
            0 => spec,
            1 => ParamsSpec { temperature: 0.0, ..spec },
            2 => ParamsSpec { top_k: vocab_size.div_ceil(2), top_p: 0.9, ..spec },
            _ => ParamsSpec { min_p: 0.1, ..spec },
        };
        Case::new(format!("Model, {vocab_size} tokens"), dtype, logits, spec)
    };
    let logits = Values::Model.logits(&mut Random::new(3, 99), Dtype::F16, 2049, 1.0);
    let many = ParamsSpec { draws: 1000, seed: Some(99), ..Default::default() };
    let many = Case::new("Model, 1000 draws", Dtype::F16, logits, many);
    let race =
        ParamsSpec { draws: 1000, seed: Some(7), draw_rule: DrawRule::Race, ..Default::default() };
    let values = [0.0f32, 1.0, 2.0].map(f32::to_bits);
    let of_few = Case::bits("3 tokens, 1000 draws by race", Dtype::F32, &values, race);
    let logits = Values::Model.logits(&mut Random::new(3, 100), Dtype::F16, 4001, 1.0);
    let race = ParamsSpec { draws: 16, temperature: 2.0, ..race };
    let of_all = Case::new("Model, 16 draws by race", Dtype::F16, logits, race);
    let sizes = sizes.into_iter().cycle().take(3 * sizes.len());
    sizes.enumerate().map(case).chain([many, of_few, of_all]).collect()
}

/// Rows that are adjusted and asked about, by one block and by several.
fn adjusted_and_asked() -> Vec<Case> {
    let sizes = [(7, Dtype::F16), (300, Dtype::Bf16), (3001, Dtype::F16), (1025, Dtype::F32)];
    let each = sizes.into_iter().enumerate();
    let asked = each.flat_map(|(salt, (n, dtype))| beside::of_size(n, dtype, salt));
    asked.chain(neighbours()).collect()
}

/// Rows whose last share is banned in part, each before one whose first token is drawn: rows that are packed tightly lie side
/// by side.
fn neighbours() -> impl Iterator<Item = Case> {
    let greedy = ParamsSpec { temperature: 0.0, ..Default::default() };
    Dtype::ALL.into_iter().flat_map(move |dtype| {
        let row = |n: usize| (0..n).map(|i| if i == 0 { 2.0 } else { 1.0 }).collect::<Vec<f32>>();
        [9, 261].into_iter().flat_map(move |n| {
            let case = Case::values(&format!("{n} tokens, side by side"), dtype, &row(n), greedy);
            let banned_ids = vec![0, n as u32 - 1];
            let banned = AdjustmentsSpec { banned_ids, ..Default::default() };
            [case.clone().adjusted(banned), case]
        })
    })
}

/// Rows with more equal tokens than 16 bits count, and more mass than 32 bits hold, in one bin.
fn crowds() -> Vec<Case> {
    let spec = ParamsSpec { draws: 5, seed: Some(4), ..Default::default() };
    let specs = [
        ParamsSpec { top_k: 70_000, ..spec },
        ParamsSpec { top_p: 0.7, ..spec },
        ParamsSpec { top_k: 66_000, top_p: 0.999, min_p: 0.1, ..spec },
    ];
    let case = |(i, spec): (usize, ParamsSpec)| {
        let dtype = Dtype::ALL[i % 3];
        let values = [Values::Constant, Values::Coarse, Values::Constant][i];
        let logits = values.logits(&mut Random::new(5, i as u64), dtype, 140_001, 1.0);
        Case::new(format!("{values:?}, 140001 tokens"), dtype, logits, spec)
    };
    specs.into_iter().enumerate().map(case).collect()
}
