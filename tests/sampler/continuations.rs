//! How rows can go on: that it is what a textbook says, whatever the row's cuts are, and that every backend says it.

use crate::common::real::carried;
use crate::common::{Case, Panel};
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, RowStatus};
use logitd_core::beams::CONTINUATIONS_MAX;
use logitd_core::inspection::{Continuations, Continue, Inspect, Normaliser};
use logitd_core::params::ParamsSpec;

/// The units of a score in a nat.
const NAT: f64 = 4_294_967_296.0;

const GREEDY: ParamsSpec = ParamsSpec { temperature: 0.0, ..ParamsSpec::DEFAULT };

fn asked(count: u32, temperature: f32, normaliser: Normaliser) -> Option<Inspect> {
    let continuations = Some(Continue { count, temperature, normaliser });
    Some(Inspect { continuations, ..Inspect::default() })
}

fn of(cases: &[Case]) -> Vec<Continuations> {
    let placed: Vec<_> = cases.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|placed| placed.row()).collect();
    let mut results = Results::default();
    Reference::default().sample(&rows, &mut results).expect("the oracle does not fail");
    let found = results.iter().map(|row| row.inspection.expect("it was asked for").clone());
    found.map(|found| found.continuations.expect("they were asked for")).collect()
}

fn logits(case: &Case) -> Vec<f32> {
    let placed = case.place();
    let row = placed.row();
    (0..row.vocab_size()).map(|token| row.logit(token)).collect()
}

/// Every third token banned, and a few with another logit: some of them above all others, one with -inf.
fn adjusted(case: Case) -> Case {
    let n = case.vocab_size() as u32;
    let biases = [(n / 3, 4.5), (n / 2, -0.5), (n - 1, 100.0), (n / 5, f32::NEG_INFINITY)];
    let mut logit_bias: Vec<(u32, f32)> = biases.into();
    logit_bias.sort_unstable_by_key(|(token, _)| *token);
    logit_bias.dedup_by_key(|(token, _)| *token);
    case.adjusted(AdjustmentsSpec {
        allowed_bitmask: (0..n.div_ceil(32)).map(|word| 0x6db6_db6d << (word % 2)).collect(),
        logit_bias,
        ..AdjustmentsSpec::default()
    })
}

#[test]
fn hard_rows_are_alike_for_every_backend() {
    type Value = fn(usize) -> f32;
    let kinds: [(&str, Value); 5] = [
        ("one value", |_| -3.25),
        ("zeros of both signs", |i| if i % 3 == 0 { 0.0 } else { -0.0 }),
        ("few values", |i| ((i * 7919) % 13) as f32 * 0.5),
        ("mostly -inf", |i| if i % 11 == 0 { (i % 4) as f32 } else { f32::NEG_INFINITY }),
        ("far apart", |i| ((i * 7919) % 1009) as f32 * -0.125),
    ];
    let params = [
        GREEDY,
        ParamsSpec { top_k: 5, ..ParamsSpec::DEFAULT },
        ParamsSpec { typical_p: 0.5, ..ParamsSpec::DEFAULT },
        ParamsSpec { top_p: 0.6, draws: 40, ..ParamsSpec::DEFAULT },
    ];
    let mut cases = vec![];
    for (i, n) in [1, 2, 31, 512, 513, 2113, 40_000, 140_000].into_iter().enumerate() {
        for (j, (name, value)) in kinds.into_iter().enumerate() {
            let x: Vec<f32> = (0..n).map(value).collect();
            let (k, dtype) = (i + j, Dtype::ALL[(i + j) % 3]);
            let case = Case::values(&format!("{name}, {n}"), dtype, &x, params[k % 4]);
            let count = [1, 2, 128, CONTINUATIONS_MAX][(k + j) % 4];
            let temperature = [1.0, 0.3, 50.0][(k + j) % 3];
            for normaliser in [Normaliser::Adjusted, Normaliser::Raw] {
                let case = case.clone().inspected(asked(count, temperature, normaliser));
                cases.push(adjusted(case.clone()));
                cases.push(case);
            }
        }
    }
    let mut panel = Panel::default();
    panel.check(&cases);
    // Alone, threads share each.
    for case in cases.iter().filter(|case| case.vocab_size() > 100_000) {
        panel.check(std::slice::from_ref(case));
    }
}

#[test]
fn scores_are_the_log_softmax_of_the_textbook() {
    let mut worst = 0.0f64;
    for (row, temperature) in (0..8).zip([1.0f32, 0.7, 1.0, 1.7].into_iter().cycle()) {
        let case = carried(row, GREEDY);
        let x = logits(&case);
        let y = |token: usize| f64::from(x[token]) / f64::from(temperature);
        let max = (0..x.len()).map(y).fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + (0..x.len()).map(|i| (y(i) - max).exp()).sum::<f64>().ln();
        let case = case.inspected(asked(CONTINUATIONS_MAX, temperature, Normaliser::Adjusted));
        let found = of(&[case]).pop().unwrap();
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a]));
        order.truncate(CONTINUATIONS_MAX as usize);
        let tokens: Vec<usize> = found.tokens.iter().map(|it| it.token as usize).collect();
        assert_eq!(tokens, order, "row {row}");
        for it in &found.tokens {
            let exact = y(it.token as usize) - log_sum;
            worst = worst.max((it.score as f64 / NAT - exact).abs());
        }
    }
    println!("scores within {worst:e} nats");
    assert!(worst < 1.2e-7, "{worst:e}");
}

#[test]
fn cuts_and_drawn_tokens_do_not_matter() {
    let generated = || (0..400).map(|index| Case::generated(17, index, 2000));
    let ask = asked(40, 0.9, Normaliser::Adjusted);
    let cases: Vec<Case> = generated().map(|case| case.inspected(ask.clone())).collect();
    // What adjusts logits stays as it is.
    let greedy = |case: &Case| {
        let spec: ParamsSpec = case.params.into();
        let adjusting = ParamsSpec {
            repetition_penalty: spec.repetition_penalty,
            frequency_penalty: spec.frequency_penalty,
            presence_penalty: spec.presence_penalty,
            dry_multiplier: spec.dry_multiplier,
            dry_base: spec.dry_base,
            dry_allowed_length: spec.dry_allowed_length,
            dry_last_n: spec.dry_last_n,
            no_repeat_ngram: spec.no_repeat_ngram,
            min_tokens: spec.min_tokens,
            profile: spec.profile,
            ..GREEDY
        };
        case.with(adjusting.parse(|| 0).expect("fewer parameters than before"))
    };
    let plain: Vec<Case> = cases.iter().map(greedy).collect();
    assert!(of(&cases) == of(&plain));
}

#[test]
fn a_raw_normaliser_keeps_the_share_of_what_is_banned() {
    let x = [2.0f32, 1.0, 0.0, -1.0];
    let banned = |normaliser| {
        let case = Case::values("banned", Dtype::F32, &x, GREEDY).adjusted(AdjustmentsSpec {
            banned_ids: vec![0],
            logit_bias: vec![(3, 5.0)],
            ..Default::default()
        });
        case.inspected(asked(9, 1.0, normaliser))
    };
    let cases = [banned(Normaliser::Raw), banned(Normaliser::Adjusted)];
    Panel::default().check(&cases);
    let [raw, adjusted] = &of(&cases)[..] else { panic!("two rows") };
    let tokens = |of: &Continuations| of.tokens.iter().map(|it| it.token).collect::<Vec<_>>();
    assert_eq!([tokens(raw), tokens(adjusted)], [[3, 1, 2], [3, 1, 2]]);
    let exact = |logits: &[f64], x: f64| x - logits.iter().map(|x| x.exp()).sum::<f64>().ln();
    for (i, x) in [4.0, 1.0, 0.0].into_iter().enumerate() {
        let of_raw = exact(&[2.0, 1.0, 0.0, -1.0], x);
        let of_adjusted = exact(&[1.0, 0.0, 4.0], x);
        assert!((raw.tokens[i].score as f64 / NAT - of_raw).abs() < 1.2e-7);
        assert!((adjusted.tokens[i].score as f64 / NAT - of_adjusted).abs() < 1.2e-7);
    }
    assert!(raw.tokens[0].score > 0, "a bias can lift a token above the stored mass");
}

#[test]
fn a_stored_row_that_is_not_ok_is_a_status_where_it_normalises() {
    let row = |x: &[f32], banned: &[u32], normaliser| {
        let case = Case::values("banned", Dtype::F16, x, GREEDY);
        let lists = AdjustmentsSpec { banned_ids: banned.to_vec(), ..Default::default() };
        case.adjusted(lists).inspected(asked(2, 1.0, normaliser))
    };
    let nan = [1.0, f32::NAN, 0.0];
    let infinite = [1.0, f32::INFINITY, 0.0];
    let cases = [
        row(&nan, &[1], Normaliser::Raw),
        row(&nan, &[1], Normaliser::Adjusted),
        row(&infinite, &[1], Normaliser::Raw),
        row(&[1.0, 2.0], &[0, 1], Normaliser::Raw),
        row(&nan, &[0], Normaliser::Adjusted),
        row(&[9.0, 7.0], &[0, 1], Normaliser::Raw),
        // Behind rows that looked at their stored logits in vain, one that is as it is stored.
        Case::values("plain", Dtype::F16, &[1.0, 2.0], GREEDY).inspected(asked(
            2,
            1.0,
            Normaliser::Raw,
        )),
    ];
    Panel::default().check(&cases);
    let found = of(&cases);
    let statuses: Vec<RowStatus> = found.iter().map(|of| of.status).collect();
    use RowStatus::{Nan, NoCandidate, Ok, PositiveInfinity};
    assert_eq!(statuses, [Nan, Ok, PositiveInfinity, NoCandidate, Nan, NoCandidate, Ok]);
    for of in found {
        assert_eq!(of.tokens.len(), if of.status == Ok { 2 } else { 0 });
    }
}
