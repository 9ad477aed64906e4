//! Cases of the integer tools: logarithms, powers, surprisal, entropy.
//!
//! Masses come from the subject, as the kept mass of a row. What no backend returns (the rest) is computed by the
//! arithmetic that all of them share.

use super::check::Check;
use super::subject::Subject;
use crate::files::vectors::{Case, Vectors, parameter, shown};
use logitd_core::arithmetic::interval::Interval;
use logitd_core::arithmetic::mass::Scale;
use logitd_core::arithmetic::surprisal::{Surprisal, surprisal as of_token};
use logitd_core::arithmetic::{log2 as logarithm, power, race};
use logitd_core::batch::{Row, RowStatus};
use logitd_core::params::{ParamsSpec, Value};
use serde_json::{Value as Json, json};
use std::error::Error;

type Checked = Result<Check, Box<dyn Error>>;

/// `log2`: of an integer `w`.
pub fn log2(case: &Case, _: &Vectors, _: &mut Subject) -> Checked {
    match case.whole("w")? {
        0 => Err("w is 0; allowed: 1 or more".into()),
        w => one(case, json!(logarithm::log2(w))),
    }
}

/// `pow2`: two to the power of `-a`.
pub fn pow2(case: &Case, _: &Vectors, _: &mut Subject) -> Checked {
    one(case, json!(power::pow2(case.whole("a")?)))
}

/// `exponential`: the noise of a race, from 64 random bits `R`.
pub fn exponential(case: &Case, _: &Vectors, _: &mut Subject) -> Checked {
    let noise = race::exponential(case.whole("R")?);
    one(case, json!(format!("{:08x}", noise.to_bits())))
}

/// `mass`: of a token at a distance below the maximum.
pub fn mass(case: &Case, _: &Vectors, subject: &mut Subject) -> Checked {
    let written = case.get("x_minus_max")?;
    let distance = written.as_str().and_then(|text| text.parse().ok());
    let distance = within(distance, "x_minus_max", written)?;
    one(case, json!(subject.mass(distance, temperature(case)?)?))
}

/// `surprisal`: of a token at a distance below the maximum, with its mass and its term.
pub fn surprisal(case: &Case, _: &Vectors, subject: &mut Subject) -> Checked {
    let key = "x_minus_max_bits";
    let distance = within(Some(case.real_of_bits(key)?), key, case.get(key)?)?;
    let temperature = temperature(case)?;
    let Surprisal { g, term, .. } = of_token(distance, 0.0, Scale::new(temperature));
    let mass = subject.mass(distance, temperature)?;
    fields(case, &[("mass", json!(mass)), ("g", json!(g)), ("term", json!(term))])
}

/// `interval`: mass, mean surprisal and entropy of a whole row.
pub fn interval(case: &Case, vectors: &Vectors, subject: &mut Subject) -> Checked {
    let row = subject.row(vectors, case.get("row")?)?;
    let spec = ParamsSpec { temperature: temperature(case)?, seed: Some(0), ..ParamsSpec::DEFAULT };
    let outcome = subject.sample(&row, &spec.into())?.outcome;
    if outcome.status != RowStatus::Ok {
        return Err(format!("its row is {}, and has no mass", outcome.status).into());
    }
    let all = whole(&Row::new(row.dtype, &row.logits, spec.parse(|| 0)?)?);
    fields(
        case,
        &[
            ("W", json!(outcome.kept_mass)),
            ("E", json!(all.term)),
            ("A", json!(all.mean())),
            ("H32", json!(all.entropy())),
        ],
    )
}

/// All candidates of a row that has any.
fn whole(row: &Row<'_>) -> Interval {
    let logits = || (0..row.vocab_size()).map(|token| row.logit(token));
    let max = logits().fold(f32::NEG_INFINITY, f32::max);
    let scale = Scale::new(row.params().temperature());
    logits()
        .filter(|&x| x > f32::NEG_INFINITY)
        .map(|x| of_token(x, max, scale))
        .fold(Interval::default(), Interval::with)
}

/// Compares an expectation that is one value.
fn one(case: &Case, got: Json) -> Checked {
    let mut check = Check::default();
    check.exact("", case.get("expect")?, got);
    Ok(check)
}

/// Compares the fields of an expectation that are there.
fn fields(case: &Case, got: &[(&str, Json)]) -> Checked {
    let expect = case.object("expect")?;
    let mut check = Check::default();
    for (name, got) in got {
        if let Some(expected) = expect.get(*name) {
            check.exact(name, expected, got.clone());
        }
    }
    Ok(check)
}

/// A temperature with which there are masses.
fn temperature(case: &Case) -> Result<f32, String> {
    let written = case.get("temperature")?;
    match parameter("temperature", written)? {
        Some((_, Value::Real(temperature))) if temperature > 0.0 => Ok(temperature),
        _ => Err(format!("temperature is {}; with that there are no masses", shown(written))),
    }
}

/// A distance from the maximum: 0 or below.
fn within(distance: Option<f32>, key: &str, written: &Json) -> Result<f32, String> {
    let distance = distance.filter(|&distance| distance <= 0.0);
    distance.ok_or_else(|| format!("{key} is {}; allowed: 0 or below", shown(written)))
}
