//! What is said of a row beside its tokens: that it is what a textbook says, and that its parts agree.
//!
//! Known answers are in `golden.rs`; that every backend says what the oracle does, to the bit, of generated rows, is the
//! matter of `parity.rs`.

use crate::common::compare::sample;
use crate::common::real::carried;
use crate::common::{Case, Panel};
use logitd::tools::generate::{Random, Values};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, RowResult, RowStatus};
use logitd_core::inspection::{
    Distribution, Inspect, Inspection, KeptIds, LOGPROB_IDS_MAX, Logprobs, TOP_LOGPROBS_MAX,
};
use logitd_core::params::{DrawRule, ParamsSpec};

const ALL: [bool; 3] = [true; 3];

fn everything(top: u32, ids: impl IntoIterator<Item = u32>) -> Option<Inspect> {
    let ids = ids.into_iter().collect();
    Some(Inspect { of: ALL, top, ids, kept_ids_max: Some(u32::MAX), continuations: None })
}

fn oracle(cases: &[Case]) -> Results {
    let placed: Vec<_> = cases.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|placed| placed.row()).collect();
    let mut results = Results::default();
    sample(&mut Reference::default(), &rows, &mut results);
    results
}

fn inspection<'a>(result: &RowResult<'a>) -> &'a Inspection {
    result.inspection.expect("it was asked for")
}

/// Sizes beside the edges of vectors and blocks, and one that threads share.
const SIZES: [usize; 11] = [1, 2, 17, 31, 511, 512, 513, 1023, 2049, 40_000, 140_000];

/// Rows of ties, zeros of both signs, one value, and of values that are far apart, at each size.
fn hard_rows(spec: ParamsSpec) -> Vec<Case> {
    type Value = fn(usize) -> f32;
    let kinds: [(&str, Value); 6] = [
        ("one value", |_| -3.25),
        ("zeros of both signs", |i| if i % 3 == 0 { 0.0 } else { -0.0 }),
        ("-0.0 first", |i| if i % 7 == 0 { -0.0 } else { -1.0 - (i % 5) as f32 }),
        ("few values", |i| ((i * 7919) % 13) as f32 * 0.5),
        ("mostly -inf", |i| if i % 11 == 0 { (i % 4) as f32 } else { f32::NEG_INFINITY }),
        ("far apart", |i| ((i * 7919) % 1009) as f32 * -0.125),
    ];
    let mut rows = Vec::new();
    for (j, n) in SIZES.into_iter().enumerate() {
        for (k, (name, value)) in kinds.into_iter().enumerate() {
            let x: Vec<f32> = (0..n).map(value).collect();
            let dtype = Dtype::ALL[(j + k) % 3];
            let ids = [0, n as u32 - 1, n as u32, u32::MAX, n as u32 / 2, 0];
            let top = [1, 20, 1024, 0][(j + k) % 4];
            let case = Case::values(&format!("{name}, {n}"), dtype, &x, spec);
            rows.push(case.inspected(everything(top, ids)));
        }
    }
    rows
}

#[test]
fn hard_rows_are_alike_for_every_backend() {
    let mut panel = Panel::default();
    let spec = |temperature| ParamsSpec { temperature, ..Default::default() };
    for spec in [
        spec(0.0),
        spec(1.0),
        spec(0.05),
        spec(1e4),
        spec(1e-30),
        ParamsSpec { top_k: 3, draws: 5, ..spec(0.7) },
        ParamsSpec { top_k: 3000, top_p: 0.9, ..spec(2.0) },
        ParamsSpec { top_p: 0.6, draws: 300, ..spec(1.0) },
        ParamsSpec { min_p: 0.1, draw_rule: DrawRule::Race, ..spec(1.5) },
        ParamsSpec { draw_rule: DrawRule::Race, draws: 2, ..spec(1.0) },
    ] {
        panel.check(&hard_rows(spec));
    }
}

#[test]
fn much_is_asked_of_large_rows() {
    let mut panel = Panel::default();
    let spec = ParamsSpec { temperature: 0.9, top_p: 0.97, draws: 40, ..Default::default() };
    let spread = |n: u32, i: u32| i.wrapping_mul(2_654_435_761) % n;
    let most = LOGPROB_IDS_MAX as u32;
    let real = (0..4).map(|row| {
        let case = carried(row, spec);
        let n = case.vocab_size() as u32;
        case.inspected(everything([20, TOP_LOGPROBS_MAX][row % 2], (0..most).map(|i| spread(n, i))))
    });
    let mut random = Random::new(5, 5);
    let n = 1 << 20;
    let logits = Values::Model.logits(&mut random, Dtype::Bf16, n, 1.0);
    let largest = Case::new("2^20 tokens", Dtype::Bf16, logits, spec);
    let largest = largest.inspected(everything(1000, (0..most).map(|i| spread(n, i))));
    let rows: Vec<Case> = real.chain([largest]).collect();
    panel.check(&rows);
    // Alone, threads share each.
    rows.iter().for_each(|row| panel.check(std::slice::from_ref(row)));
}

/// Rows whose logits tests look at.
fn looked_at() -> Vec<Case> {
    let spec = ParamsSpec { temperature: 0.8, top_p: 0.95, draws: 3, ..Default::default() };
    let ids = [0, 1, 2, 400, 7, 7];
    let hard = hard_rows(spec).into_iter().map(|case| case.inspected(everything(30, ids)));
    hard.chain((0..8).map(|row| carried(row, spec).inspected(everything(30, ids)))).collect()
}

fn logits(case: &Case) -> Vec<f32> {
    let placed = case.place();
    let row = placed.row();
    (0..row.vocab_size()).map(|token| row.logit(token)).collect()
}

#[test]
fn the_first_tokens_of_raw_are_those_of_the_sorted_row() {
    let cases = looked_at();
    let results = oracle(&cases);
    for (case, result) in cases.iter().zip(results.iter()) {
        let x = logits(case);
        let mut order: Vec<usize> = (0..x.len()).filter(|&i| x[i] > f32::NEG_INFINITY).collect();
        // Stable: of equals the lowest id comes first; -0.0 equals 0.0.
        order.sort_by(|&a, &b| x[b].partial_cmp(&x[a]).expect("no NaN"));
        let raw = &inspection(&result).logprobs[0];
        let top: Vec<usize> = raw.top.iter().map(|token| token.token as usize).collect();
        assert_eq!(top, order[..order.len().min(30)], "{case}");
        for token in raw.ids.iter().chain(&raw.drawn) {
            let place = order.iter().position(|&i| i == token.token as usize);
            assert_eq!(token.rank, place.map_or(0, |place| place as u32 + 1), "{case}");
        }
    }
}

#[test]
fn logprobs_and_entropies_are_those_of_the_textbook() {
    let cases = looked_at();
    let results = oracle(&cases);
    let (mut worst_entropy, mut worst_logprob) = (0.0f64, 0.0f64);
    for (case, result) in cases.iter().zip(results.iter()) {
        let x = logits(case);
        for (logprobs, temperature) in inspection(&result).logprobs.iter().zip([1.0, 0.8f32]) {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let distance = |x: f32| (f64::from(x) - f64::from(max)) / f64::from(temperature);
            let log_sum = x.iter().map(|&x| distance(x).exp()).sum::<f64>().ln();
            let terms = x.iter().filter(|x| **x > f32::NEG_INFINITY).map(|&x| {
                let log = distance(x) - log_sum;
                -log * log.exp()
            });
            let entropy: f64 = terms.sum();
            worst_entropy = worst_entropy.max((entropy - f64::from(logprobs.entropy.0)).abs());
            for token in logprobs.top.iter().chain(&logprobs.drawn) {
                let exact = distance(x[token.token as usize]) - log_sum;
                // Half a unit of an f32 is 1e-6 at 35.
                let error = (exact - f64::from(token.logprob)).abs() / (-exact / 35.0).max(1.0);
                worst_logprob = worst_logprob.max(error);
            }
        }
    }
    println!("entropy within {worst_entropy:e} nats, logprob within {worst_logprob:e}");
    assert!(worst_entropy < 1e-6, "entropy: {worst_entropy:e}");
    assert!(worst_logprob < 2e-6, "logprob: {worst_logprob:e}");
}

#[test]
fn the_parts_of_an_inspection_agree() {
    let generated = (0..600).map(|i| Case::generated(91, i, 3000));
    let cases: Vec<Case> = looked_at()
        .into_iter()
        .chain(generated.map(|case| {
            let n = case.vocab_size() as u32;
            let draws = case.params.draws().min(20);
            let spec = ParamsSpec { draws, ..case.params.into() };
            let case = case.with(spec.parse(|| 0).unwrap());
            case.inspected(everything(40, [0, n / 2, n - 1, n]))
        }))
        .collect();
    let results = oracle(&cases);
    let mut with_token = 0;
    for (case, result) in cases.iter().zip(results.iter()) {
        let Inspection { logprobs, kept, .. } = inspection(&result);
        let [raw, adjusted, sampled] = &logprobs[..] else { panic!("three were asked for") };
        for of in logprobs {
            agree(of, case);
        }
        let status = result.outcome.status;
        assert_eq!([adjusted.status, sampled.status], [status; 2], "{case}");
        assert_eq!(kept.is_some(), status == RowStatus::Ok);
        // The row that a draft was drawn from can be what has no token.
        if case.adjustments.is_none() && case.draft.is_none() {
            assert_eq!(raw.status, status, "{case}");
            assert_eq!(
                raw.ids.iter().map(|t| t.rank).collect::<Vec<_>>(),
                adjusted.ids.iter().map(|t| t.rank).collect::<Vec<_>>()
            );
        }
        let Some(kept) = kept else { continue };
        with_token += 1;
        let KeptIds::Ids(kept) = kept else { panic!("a list has room for any number") };
        assert!(kept.is_sorted_by(|a, b| a < b));
        assert_eq!(kept.len() as u32, result.outcome.kept);
        assert_eq!(
            sampled.top.len(),
            kept.len().min(case.inspect.as_ref().unwrap().top as usize),
            "{case}"
        );
        for token in &sampled.ids {
            assert_eq!(token.rank > 0, kept.binary_search(&token.token).is_ok(), "{case}");
        }
        // What was drawn is what was drawn.
        for ((draw, sampled), adjusted) in
            result.draws.iter().zip(&sampled.drawn).zip(&adjusted.drawn)
        {
            assert_eq!(draw.token, sampled.token);
            assert_eq!(draw.logprob.to_bits(), sampled.logprob.to_bits(), "{case}");
            assert_eq!(draw.token, adjusted.token);
            match case.params.cuts() {
                // Kept tokens are the first of the order: ranks are the same.
                None => assert_eq!(sampled.rank, adjusted.rank, "{case}"),
                // First ones may be dropped. (Adaptive-p has an order of its own.)
                Some(cuts) if cuts.adaptive.target.is_none() => {
                    assert!(sampled.rank <= adjusted.rank, "{case}");
                }
                Some(_) => {}
            }
        }
        if case.params.is_greedy() {
            let [only] = &sampled.top[..] else { panic!("{case}") };
            assert_eq!((only.rank, only.logprob.to_bits()), (1, 0));
            assert_eq!(sampled.entropy.0.to_bits(), 0);
        }
    }
    assert!(with_token > 300, "{with_token}");
}

/// One distribution by itself.
fn agree(of: &Logprobs, case: &Case) {
    if of.status != RowStatus::Ok {
        assert!(of.drawn.is_empty() && of.top.is_empty() && of.ids.is_empty(), "{case}");
        assert_eq!(of.entropy.0.to_bits(), 0);
        return;
    }
    assert!(of.top.iter().zip(1..).all(|(token, rank)| token.rank == rank), "{case}");
    assert!(of.top.is_sorted_by(|a, b| a.logprob >= b.logprob), "{case}");
    assert!(
        of.entropy.0 >= 0.0 && of.entropy.0 <= (case.vocab_size() as f32).ln() * 1.000_001,
        "{case}"
    );
    for token in of.ids.iter().chain(&of.drawn) {
        let there = of.top.iter().find(|top| top.token == token.token);
        match there {
            Some(top) => assert_eq!(top, token, "{case}"),
            None => assert!(token.rank == 0 || token.rank > of.top.len() as u32, "{case}"),
        }
        assert!(token.rank > 0 || token.logprob == f32::NEG_INFINITY, "{case}");
    }
    assert_eq!(of.ids.len(), case.inspect.as_ref().unwrap().ids.len());
}

#[test]
fn a_bitmask_of_kept_tokens_has_those_of_the_list() {
    let cases: Vec<Case> = (0..300).map(|i| Case::generated(92, i, 3000)).collect();
    let asked =
        |kept_ids_max| Some(Inspect { kept_ids_max: Some(kept_ids_max), ..Inspect::default() });
    let ask = |most| -> Vec<Case> {
        cases.iter().map(|case| case.clone().inspected(asked(most))).collect()
    };
    let (lists, masks) = (oracle(&ask(u32::MAX)), oracle(&ask(0)));
    let mut panel = Panel::default();
    panel.check(&ask(0));
    panel.check(&ask(u32::MAX));
    let mut compared = 0;
    for ((case, list), mask) in cases.iter().zip(lists.iter()).zip(masks.iter()) {
        match (&inspection(&list).kept, &inspection(&mask).kept) {
            (Some(KeptIds::Ids(ids)), Some(KeptIds::Bitmask(words))) => {
                assert_eq!(words.len(), case.vocab_size().div_ceil(32));
                let has = |id: &u32| words[*id as usize / 32] >> (id % 32) & 1 == 1;
                let set: Vec<u32> = (0..words.len() as u32 * 32).filter(has).collect();
                assert_eq!(set, *ids, "{case}");
                compared += 1;
            }
            (None, None) => assert_ne!(list.outcome.status, RowStatus::Ok),
            other => panic!("{case}: {other:?}"),
        }
    }
    assert!(compared > 150, "{compared}");
}

#[test]
fn asking_changes_no_draw() {
    let cases: Vec<Case> = (0..400).map(|i| Case::generated(93, i, 3000)).collect();
    let plain: Vec<Case> = cases.iter().map(|case| case.clone().inspected(None)).collect();
    let asked: Vec<Case> =
        cases.into_iter().map(|case| case.inspected(everything(5, [0]))).collect();
    let answers = |backend: &mut dyn Backend, cases: &[Case]| -> Vec<_> {
        let placed: Vec<_> = cases.iter().map(Case::place).collect();
        let rows: Vec<_> = placed.iter().map(|placed| placed.row()).collect();
        let mut results = Results::default();
        sample(backend, &rows, &mut results);
        results.iter().map(|row| (row.outcome, row.draws.to_vec())).collect()
    };
    let mut all = crate::common::candidates();
    all.push(Box::new(Reference::default()));
    for mut backend in all {
        let (plain, asked) = (answers(backend.as_mut(), &plain), answers(backend.as_mut(), &asked));
        assert!(plain == asked, "{}", crate::common::candidates::name(backend.as_ref()));
    }
}

#[test]
fn a_nan_under_a_ban_makes_raw_absent_and_a_row_without_a_token_can_have_it() {
    let asked = everything(2, [0]);
    let adjusted = |x: &[f32], banned: &[u32]| {
        let case = Case::values("banned", Dtype::F16, x, ParamsSpec::default());
        let lists = logitd_core::adjustments::AdjustmentsSpec {
            banned_ids: banned.to_vec(),
            ..Default::default()
        };
        case.adjusted(lists).inspected(asked.clone())
    };
    let cases = [adjusted(&[1.0, f32::NAN, 0.0], &[1]), adjusted(&[1.0, 2.0], &[0, 1])];
    Panel::default().check(&cases);
    let results = oracle(&cases);
    let statuses = |row: usize| {
        let result = results.row(row);
        let of = |of: Distribution| inspection(&result).logprobs[of as usize].status;
        (result.outcome.status, Distribution::ALL.map(of))
    };
    use RowStatus::{Nan, NoCandidate, Ok};
    assert_eq!(statuses(0), (Ok, [Nan, Ok, Ok]));
    assert_eq!(statuses(1), (NoCandidate, [Ok, NoCandidate, NoCandidate]));
    let raw = &inspection(&results.row(1)).logprobs[0];
    assert_eq!((raw.drawn.len(), raw.top.len(), raw.ids.len()), (0, 2, 1));
}
