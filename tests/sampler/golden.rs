//! Known answers: the vectors that the project carries, made by its own reference and held fresh,
//! and those of an independent implementation. Every backend returns both.

use crate::common::case::{greatest, pattern};
use crate::common::compare::sample;
use crate::common::known::independent;
use crate::common::known::{
    self, Answer, Hex, List, Mass, NamedRow, Params, RandomBits, RowCase, Rows,
};
use crate::common::real::{self, CARRIED, Recording, carried};
use crate::common::{Case, adjusted, candidates, inspected};
use logitd::tools::generate::{Random, Values};
use logitd_core::arithmetic::mass::{Scale, UNIT, mass};
use logitd_core::arithmetic::philox::token_bits;
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results};
use logitd_core::params::ParamsSpec;
use serde::Serialize;
use std::borrow::Borrow;

/// The oracle, and all that must agree with it.
fn all_backends() -> Vec<Box<dyn Backend>> {
    let mut all = candidates();
    all.push(Box::new(Reference::default()));
    all
}

#[test]
fn every_backend_returns_the_carried_rows_results() {
    let Rows { rows, cases } = known::read("rows.json");
    let batch: Vec<Case> = cases.iter().map(|c| rows[c.row].case(&c.params)).collect();
    expect_answers(&batch, &cases);
}

#[test]
fn every_backend_returns_the_carried_real_rows_results() {
    let Rows { cases, .. } = known::read("real_rows.json");
    let batch: Vec<Case> = cases.iter().map(|c| carried(c.row, (&c.params).into())).collect();
    expect_answers(&batch, &cases);
}

fn expect_answers(batch: &[Case], cases: &[RowCase]) {
    let placed: Vec<_> = batch.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for mut backend in all_backends() {
        sample(backend.as_mut(), &rows, &mut results);
        for ((case, expected), result) in batch.iter().zip(cases).zip(results.iter()) {
            let name = crate::common::candidates::name(backend.as_ref());
            assert_eq!(Answer::from(result), expected.result, "{name}: {case}");
        }
    }
}

#[test]
fn every_backend_computes_the_carried_masses() {
    let List::<Mass> { cases } = known::read("masses.json");
    expect_masses(cases.iter().map(|case| {
        (f32::from_bits(case.temperature_bits.0), f32::from_bits(case.distance_bits.0), case.mass)
    }));
}

#[test]
fn every_backend_computes_the_independent_masses() {
    for (file, cases_min) in [("independent/mass.json", 50), ("independent/tiny_mass.json", 150)] {
        expect_independent_masses(file, cases_min);
    }
}

fn expect_independent_masses(file: &str, cases_min: usize) {
    let independent::File::<independent::Mass> { cases } = known::read(file);
    assert!(cases.len() >= cases_min, "{file}: {} cases", cases.len());
    expect_masses(
        cases.iter().map(|case| {
            (case.temperature, case.x_minus_max.parse().expect("a decimal"), case.mass)
        }),
    );
}

/// Each mass, from the arithmetic, and as what a second token adds to the kept mass of a row.
fn expect_masses(cases: impl Iterator<Item = (f32, f32, u64)>) {
    let (rows, expected): (Vec<Case>, Vec<u64>) = cases
        .map(|(temperature, distance, expected)| {
            assert_eq!(mass(distance, 0.0, Scale::new(temperature)), expected);
            let spec = ParamsSpec { temperature, ..Default::default() };
            let name = format!("mass at {distance:e}, temperature {temperature:e}");
            (Case::values(&name, Dtype::F32, &[0.0, distance], spec), expected)
        })
        .unzip();
    let placed: Vec<_> = rows.iter().map(Case::place).collect();
    let batch: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for mut backend in all_backends() {
        sample(backend.as_mut(), &batch, &mut results);
        for ((case, expected), result) in rows.iter().zip(&expected).zip(results.iter()) {
            assert_eq!(result.outcome.kept_mass - UNIT, *expected, "{case}");
        }
    }
}

#[test]
fn the_carried_random_bits_are_those_of_the_generator() {
    let List::<RandomBits> { cases } = known::read("random_bits.json");
    for case in cases {
        assert_eq!(token_bits(case.seed, case.position, case.draw), case.bits, "{case:?}");
    }
}

#[test]
fn every_backend_agrees_with_the_independent_edge_rows() {
    for (file, cases_min) in
        [("independent/edge_rows.json", 75), ("independent/tiny_rows.json", 60)]
    {
        let independent::File::<independent::EdgeRow> { cases } = known::read(file);
        assert!(cases.len() >= cases_min, "{file}: {} cases", cases.len());
        let rows = cases.into_iter().map(|case| (case.case(), case.expect)).collect();
        expect_independent(rows);
    }
}

#[test]
fn every_backend_agrees_with_the_independent_rows_that_are_carried() {
    let place = |row| CARRIED.iter().position(|&carried| carried == row);
    let rows: Vec<_> = independent_real_rows()
        .into_iter()
        .filter_map(|case| Some((carried(place(case.row)?, case.spec()), case.expect)))
        .collect();
    assert!(rows.len() >= CARRIED.len() * 2, "{} cases", rows.len());
    expect_independent(rows);
}

#[test]
fn every_backend_agrees_with_the_independent_recording() {
    let recording = match Recording::open() {
        Ok(recording) => recording,
        Err(why) => {
            // The recording is too large to carry; the rows that are carried have a test above.
            crate::common::skipped("every_backend_agrees_with_the_independent_recording", why);
            return;
        }
    };
    for (index, &row) in CARRIED.iter().enumerate() {
        let same = carried(index, ParamsSpec::default()).logits == recording.row(row);
        assert!(same, "carried row {index} is not row {row} of the recording");
    }
    let case = |case: independent::RealRow| {
        let logits = recording.row(case.row).to_vec();
        let name = format!("row {} of the recording", case.row);
        (Case::new(name, Dtype::F16, logits, case.spec()), case.expect)
    };
    // A few at a time: each is half a megabyte.
    let mut cases = independent_real_rows().into_iter().map(case).peekable();
    while cases.peek().is_some() {
        expect_independent(cases.by_ref().take(16).collect());
    }
}

/// The cases of a file, with what each expects, and whether those of real rows are among them: without these it is said
/// that a part of the test is skipped.
fn cases_of<'f, E>(file: &'f adjusted::File<E>, test: &str) -> (Vec<(Case, &'f E)>, bool) {
    let recording = Recording::open();
    if let Err(why) = &recording {
        crate::common::skipped(&format!("real rows of {test}"), why);
    }
    let recorded = |row| Some(recording.as_ref().ok()?.row(row).to_vec());
    let case = |case: &'f adjusted::KnownCase<E>| Some((file.case(case, recorded)?, &case.expect));
    (file.cases.iter().filter_map(case).collect(), recording.is_ok())
}

#[test]
fn every_backend_agrees_with_the_independent_adjustments() {
    let file: adjusted::File = known::read("independent/adjustments.json");
    let (cases, with_real_rows) =
        cases_of(&file, "every_backend_agrees_with_the_independent_adjustments");
    let least = if with_real_rows { 61 } else { 58 };
    assert!(cases.len() >= least, "{} cases", cases.len());
    expect_independent(cases);
}

#[test]
fn every_backend_agrees_with_the_independent_inspections() {
    let file: adjusted::File<inspected::Expect> = known::read("independent/inspections.json");
    let (cases, with_real_rows) =
        cases_of(&file, "every_backend_agrees_with_the_independent_inspections");
    let logprobs = cases.iter().filter(|(_, expect)| expect.logprobs.is_some()).count();
    let kept_ids = cases.iter().filter(|(_, expect)| expect.kept_ids.is_some()).count();
    let least = if with_real_rows { 30 } else { 21 };
    assert!(logprobs >= least && kept_ids >= 101, "{logprobs} logprobs, {kept_ids} kept ids");
    let placed: Vec<_> = cases.iter().map(|(case, _)| case.place()).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for mut backend in all_backends() {
        sample(backend.as_mut(), &rows, &mut results);
        for ((case, expect), result) in cases.iter().zip(results.iter()) {
            if let Some(objection) = expect.objection(result) {
                let name = crate::common::candidates::name(backend.as_ref());
                panic!("{name}\n{case}\n{objection}");
            }
        }
    }
}

fn independent_real_rows() -> Vec<independent::RealRow> {
    let file: independent::File<_> = known::read("independent/real_rows.json");
    file.cases
}

fn expect_independent(cases: Vec<(Case, impl Borrow<independent::Expect>)>) {
    let placed: Vec<_> = cases.iter().map(|(case, _)| case.place()).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for mut backend in all_backends() {
        sample(backend.as_mut(), &rows, &mut results);
        for ((case, expect), result) in cases.iter().zip(results.iter()) {
            if let Some(objection) = expect.borrow().objection(result) {
                panic!(
                    "{}\n{case}\n{objection}",
                    crate::common::candidates::name(backend.as_ref())
                );
            }
        }
    }
}

#[test]
fn every_backend_agrees_with_the_independent_races() {
    let races: known::Races = known::read("independent/race.json");
    let cases: Vec<_> = races.small().collect();
    assert!(cases.len() >= 16, "{} cases", cases.len());
    expect_races(cases);
}

#[test]
fn every_backend_agrees_with_the_independent_races_of_the_recording() {
    let recording = match Recording::open() {
        Ok(recording) => recording,
        Err(why) => {
            let name = "every_backend_agrees_with_the_independent_races_of_the_recording";
            crate::common::skipped(name, why);
            return;
        }
    };
    let races: known::Races = known::read("independent/race.json");
    let case = |race: known::Race<usize>| {
        let logits = recording.row(race.row).to_vec();
        race.case(logits)
    };
    let cases: Vec<_> = races.real.into_iter().map(case).collect();
    assert!(cases.len() >= 3, "{} cases", cases.len());
    expect_races(cases);
}

fn expect_races(cases: Vec<(Case, known::RaceExpect)>) {
    let placed: Vec<_> = cases.iter().map(|(case, _)| case.place()).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    for mut backend in all_backends() {
        sample(backend.as_mut(), &rows, &mut results);
        for ((case, expect), result) in cases.iter().zip(results.iter()) {
            if let Some(objection) = expect.objection(result) {
                let name = crate::common::candidates::name(backend.as_ref());
                panic!("{name}\n{case}\n{objection}");
            }
        }
    }
}

/// With `LOGITD_RENEW_VECTORS` set, writes them instead.
#[test]
fn carried_vectors_are_fresh() {
    let renew = std::env::var_os("LOGITD_RENEW_VECTORS").is_some();
    for (file, fresh) in fresh_vectors() {
        if renew {
            std::fs::write(known::path(file), &fresh).expect("tests/vectors can be written");
        }
        let carried = std::fs::read_to_string(known::path(file)).unwrap_or_default();
        let same = carried == fresh;
        assert!(
            same,
            "tests/vectors/{file} is not what the reference gives now. If the cases were meant to change \
             run this; if the arithmetic was, raise arithmetic::VERSION and run this:\n\n    \
             LOGITD_RENEW_VECTORS=1 cargo test --release --test sampler carried_vectors_are_fresh\n"
        );
    }
}

fn fresh_vectors() -> [(&'static str, String); 4] {
    let real = lines(&[("cases", one_a_line(&answers(real_cases())))]);
    let small = small_rows();
    let cases = small.iter().enumerate().flat_map(|(row, case)| {
        params_of(case.vocab_size()).map(move |spec| (row, case.with(spec.parse(|| 0).unwrap())))
    });
    let rows: Vec<_> = small.iter().map(NamedRow::new).collect();
    let small =
        lines(&[("rows", one_a_line(&rows)), ("cases", one_a_line(&answers(cases.collect())))]);
    [
        ("masses.json", lines(&[("cases", one_a_line(&fresh_masses()))])),
        ("random_bits.json", lines(&[("cases", one_a_line(&fresh_random_bits()))])),
        ("rows.json", small),
        ("real_rows.json", real),
    ]
}

/// One object, its lists one element a line, so that a difference reads well.
fn lines(lists: &[(&str, String)]) -> String {
    let version = logitd_core::arithmetic::VERSION;
    let lists = lists.iter().map(|(name, list)| format!(",\n\"{name}\": [\n{list}\n]"));
    format!("{{\"arithmetic_version\": {version}{}}}\n", lists.collect::<String>())
}

fn one_a_line<T: Serialize>(list: &[T]) -> String {
    let line = |item| serde_json::to_string(item).expect("plain data");
    list.iter().map(line).collect::<Vec<_>>().join(",\n")
}

/// What the reference makes of each case; the first number is the row it refers to.
fn answers(cases: Vec<(usize, Case)>) -> Vec<RowCase> {
    let mut results = Results::default();
    let answer = |(row, case): (usize, Case)| {
        sample(&mut Reference::default(), &[case.place().row()], &mut results);
        RowCase { row, params: Params::from(&case.params), result: results.row(0).into() }
    };
    cases.into_iter().map(answer).collect()
}

fn fresh_masses() -> Vec<Mass> {
    let temperatures =
        [1e-4, 0.05, 0.3, 0.7, 0.8, 1.0, 1.3, 2.0, 10.0, 137.5, 1e4, 1e-30, 1e-20, 1e-7f32];
    let mut list = Vec::new();
    for temperature in temperatures {
        // In units of T ln 2: the exponent, on both sides of each rounding and of the last unit.
        let units = [
            0.0, 1e-7, 0.25, 0.499_999, 0.5, 0.500_001, 0.75, 1.0, 1.5, 2.5, 7.3, 16.0, 23.5, 24.0,
            31.999, 39.0, 39.5, 39.999, 40.0, 40.5, 41.0, 61.9, 62.0, 63.0, 1000.0f64,
        ];
        let of_unit = |u: f64| (-u * std::f64::consts::LN_2 * f64::from(temperature)) as f32;
        let fixed = [-0.0, -f32::from_bits(1), -f32::MIN_POSITIVE, -65504.0, f32::NEG_INFINITY];
        for distance in units.into_iter().map(of_unit).chain(fixed) {
            list.push(Mass {
                temperature_bits: Hex(temperature.to_bits()),
                distance_bits: Hex(distance.to_bits()),
                mass: mass(distance, 0.0, Scale::new(temperature)),
            });
        }
    }
    list
}

fn fresh_random_bits() -> Vec<RandomBits> {
    let edges = [0, 1, 12345, u64::from(u32::MAX), 1 << 32, u64::MAX];
    let draws = [0, 1, 1023];
    let place = |seed, position, draw| RandomBits {
        seed,
        position,
        draw,
        bits: token_bits(seed, position, draw),
    };
    let positions = edges.iter().flat_map(|&s| edges.iter().map(move |&p| (s, p)));
    positions.flat_map(|(s, p)| draws.map(|d| place(s, p, d))).collect()
}

/// Rows that are hard on a sampler, in every dtype.
fn small_rows() -> Vec<Case> {
    let mut rows = Vec::new();
    for dtype in Dtype::ALL {
        let mut row = |name: &str, patterns: &[u32]| {
            rows.push(Case::bits(name, dtype, patterns, ParamsSpec::default()));
        };
        let one = |x| pattern(dtype, x);
        let all = |x: &[f32]| x.iter().map(|&x| one(x)).collect::<Vec<_>>();
        let (inf, low) = (f32::INFINITY, f32::NEG_INFINITY);
        row("one token", &all(&[1.0]));
        row("one token, -0.0", &all(&[-0.0]));
        row("signed zeros", &all(&[-0.0, 0.0, -0.0, 0.0, -1.0]));
        row("NaN with its sign set, last", &all(&[1.0, 2.0, -f32::NAN]));
        row("+inf, first", &all(&[inf, 0.0, low]));
        row("NaN and +inf", &all(&[inf, f32::NAN]));
        row("only -inf", &all(&[low; 7]));
        row("one candidate, last", &all(&[low, low, low, -3.0]));
        row("tie at the border", &all(&[1.0, 3.0, 2.0, 3.0, 2.0, 2.0, 0.5]));
        row("constant", &[one(-7.25); 33]);
        let (greatest, minus) = (greatest(dtype), one(-0.0));
        let ends = [greatest, 0, minus | greatest, minus | (greatest + 1)];
        row("ends of the range", &ends);
        row("subnormals", &[3, 1, 2, 0, minus, minus + 1, minus + 2]);
        row("ramp up", &all(&(0..65).map(|i| i as f32 / 8.0).collect::<Vec<_>>()));
        row("ramp down", &all(&(0..65).map(|i| -(i as f32) / 2.0).collect::<Vec<_>>()));
        for (values, vocab_size) in [
            (Values::Model, 257),
            (Values::Coarse, 130),
            (Values::Masked, 127),
            (Values::Neighbours, 64),
            (Values::AnyFinite, 100),
        ] {
            let logits =
                values.logits(&mut Random::new(1, vocab_size.into()), dtype, vocab_size, 1.0);
            let name = format!("{values:?}");
            rows.push(Case::new(name, dtype, logits, ParamsSpec::default()));
        }
    }
    rows
}

/// Parameters for rows of that size.
fn params_of(vocab_size: usize) -> impl Iterator<Item = ParamsSpec> {
    let spec = |temperature, top_k, top_p, min_p| ParamsSpec {
        temperature,
        top_k,
        top_p,
        min_p,
        seed: Some(0x0123_4567_89ab_cdef),
        position: vocab_size as u64,
        draws: 4,
        ..Default::default()
    };
    let n = vocab_size as u32;
    let all = [
        spec(1.0, 0, 1.0, 0.0),
        ParamsSpec { draws: 1, ..spec(0.0, 5, 0.5, 0.5) },
        spec(1e-4, 0, 1.0, 0.0),
        spec(1e4, 0, 1.0, 0.0),
        spec(0.8, 2, 1.0, 0.0),
        spec(1.3, n, 0.95, 0.0),
        spec(0.7, u32::MAX, 0.5, 0.0),
        spec(2.0, 0, 1f32.next_down(), 0.0),
        spec(1.0, 0, f32::from_bits(1), 0.0),
        spec(1.0, 0, 1.0, 0.05),
        spec(3.0, 0, 1.0, 1.0),
        spec(0.9, 7, 0.8, 0.1),
        spec(1e-30, 0, 1.0, 0.0),
        spec(1e-20, 3, 0.9, 0.5),
        spec(1e-7, 0, 0.5, 0.0),
    ];
    all.into_iter()
}

fn real_cases() -> Vec<(usize, Case)> {
    let spec = |temperature, top_k, top_p, min_p| ParamsSpec {
        temperature,
        top_k,
        top_p,
        min_p,
        draws: 16,
        ..Default::default()
    };
    let settings = [
        ParamsSpec { draws: 1, ..spec(0.0, 0, 1.0, 0.0) },
        spec(1.0, 0, 1.0, 0.0),
        spec(0.8, 50, 0.95, 0.0),
        spec(0.8, 0, 0.95, 0.0),
        spec(1.5, 0, 1.0, 0.05),
        spec(10.0, 0, 0.9, 0.0),
        spec(100.0, 100_000, 1.0, 0.0),
        spec(1e-4, 0, 1.0, 0.0),
        spec(1e4, 0, 0.999, 0.0),
        spec(0.3, 20, 0.5, 0.01),
    ];
    // Later than the others, and behind them: those keep their seeds.
    let tiny = [spec(1e-30, 0, 0.5, 0.0), spec(1e-6, 50, 0.95, 0.1)];
    let with_seed = |(i, (row, spec)): (usize, (usize, ParamsSpec))| {
        let mut random = Random::new(2, i as u64);
        let spec =
            ParamsSpec { seed: Some(random.bits()), position: random.below(1 << 20), ..spec };
        (row, real::carried(row, spec))
    };
    let pairs = (0..CARRIED.len()).flat_map(|row| settings.map(|spec| (row, spec)));
    let tiny = (0..CARRIED.len()).flat_map(|row| tiny.map(|spec| (row, spec)));
    pairs.chain(tiny).enumerate().map(with_seed).collect()
}
