//! Every backend returns the oracle's bits: over random plans, over grids that straddle every edge,
//! and over rows laid where reading a byte too far ends the process.
//!
//! Everything is seeded. To look further than one run does:
//!
//!     PROPTEST_CASES=20000 LOGITD_TEST_SEED=7 cargo test --release --test parity

use crate::common::borders;
use crate::common::case::{greatest, pattern, spec, spec_of_draws};
use crate::common::real::{CARRIED, carried, carried_prefix, settings};
use crate::common::{Case, Panel};
use logitd::tools::generate::{self, Random, Values};
use logitd_core::arithmetic::mass::{Scale, mass};
use logitd_core::batch::{Dtype, RowStatus, VOCAB_SIZE_MAX};
use logitd_core::params::{DRAWS_MAX, DrawRule, ParamsSpec, TEMPERATURE_RANGE};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};
use std::cell::RefCell;

/// Seed of everything here, unless the environment says otherwise.
fn seed() -> u64 {
    std::env::var("LOGITD_TEST_SEED").map_or(1, |s| s.parse().expect("LOGITD_TEST_SEED: a number"))
}

/// Edges of vectors, warps, blocks and counters, and one to each side.
fn edges() -> impl Iterator<Item = u32> {
    let powers = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096u32];
    (1..=7).chain(powers.into_iter().flat_map(|n| n - 1..=n + 1))
}

/// What a row is made of. Small parts make small rows, so that a failure shrinks.
#[derive(Clone, Debug)]
struct Plan {
    dtype: Dtype,
    values: Values,
    vocab_size: u32,
    stream: u64,
    spec: Option<ParamsSpec>,
    temperature: f32,
    offset: usize,
}

impl Plan {
    fn case(&self) -> Case {
        let mut random = Random::new(self.stream, 0);
        let Self { dtype, values, vocab_size, temperature, .. } = *self;
        let made = generate::Case::new(&mut random, dtype, vocab_size, values, temperature);
        let spec = self.spec.unwrap_or_else(|| spec(&made.params));
        Case::new(format!("{self:?}"), dtype, made.logits, spec).at(self.offset)
    }
}

fn plan(vocab_sizes: impl Strategy<Value = u32> + 'static) -> impl Strategy<Value = Plan> {
    let sampled = (
        prop::sample::select(Dtype::ALL.to_vec()),
        prop::sample::select(Values::ALL.to_vec()),
        vocab_sizes,
        any::<u64>(),
    );
    // Half of the plans have cuts aimed at their own row, the others have any.
    let spec = prop::option::of(any_spec());
    (sampled, spec, temperatures(), 0..64usize).prop_map(
        |((dtype, values, vocab_size, stream), spec, temperature, offset)| {
            let temperature = spec.map_or(temperature, |spec: ParamsSpec| spec.temperature);
            Plan { dtype, values, vocab_size, stream, spec, temperature, offset }
        },
    )
}

fn small_vocab_sizes() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => 1..=80u32,
        3 => prop::sample::select(edges().collect::<Vec<_>>()),
        2 => 1..=3000u32,
    ]
}

fn temperatures() -> impl Strategy<Value = f32> {
    let (low, high) = TEMPERATURE_RANGE;
    prop_oneof![
        1 => Just(1.0f32),
        1 => prop::sample::select(vec![0.0, low, low.next_up(), 0.01, 0.1, high.next_down(), high]),
        2 => 0.1..2.0f32,
        1 => (low.ln()..high.ln()).prop_map(move |t| t.exp().clamp(low, high)),
    ]
}

fn any_spec() -> impl Strategy<Value = ParamsSpec> {
    let top_k = prop_oneof![
        3 => Just(0u32),
        2 => 1..80u32,
        1 => 1..5000u32,
        1 => prop::sample::select(edges().chain([VOCAB_SIZE_MAX, u32::MAX]).collect::<Vec<_>>()),
    ];
    let below_one = 1f32.next_down();
    let top_p = prop_oneof![
        3 => Just(1.0f32),
        1 => prop::sample::select(vec![f32::from_bits(1), 1e-10, 0.5, 0.9, below_one]),
        2 => f32::MIN_POSITIVE..1.0,
    ];
    let min_p = prop_oneof![
        3 => Just(0.0f32),
        1 => prop::sample::select(vec![f32::from_bits(1), 1e-10, below_one, 1.0]),
        1 => 0.0..=1.0f32,
    ];
    let draws = prop_oneof![6 => 1..=4u32, 1 => 5..=DRAWS_MAX, 1 => Just(DRAWS_MAX)];
    let cuts = (temperatures(), top_k, top_p, min_p);
    let rule = prop::sample::select(DrawRule::ALL.to_vec());
    (cuts, any::<u64>(), any::<u64>(), draws, rule).prop_map(
        |((temperature, top_k, top_p, min_p), seed, position, draws, draw_rule)| {
            let seed = Some(seed);
            ParamsSpec {
                temperature,
                top_k,
                top_p,
                min_p,
                seed,
                position,
                draws,
                draw_rule,
                ..Default::default()
            }
        },
    )
}

/// Tries batches of plans; a failure is first made small by `proptest`, then by leaving out tokens.
fn check_plans(batches: u32, plans: impl Strategy<Value = Vec<Plan>>) {
    let cases = ProptestConfig::default().cases; // 256, or PROPTEST_CASES
    let config = ProptestConfig {
        cases: (batches * cases / 256).max(1),
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        max_shrink_iters: 500,
        ..ProptestConfig::default()
    };
    let panel = RefCell::new(Panel::default());
    let outcome = TestRunner::new(config).run(&plans, |plans| {
        let cases: Vec<Case> = plans.iter().map(Plan::case).collect();
        let difference = panel.borrow_mut().differs(&cases);
        difference.map_or(Ok(()), |at| Err(TestCaseError::fail(format!("{at:?}"))))
    });
    if let Err(TestError::Fail(_, plans)) = &outcome {
        panel.borrow_mut().check(&plans.iter().map(Plan::case).collect::<Vec<_>>());
    }
    outcome.expect("a difference, but not twice");
}

#[test]
fn batches_of_any_small_rows() {
    check_plans(1500, prop::collection::vec(plan(small_vocab_sizes()), 1..8));
}

#[test]
fn any_rows_of_middling_size() {
    check_plans(150, prop::collection::vec(plan(1000..=40_000u32), 1..3));
}

#[test]
fn any_large_row() {
    check_plans(8, prop::collection::vec(plan(100_000..=VOCAB_SIZE_MAX), 1..=1));
}

#[test]
fn the_generated_table() {
    let mut panel = Panel::default();
    for batch in 0..60 {
        let case = |i: u64| Case::generated(seed(), batch * 25 + i, 1 << 16);
        panel.check(&(0..25).map(case).collect::<Vec<_>>());
    }
}

#[test]
fn every_kind_of_value_at_every_edge_of_size() {
    let mut panel = Panel::default();
    for vocab_size in edges() {
        let mut cases = Vec::new();
        for (i, values) in Values::ALL.into_iter().enumerate() {
            for dtype in Dtype::ALL {
                let mut random = Random::new(u64::from(vocab_size), i as u64);
                let temperature = generate::temperature(&mut random);
                let made = generate::Case::new(&mut random, dtype, vocab_size, values, temperature);
                let name = format!("{values:?}, stream ({vocab_size}, {i})");
                let case = Case::new(name, dtype, made.logits, spec(&made.params));
                cases.push(case.at(i * dtype.size_bytes()));
            }
        }
        panel.check(&cases);
    }
}

#[test]
fn every_size_up_to_six_vectors_and_every_alignment() {
    let mut panel = Panel::default();
    for dtype in Dtype::ALL {
        for vocab_size in 1..=200u32 {
            let mut random = Random::new(seed(), vocab_size.into());
            let logits = Values::Model.logits(&mut random, dtype, vocab_size, 1.0);
            let spec = ParamsSpec { seed: Some(random.bits()), draws: 3, ..Default::default() };
            let cuts = [
                spec,
                ParamsSpec { temperature: 0.0, ..spec },
                ParamsSpec { top_k: vocab_size.div_ceil(2), top_p: 0.9, ..spec },
            ];
            let case = |spec| Case::new("Model", dtype, logits.clone(), spec);
            let offsets = [0, 1, 3, vocab_size as usize % 64];
            let all = cuts.into_iter().flat_map(|s| offsets.map(|offset| case(s).at(offset)));
            panel.check(&all.collect::<Vec<_>>());
        }
        let mut random = Random::new(seed(), 0);
        let logits = Values::Coarse.logits(&mut random, dtype, 333, 1.0);
        let spec = ParamsSpec { top_k: 100, ..Default::default() };
        let case = |offset| Case::new("Coarse", dtype, logits.clone(), spec).at(offset);
        panel.check(&(0..64).map(case).collect::<Vec<_>>());
    }
}

/// One odd token at every place: a maximum, a NaN, an infinity, the only candidate.
#[test]
fn one_odd_token_at_every_place() {
    let mut panel = Panel::default();
    for dtype in Dtype::ALL {
        let infinity = greatest(dtype) + 1;
        let low = pattern(dtype, f32::NEG_INFINITY);
        let quiet = pattern(dtype, f32::NAN);
        let spec = |temperature| ParamsSpec { temperature, draws: 2, ..Default::default() };
        for vocab_size in [1, 2, 33, 260, 1030] {
            let mut cases = Vec::new();
            for place in 0..vocab_size {
                let mut with = |name: &str, rest: u32, odd: u32, temperature| {
                    let mut patterns = vec![rest; vocab_size];
                    patterns[place] = odd;
                    let name = format!("{name} at {place}");
                    cases.push(Case::bits(&name, dtype, &patterns, spec(temperature)));
                };
                let (two, three) = (pattern(dtype, 2.0), pattern(dtype, 3.0));
                with("maximum", two, three, 0.0);
                with("maximum", two, three, 0.5);
                with("lowest", three, low, 1.0);
                with("only candidate", low, two, 1.0);
                with("NaN", two, quiet, 1.0);
                with("NaN with its sign set", two, low + 1, 1.0);
                with("least NaN", two, infinity + 1, 0.0);
                with("+inf", two, infinity, 0.0);
            }
            panel.check(&cases);
        }
    }
}

#[test]
fn top_k_everywhere_in_a_row_of_ties() {
    let mut panel = Panel::default();
    for dtype in Dtype::ALL {
        for (values, vocab_size) in
            [(Values::Coarse, 300), (Values::Constant, 70), (Values::Zeros, 65)]
        {
            let logits = values.logits(&mut Random::new(seed(), 5), dtype, vocab_size, 1.0);
            let case = |top_k| {
                let spec = ParamsSpec { top_k, draws: 4, ..Default::default() };
                Case::new(format!("{values:?}"), dtype, logits.clone(), spec)
            };
            panel.check(&(0..vocab_size + 3).map(case).collect::<Vec<_>>());
        }
    }
}

/// The share of every prefix of the order as top_p, and the relative probability of every token as
/// min_p: as exactly as an f32 holds it, and one unit in the last place to each side.
#[test]
fn cuts_on_the_border_of_every_token() {
    let mut panel = Panel::default();
    for (values, dtype) in [Values::Model, Values::Coarse, Values::Runs]
        .into_iter()
        .flat_map(|values| Dtype::ALL.map(|dtype| (values, dtype)))
    {
        for temperature in [0.3, 1.0, 2.5] {
            let logits = values.logits(&mut Random::new(seed(), 9), dtype, 90, temperature);
            let base = ParamsSpec { temperature, draws: 2, ..Default::default() };
            let case = Case::new(format!("{values:?}"), dtype, logits, base);
            let mut x: Vec<f32> =
                case.patterns().iter().map(|&p| crate::common::case::value(dtype, p)).collect();
            x.sort_by(|a, b| b.total_cmp(a));
            let scale = Scale::new(temperature);
            let masses = x.iter().map(|&x_i| mass(x_i, x[0], scale));
            let total: u64 = masses.clone().sum();
            let mut before = 0;
            let mut cases = Vec::new();
            for (mass, x_i) in masses.zip(&x) {
                before += mass;
                let share = (before as f64 / total as f64) as f32;
                let relative = (f64::from(x_i - x[0]) / f64::from(temperature)).exp() as f32;
                let around = |p: f32| [p.next_down(), p, p.next_up()];
                let specs = around(share)
                    .map(|top_p| ParamsSpec { top_p, ..base })
                    .into_iter()
                    .chain(around(relative).map(|min_p| ParamsSpec { min_p, ..base }));
                let valid = specs.filter_map(|spec| spec.parse(|| 0).ok());
                cases.extend(valid.map(|params| case.with(params)));
            }
            panel.check(&cases);
        }
    }
}

#[test]
fn rows_on_a_border() {
    Panel::default().check(&borders::all());
}

#[test]
fn every_combination_of_parameters() {
    let mut panel = Panel::default();
    let rows: Vec<Case> = [Values::Model, Values::Coarse, Values::Masked, Values::Cliff]
        .into_iter()
        .zip([Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F16])
        .map(|(values, dtype)| {
            let logits = values.logits(&mut Random::new(seed(), 3), dtype, 150, 0.8);
            Case::new(format!("{values:?}"), dtype, logits, ParamsSpec::default())
        })
        .chain([carried_prefix(1, 150, ParamsSpec::default())])
        .collect();
    for temperature in [0.0, 1e-30, 1e-7, 1e-4, 0.05, 0.8, 1.0, 3.0, 100.0, 1e4] {
        for top_k in [0, 1, 2, 40, 149, 150, 151, u32::MAX] {
            let mut cases = Vec::new();
            for top_p in [1.0, 1f32.next_down(), 0.95, 0.5, 0.01, f32::from_bits(1)] {
                for min_p in [0.0, f32::from_bits(1), 0.02, 0.5, 1.0] {
                    let spec =
                        ParamsSpec { temperature, top_k, top_p, min_p, ..Default::default() };
                    cases.extend(rows.iter().map(|row| row.with(spec.parse(|| 0).unwrap())));
                }
            }
            panel.check(&cases);
        }
    }
}

#[test]
fn the_most_draws_of_one_row() {
    let mut panel = Panel::default();
    for index in 0..40 {
        let mut case = Case::generated(seed().wrapping_add(1), index, 5000);
        case.params = spec_of_draws(&case.params, DRAWS_MAX).parse(|| 0).unwrap();
        panel.check(&[case]);
    }
}

#[test]
fn real_rows() {
    let mut panel = Panel::default();
    for setting in settings(seed(), 8) {
        let whole = (0..CARRIED.len()).map(|row| carried(row, setting));
        panel.check(&whole.collect::<Vec<_>>());
        let odd = |row| carried_prefix(row, 128_256 - row, setting).at(row * 2 + 1);
        panel.check(&(0..CARRIED.len()).step_by(3).map(odd).collect::<Vec<_>>());
    }
}

/// Every kind of value in rows of tens of thousands of tokens, where backends sample, guess and
/// split; cuts aimed at each row.
#[test]
fn every_kind_of_value_in_rows_of_many_blocks() {
    let mut panel = Panel::default();
    for (i, values) in Values::ALL.into_iter().enumerate() {
        for (j, dtype) in Dtype::ALL.into_iter().enumerate() {
            let mut random = Random::new(seed(), (i * 3 + j) as u64);
            let vocab_size = [9_000, 20_001, 65_537][(i + j) % 3];
            let temperature = [0.1, 0.8, 1.5, 10.0, 1e3, 1e-30, 1e-6][(i + j) % 7];
            let logits = values.logits(&mut random, dtype, vocab_size, temperature);
            let case = |_| {
                let params = generate::params(&mut random, dtype, &logits, temperature);
                let name = format!("{values:?}, stream ({}, {})", seed(), i * 3 + j);
                Case::new(name, dtype, logits.clone(), spec(&params))
            };
            panel.check(&(0..12).map(case).collect::<Vec<_>>());
        }
    }
}

/// What makes single large rows different: counters that overflow, splits over threads.
#[test]
fn the_largest_rows() {
    let mut panel = Panel::default();
    let kinds = [
        Values::Constant,
        Values::Model,
        Values::Coarse,
        Values::Cliff,
        Values::AnyFinite,
        Values::Coarse,
    ];
    let base = ParamsSpec { draws: 3, seed: Some(seed()), ..Default::default() };
    let settings = [
        base,
        ParamsSpec { temperature: 0.0, ..base },
        ParamsSpec { top_k: VOCAB_SIZE_MAX / 2 + 1, top_p: 0.5, ..base },
        ParamsSpec { temperature: 1e4, top_p: 1f32.next_down(), ..base },
        ParamsSpec { temperature: 0.7, top_p: 0.9, min_p: 0.001, ..base },
        ParamsSpec { temperature: 1e-30, top_p: 0.9, ..base },
    ];
    for (i, (values, spec)) in kinds.into_iter().zip(settings).enumerate() {
        let dtype = Dtype::ALL[i % 3];
        let vocab_size = VOCAB_SIZE_MAX - (i as u32 % 2);
        let mut random = Random::new(seed(), i as u64);
        let logits = values.logits(&mut random, dtype, vocab_size, spec.temperature);
        panel.check(&[Case::new(format!("{values:?}"), dtype, logits, spec).at(i * 2)]);
        assert_eq!(panel.expected().row(0).outcome.status, RowStatus::Ok);
    }
}

/// A backend that is wrong in one bit is caught, and its fault comes back small.
mod the_helper_itself {
    use super::*;
    use crate::common::compare::agree;
    use logitd_core::backend::{Backend, DeviceError, DeviceInfo, reference::Reference};
    use logitd_core::batch::{Results, Row};

    /// The oracle, but for the last bit of a logprob when token 5 of a row is 2.0.
    #[derive(Default)]
    struct Faulty(Reference);

    impl Backend for Faulty {
        fn device(&self) -> &DeviceInfo {
            self.0.device()
        }

        fn sample(&mut self, rows: &[Row<'_>], out: &mut Results) -> Result<(), DeviceError> {
            self.0.sample(rows, out)?;
            for (row, slot) in rows.iter().zip(out.slots()) {
                if row.vocab_size() > 5 && row.logit(5) == 2.0 {
                    let bits = slot.draws[0].logprob.to_bits();
                    slot.draws[0].logprob = f32::from_bits(bits ^ 1);
                }
            }
            Ok(())
        }
    }

    #[test]
    fn finds_and_shrinks_one_wrong_bit() {
        let mut x: Vec<f32> = (0..400).map(|i| (i % 7) as f32 / 2.0).collect();
        x[5] = 2.0;
        let spec = ParamsSpec { temperature: 0.7, top_k: 200, draws: 30, ..Default::default() };
        let good = Case::values("good", Dtype::F16, &[1.0; 9], spec);
        let bad = Case::values("bad", Dtype::F16, &x, spec);
        let (mut oracle, mut faulty) = (Reference::default(), Faulty::default());
        assert_eq!(agree(&mut oracle, &mut faulty, &[good.clone(), good.clone()]), Ok(()));
        let report = agree(&mut oracle, &mut faulty, &[good, bad]).unwrap_err();
        assert!(report.contains("differ at row 1 of 2"), "{report}");
        assert!(report.contains("shrunk from bad\n  f16 x 6,"), "{report}");
        assert!(report.contains("draws 1\n"), "{report}");
    }
}
