//! Cases of the kinds `verify` and `tree`: rows of a sequence, the tokens that were drafted for it, and which of them it takes.
//!
//! Parameters are those of the kind `sample`, and `typical_epsilon` and `typical_delta`. Adjustments stand among the parameters, too:
//! those of the sequence, whose history goes on with the drafts, and those of a draft's row, which are its own.

use super::check::Check;
use super::sample;
use super::subject::Subject;
use super::unknown::{keys, strangers};
use crate::cli::drafted::{Origin, Sequence, Taken};
use crate::files::vectors::{Case, StoredRow, Vectors, bits32, shown};
use logitd_core::row::{DRAFTS_MAX, Typical, WEIGHTS_END};
use logitd_core::verify::{Mode, TREE_NODES_MAX};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};
use std::error::Error;

/// Parameters of the sequence alone.
const TYPICAL: [&str; 2] = ["typical_epsilon", "typical_delta"];
/// Keys of what a draft was drawn from.
const PROPOSAL: [&str; 5] = ["row", "params", "probs_bits", "tokens", "weights"];

/// What of a case of the kind `verify` is not known here.
pub fn unknown(case: &Case) -> Vec<String> {
    let known = ["mode", "rows", "drafts", "draft_distributions", "params"];
    let mut unknown = keys(case, &known, &["status", "accepted", "tokens", "logprob_bits"]);
    unknown.extend(parameters(case.fields.get("params"), &TYPICAL));
    let proposals = case.fields.get("draft_distributions").and_then(Json::as_array);
    for proposal in proposals.into_iter().flatten().filter_map(Json::as_object) {
        unknown.extend(strangers("key", proposal, |key| PROPOSAL.contains(&key)));
        unknown.extend(parameters(proposal.get("params"), &[]));
    }
    unknown
}

/// What of a case of the kind `tree` is not known here.
pub fn unknown_of_tree(case: &Case) -> Vec<String> {
    let known = ["rows", "parents", "tokens", "params"];
    let mut unknown = keys(case, &known, &["status", "path", "tokens", "logprob_bits"]);
    unknown.extend(parameters(case.fields.get("params"), &[]));
    unknown
}

fn parameters(params: Option<&Json>, others: &[&str]) -> Vec<String> {
    let params = params.and_then(Json::as_object).into_iter();
    let known = |name: &str| sample::is_parameter(name) || others.contains(&name);
    params.flat_map(|params| strangers("parameter", params, known)).collect()
}

/// Verifies a chain, and compares.
pub fn check(
    case: &Case,
    vectors: &Vectors,
    subject: &mut Subject,
) -> Result<Check, Box<dyn Error>> {
    let mut sequence = sequence(case, vectors, subject)?;
    sequence.drafts = list(case, "drafts")?;
    let (rows, count) = (sequence.rows.len(), sequence.drafts.len());
    if count > DRAFTS_MAX || rows != count + 1 {
        return Err(format!("has {rows} rows and {count} drafts; wanted: a row more than drafts, of which there are at most {DRAFTS_MAX}").into());
    }
    sequence.mode = mode(case)?;
    match sequence.mode {
        Mode::Match => {}
        Mode::Typical => sequence.typical = Some(typical(case.object("params")?)?),
        Mode::Rejection => {
            let given = match case.fields.get("draft_distributions") {
                None | Some(Json::Null) => vec![Json::Null; count],
                Some(given) => given.as_array().cloned().unwrap_or_default(),
            };
            if given.len() != count {
                let given = given.len();
                return Err(format!("has {given} draft_distributions for {count} drafts").into());
            }
            for one in &given {
                sequence.origins.push(origin(vectors, subject, one)?);
            }
        }
    }
    let taken = subject.verify(&sequence)?;
    compare(case, &taken, "accepted", json!(taken.accepted))
}

/// Verifies a tree, and compares.
pub fn check_tree(
    case: &Case,
    vectors: &Vectors,
    subject: &mut Subject,
) -> Result<Check, Box<dyn Error>> {
    let mut sequence = sequence(case, vectors, subject)?;
    let nodes = sequence.rows.len();
    let (parents, tokens): (Vec<i64>, Vec<i64>) = (list(case, "parents")?, list(case, "tokens")?);
    let is_earlier =
        |i: usize| (0..i as i64).contains(&parents[i]) && u32::try_from(tokens[i]).is_ok();
    let is_tree = (1..=TREE_NODES_MAX).contains(&nodes)
        && [parents.len(), tokens.len()] == [nodes; 2]
        && (parents[0], tokens[0]) == (-1, -1)
        && (1..nodes).all(is_earlier);
    if !is_tree {
        return Err(format!("is no tree; wanted: up to {TREE_NODES_MAX} rows, each with an earlier parent and a token, the first with -1 for both").into());
    }
    let of_children = |all: &[i64]| all[1..].iter().map(|&x| x as u32).collect::<Vec<_>>();
    sequence.drafts = of_children(&tokens);
    sequence.parents = Some(of_children(&parents));
    let taken = subject.verify(&sequence)?;
    compare(case, &taken, "path", json!(taken.path))
}

/// The rows of a case, and what is done to all of them; without drafts.
fn sequence(
    case: &Case,
    vectors: &Vectors,
    subject: &mut Subject,
) -> Result<Sequence, Box<dyn Error>> {
    let names: Vec<Json> = list(case, "rows")?;
    let rows = names.iter().map(|name| subject.row(vectors, name));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let vocab_size = rows.first().map_or(0, StoredRow::vocab_size);
    let others = |name: &&String| !TYPICAL.contains(&name.as_str());
    let params = case.object("params")?.iter().filter(|(name, _)| others(name));
    let params = params.map(|(name, value)| (name.clone(), value.clone())).collect();
    let set = sample::set(&params, vocab_size)?;
    let (drafts, origins) = (vec![], vec![]);
    Ok(Sequence { rows, set, mode: Mode::Match, drafts, parents: None, origins, typical: None })
}

fn mode(case: &Case) -> Result<Mode, Box<dyn Error>> {
    let given = case.get("mode")?;
    let name = given.as_str().unwrap_or_default().to_lowercase();
    let named = Mode::ALL.into_iter().find(|mode| mode.name() == name);
    named.ok_or_else(|| {
        format!("mode is {}; wanted: MATCH, REJECTION or TYPICAL", shown(given)).into()
    })
}

/// What a case says that a draft was drawn from.
fn origin(
    vectors: &Vectors,
    subject: &mut Subject,
    given: &Json,
) -> Result<Origin, Box<dyn Error>> {
    let Some(object) = given.as_object() else { return Ok(Origin::Point) };
    if let Some(bits) = object.get("probs_bits") {
        let bits = bits.as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let p: Option<Vec<f32>> = bits.map(|bits| bits32(bits).map(f32::from_bits)).collect();
        let p = p.filter(|p| p.iter().all(|p| (0.0..=1.0).contains(p)));
        return Ok(Origin::Dense(p.ok_or("has probs_bits that are no probabilities")?));
    }
    if let Some(named) = object.get("row") {
        let row = subject.row(vectors, named)?;
        let own = object.get("params").and_then(Json::as_object).cloned().unwrap_or_default();
        let set = sample::set(&own, row.vocab_size())?;
        return Ok(Origin::Row(row, Box::new(set)));
    }
    let [tokens, weights] = ["tokens", "weights"].map(|key| object.get(key).cloned());
    let tokens: Vec<u32> = serde_json::from_value(tokens.unwrap_or_default())?;
    let weights: Vec<u64> = serde_json::from_value(weights.unwrap_or_default())?;
    if tokens.len() != weights.len() {
        let (tokens, weights) = (tokens.len(), weights.len());
        return Err(format!("has {tokens} tokens and {weights} weights").into());
    }
    let mut weights: Vec<_> = tokens.into_iter().zip(weights).collect();
    weights.sort_unstable();
    let sum = weights.iter().map(|(_, weight)| u128::from(*weight)).sum::<u128>();
    if sum == 0 || sum >= u128::from(WEIGHTS_END) {
        return Err(format!("has weights that add up to {sum}; allowed: 1 to 2^60 - 1").into());
    }
    Ok(Origin::Sparse(weights))
}

fn typical(params: &Map<String, Json>) -> Result<Typical, String> {
    let of = |name: &str| {
        let value = params.get(name).and_then(Json::as_f64).map(|value| value as f32);
        let allowed = value.filter(|value| *value > 0.0 && *value <= 1.0);
        allowed.ok_or_else(|| format!("has no {name} above 0, up to 1"))
    };
    let [epsilon, delta] = TYPICAL.map(of);
    Ok(Typical { epsilon: epsilon?, delta: delta? })
}

fn list<T: DeserializeOwned>(case: &Case, key: &str) -> Result<Vec<T>, Box<dyn Error>> {
    let value = case.get(key)?;
    let read = serde_json::from_value(value.clone());
    Ok(read.map_err(|error| format!("{key} is {}: {error}", shown(value)))?)
}

/// Compares what the sequence takes, one of it under a name of the kind's own.
fn compare(case: &Case, taken: &Taken, name: &str, own: Json) -> Result<Check, Box<dyn Error>> {
    let mut check = Check::default();
    let expect = case.object("expect")?;
    for (field, got) in
        [("status", json!(taken.status.name())), (name, own), ("tokens", json!(taken.tokens))]
    {
        let expected = expect.get(field).ok_or_else(|| format!("expects no {field}"))?;
        check.exact(field, expected, got);
    }
    if let Some(expected) = expect.get("logprob_bits") {
        check.all_within_a_unit("logprob_bits", expected, &taken.logprobs);
    }
    Ok(check)
}
