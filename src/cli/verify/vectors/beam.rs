//! Cases of the kind `beam`: a step of a beam search, from its rows and their running scores to its candidates.

use super::check::Check;
use super::sample;
use super::subject::Subject;
use super::unknown::keys;
use crate::files::params::Set;
use crate::files::vectors::{Case, StoredRow, Vectors, parameter, shown};
use logitd_core::beams::{Candidate, Step, StepSpec, Stepped};
use logitd_core::inspection::Normaliser;
use logitd_core::params::Value;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};
use std::error::Error;

/// What a case gives.
const GIVEN: [&str; 7] =
    ["rows", "scores", "beams", "eos", "temperature", "row_params", "normaliser"];

/// A field of a step as a case has it.
type Told = fn(&Stepped) -> Json;

/// The fields of an expectation that are compared, by their names.
static EXPECTED: [(&str, Told); 4] = [
    ("statuses", |step| step.statuses.iter().map(|status| json!(status.name())).collect()),
    ("candidates", |step| triples(&step.candidates)),
    ("running", |step| triples(&step.running)),
    ("finished", |step| triples(&step.finished)),
];

/// What of a case is not known here.
pub fn unknown(case: &Case) -> Vec<String> {
    let mut unknown = keys(case, &GIVEN, &EXPECTED.map(|(name, _)| name));
    let params = case.fields.get("row_params").and_then(Json::as_array);
    let params = params.into_iter().flatten().filter_map(Json::as_object);
    unknown.extend(params.flat_map(sample::unknown_parameters));
    unknown
}

/// Makes the step, and compares what the case expects.
pub fn check(
    case: &Case,
    vectors: &Vectors,
    subject: &mut Subject,
) -> Result<Check, Box<dyn Error>> {
    let expect = case.object("expect")?;
    let rows: Vec<Json> = read(case, "rows")?;
    let rows =
        rows.iter().map(|named| subject.row(vectors, named)).collect::<Result<Vec<_>, _>>()?;
    let step = step(case, rows.iter().map(StoredRow::vocab_size).max().unwrap_or(0))?;
    if step.spec().scores.len() != rows.len() {
        let scores = step.spec().scores.len();
        return Err(format!("has {} rows, and scores for {scores}", rows.len()).into());
    }
    let sets = sets(case, &rows)?;
    for name in ["statuses", "candidates"] {
        if !expect.contains_key(name) {
            return Err(format!("expects no {name}").into());
        }
    }
    let stepped = subject.step(&rows, &sets, &step)?;
    let mut check = Check::default();
    for (name, got) in &EXPECTED {
        if let Some(expected) = expect.get(*name) {
            check.exact(name, expected, got(&stepped));
        }
    }
    Ok(check)
}

fn step(case: &Case, vocab_size: u32) -> Result<Step, Box<dyn Error>> {
    let written = case.get("temperature")?;
    let Some((_, Value::Real(temperature))) = parameter("temperature", written)? else {
        return Err(format!("temperature is {}; wanted: a number", shown(written)).into());
    };
    let written = case.get("normaliser")?;
    let normaliser = match written.as_str() {
        Some("ADJUSTED") => Normaliser::Adjusted,
        Some("RAW") => Normaliser::Raw,
        _ => {
            return Err(format!("normaliser is {}; allowed: ADJUSTED, RAW", shown(written)).into());
        }
    };
    let spec = StepSpec {
        scores: read(case, "scores")?,
        beams: read(case, "beams")?,
        eos_ids: read(case, "eos")?,
        temperature,
        normaliser,
    };
    // Of several errors the first is as good as any.
    Ok(spec.parse(vocab_size).map_err(|mut errors| errors.swap_remove(0))?)
}

/// The parameters of each row: those of the case, or the defaults.
fn sets(case: &Case, rows: &[StoredRow]) -> Result<Vec<Set>, Box<dyn Error>> {
    let params = match case.fields.contains_key("row_params") {
        true => read(case, "row_params")?,
        false => None,
    };
    let params: Vec<Map<String, Json>> = params.unwrap_or_else(|| vec![Map::new(); rows.len()]);
    if params.len() != rows.len() {
        let sets = params.len();
        return Err(format!("has {} rows, and row_params of {sets}", rows.len()).into());
    }
    let set = |(params, row): (&Map<String, Json>, &StoredRow)| {
        let mut set = sample::set(params, row.vocab_size())?;
        // Nothing is drawn.
        set.params.temperature = 0.0;
        Ok(set)
    };
    params.iter().zip(rows).map(set).collect()
}

fn read<T: DeserializeOwned>(case: &Case, key: &str) -> Result<T, String> {
    let written = case.get(key)?;
    serde_json::from_value(written.clone())
        .map_err(|error| format!("{key} is {}: {error}", shown(written)))
}

/// Beam, token and score of each.
fn triples(candidates: &[Candidate]) -> Json {
    candidates.iter().map(|it| json!([it.beam, it.token, it.score])).collect()
}
