//! Adjustments: what is off changes nothing, what is banned is never drawn, and lists have no order.
//!
//! That every backend does to a row what the oracle does is the matter of `parity.rs`, whose generated rows have
//! adjustments too; known answers are in `golden.rs`.

use crate::common::case::{spec, spec_of_draws};
use crate::common::compare::{first_difference, sample};
use crate::common::{Case, Panel, candidates};
use logitd::tools::generate::{Random, Values};
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, RowStatus};
use logitd_core::params::{ParamsSpec, Profile};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Generated rows with adjustments.
fn adjusted(seed: u64, count: usize) -> Vec<Case> {
    let cases = (0..).map(|index| Case::generated(seed, index, 3000));
    cases.filter(|case| case.adjustments.is_some()).take(count).collect()
}

/// Generated rows without.
fn plain(seed: u64, count: usize) -> Vec<Case> {
    let cases = (0..).map(|index| Case::generated(seed, index, 3000));
    cases.filter(|case| case.adjustments.is_none()).take(count).collect()
}

fn answers(backend: &mut dyn Backend, cases: &[Case]) -> Results {
    let placed: Vec<_> = cases.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|placed| placed.row()).collect();
    let mut results = Results::default();
    sample(backend, &rows, &mut results);
    results
}

fn everybody() -> Vec<Box<dyn Backend>> {
    let mut all = candidates();
    all.push(Box::new(Reference::default()));
    all
}

#[test]
fn what_is_off_is_as_if_it_were_not_there() {
    let cases = plain(31, 200);
    let off = |case: &Case| {
        let vocab_size = case.vocab_size() as u32;
        let lists = AdjustmentsSpec {
            allowed_bitmask: vec![u32::MAX; case.vocab_size().div_ceil(32)],
            allowed_ids: (0..vocab_size).collect(),
            logit_bias: vec![(0, 0.0), (vocab_size / 2, -0.0)]
                .into_iter()
                .take(vocab_size.min(2) as usize)
                .collect(),
            stop_ids: vec![0],
            prompt: (0..vocab_size).collect(),
            output: vec![0, 0, 0],
            breakers: vec![vec![0]],
            bad_words: vec![vec![vocab_size - 1; 5]; usize::from(vocab_size > 1)],
            ..Default::default()
        };
        let params = ParamsSpec { min_tokens: 3, dry_base: 3.0, ..spec(&case.params) };
        case.with(params.parse(|| 0).unwrap()).adjusted(lists)
    };
    let with: Vec<Case> = cases.iter().map(off).collect();
    for mut backend in everybody() {
        let (a, b) = (answers(backend.as_mut(), &cases), answers(backend.as_mut(), &with));
        if let Some(at) = first_difference(&a, &b) {
            panic!("{}\n{:?}\n{:?}", with[at], a.row(at), b.row(at));
        }
    }
}

#[test]
fn a_banned_token_is_never_drawn() {
    let mut cases = adjusted(32, 300);
    for case in &mut cases {
        let draws = if case.draft.is_some() { 1 } else { 100 };
        let spec = ParamsSpec { min_tokens: 0, ..spec_of_draws(&case.params, draws) };
        case.params = spec.parse(|| 0).unwrap();
    }
    let mut panel = Panel::of_one_thread();
    panel.check(&cases);
    let mut drawn = 0;
    for (case, result) in cases.iter().zip(panel.expected().iter()) {
        let lists = case.adjustments.as_ref().unwrap().lists();
        let mask = &lists.allowed_bitmask;
        for token in result.draws.iter().map(|draw| draw.token) {
            let word = mask.get(token as usize / 32).copied().unwrap_or(0);
            assert!(mask.is_empty() || word >> (token % 32) & 1 == 1, "token {token}: {case}");
            assert!(
                lists.allowed_ids.is_empty() || lists.allowed_ids.contains(&token),
                "{token}: {case}"
            );
            assert!(!lists.banned_ids.contains(&token), "{token}: {case}");
            assert!(!lists.logit_bias.contains(&(token, f32::NEG_INFINITY)), "{token}: {case}");
            drawn += 1;
        }
    }
    assert!(drawn > 5000, "{drawn} draws");
}

#[test]
fn the_order_of_lists_does_not_matter() {
    let cases = adjusted(33, 300);
    let mut random = Random::new(33, 0);
    let shuffled: Vec<Case> = cases
        .iter()
        .map(|case| {
            let adjustments = case.adjustments.as_ref().unwrap();
            let mut lists = adjustments.lists().clone();
            lists.breakers = adjustments.breakers().to_vec();
            shuffle(&mut random, &mut lists.allowed_ids);
            shuffle(&mut random, &mut lists.banned_ids);
            shuffle(&mut random, &mut lists.bad_words);
            shuffle(&mut random, &mut lists.stop_ids);
            shuffle(&mut random, &mut lists.logit_bias);
            shuffle(&mut random, &mut lists.counts);
            shuffle(&mut random, &mut lists.breakers);
            let drafts: Arc<[u32]> = adjustments.drafts().into();
            let mut other = case.clone().adjusted(lists);
            other.adjustments = other.adjustments.map(|all| all.with_drafts(&drafts, drafts.len()));
            other
        })
        .collect();
    for mut backend in everybody() {
        let (a, b) = (answers(backend.as_mut(), &cases), answers(backend.as_mut(), &shuffled));
        if let Some(at) = first_difference(&a, &b) {
            panic!("{}\n{:?}\n{:?}", cases[at], a.row(at), b.row(at));
        }
    }
}

fn shuffle<T>(random: &mut Random, list: &mut [T]) {
    for last in (1..list.len()).rev() {
        list.swap(last, random.below(last as u64 + 1) as usize);
    }
}

#[test]
fn counts_are_the_history_as_far_as_penalties_go() {
    let in_order = |case: &Case| ParamsSpec {
        repetition_penalty: 1.3,
        frequency_penalty: -0.4,
        presence_penalty: 0.7,
        no_repeat_ngram: 0,
        dry_multiplier: 0.0,
        // The others have no such penalties, or another order for them.
        profile: Profile::Logitd,
        ..spec(&case.params)
    };
    let mut cases = adjusted(34, 200);
    let mut counted = cases.clone();
    for (case, counted) in cases.iter_mut().zip(&mut counted) {
        let params = in_order(case).parse(|| 0).unwrap();
        let mut lists = case.adjustments.as_ref().unwrap().lists().clone();
        (lists.bad_words, lists.counts) = (vec![], vec![]);
        lists.output_length = Some(7);
        *case = case.with(params).adjusted(lists.clone());
        let mut counts: BTreeMap<u32, u32> = lists.prompt.iter().map(|&token| (token, 0)).collect();
        lists.output.iter().for_each(|&token| *counts.entry(token).or_default() += 1);
        lists.counts = counts.into_iter().collect();
        (lists.prompt, lists.output) = (vec![], vec![]);
        *counted = counted.with(params).adjusted(lists);
    }
    for mut backend in everybody() {
        let (a, b) = (answers(backend.as_mut(), &cases), answers(backend.as_mut(), &counted));
        assert_eq!(first_difference(&a, &b), None);
    }
}

/// Masks that leave much, little and nothing, and tokens with other logits at the ends and at the borders of blocks, in
/// rows that backends look at block by block.
#[test]
fn masks_and_biases_over_rows_of_many_blocks() {
    let mut panel = Panel::default();
    for (i, values) in Values::ALL.into_iter().enumerate() {
        let dtype = Dtype::ALL[i % 3];
        let vocab_size = [20_001, 65_536, 5_000][i / 3 % 3];
        let mut random = Random::new(36, i as u64);
        let logits = values.logits(&mut random, dtype, vocab_size, 0.8);
        let mut cases = Vec::new();
        for mask in 0..6 {
            let mut word = || match mask {
                1 => random.bits() as u32,
                2 => u32::MAX << (random.below(40).min(31)),
                3 => u32::from(random.below(40) == 0) << random.below(32),
                _ => random.pick(&[0, u32::MAX]),
            };
            let words = if mask == 0 { 0 } else { vocab_size.div_ceil(32) };
            let allowed_bitmask: Vec<u32> = (0..words).map(|_| word()).collect();
            let ends = [0, 511, 512, 513, vocab_size - 1, vocab_size / 2];
            let biases = if mask % 2 == 0 { &ends[..] } else { &[] };
            let any = random.unit() * 12.0 - 6.0;
            let lists = AdjustmentsSpec {
                allowed_bitmask: if mask == 5 { vec![1 << 9] } else { allowed_bitmask },
                logit_bias: biases.iter().map(|&id| (id, random.pick(&[any, -any, 0.5]))).collect(),
                banned_ids: vec![1, 1023],
                ..Default::default()
            };
            for (temperature, top_k) in
                [(0.0, 0), (0.8, 1), (0.8, 7), (1.5, 50), (0.8, 900), (1.0, 0), (0.3, 30_000)]
            {
                let top_p = random.pick(&[1.0, 0.9]);
                let spec = ParamsSpec { temperature, top_k, top_p, draws: 3, ..Default::default() };
                let name = format!("{values:?}, mask {mask}");
                let case = Case::new(name, dtype, logits.clone(), spec);
                cases.push(case.adjusted(lists.clone()));
            }
        }
        panel.check(&cases);
    }
}

#[test]
fn adjustments_of_a_row_are_of_no_other() {
    let (with, without) = (adjusted(35, 100), plain(35, 100));
    let mixed: Vec<Case> =
        with.iter().zip(&without).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    for mut backend in everybody() {
        let (alone, other) =
            (answers(backend.as_mut(), &without), answers(backend.as_mut(), &with));
        let together = answers(backend.as_mut(), &mixed);
        for i in 0..with.len() {
            assert_eq!(together.row(2 * i), other.row(i), "{}", with[i]);
            assert_eq!(together.row(2 * i + 1), alone.row(i), "{}", without[i]);
        }
    }
}

/// `tests/cases/bitmask.json`.
#[derive(Deserialize)]
struct Bitmasks {
    cases: Vec<Bitmask>,
}

#[derive(Deserialize)]
struct Bitmask {
    name: String,
    logits_f16_bits: Vec<u32>,
    mask_words_u32: Vec<u32>,
    params: BitmaskParams,
    expected: Expected,
}

#[derive(Deserialize)]
struct BitmaskParams {
    temperature: f32,
    seed: u64,
}

#[derive(Deserialize)]
struct Expected {
    status: String,
    token: Option<u32>,
    kept: Option<u32>,
    logprob: Option<f32>,
}

#[test]
fn masks_of_grammars_do_what_their_users_expect() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/bitmask.json");
    let text = std::fs::read_to_string(path).expect("a case that is carried");
    let Bitmasks { cases } = serde_json::from_str(&text).expect("a list of cases");
    assert!(!cases.is_empty());
    for Bitmask { name, logits_f16_bits, mask_words_u32, params, expected } in cases {
        let BitmaskParams { temperature, seed } = params;
        let spec = ParamsSpec { temperature, seed: Some(seed), ..Default::default() };
        let lists = AdjustmentsSpec { allowed_bitmask: mask_words_u32, ..Default::default() };
        let case = Case::bits(&name, Dtype::F16, &logits_f16_bits, spec).adjusted(lists);
        for mut backend in everybody() {
            let results = answers(backend.as_mut(), std::slice::from_ref(&case));
            let (outcome, draw) = (results.row(0).outcome, results.row(0).draws.first());
            let kept = (outcome.status == RowStatus::Ok).then_some(outcome.kept);
            assert_eq!(outcome.status.name(), expected.status, "{name}");
            assert_eq!((draw.map(|d| d.token), kept), (expected.token, expected.kept), "{name}");
            let off = draw.map(|d| (d.logprob - expected.logprob.expect("a token has one")).abs());
            assert!(off.is_none_or(|off| off < 1e-5), "{name}: logprob off by {off:?}");
        }
    }
}
