//! Drafts: that speculation changes no distribution, that MATCH changes no token, that drafts have random bits of their own,
//! and that histories with drafts are histories.
//!
//! Seeds are fixed and were not chosen, as in `distribution.rs`.

use crate::common::case::pack;
use crate::common::compare::sample;
use crate::common::{Case, candidates};
use crate::distribution::p_of_chi_square;
use logitd::tools::generate::{self, Random};
use logitd_core::adjustments::{AdjustmentsSpec, Limits};
use logitd_core::arithmetic::mass::{Scale, mass};
use logitd_core::arithmetic::philox::{bits, philox4x32_10};
use logitd_core::arithmetic::race::exponential;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::{DrawRule, ParamsSpec, SamplingParams};
use logitd_core::row::{Draft, Proposal, Rule, Source, Typical};
use logitd_core::verify::{chain, of_row};
use std::collections::HashMap;
use std::sync::Arc;

/// Tokens of the vocabulary, and of a sequence.
const TOKENS: usize = 6;
const LENGTH: usize = 3;
/// Sequences that a verdict is based on.
const TRIALS: u64 = 100_000;
/// Sequences that are sampled at once.
const AT_ONCE: u64 = 1000;
/// As in `distribution.rs`.
const P_LEAST: f64 = 1e-4;
const P_CAUGHT: f64 = 1e-9;

/// A model: the logits of each token behind each token.
struct Model([Arc<Vec<u8>>; TOKENS]);

impl Model {
    fn new(stream: u64) -> Self {
        let mut random = Random::new(77, stream);
        Self(std::array::from_fn(|_| {
            let x = (0..TOKENS).map(|_| (0.8 * random.bell()).to_bits()).collect::<Vec<_>>();
            Arc::new(pack(Dtype::F32, &x))
        }))
    }

    fn row(&self, before: usize, params: SamplingParams) -> Row<'_> {
        Row::new(Dtype::F32, &self.0[before], params).unwrap()
    }

    /// The probability of each token behind a token.
    fn probabilities(&self, before: usize) -> [f64; TOKENS] {
        let row = self.row(before, params(ParamsSpec::default()));
        let weights: [f64; TOKENS] =
            std::array::from_fn(|token| f64::from(row.logit(token as u32)).exp());
        weights.map(|weight| weight / weights.iter().sum::<f64>())
    }
}

fn params(spec: ParamsSpec) -> SamplingParams {
    spec.parse(|| 0).unwrap()
}

fn target() -> Model {
    Model::new(1)
}

fn drafter() -> Model {
    Model::new(2)
}

/// The row of a drafter, with what it was drawn with.
#[derive(Debug)]
struct Drafter(Arc<Vec<u8>>, SamplingParams);

impl Source for Drafter {
    fn row(&self) -> Row<'_> {
        Row::new(Dtype::F32, &self.0, self.1).unwrap()
    }
}

/// Where drafts come from, and how the target decides about them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Match(DrawRule),
    Row,
    Sparse,
    Dense,
    Point,
}

/// A sequence in the making.
struct Trial {
    seed: u64,
    tokens: Vec<usize>,
    drafts: Vec<u32>,
}

impl Trial {
    fn before(&self) -> usize {
        self.tokens.last().copied().unwrap_or(0)
    }

    /// The parameters of the token behind so many drafts.
    fn params(&self, place: usize, draw_rule: DrawRule, draft: bool) -> SamplingParams {
        let position = (self.tokens.len() + place) as u64;
        params(ParamsSpec {
            seed: Some(self.seed),
            position,
            draw_rule,
            draft,
            ..ParamsSpec::DEFAULT
        })
    }

    fn token_before(&self, place: usize) -> usize {
        if place == 0 { self.before() } else { self.drafts[place - 1] as usize }
    }

    /// Drafts what is missing, but the last token, which is the target's.
    fn draft(&mut self, kind: Kind, model: &Model, cpu: &mut Cpu, results: &mut Results) {
        self.drafts.clear();
        for place in 0..LENGTH - self.tokens.len() - 1 {
            let before = self.token_before(place);
            let token = match kind {
                Kind::Point => (before as u32 + 1) % TOKENS as u32,
                Kind::Sparse | Kind::Dense => {
                    let weights = weights(kind, model, before);
                    let number = (self.tokens.len() + place) as u64;
                    let mut random = Random::new(self.seed, number);
                    let mut left = random.below(weights.iter().sum());
                    let is_it = |weight: &u64| match left.checked_sub(*weight) {
                        Some(rest) => {
                            left = rest;
                            false
                        }
                        None => true,
                    };
                    weights.iter().position(is_it).unwrap() as u32
                }
                Kind::Row | Kind::Match(_) => {
                    let row = model.row(before, self.params(place, DrawRule::Cumulative, true));
                    sample(cpu, &[row], results);
                    results.row(0).draws[0].token
                }
            };
            self.drafts.push(token);
        }
    }

    fn proposal(&self, kind: Kind, model: &Model, place: usize) -> Option<Draft> {
        let before = self.token_before(place);
        let weights = || weights(kind, model, before);
        let proposal = match kind {
            Kind::Match(_) => return None,
            Kind::Point => Proposal::Point,
            Kind::Row => {
                let params = self.params(place, DrawRule::Cumulative, true);
                Proposal::Row(Arc::new(Drafter(Arc::clone(&model.0[before]), params)))
            }
            Kind::Sparse => {
                let weights = (0..).zip(weights()).filter(|(_, weight)| *weight > 0);
                Proposal::Sparse(weights.collect())
            }
            // Exact: weights of 2^-40 each.
            Kind::Dense => Proposal::Dense(
                weights().map(|weight| weight as f32 / (1u64 << 40) as f32).to_vec(),
            ),
        };
        Some(Draft { token: self.drafts[place], rule: Rule::Rejection(proposal) })
    }
}

/// What sparse and dense drafts are drawn by: two tokens are never drafted sparsely.
fn weights(kind: Kind, model: &Model, before: usize) -> [u64; TOKENS] {
    let p = model.probabilities(before);
    std::array::from_fn(|token| match kind {
        Kind::Sparse if token >= TOKENS - 2 => 0,
        _ => ((p[token] * (1 << 20) as f64) as u64) << 20,
    })
}

/// Generates sequences with drafts, round after round.
fn speculate(kind: Kind, first: u64, count: u64, cpu: &mut Cpu) -> Vec<Vec<usize>> {
    let (target, drafter) = (target(), drafter());
    let rule = if let Kind::Match(rule) = kind { rule } else { DrawRule::Cumulative };
    let mut results = Results::default();
    let new = |seed| Trial { seed, tokens: vec![], drafts: vec![] };
    let mut trials: Vec<Trial> = (first..first + count).map(new).collect();
    while trials.iter().any(|trial| trial.tokens.len() < LENGTH) {
        let open = trials.iter_mut().filter(|trial| trial.tokens.len() < LENGTH);
        let mut open: Vec<&mut Trial> = open.collect();
        open.iter_mut().for_each(|trial| trial.draft(kind, &drafter, cpu, &mut results));
        let places = |trial: &Trial| 0..=trial.drafts.len();
        let decided: Vec<Vec<Option<Draft>>> = open
            .iter()
            .map(|trial| {
                let of = |place| (place < trial.drafts.len()).then_some(place);
                places(trial).map(|i| trial.proposal(kind, &drafter, of(i)?)).collect()
            })
            .collect();
        let row = |trial: &Trial, place| {
            target.row(trial.token_before(place), trial.params(place, rule, false))
        };
        let mut rows: Vec<Row<'_>> = vec![];
        for (trial, decided) in open.iter().zip(&decided) {
            let all = places(trial).map(|place| row(trial, place)).zip(decided);
            rows.extend(all.map(|(row, draft)| row.with_draft(draft.as_ref())));
        }
        sample(cpu, &rows, &mut results);
        let mut start = 0;
        for trial in open {
            let verified = chain(&trial.drafts, |place| results.row(start + place));
            let token = |&place: &usize| results.row(start + place).draws[0].token as usize;
            trial.tokens.extend(verified.rows.iter().map(token));
            start += trial.drafts.len() + 1;
        }
    }
    trials.into_iter().map(|trial| trial.tokens).collect()
}

/// All trials of a kind, in order.
fn sequences(kind: Kind) -> Vec<Vec<usize>> {
    let mut cpu = Cpu::new(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
    let starts = (0..TRIALS).step_by(AT_ONCE as usize);
    starts.flat_map(|first| speculate(kind, first, AT_ONCE, &mut cpu)).collect()
}

/// The chance of sequences at least this far from the target's distribution.
fn p_of_sequences(sequences: &[Vec<usize>]) -> f64 {
    let p: [_; TOKENS] = std::array::from_fn(|before| target().probabilities(before));
    let mut seen: HashMap<&[usize], f64> = HashMap::new();
    sequences.iter().for_each(|sequence| *seen.entry(sequence).or_default() += 1.0);
    // Sequences that hardly come up are one bin.
    let (mut chi_square, mut bins, mut rare) = (0.0, 0, [0.0, 0.0]);
    let of_bin = |seen: f64, expected: f64| (seen - expected) * (seen - expected) / expected;
    for i in 0..TOKENS.pow(LENGTH as u32) {
        let sequence = [i / TOKENS / TOKENS, i / TOKENS % TOKENS, i % TOKENS];
        let share = p[0][sequence[0]] * p[sequence[0]][sequence[1]] * p[sequence[1]][sequence[2]];
        let expected = share * sequences.len() as f64;
        let seen = seen.get(&sequence[..]).copied().unwrap_or(0.0);
        if expected < 20.0 {
            rare = [rare[0] + seen, rare[1] + expected];
        } else {
            chi_square += of_bin(seen, expected);
            bins += 1;
        }
    }
    if rare[1] > 0.0 {
        chi_square += of_bin(rare[0], rare[1]);
        bins += 1;
    }
    assert!(bins > 150, "{bins} bins of 216 sequences");
    p_of_chi_square(chi_square, f64::from(bins - 1))
}

#[test]
fn sequences_with_drafts_of_every_kind_have_the_targets_distribution() {
    for kind in [Kind::Row, Kind::Sparse, Kind::Dense, Kind::Point] {
        let p = p_of_sequences(&sequences(kind));
        println!("{kind:?}: p = {p:.4}");
        assert!((P_LEAST..=1.0 - P_LEAST).contains(&p), "{kind:?}: p = {p:e}");
    }
}

#[test]
fn matched_sequences_are_those_without_drafts() {
    let target = target();
    for rule in DrawRule::ALL {
        let with_drafts = sequences(Kind::Match(rule));
        let mut results = Results::default();
        let mut cpu = Cpu::new(CpuOptions::default()).unwrap();
        let mut without: Vec<Trial> =
            (0..TRIALS).map(|seed| Trial { seed, tokens: vec![], drafts: vec![] }).collect();
        for _ in 0..LENGTH {
            let row = |trial: &Trial| target.row(trial.before(), trial.params(0, rule, false));
            let rows: Vec<Row<'_>> = without.iter().map(row).collect();
            sample(&mut cpu, &rows, &mut results);
            for (trial, result) in without.iter_mut().zip(results.iter()) {
                trial.tokens.push(result.draws[0].token as usize);
            }
        }
        let same = without.iter().zip(&with_drafts).filter(|(a, b)| a.tokens == **b).count();
        assert_eq!(same as u64, TRIALS, "{rule:?}");
        let p = p_of_sequences(&with_drafts);
        assert!((P_LEAST..=1.0 - P_LEAST).contains(&p), "{rule:?}: p = {p:e}");
    }
}

/// A token by rejection sampling in doubles, with random bits for the draft, for whether it is taken, and for what is
/// said instead.
fn in_doubles(p: &[f64; TOKENS], q: &[f64; TOKENS], seed: u64, purposes: [u32; 3]) -> usize {
    let unit = |i: usize| bits(seed, 0, 0, purposes[i]) as f64 / 2f64.powi(64);
    let draw = |weights: [f64; TOKENS], u: f64| {
        let mut left = u * weights.iter().sum::<f64>();
        let is_it = |weight: &f64| {
            left -= weight;
            left < 0.0
        };
        weights.iter().position(is_it).unwrap_or(TOKENS - 1)
    };
    let draft = draw(*q, unit(0));
    if unit(1) * q[draft] < p[draft] {
        return draft;
    }
    draw(std::array::from_fn(|i| (p[i] - q[i]).max(0.0)), unit(2))
}

fn p_of_tokens(p: &[f64; TOKENS], tokens: &[usize]) -> f64 {
    let of_token = |(token, p): (usize, &f64)| {
        let seen = tokens.iter().filter(|t| **t == token).count() as f64;
        let expected = p * tokens.len() as f64;
        (seen - expected) * (seen - expected) / expected
    };
    p_of_chi_square(p.iter().enumerate().map(of_token).sum(), (TOKENS - 1) as f64)
}

#[test]
fn catches_random_bits_that_serve_twice() {
    let [p, q] = [target(), drafter()].map(|model| model.probabilities(0));
    let tokens = |purposes| -> Vec<usize> {
        (0..TRIALS).map(|seed| in_doubles(&p, &q, seed, purposes)).collect()
    };
    let right = tokens([2, 3, 4]);
    assert!((P_LEAST..=1.0 - P_LEAST).contains(&p_of_tokens(&p, &right)));
    for shared in [[2, 2, 4], [2, 3, 2], [2, 3, 3]] {
        let p = p_of_tokens(&p, &tokens(shared));
        assert!(p < P_CAUGHT, "{shared:?}: p = {p:e}");
    }
    // The first tokens of the sequences are those of the purposes that are right, but where doubles are rounded.
    let ours = sequences(Kind::Row);
    let other = ours.iter().zip(&right).filter(|(ours, right)| ours[0] != **right).count();
    assert!(other < 3, "{other} of {TRIALS} differ");
}

#[test]
fn drafts_are_drawn_from_random_bits_of_their_own() {
    let x = [0.5f32, -1.0, 0.25, 1.5, 0.0, 0.75, -0.5];
    let masses = x.map(|x| mass(x, 1.5, Scale::new(1.0)));
    let total: u64 = masses.iter().sum();
    let philox = |position: u64, draw: u32, word: u32, seed: u64| {
        let counter = [position as u32, (position >> 32) as u32, draw, word];
        philox4x32_10(counter, [seed as u32, (seed >> 32) as u32])
    };
    let pair = |out: [u32; 4], at: usize| u64::from(out[at]) | u64::from(out[at + 1]) << 32;
    let (mut cases, mut expected) = (vec![], vec![]);
    for seed in [0, 7, u64::MAX - 3, 1 << 40] {
        for position in [0, 3, 1 << 33] {
            let by_sum = |draw: u32| {
                let bits = pair(philox(position, draw, 2, seed), 0);
                let target = ((u128::from(bits) * u128::from(total)) >> 64) as u64;
                let mut sum = 0;
                let above = |mass: &u64| {
                    sum += mass;
                    sum > target
                };
                masses.iter().position(above).unwrap() as u32
            };
            let by_race = |draw: u32| {
                let ratio = |i: usize| {
                    let out = philox(position, draw, 7 | (i as u32 >> 1) << 3, seed);
                    masses[i] as f32 / exponential(pair(out, 2 * (i & 1)))
                };
                (0..x.len()).max_by(|&a, &b| ratio(a).total_cmp(&ratio(b))).unwrap() as u32
            };
            let spec = ParamsSpec {
                seed: Some(seed),
                position,
                draws: 50,
                draft: true,
                ..ParamsSpec::DEFAULT
            };
            for draw_rule in DrawRule::ALL {
                let case =
                    Case::values("a draft", Dtype::F32, &x, ParamsSpec { draw_rule, ..spec });
                cases.push(case);
                let by_rule: &dyn Fn(u32) -> u32 =
                    if draw_rule == DrawRule::Race { &by_race } else { &by_sum };
                expected.push((0..50).map(by_rule).collect::<Vec<u32>>());
            }
        }
    }
    let placed: Vec<_> = cases.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|placed| placed.row()).collect();
    let mut results = Results::default();
    let oracle = Box::new(Reference::default()) as Box<dyn Backend>;
    for mut backend in candidates().into_iter().chain([oracle]) {
        sample(backend.as_mut(), &rows, &mut results);
        for ((result, expected), case) in results.iter().zip(&expected).zip(&cases) {
            let tokens: Vec<u32> = result.draws.iter().map(|draw| draw.token).collect();
            assert_eq!(tokens, *expected, "{case}");
        }
    }
}

#[test]
fn a_token_without_mass_is_never_likely_enough() {
    // The least of deltas, whose share of any entropy is nothing; a banned token, and one whose mass is 0.
    let banned = AdjustmentsSpec { banned_ids: vec![1], ..Default::default() };
    let case = |token, (epsilon, delta)| {
        let x = [1.0, 2.0, -60.0, 0.5, 1.5];
        let spec = ParamsSpec { seed: Some(u64::from(token)), ..ParamsSpec::DEFAULT };
        let rule = Rule::Typical(Typical { epsilon, delta });
        let draft = Some(Draft { token, rule });
        Case { draft, ..Case::values("tiny delta", Dtype::F32, &x, spec).adjusted(banned.clone()) }
    };
    let least = f32::from_bits(1);
    let cases: Vec<Case> = [(1.0, 1e-30), (1e-30, 1.0), (least, least)]
        .into_iter()
        .flat_map(|bounds| (0..5).map(move |token| case(token, bounds)))
        .collect();
    let placed: Vec<_> = cases.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|placed| placed.row()).collect();
    let mut results = Results::default();
    let oracle = Box::new(Reference::default()) as Box<dyn Backend>;
    for mut backend in candidates().into_iter().chain([oracle]) {
        sample(backend.as_mut(), &rows, &mut results);
        for (result, case) in results.iter().zip(&cases) {
            let token = case.draft.as_ref().unwrap().token;
            assert_eq!(result.accepted, Some(![1, 2].contains(&token)), "{case}, draft {token}");
            assert!(![1, 2].contains(&result.draws[0].token), "{case}");
        }
    }
}

#[test]
fn drafts_are_independent_of_the_tokens_at_their_positions() {
    let row = [0.0f32; 4];
    for draw_rule in DrawRule::ALL {
        let tokens = |draft| -> Vec<usize> {
            let spec =
                ParamsSpec { draws: 1000, draft, draw_rule, seed: Some(5), ..ParamsSpec::DEFAULT };
            let case =
                |position| Case::values("flat", Dtype::F32, &row, ParamsSpec { position, ..spec });
            let cases: Vec<_> = (0..20).map(case).collect();
            let placed: Vec<_> = cases.iter().map(Case::place).collect();
            let rows: Vec<_> = placed.iter().map(|placed| placed.row()).collect();
            let mut results = Results::default();
            sample(&mut Cpu::new(CpuOptions::default()).unwrap(), &rows, &mut results);
            results.iter().flat_map(|r| r.draws.iter().map(|d| d.token as usize)).collect()
        };
        let (drafts, others) = (tokens(true), tokens(false));
        let mut table = [0.0; 16];
        drafts.iter().zip(&others).for_each(|(draft, other)| table[draft * 4 + other] += 1.0);
        let expected = drafts.len() as f64 / 16.0;
        let chi_square = table.iter().map(|seen: &f64| (seen - expected).powi(2) / expected).sum();
        let p = p_of_chi_square(chi_square, 15.0);
        assert!((P_LEAST..=1.0 - P_LEAST).contains(&p), "{draw_rule:?}: p = {p:e}");
    }
}

/// A history that goes on with drafts, written out.
fn with_output(lists: &AdjustmentsSpec, breakers: &[Vec<u32>], drafts: &[u32]) -> AdjustmentsSpec {
    let mut lists = AdjustmentsSpec { breakers: breakers.to_vec(), ..lists.clone() };
    lists.output.extend(drafts);
    lists.output_length = lists.output_length.map(|length| length + drafts.len() as u32);
    if !lists.counts.is_empty() {
        for &draft in drafts {
            match lists.counts.iter_mut().find(|(token, _)| *token == draft) {
                Some((_, count)) => *count = (*count + 1).min(1 << 24),
                None => lists.counts.push((draft, 1)),
            }
        }
    }
    lists
}

#[test]
fn a_history_with_drafts_is_the_history_with_them_written_out() {
    let mut panel = crate::common::Panel::of_one_thread();
    let mut compared = 0;
    for index in 0..1500 {
        let made = generate::case(91, index, 400);
        let Some(adjustments) = made.adjustments.filter(|all| all.drafts().is_empty()) else {
            continue;
        };
        let vocab_size = (made.logits.len() / made.dtype.size_bytes()) as u32;
        let mut random = Random::new(92, index);
        // Some that the history has, and some that it has not.
        let seen: Vec<u32> = adjustments.history().filter(|id| *id < vocab_size).collect();
        let one = |random: &mut Random| match seen[..] {
            [] => random.below(vocab_size.into()) as u32,
            _ if random.below(3) == 0 => random.below(vocab_size.into()) as u32,
            _ => random.pick(&seen),
        };
        let drafts: Arc<[u32]> = (0..8).map(|_| one(&mut random)).collect();
        let count = random.below(9) as usize;
        let spec = with_output(adjustments.lists(), adjustments.breakers(), &drafts[..count]);
        let written = spec.parse(vocab_size, Limits::default()).unwrap();
        let case = Case::new(format!("row {index}"), made.dtype, made.logits, made.params.into());
        let of_row = of_row(Some(&adjustments), &made.params, &drafts, count, None);
        let with = |adjustments| Case { adjustments, ..case.clone() };
        panel.check(&[with(of_row), with(Some(written))]);
        let results = panel.expected();
        assert_eq!(results.row(0), results.row(1), "{case}, {count} of {drafts:?}");
        compared += 1;
    }
    assert!(compared > 200, "{compared}");
}
