//! What is asked of rows beside their tokens, and what is told of them: messages of the API, and JSON with the same
//! keys.
//!
//! The API has it with the parameters of a row. Here it stands beside them, since it has lists in it and changes no
//! token.

use super::json::short;
use bytes::Bytes;
use logitd_core::batch::RowStatus;
use logitd_core::candidates::TokenList;
use logitd_core::inspection::{
    Distribution, Entropy, Inspect, Inspection, KeptIds, LOGPROB_IDS_MAX, Logprobs,
    TOP_LOGPROBS_MAX, TokenLogprob,
};
use logitd_proto as api;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// The parameters that ask for it, by the names of the API.
pub const KEYS: [&str; 2] = ["logprobs", "return_kept"];

/// What is asked of a row beside its tokens, as somebody wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InspectSpec {
    /// The distributions.
    pub of: Vec<Distribution>,
    /// How many first tokens of each.
    pub top: u32,
    /// Tokens by their ids.
    pub ids: Vec<u32>,
    /// Whether the kept tokens are wanted.
    pub return_kept: bool,
}

/// How much a row may ask for, and how it is answered.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// First tokens of a distribution.
    pub top_logprobs_max: u32,
    /// Kept tokens that are a list; more are a bitmask.
    pub kept_ids_max: u32,
}

impl Limits {
    /// Those of a process that samples for itself, which has kept tokens as a list, however many they are.
    pub const NONE: Self = Self { top_logprobs_max: TOP_LOGPROBS_MAX, kept_ids_max: u32::MAX };
}

/// What is wrong with what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct InspectError {
    /// The field's path.
    pub field: String,
    /// The value, what is allowed, and what to do.
    pub description: String,
}

impl InspectSpec {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is asked of a row of so many tokens, or all that is wrong with it; `None` where it is nothing.
    pub fn parse(
        &self,
        vocab_size: u32,
        limits: Limits,
    ) -> Result<Option<Inspect>, Vec<InspectError>> {
        let wrong = self.wrong(vocab_size, limits);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let inspect = Inspect {
            of: Distribution::ALL.map(|of| self.of.contains(&of)),
            top: self.top,
            ids: self.ids.as_slice().into(),
            kept_ids_max: self.return_kept.then_some(limits.kept_ids_max),
            continuations: None,
        };
        Ok((!inspect.is_empty()).then_some(inspect))
    }

    fn wrong(&self, vocab_size: u32, limits: Limits) -> Vec<InspectError> {
        let mut wrong = Vec::new();
        let mut add = |field: &str, description| {
            wrong.push(InspectError { field: format!("logprobs.{field}"), description });
        };
        let (top, most, ids) = (self.top, limits.top_logprobs_max, self.ids.len());
        if self.of.is_empty() && (top > 0 || ids > 0) {
            let text = "of is empty; allowed: raw, adjusted and sampled, at least one of them";
            add("of", text.into());
        }
        if let Some(twice) = twice(&self.of) {
            add("of", format!("of names {twice} twice; allowed: each distribution once"));
        }
        if top > most {
            let text = "allowed: 0 to";
            add("top", format!("top is {top}; {text} {most} (top_logprobs_max); ask for fewer"));
        }
        if ids > LOGPROB_IDS_MAX {
            let text = "send the row again for others";
            add("ids", format!("ids has {ids} tokens; allowed: up to {LOGPROB_IDS_MAX}; {text}"));
        }
        if let Some(i) = self.ids.iter().position(|&id| id >= vocab_size) {
            let id = self.ids[i];
            let text = format!("allowed: below {vocab_size} (vocab_size)");
            add(&format!("ids[{i}]"), format!("ids[{i}] is token {id}; {text}"));
        }
        wrong
    }
}

fn twice(of: &[Distribution]) -> Option<Distribution> {
    of.iter().enumerate().find_map(|(i, one)| of[..i].contains(one).then_some(*one))
}

/// What a message asks for.
pub fn spec(params: &api::SamplingParams) -> Result<InspectSpec, InspectError> {
    let return_kept = params.return_kept;
    let Some(logprobs) = &params.logprobs else {
        return Ok(InspectSpec { return_kept, ..Default::default() });
    };
    let of = logprobs.of.iter().enumerate().map(|(i, &number)| {
        distribution(number).ok_or_else(|| InspectError {
            field: format!("logprobs.of[{i}]"),
            description: format!(
                "of[{i}] is {number}; allowed: LOGPROBS_OF_RAW (1), LOGPROBS_OF_ADJUSTED (2), LOGPROBS_OF_SAMPLED (3)"
            ),
        })
    });
    let of = of.collect::<Result<_, _>>()?;
    Ok(InspectSpec { of, top: logprobs.top, ids: logprobs.ids.clone(), return_kept })
}

/// Puts what is asked for into a message.
pub fn ask(spec: &InspectSpec, params: &mut api::SamplingParams) {
    let InspectSpec { of, top, ids, return_kept } = spec;
    let is_asked = !of.is_empty() || *top > 0 || !ids.is_empty();
    params.return_kept = *return_kept;
    params.logprobs = is_asked.then(|| api::Logprobs {
        of: of.iter().map(|&of| number(of)).collect(),
        top: *top,
        ids: ids.clone(),
    });
}

fn distribution(number: i32) -> Option<Distribution> {
    match api::LogprobsOf::try_from(number) {
        Ok(api::LogprobsOf::Raw) => Some(Distribution::Raw),
        Ok(api::LogprobsOf::Adjusted) => Some(Distribution::Adjusted),
        Ok(api::LogprobsOf::Sampled) => Some(Distribution::Sampled),
        Ok(api::LogprobsOf::Unspecified) | Err(_) => None,
    }
}

fn number(of: Distribution) -> i32 {
    match of {
        Distribution::Raw => api::LogprobsOf::Raw.into(),
        Distribution::Adjusted => api::LogprobsOf::Adjusted.into(),
        Distribution::Sampled => api::LogprobsOf::Sampled.into(),
    }
}

/// What is asked of a row of a request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// By the indices of its logits.
    pub inspect: Arc<Inspect>,
    /// The tokens whose logprobs are wanted, by their ids.
    pub ids: Arc<[u32]>,
}

/// The rows of a request, as far as what is asked of them goes.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// How many there are.
    pub count: usize,
    /// Tokens of each.
    pub vocab_size: u32,
    /// What a message says of their parameters: nothing, one for all, or one a row.
    pub params: &'a [api::SamplingParams],
    /// What stands for the vocabulary, where they are rows of candidates.
    pub candidates: &'a [TokenList],
}

/// What is asked of each row, or everything that is wrong with it, by its path in the request. Empty where nothing is
/// asked of any.
pub fn of_rows(rows: Rows<'_>, limits: Limits) -> Result<Vec<Option<Asked>>, Vec<InspectError>> {
    let mut wrong = Vec::new();
    let mut sets = Vec::with_capacity(rows.params.len());
    for (i, params) in rows.params.iter().enumerate() {
        let parsed = spec(params).map_err(|error| vec![error]);
        match parsed.and_then(|spec| spec.parse(rows.vocab_size, limits)) {
            Ok(inspect) => sets.push(inspect.map(|inspect| {
                let ids = Arc::clone(&inspect.ids);
                Asked { inspect: Arc::new(inspect), ids }
            })),
            Err(errors) => wrong.extend(errors.into_iter().map(|error| within(i, error))),
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    if sets.iter().all(Option::is_none) {
        return Ok(vec![]);
    }
    let mut of_rows = Vec::with_capacity(rows.count);
    for row in 0..rows.count {
        let set = row.min(sets.len() - 1);
        let asked = match (&sets[set], rows.candidates.get(row)) {
            (Some(asked), Some(tokens)) => of_candidates(asked, tokens, rows.vocab_size).map(Some),
            (asked, _) => Ok(asked.clone()),
        };
        match asked.map_err(|error| within(set, error)) {
            Ok(asked) => of_rows.push(asked),
            Err(error) if wrong.last() == Some(&error) => {}
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() { Ok(of_rows) } else { Err(wrong) }
}

fn within(set: usize, error: InspectError) -> InspectError {
    InspectError { field: format!("params[{set}].{}", error.field), ..error }
}

/// The same of a row of candidates, by their indices. What is sampled is among them; the other distributions are over
/// tokens that nobody has told of.
fn of_candidates(
    asked: &Asked,
    tokens: &TokenList,
    vocab_size: u32,
) -> Result<Asked, InspectError> {
    if tokens.len() == vocab_size as usize {
        return Ok(asked.clone());
    }
    let of_all = asked.inspect.distributions().find(|&of| of != Distribution::Sampled);
    if let Some(of) = of_all {
        return Err(InspectError {
            field: "logprobs.of".into(),
            description: format!(
                "of names {of}, and the row has {} candidates of {vocab_size} tokens: it is a distribution over all; \
                 allowed: sampled, or all tokens as candidates",
                tokens.len()
            ),
        });
    }
    // A token that is no candidate has an index that no logit has.
    let index = |&id: &u32| tokens.index(id).unwrap_or(u32::MAX);
    let inspect =
        Inspect { ids: asked.ids.iter().map(index).collect(), ..(*asked.inspect).clone() };
    Ok(Asked { inspect: Arc::new(inspect), ids: Arc::clone(&asked.ids) })
}

/// Bytes of lists that are asked with, those of several rows counted once.
pub fn distinct_bytes(asked: &[Option<Asked>]) -> usize {
    let mut last: Option<&Arc<[u32]>> = None;
    let bytes = asked.iter().flatten().map(|asked| {
        let is_last = last.replace(&asked.ids).is_some_and(|ids| Arc::ptr_eq(ids, &asked.ids));
        if is_last { 0 } else { size_of_val(&*asked.ids) }
    });
    bytes.sum()
}

/// What the indices of a row of candidates stand for.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The candidates.
    pub tokens: &'a TokenList,
    /// Tokens of the whole row.
    pub vocab_size: u32,
    /// The ids of [`Asked`], if anything was asked for.
    pub ids: &'a [u32],
}

/// What a message says of a distribution, but for its status.
pub fn logprobs_message(found: &Logprobs, names: Option<&Names<'_>>) -> api::LogprobsResult {
    let token = |one: &TokenLogprob| names.map_or(one.token, |names| names.tokens.token(one.token));
    let columns = |list: &[TokenLogprob]| columns(list, list.iter().map(token).collect());
    let ids = match names {
        Some(names) => names.ids.to_vec(),
        None => found.ids.iter().map(|one| one.token).collect(),
    };
    api::LogprobsResult {
        of: number(found.of),
        status: api::RowStatus::Unspecified.into(),
        entropy: found.entropy.0,
        drawn: columns(&found.drawn),
        top: columns(&found.top),
        ids: self::columns(&found.ids, ids),
    }
}

fn columns(list: &[TokenLogprob], tokens: Vec<u32>) -> Option<api::TokenLogprobs> {
    (!list.is_empty()).then(|| api::TokenLogprobs {
        tokens,
        ranks: list.iter().map(|one| one.rank).collect(),
        logprobs: list.iter().map(|one| one.logprob).collect(),
    })
}

/// The list and the bitmask of kept tokens, one of them empty.
pub fn kept_message(kept: Option<&KeptIds>, names: Option<&Names<'_>>) -> (Vec<u32>, Bytes) {
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    match (kept, names) {
        (None, _) => Default::default(),
        (Some(KeptIds::Ids(ids)), None) => (ids.clone(), Bytes::new()),
        (Some(KeptIds::Ids(ids)), Some(names)) => {
            (ids.iter().map(|&index| names.tokens.token(index)).collect(), Bytes::new())
        }
        (Some(KeptIds::Bitmask(words)), None) => (vec![], bytes(words)),
        (Some(KeptIds::Bitmask(words)), Some(names)) => {
            let mut all = vec![0; names.vocab_size.div_ceil(32) as usize];
            for token in ids_of(words).map(|index| names.tokens.token(index)) {
                all[token as usize / 32] |= 1 << (token % 32);
            }
            (vec![], bytes(&all))
        }
    }
}

/// The tokens of a bitmask, ascending.
fn ids_of(words: &[u32]) -> impl Iterator<Item = u32> {
    let bits = |(i, &word): (usize, &u32)| {
        (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i as u32 * 32 + bit)
    };
    words.iter().enumerate().flat_map(bits)
}

/// The kept tokens, ascending.
pub fn kept_tokens(kept: &KeptIds) -> Vec<u32> {
    match kept {
        KeptIds::Ids(ids) => ids.clone(),
        KeptIds::Bitmask(words) => ids_of(words).collect(),
    }
}

/// An answer that says of a distribution what this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownInspection {
    /// It is none that is known.
    #[error("the answer has logprobs of the distribution {0}; is the server newer?")]
    Distribution(i32),
    /// Its tokens have different numbers of ranks or logprobs.
    #[error("the answer has {tokens} tokens with {ranks} ranks and {logprobs} logprobs")]
    Columns {
        /// How many of each.
        tokens: usize,
        /// Ranks.
        ranks: usize,
        /// Logprobs.
        logprobs: usize,
    },
}

/// What an answer says of a distribution with this status.
pub fn logprobs(
    message: &api::LogprobsResult,
    status: RowStatus,
) -> Result<Logprobs, UnknownInspection> {
    let of = distribution(message.of).ok_or(UnknownInspection::Distribution(message.of))?;
    Ok(Logprobs {
        of,
        status,
        entropy: Entropy(message.entropy),
        drawn: tokens(message.drawn.as_ref())?,
        top: tokens(message.top.as_ref())?,
        ids: tokens(message.ids.as_ref())?,
    })
}

fn tokens(columns: Option<&api::TokenLogprobs>) -> Result<Vec<TokenLogprob>, UnknownInspection> {
    let Some(api::TokenLogprobs { tokens, ranks, logprobs }) = columns else { return Ok(vec![]) };
    if tokens.len() != ranks.len() || tokens.len() != logprobs.len() {
        let (tokens, ranks, logprobs) = (tokens.len(), ranks.len(), logprobs.len());
        return Err(UnknownInspection::Columns { tokens, ranks, logprobs });
    }
    let one = |((&token, &rank), &logprob)| TokenLogprob { token, rank, logprob };
    Ok(tokens.iter().zip(ranks).zip(logprobs).map(one).collect())
}

/// The kept tokens that an answer has.
pub fn kept(row: &api::RowResult) -> Option<KeptIds> {
    let (words, _) = row.kept_bitmask.as_chunks();
    match (&row.kept_ids[..], words) {
        ([], []) => None,
        (ids, []) => Some(KeptIds::Ids(ids.to_vec())),
        (_, words) => {
            Some(KeptIds::Bitmask(words.iter().map(|word| u32::from_le_bytes(*word)).collect()))
        }
    }
}

/// What is asked for, as keys of the API and JSON.
pub fn to_json(inspect: &Inspect) -> Map<String, Json> {
    let mut keys = Map::new();
    let of: Vec<&str> = inspect.distributions().map(Distribution::name).collect();
    if !of.is_empty() {
        let logprobs = json!({"of": of, "top": inspect.top, "ids": *inspect.ids});
        keys.insert("logprobs".into(), logprobs);
    }
    if inspect.kept_ids_max.is_some() {
        keys.insert("return_kept".into(), true.into());
    }
    keys
}

/// What was found of a row, as keys of a line of JSON: of the drawn tokens that of one draw. What does not depend on the
/// draw stands with the first. Kept tokens are a list, whatever the answer had.
#[derive(Serialize)]
pub struct Found<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<FoundLogprobs<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct FoundLogprobs<'a> {
    of: &'static str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    drawn: Option<FoundToken>,
    #[serde(flatten)]
    of_row: Option<FoundOfRow<'a>>,
}

#[derive(Serialize)]
struct FoundOfRow<'a> {
    entropy: f32,
    #[serde(serialize_with = "each", skip_serializing_if = "<[_]>::is_empty")]
    top: &'a [TokenLogprob],
    #[serde(serialize_with = "each", skip_serializing_if = "<[_]>::is_empty")]
    ids: &'a [TokenLogprob],
}

#[derive(Serialize)]
struct FoundToken {
    token: u32,
    rank: u32,
    #[serde(serialize_with = "number_or_inf")]
    logprob: f32,
}

impl<'a> Found<'a> {
    /// Of this draw.
    pub fn new(found: &'a Inspection, draw: usize) -> Self {
        let is_first = draw == 0;
        let of_distribution = |found: &'a Logprobs| FoundLogprobs {
            of: found.of.name(),
            status: found.status.name(),
            drawn: found.drawn.get(draw).map(found_token),
            of_row: (is_first && found.status == RowStatus::Ok).then(|| FoundOfRow {
                entropy: found.entropy.0,
                top: &found.top,
                ids: &found.ids,
            }),
        };
        Self {
            logprobs: found.logprobs.iter().map(of_distribution).collect(),
            kept_ids: found.kept.as_ref().filter(|_| is_first).map(kept_tokens),
        }
    }
}

fn found_token(one: &TokenLogprob) -> FoundToken {
    FoundToken { token: one.token, rank: one.rank, logprob: one.logprob }
}

fn each<S: Serializer>(tokens: &[TokenLogprob], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(tokens.iter().map(found_token))
}

/// JSON has no number for -inf.
fn number_or_inf<S: Serializer>(x: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    match x.is_finite() {
        true => serializer.serialize_f32(*x),
        false => serializer.serialize_str("-inf"),
    }
}

/// Sets what stands behind one of [`KEYS`], written as JSON.
pub fn set(spec: &mut InspectSpec, key: &str, text: &str) -> Result<(), String> {
    let wrong = |allowed: &str| format!("{key} is {}; allowed: {allowed}", short(text));
    if key == "return_kept" {
        spec.return_kept = serde_json::from_str(text).map_err(|_| wrong("true, false"))?;
        return Ok(());
    }
    let written: Written = serde_json::from_str(text)
        .map_err(|_| wrong(r#"such as {"of": ["raw", "sampled"], "top": 20, "ids": [7]}"#))?;
    let of = match &written.of {
        OneOrMany::One(name) => std::slice::from_ref(name),
        OneOrMany::Many(names) => names,
    };
    spec.of = of.iter().map(|name| named(name)).collect::<Result<_, _>>()?;
    (spec.top, spec.ids) = (written.top, written.ids);
    Ok(())
}

/// The distribution of a name, as files, flags and the JSON of Protocol Buffers have it.
pub fn named(name: &str) -> Result<Distribution, String> {
    let plain = name.strip_prefix("LOGPROBS_OF_").unwrap_or(name).to_ascii_lowercase();
    Distribution::named(&plain)
        .ok_or_else(|| format!("logprobs.of is {}; allowed: raw, adjusted, sampled", short(name)))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    of: OneOrMany,
    #[serde(default)]
    top: u32,
    #[serde(default)]
    ids: Vec<u32>,
}

/// One name, or several.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(vec![])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> InspectSpec {
        InspectSpec {
            of: vec![Distribution::Sampled, Distribution::Raw],
            top: 20,
            ids: vec![7, 3, 7],
            return_kept: true,
        }
    }

    fn message(spec: &InspectSpec) -> api::SamplingParams {
        let mut params = api::SamplingParams::default();
        ask(spec, &mut params);
        params
    }

    #[test]
    fn a_message_and_back() {
        let only_kept = InspectSpec { return_kept: true, ..Default::default() };
        for asked in [full(), InspectSpec::default(), only_kept] {
            assert_eq!(spec(&message(&asked)), Ok(asked));
        }
        assert_eq!(message(&InspectSpec::default()), api::SamplingParams::default());
        let mut unknown = message(&full());
        for number in [0, 4] {
            unknown.logprobs.as_mut().unwrap().of[1] = number;
            let error = spec(&unknown).unwrap_err();
            assert_eq!(error.field, "logprobs.of[1]");
            assert!(error.description.starts_with(&format!("of[1] is {number}; allowed: LOGPR")));
        }
    }

    #[test]
    fn what_is_wrong_is_named_all_at_once() {
        let limits = Limits { top_logprobs_max: 10, kept_ids_max: 5 };
        let parse = |spec: InspectSpec| spec.parse(8, limits);
        let inspect = parse(InspectSpec { top: 10, ..full() }).unwrap().unwrap();
        assert_eq!((inspect.of, inspect.top), ([true, false, true], 10));
        assert_eq!((&*inspect.ids, inspect.kept_ids_max), (&[7, 3, 7][..], Some(5)));
        assert_eq!(parse(InspectSpec::default()), Ok(None));
        let twice = vec![Distribution::Raw, Distribution::Sampled, Distribution::Raw];
        let ids = [&[1, 8][..], &[0; LOGPROB_IDS_MAX]].concat();
        let errors = parse(InspectSpec { of: twice, top: 11, ids, return_kept: false });
        let told: Vec<String> = errors.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "logprobs.of: of names raw twice; allowed: each distribution once",
                "logprobs.top: top is 11; allowed: 0 to 10 (top_logprobs_max); ask for fewer",
                "logprobs.ids: ids has 1026 tokens; allowed: up to 1024; send the row again for others",
                "logprobs.ids[1]: ids[1] is token 8; allowed: below 8 (vocab_size)",
            ]
        );
        for spec in
            [InspectSpec { top: 1, ..Default::default() }, InspectSpec { of: vec![], ..full() }]
        {
            let errors = spec.parse(8, Limits::NONE).unwrap_err();
            assert_eq!(errors[0].field, "logprobs.of", "{errors:?}");
        }
    }

    #[test]
    fn json_has_what_is_asked_for_and_reads_back() {
        let parsed = full().parse(9, Limits::NONE).unwrap().unwrap();
        let mut again = InspectSpec::default();
        for (key, value) in to_json(&parsed) {
            set(&mut again, &key, &value.to_string()).unwrap();
        }
        let of = vec![Distribution::Raw, Distribution::Sampled];
        assert_eq!(again, InspectSpec { of, ..full() });
        for of in [r#""adjusted""#, r#"["LOGPROBS_OF_ADJUSTED"]"#, r#""ADJUSTED""#] {
            set(&mut again, "logprobs", &format!(r#"{{"of": {of}}}"#)).unwrap();
            assert_eq!((&again.of[..], again.top), (&[Distribution::Adjusted][..], 0), "{of}");
        }
        for (key, text, part) in [
            ("return_kept", "1", "return_kept is 1; allowed: true, false"),
            ("logprobs", "true", "logprobs is true; allowed: such as {"),
            ("logprobs", r#"{"off": []}"#, "allowed: such as {"),
            ("logprobs", r#"{"of": "raw", "top": -1}"#, "allowed: such as {"),
            ("logprobs", r#"{"of": "all"}"#, "logprobs.of is all; allowed: raw, adjusted, sampled"),
        ] {
            let said = set(&mut again, key, text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    fn token(token: u32, rank: u32, logprob: f32) -> TokenLogprob {
        TokenLogprob { token, rank, logprob }
    }

    fn found() -> Logprobs {
        Logprobs {
            of: Distribution::Sampled,
            status: RowStatus::Ok,
            entropy: Entropy(1.5),
            drawn: vec![token(1, 2, -1.1), token(0, 1, -0.5)],
            top: vec![token(0, 1, -0.5)],
            ids: vec![token(u32::MAX, 0, f32::NEG_INFINITY), token(1, 2, -1.1)],
        }
    }

    #[test]
    fn what_is_found_goes_by_the_ids_of_tokens() {
        let plain = logprobs_message(&found(), None);
        assert_eq!(logprobs(&plain, RowStatus::Ok), Ok(found()));
        let (counts, tokens) = (2u32.to_le_bytes(), [5u32, 70].map(u32::to_le_bytes).concat());
        let (tokens, logits) = (Bytes::from(tokens), Bytes::from_static(&[0; 4]));
        let rows = logitd_core::candidates::rows(
            logitd_core::batch::Dtype::F16,
            99,
            &counts,
            &tokens,
            &logits,
        );
        let list = &rows.unwrap()[0].tokens;
        let names = Names { tokens: list, vocab_size: 99, ids: &[98, 70] };
        let named = logprobs(&logprobs_message(&found(), Some(&names)), RowStatus::Ok).unwrap();
        let tokens = |list: &[TokenLogprob]| list.iter().map(|one| one.token).collect::<Vec<_>>();
        assert_eq!(
            (tokens(&named.drawn), tokens(&named.top), tokens(&named.ids)),
            (vec![70, 5], vec![5], vec![98, 70])
        );
        assert_eq!(named.ids[0], token(98, 0, f32::NEG_INFINITY));

        let (list, mask) = (KeptIds::Ids(vec![0, 1]), KeptIds::Bitmask(vec![0b11]));
        for (kept, names, expected) in [
            (&list, None, [0, 1]),
            (&mask, None, [0, 1]),
            (&list, Some(&names), [5, 70]),
            (&mask, Some(&names), [5, 70]),
        ] {
            let (kept_ids, kept_bitmask) = kept_message(Some(kept), names);
            let is_mask = matches!(kept, KeptIds::Bitmask(_));
            let length = names.map_or(1, |names| names.vocab_size.div_ceil(32) as usize) * 4;
            assert_eq!(kept_bitmask.len(), if is_mask { length } else { 0 });
            let row = api::RowResult { kept_ids, kept_bitmask, ..Default::default() };
            assert_eq!(kept_tokens(&self::kept(&row).unwrap()), expected);
        }
        assert_eq!(kept_message(None, None), (vec![], Bytes::new()));
        assert_eq!(kept(&api::RowResult::default()), None);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_told() {
        let mut message = logprobs_message(&found(), None);
        message.top.as_mut().unwrap().ranks.push(3);
        let (tokens, ranks, logprobs) = (1, 2, 1);
        let expected = UnknownInspection::Columns { tokens, ranks, logprobs };
        assert_eq!(self::logprobs(&message, RowStatus::Ok), Err(expected));
        message.of = 9;
        let error = self::logprobs(&message, RowStatus::Ok).unwrap_err();
        assert_eq!(error, UnknownInspection::Distribution(9));
    }

    #[test]
    fn json_of_an_answer_has_what_is_of_the_row_once() {
        let kept = Some(KeptIds::Bitmask(vec![0b101]));
        let found = Inspection { logprobs: vec![found()], kept, ..Default::default() };
        let json = |found, draw| serde_json::to_string(&Found::new(found, draw)).unwrap();
        assert_eq!(
            json(&found, 0),
            r#"{"logprobs":[{"of":"sampled","status":"OK","drawn":{"token":1,"rank":2,"logprob":-1.1},"entropy":1.5,"top":[{"token":0,"rank":1,"logprob":-0.5}],"ids":[{"token":4294967295,"rank":0,"logprob":"-inf"},{"token":1,"rank":2,"logprob":-1.1}]}],"kept_ids":[0,2]}"#
        );
        assert_eq!(
            json(&found, 1),
            r#"{"logprobs":[{"of":"sampled","status":"OK","drawn":{"token":0,"rank":1,"logprob":-0.5}}]}"#
        );
        assert_eq!(json(&Inspection::default(), 0), "{}");
    }
}
