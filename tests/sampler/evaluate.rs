//! Many sets over one row: both implementations say the same, which is what sampling says set by set, and neither the
//! order of rows nor how they are spread can show.

use crate::common::cuts;
use crate::common::known::{self, RowCase, Rows};
use crate::common::real::{carried, settings};
use logitd::tools::generate::{self, Random, Values};
use logitd_core::backend::cpu::Isa;
use logitd_core::backend::{Backend, reference::Reference as Oracle};
use logitd_core::batch::{Dtype, Results, Row, RowStatus};
use logitd_core::evaluate::cpu::{Cpu, Digested};
use logitd_core::evaluate::reference::Reference;
use logitd_core::evaluate::sets::{FIELDS_OF_SETS, Sets};
use logitd_core::evaluate::sums::Sums;
use logitd_core::evaluate::{EvaluationResult, Evaluator, Position, Question, TailShare};
use logitd_core::params::{Field, ParamsSpec, Profile, SamplingParams};
use std::collections::{HashMap, HashSet};

const SEED: u64 = 5;

/// A row, the token that came next, its label, and sets that are aimed at it.
struct Case {
    name: String,
    values: Values,
    dtype: Dtype,
    logits: Vec<u8>,
    reference: u32,
    group: u32,
    sets: Vec<SamplingParams>,
}

impl Case {
    fn generated(index: u64, vocab_size_max: u32) -> Self {
        let generated = generate::case(SEED, index, vocab_size_max);
        let mut random = Random::new(SEED ^ 0xe, index);
        let (dtype, logits) = (generated.dtype, generated.logits);
        let vocab_size = (logits.len() / dtype.size_bytes()) as u64;
        let mut sets = Vec::new();
        for _ in 0..3 {
            let temperature = generate::temperature(&mut random);
            for _ in 0..4 {
                let own = generate::params(&mut random, dtype, &logits, temperature);
                let ParamsSpec { top_k, top_p, min_p, .. } = own.into();
                // Some with one cut alone, so that cuts are shared.
                let keep = random.below(8);
                let only = |bit: u64| keep == 0 || keep & bit > 0;
                let spec = ParamsSpec {
                    temperature,
                    top_k: if only(1) { top_k } else { 0 },
                    top_p: if only(2) { top_p } else { 1.0 },
                    min_p: if only(4) { min_p } else { 0.0 },
                    ..Default::default()
                };
                sets.push(spec.parse(|| 0).unwrap());
                // The same with further cuts, and again without some of them: a part of their chains is shared.
                let shaped = evaluable(generate::shaped(&mut random, dtype, &logits, own));
                if shaped.cuts().is_some() {
                    let further = ParamsSpec { draws: 1, ..shaped.into() };
                    let shorter = ParamsSpec { typical_p: 1.0, xtc_probability: 0.0, ..further };
                    let other = ParamsSpec { temperature: 0.8, ..further };
                    let all = [further, shorter, other].map(|spec| spec.parse(|| 0).unwrap());
                    sets.extend(all);
                }
            }
        }
        Self {
            name: format!(
                "row {index} of seed {SEED}: {dtype}, {vocab_size}, {:?}",
                generated.values
            ),
            values: generated.values,
            dtype,
            logits,
            reference: random.below(vocab_size) as u32,
            group: random.below(3) as u32,
            sets,
        }
    }

    fn row(&self) -> Row<'_> {
        Row::new(self.dtype, &self.logits, self.sets[0]).unwrap()
    }

    fn position(&self) -> Position<'_> {
        Position::new(self.row(), self.reference, self.group).unwrap()
    }
}

/// What of some parameters a set can have.
fn evaluable(params: SamplingParams) -> SamplingParams {
    let spec = ParamsSpec::from(params);
    let default = ParamsSpec::DEFAULT;
    let spec = ParamsSpec {
        mirostat_tau: default.mirostat_tau,
        mirostat_eta: default.mirostat_eta,
        mirostat_mu: default.mirostat_mu,
        adaptive_target: default.adaptive_target,
        adaptive_decay: default.adaptive_decay,
        adaptive_sum: default.adaptive_sum,
        adaptive_weight: default.adaptive_weight,
        xtc_probability: spec.xtc_probability.ceil(),
        ..spec
    };
    spec.parse(|| 0).unwrap()
}

fn question(sets: &Sets, tail: f32) -> Question<'_> {
    Question { sets, tail: TailShare::new(tail).unwrap(), rows: true }
}

#[test]
fn digests_say_what_a_sorted_row_says_and_what_sampling_says() {
    let (mut hits, mut cut, mut failed) = (0, 0, 0);
    let mut kinds: HashSet<Values> = HashSet::new();
    let mut further: HashMap<&str, usize> = HashMap::new();
    for index in 0..2000 {
        let case = Case::generated(index, if index % 10 == 0 { 1 << 17 } else { 1 << 11 });
        kinds.insert(case.values);
        let sets = Sets::new(case.sets.clone()).unwrap();
        for set in case.sets.iter().filter(|set| set.cuts().is_some()) {
            let given = FIELDS_OF_SETS[4..].iter().filter(|name| {
                let field = Field::named(name).unwrap();
                field.get((*set).into()) != field.get(ParamsSpec::DEFAULT)
            });
            given.for_each(|name| *further.entry(name).or_default() += 1);
        }
        // Tails take turns: they are of the sums alone.
        let tail = [1e-4, 0.25][index as usize / 10 % 2];
        let (position, question) = ([case.position()], question(&sets, tail));
        let expected = Reference.evaluate(&position, &question);
        for isa in Isa::supported() {
            let found = Cpu::new(1).with_isa(isa).unwrap().evaluate(&position, &question);
            same(&format!("{isa}: {}", case.name), &case.sets, &found, &expected);
        }
        if expected.references[0].status == RowStatus::Ok {
            agrees_with_sampling(&case, &expected);
            expands(&case, &question, &expected);
        }
        let is_hit = |found: &&logitd_core::evaluate::Evaluation| found.logprob.is_some();
        let hit = expected.rows.iter().filter(is_hit).count();
        match expected.references[0].status {
            RowStatus::Ok => (hits, cut) = (hits + hit, cut + sets.len() - hit),
            _ => failed += 1,
        }
    }
    println!("sets with further cuts: {further:?}");
    assert_eq!(further.len(), FIELDS_OF_SETS.len() - 4, "not every further cut was tried");
    assert!(further.values().all(|count| *count > 100), "{further:?}");
    println!("references kept {hits} times, cut {cut} times; rows without a token: {failed}");
    assert!(hits > 3000 && cut > 3000 && failed > 100, "{hits} {cut} {failed}");
    assert_eq!(kinds.len(), Values::ALL.len(), "not every kind of row was tried");
}

#[test]
fn cuts_by_mass_end_at_the_first_value_that_has_less() {
    for (x, p) in cuts::rising() {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let none = ParamsSpec::DEFAULT;
        let xtc = ParamsSpec { xtc_probability: 1.0, xtc_threshold: p, ..none };
        let specs = [
            xtc,
            ParamsSpec { profile: Profile::Llamacpp, ..xtc },
            ParamsSpec { epsilon_cutoff: p, ..none },
            ParamsSpec { epsilon_cutoff: p, profile: Profile::Hf, ..none },
        ];
        let params = specs.map(|spec| spec.parse(|| 0).unwrap()).to_vec();
        let row = Row::new(Dtype::F32, &bytes, params[0]).unwrap();
        let (position, sets) =
            ([Position::new(row, 1, 0).unwrap()], Sets::new(params.clone()).unwrap());
        let question = question(&sets, 1e-4);
        let expected = Reference.evaluate(&position, &question);
        for isa in Isa::supported() {
            let found = Cpu::new(1).with_isa(isa).unwrap().evaluate(&position, &question);
            same(&format!("{isa}: {x:?}, {p}"), &params, &found, &expected);
        }
    }
}

fn same(
    name: &str,
    sets: &[SamplingParams],
    found: &EvaluationResult,
    expected: &EvaluationResult,
) {
    assert_eq!(found.references, expected.references, "{name}");
    for (set, (found, expected)) in found.rows.iter().zip(&expected.rows).enumerate() {
        assert_eq!(found, expected, "{name}: {}", sets[set]);
    }
    for (label, expected) in expected.sums.groups() {
        let found = found.sums.group(label).unwrap();
        for (set, (found, expected)) in found.sets.iter().zip(&expected.sets).enumerate() {
            assert_eq!(found, expected, "{name}: {}", sets[set]);
        }
    }
    assert_eq!(found, expected, "{name}");
}

fn agrees_with_sampling(case: &Case, answer: &EvaluationResult) {
    let rows: Vec<_> = case.sets.iter().map(|set| case.row().with_params(*set)).collect();
    let mut results = Results::default();
    Oracle::default().sample(&rows, &mut results).unwrap();
    for ((result, found), set) in results.iter().zip(&answer.rows).zip(&case.sets) {
        let sampled = (result.outcome.kept, result.outcome.kept_mass);
        assert_eq!((found.kept, found.kept_mass), sampled, "{}: {set}", case.name);
        // A reference that was drawn has the logprob it was drawn with.
        if result.draws[0].token == case.reference {
            let bits = found.logprob.map(f32::to_bits);
            assert_eq!(bits, Some(result.draws[0].logprob.to_bits()), "{}: {set}", case.name);
        }
    }
}

/// The row that its digest expands to has the same answers.
fn expands(case: &Case, question: &Question<'_>, expected: &EvaluationResult) {
    let [Digested { digest: Ok(digest), .. }] = &Cpu::new(1).digest(&[case.position()])[..] else {
        panic!("{}: no digest", case.name)
    };
    let expanded: Vec<u8> = digest.expand().iter().flat_map(|x| x.to_le_bytes()).collect();
    let row = Row::new(Dtype::F32, &expanded, case.sets[0]).unwrap();
    let position = Position::new(row, digest.rank(), case.group).unwrap();
    let name = format!("{}, expanded", case.name);
    same(&name, &case.sets, &Cpu::new(1).evaluate(&[position], question), expected);
}

/// Rows that are all ties, and that are nearly so, under every further cut and profile.
#[test]
fn further_cuts_of_equal_logits_are_those_of_sampling() {
    let default = ParamsSpec::DEFAULT;
    let mut sets = vec![];
    for profile in Profile::ALL {
        for temperature in [0.0, 0.4, 1.0, 2.5] {
            let own = ParamsSpec { profile, temperature, ..default };
            sets.extend([
                ParamsSpec { top_k: 3, ..own },
                ParamsSpec { top_k: 7, top_p: 0.6, ..own },
                ParamsSpec { top_p: 0.3, min_p: 0.9, ..own },
                ParamsSpec { top_n_sigma: 1.0, top_k: 5, ..own },
                ParamsSpec { top_h: 0.5, top_p: 0.9, ..own },
                ParamsSpec { top_a: 0.7, ..own },
                ParamsSpec { epsilon_cutoff: 0.2, ..own },
                ParamsSpec { eta_cutoff: 0.1, typical_p: 0.4, ..own },
                ParamsSpec { typical_p: 0.4, min_p: 0.5, ..own },
                ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.08, ..own },
                ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.04, typical_p: 0.9, ..own },
                ParamsSpec { dynatemp_range: 0.5, dynatemp_exponent: 2.0, top_k: 9, ..own },
                ParamsSpec { dynatemp_range: 2.5, typical_p: 0.7, ..own },
            ]);
        }
    }
    let sets: Vec<SamplingParams> = sets.iter().flat_map(|spec| spec.parse(|| 0)).collect();
    assert!(sets.len() > 130, "{}", sets.len());
    let mut rows: Vec<Vec<f32>> = [1, 2, 3, 20, 4096].map(|n| vec![1.5; n]).to_vec();
    rows.push([vec![2.0; 6], vec![1.0; 5], vec![-1.0; 30]].concat());
    rows.push([vec![-0.0; 3], vec![0.0; 3], vec![f32::NEG_INFINITY; 4], vec![-90.0; 200]].concat());
    rows.push((0..300).map(|i| -(i / 7) as f32 * 0.37).collect());
    let (mut begins_later, mut compared) = (0, 0);
    for values in &rows {
        let logits: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        for reference in [0, values.len() / 2, values.len() - 1] {
            let case = Case {
                name: format!("{} logits from {}, reference {reference}", values.len(), values[0]),
                values: Values::ALL[0],
                dtype: Dtype::F32,
                logits: logits.clone(),
                reference: reference as u32,
                group: 0,
                sets: sets.clone(),
            };
            let sets = Sets::new(case.sets.clone()).unwrap();
            let (position, question) = ([case.position()], question(&sets, 1e-2));
            let expected = Reference.evaluate(&position, &question);
            for isa in Isa::supported() {
                let found = Cpu::new(1).with_isa(isa).unwrap().evaluate(&position, &question);
                same(&format!("{isa}: {}", case.name), &case.sets, &found, &expected);
            }
            agrees_with_sampling(&case, &expected);
            let is_cut = |i: &usize| reference == 0 && expected.rows[*i].logprob.is_none();
            begins_later += (0..case.sets.len()).filter(is_cut).count();
            compared += case.sets.len();
        }
    }
    println!("{compared} sets x rows, of which {begins_later} keep no first token");
    assert!(begins_later > 50, "{begins_later}");
}

#[test]
fn neither_order_nor_threads_nor_partitions_show() {
    let sets: Vec<_> = settings(0, 1).map(|spec| spec.parse(|| 0).unwrap()).collect();
    let sets = Sets::new(sets).unwrap();
    let question = question(&sets, 1e-4);
    let cases: Vec<Case> = (0..300).map(|index| Case::generated(index, 1 << 10)).collect();
    let positions: Vec<_> = cases.iter().map(Case::position).collect();
    let sums =
        |positions: &[Position<'_>], threads| Cpu::new(threads).evaluate(positions, &question).sums;
    let expected = Reference.evaluate(&positions, &question).sums;
    assert_eq!(expected.groups().len(), 3);
    for threads in [1, 2, 7] {
        assert_eq!(sums(&positions, threads), expected, "{threads} threads");
    }
    let mut turned = positions.clone();
    turned.reverse();
    turned.rotate_left(41);
    assert_eq!(sums(&turned, 2), expected);
    for size in [1, 7, 100] {
        let mut parts = Sums::default();
        turned.chunks(size).for_each(|part| parts.merge(sums(part, 2)));
        assert_eq!(parts, expected, "in parts of {size}");
    }
    let counted: u64 = expected.groups().map(|(_, sums)| sums.rows + sums.rows_failed).sum();
    assert_eq!(counted, 300);
}

#[test]
fn known_answers_of_the_sampler_come_out() {
    let Rows { cases, .. } = known::read("real_rows.json");
    let mut compared = 0;
    for RowCase { row, params, result, .. } in &cases {
        let params: SamplingParams = ParamsSpec::from(params).parse(|| 0).unwrap();
        let case = carried(*row, params.into());
        let sets = Sets::new(vec![params]).unwrap();
        let row = Row::new(case.dtype, &case.logits, params).unwrap();
        let position = [Position::new(row, 7, 0).unwrap()];
        let found = Cpu::new(1).evaluate(&position, &question(&sets, 1e-4));
        let own = found.rows[0];
        let known = serde_json::to_value(result).unwrap();
        assert_eq!(
            (Some(u64::from(own.kept)), Some(own.kept_mass)),
            (known["kept"].as_u64(), known["kept_mass"].as_u64()),
            "{case}"
        );
        compared += 1;
    }
    println!("{compared} known answers");
    assert!(compared > 50);
}

/// On paper: three tokens, of which the second and third are equal.
#[test]
fn sums_are_those_of_the_definition() {
    const ONE: u64 = 1 << 32;
    let logits: Vec<u8> = [0.0f32, -1.0, -1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let spec = |temperature, top_k, top_p, min_p| {
        let spec = ParamsSpec { temperature, top_k, top_p, min_p, ..Default::default() };
        spec.parse(|| 0).unwrap()
    };
    let sets = vec![spec(1.0, 0, 1.0, 0.0), spec(0.5, 2, 1.0, 0.0), spec(0.0, 0, 1.0, 0.0)];
    let sets = Sets::new(sets).unwrap();
    let row = Row::new(Dtype::F32, &logits, sets.params()[0]).unwrap();
    let position = [Position::new(row, 1, 4).unwrap()];
    // The second token's own share is 0.2119.
    for evaluator in [&Reference as &dyn Evaluator, &Cpu::new(1)] {
        let answer = evaluator.evaluate(&position, &question(&sets, 0.25));
        let sums = &answer.sums.group(4).unwrap().sets;
        let near = |found: u64, exact: f64| {
            let found = found as f64 / ONE as f64;
            assert!((found - exact).abs() < 1e-7, "{found} {exact}");
        };
        let (e1, e2) = ((-1f64).exp(), (-2f64).exp());
        let (w, v) = (1.0 + 2.0 * e1, 1.0 + e2);
        assert_eq!((sums[0].hits, sums[0].kept, sums[1].kept, sums[2].kept), (1, 3, 2, 1));
        near((-sums[0].logprob_q32) as u64, w.ln() + 1.0);
        near(sums[0].probability_q32, e1 / w);
        near(sums[0].collision_q32, (1.0 + 2.0 * e1 * e1) / (w * w));
        near(sums[0].tail_q32, 2.0 * e1 / w);
        near(sums[0].entropy_q32, (w.ln() + 2.0 * e1 / w) / 2f64.ln());
        near(sums[0].surprise_q32, (w.ln() + 2.0 * e1 / w) / 2f64.ln());
        near((-sums[1].logprob_q32) as u64, v.ln() + 2.0);
        near(sums[1].tail_q32, e2 / v);
        near(sums[1].surprise_q32, (w.ln() + e2 / v) / 2f64.ln());
        // Greedy: the first token, and the reference is another.
        assert_eq!((sums[2].hits, sums[2].collision_q32, sums[2].entropy_q32), (0, ONE, 0));
        assert_eq!((sums[2].probability_q32, sums[2].tail_q32), (0, 0));
        near(sums[2].surprise_q32, w.ln() / 2f64.ln());
    }
}
