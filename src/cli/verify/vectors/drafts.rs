//! Cases of the kinds `verify` and `tree`: rows of a sequence, the tokens that were drafted for it, and which of them it takes.
//!
//! Parameters are those of the kind `sample`, and `typical_epsilon` and `typical_delta`. Adjustments stand among the parameters, too:
//! those of the sequence, whose history goes on with the drafts, and those of a draft's row, which are its own.

use super::check::Check;
use super::sample;
use super::subject::Subject;
use super::unknown::{keys, strangers};
use crate::cli::params;
use crate::files::params::Set;
use crate::files::vectors::{Case, StoredRow, Vectors, bits32, shown};
use logitd_core::adjustments::Adjustments;
use logitd_core::batch::{Results, Row, RowError};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::{DRAFTS_MAX, Draft, Proposal, Rule, Source, Typical, WEIGHTS_END};
use logitd_core::verify::{self, Mode, TREE_NODES_MAX, Verified, of_row};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};
use std::error::Error;
use std::sync::Arc;

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

/// Samples the rows of a chain with their drafts, walks over them, and compares.
pub fn check(
    case: &Case,
    vectors: &Vectors,
    subject: &mut Subject,
) -> Result<Check, Box<dyn Error>> {
    let drafts: Vec<u32> = list(case, "drafts")?;
    let sequence = Sequence::read(case, vectors, subject)?;
    let count = drafts.len();
    if count > DRAFTS_MAX || sequence.rows.len() != count + 1 {
        let rows = sequence.rows.len();
        return Err(format!("has {rows} rows and {count} drafts; wanted: a row more than drafts, of which there are at most {DRAFTS_MAX}").into());
    }
    let drafts: Arc<[u32]> = drafts.into();
    let decided = (0..count)
        .map(|place| sequence.draft(case, vectors, subject, place, drafts[place]))
        .chain([Ok(None)])
        .collect::<Result<Vec<_>, _>>()?;
    let histories = (0..=count).map(|place| (drafts.clone(), place)).collect();
    let results = sequence.sample(subject, histories, &decided)?;
    let verified = verify::chain(&drafts, |place| results.row(place));
    compare(case, &verified, &results, "accepted", json!(verified.accepted))
}

/// Samples the rows of a tree, walks over it, and compares.
pub fn check_tree(
    case: &Case,
    vectors: &Vectors,
    subject: &mut Subject,
) -> Result<Check, Box<dyn Error>> {
    let sequence = Sequence::read(case, vectors, subject)?;
    let nodes = sequence.rows.len();
    let (parents, tokens): (Vec<i64>, Vec<i64>) = (list(case, "parents")?, list(case, "tokens")?);
    let is_earlier =
        |i: usize| (0..i as i64).contains(&parents[i]) && u32::try_from(tokens[i]).is_ok();
    let is_tree = (1..=TREE_NODES_MAX).contains(&nodes)
        && [parents.len(), tokens.len()] == [nodes; 2]
        && (1..nodes).all(is_earlier);
    if !is_tree {
        return Err(format!("is no tree; wanted: up to {TREE_NODES_MAX} rows, each with an earlier parent and a token, the first with -1 for both").into());
    }
    let of_children = |all: &[i64]| all[1..].iter().map(|&x| x as u32).collect::<Vec<_>>();
    let (parents, tokens) = (of_children(&parents), of_children(&tokens));
    let paths = verify::paths(&parents, &tokens).into_iter();
    let histories = paths.map(|path| (path.clone(), path.len())).collect();
    let results = sequence.sample(subject, histories, &vec![None; nodes])?;
    let verified = verify::tree(&parents, &tokens, |node| results.row(node));
    let path: Vec<_> = verified.rows.iter().filter(|node| **node > 0).collect();
    compare(case, &verified, &results, "path", json!(path))
}

/// The rows of a sequence, and what is done to all of them.
struct Sequence {
    rows: Vec<StoredRow>,
    set: Set,
    params: SamplingParams,
}

impl Sequence {
    fn read(case: &Case, vectors: &Vectors, subject: &mut Subject) -> Result<Self, Box<dyn Error>> {
        let names: Vec<Json> = list(case, "rows")?;
        let rows = names.iter().map(|name| subject.row(vectors, name));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let vocab_size = rows.first().map_or(0, tokens_of);
        let others = |name: &&String| !TYPICAL.contains(&name.as_str());
        let params = case.object("params")?.iter().filter(|(name, _)| others(name));
        let params = params.map(|(name, value)| (name.clone(), value.clone())).collect();
        let set = sample::set(&params, vocab_size)?;
        let params = params::parse(set.params)?;
        Ok(Self { rows, set, params })
    }

    /// The parameters of a row behind so many drafts.
    fn params_at(&self, set: &Set, place: usize) -> Result<SamplingParams, Box<dyn Error>> {
        let position = self.params.position().wrapping_add(place as u64);
        let seed = Some(self.params.seed());
        params::parse(ParamsSpec { position, seed, ..set.params })
    }

    /// What the row at a place decides about: nothing, where drafts are compared with what it says.
    fn draft(
        &self,
        case: &Case,
        vectors: &Vectors,
        subject: &mut Subject,
        place: usize,
        token: u32,
    ) -> Result<Option<Draft>, Box<dyn Error>> {
        let name = case.get("mode")?.as_str().unwrap_or_default().to_lowercase();
        let Some(mode) = Mode::ALL.into_iter().find(|mode| mode.name() == name) else {
            let mode = shown(case.get("mode")?);
            return Err(format!("mode is {mode}; wanted: MATCH, REJECTION or TYPICAL").into());
        };
        let rule = match mode {
            Mode::Match => return Ok(None),
            Mode::Typical => Rule::Typical(typical(case.object("params")?)?),
            Mode::Rejection => {
                let proposals = case.fields.get("draft_distributions").filter(|all| !all.is_null());
                let given = proposals.map_or(&Json::Null, |proposals| &proposals[place]);
                Rule::Rejection(self.proposal(vectors, subject, place, given)?)
            }
        };
        let draft = Draft { token, rule };
        match draft.fits(tokens_of(&self.rows[place])) {
            true => Ok(Some(draft)),
            false => Err(format!("draft {place} is of another vocabulary than its row").into()),
        }
    }

    fn proposal(
        &self,
        vectors: &Vectors,
        subject: &mut Subject,
        place: usize,
        given: &Json,
    ) -> Result<Proposal, Box<dyn Error>> {
        let Some(object) = given.as_object() else { return Ok(Proposal::Point) };
        if let Some(bits) = object.get("probs_bits") {
            let bits = bits.as_array().map(Vec::as_slice).unwrap_or_default().iter();
            let p: Option<Vec<f32>> = bits.map(|bits| bits32(bits).map(f32::from_bits)).collect();
            let p = p.filter(|p| p.iter().all(|p| (0.0..=1.0).contains(p)));
            return Ok(Proposal::Dense(p.ok_or("has probs_bits that are no probabilities")?));
        }
        if let Some(named) = object.get("row") {
            let row = subject.row(vectors, named)?;
            let own = object.get("params").and_then(Json::as_object).cloned().unwrap_or_default();
            let vocab_size = tokens_of(&row);
            let set = sample::set(&own, vocab_size)?;
            let params = self.params_at(&set, place)?;
            let adjustments = params::adjustments(&set, &params, vocab_size)?;
            return Ok(Proposal::Row(Arc::new(Drafter { row, params, adjustments })));
        }
        let [tokens, weights] = ["tokens", "weights"].map(|key| object.get(key).cloned());
        let tokens: Vec<u32> = serde_json::from_value(tokens.unwrap_or_default())?;
        let weights: Vec<u64> = serde_json::from_value(weights.unwrap_or_default())?;
        let mut weights: Vec<_> = tokens.into_iter().zip(weights).collect();
        weights.sort_unstable();
        let sum = weights.iter().map(|(_, weight)| u128::from(*weight)).sum::<u128>();
        if sum == 0 || sum >= u128::from(WEIGHTS_END) {
            return Err(format!("has weights that add up to {sum}; allowed: 1 to 2^60 - 1").into());
        }
        Ok(Proposal::Sparse(weights))
    }

    /// Samples every row behind the drafts of its history.
    fn sample(
        &self,
        subject: &mut Subject,
        histories: Vec<(Arc<[u32]>, usize)>,
        drafts: &[Option<Draft>],
    ) -> Result<Results, Box<dyn Error>> {
        let mut params = vec![];
        let mut adjustments = vec![];
        for ((tokens, count), row) in histories.iter().zip(&self.rows) {
            params.push(self.params_at(&self.set, *count)?);
            let sequence = params::adjustments(&self.set, &self.params, tokens_of(row))?;
            adjustments.push(of_row(sequence.as_ref(), &self.params, tokens, *count, None));
        }
        let row = |i: usize| {
            let row = Row::new(self.rows[i].dtype, &self.rows[i].logits, params[i])?;
            Ok(row.with_adjustments(adjustments[i].as_ref()).with_draft(drafts[i].as_ref()))
        };
        let rows = (0..self.rows.len()).map(row).collect::<Result<Vec<_>, RowError>>()?;
        subject.results(&rows)
    }
}

/// The row that a draft was drawn from.
#[derive(Debug)]
struct Drafter {
    row: StoredRow,
    params: SamplingParams,
    adjustments: Option<Adjustments>,
}

impl Source for Drafter {
    fn row(&self) -> Row<'_> {
        let row = Row::new(self.row.dtype, &self.row.logits, self.params).expect("a row's logits");
        row.with_adjustments(self.adjustments.as_ref())
    }
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

fn tokens_of(row: &StoredRow) -> u32 {
    (row.logits.len() / row.dtype.size_bytes()) as u32
}

fn list<T: DeserializeOwned>(case: &Case, key: &str) -> Result<Vec<T>, Box<dyn Error>> {
    let value = case.get(key)?;
    let read = serde_json::from_value(value.clone());
    Ok(read.map_err(|error| format!("{key} is {}: {error}", shown(value)))?)
}

/// Compares what the sequence takes, one of it under a name of the kind's own.
fn compare(
    case: &Case,
    verified: &Verified,
    results: &Results,
    name: &str,
    own: Json,
) -> Result<Check, Box<dyn Error>> {
    let mut check = Check::default();
    let draws: Vec<_> = verified.rows.iter().map(|&row| results.row(row).draws[0]).collect();
    let tokens: Vec<u32> = draws.iter().map(|draw| draw.token).collect();
    let logprobs: Vec<f32> = draws.iter().map(|draw| draw.logprob).collect();
    let expect = case.object("expect")?;
    for (field, got) in
        [("status", json!(verified.status.name())), (name, own), ("tokens", json!(tokens))]
    {
        let expected = expect.get(field).ok_or_else(|| format!("expects no {field}"))?;
        check.exact(field, expected, got);
    }
    if let Some(expected) = expect.get("logprob_bits") {
        check.all_within_a_unit("logprob_bits", expected, &logprobs);
    }
    Ok(check)
}
