//! Adjustments of rows: messages of the API, JSON with the same keys, and the rows that they are of.
//!
//! The API has DRY's breakers beside its coefficients, since they are settings; here they are lists like all others.

use logitd_core::adjustments::{Adjustments, AdjustmentsError, AdjustmentsSpec, Breakers, Limits};
use logitd_core::candidates::TokenList;
use logitd_core::params::{COEFFICIENTS, SamplingParams};
use logitd_proto as api;
use serde_json::{Value as Json, json};

/// What stands beside the parameters of a row, by the names of the API.
const LISTS: [&str; 10] = [
    "allowed_bitmask",
    "allowed_ids",
    "banned_ids",
    "bad_words",
    "stop_ids",
    "logit_bias",
    "prompt",
    "output",
    "output_length",
    "counts",
];

/// What a server can do to logits, by the names of the API, in which DRY's coefficients are one message.
pub fn controls() -> impl Iterator<Item = &'static str> {
    let apart = COEFFICIENTS.into_iter().filter(|name| !name.starts_with("dry_"));
    LISTS.into_iter().chain(apart).chain(["dry"])
}

/// What a message asks for.
pub fn spec(message: api::Adjustments) -> Result<AdjustmentsSpec, AdjustmentsError> {
    if message.history.is_some() {
        return wrong(
            "history",
            "lies in memory that is not read here; give prompt and output".into(),
        );
    }
    let (mask, bytes) = message.allowed_bitmask.as_chunks();
    if !bytes.is_empty() {
        let bytes = message.allowed_bitmask.len();
        return wrong("allowed_bitmask", format!("has {bytes} bytes; allowed: whole words of 4"));
    }
    let (counts, odd) = message.counts.as_chunks();
    if !odd.is_empty() {
        let numbers = message.counts.len();
        return wrong(
            "counts",
            format!("has {numbers} numbers; allowed: pairs, a token and its count"),
        );
    }
    Ok(AdjustmentsSpec {
        allowed_bitmask: mask.iter().map(|word| u32::from_le_bytes(*word)).collect(),
        counts: counts.iter().map(|&[token, count]| (token, count)).collect(),
        allowed_ids: message.allowed_ids,
        banned_ids: message.banned_ids,
        bad_words: message.bad_words.into_iter().map(|word| word.tokens).collect(),
        stop_ids: message.stop_ids,
        logit_bias: message.logit_bias.iter().map(|one| (one.token, one.bias)).collect(),
        prompt: message.prompt,
        output: message.output,
        output_length: message.output_length,
        breakers: vec![],
    })
}

/// The first field of a message beside what allows and bans tokens by their ids.
pub fn beyond_bans(message: &api::Adjustments) -> Option<&'static str> {
    let others = [
        ("bad_words", !message.bad_words.is_empty()),
        ("stop_ids", !message.stop_ids.is_empty()),
        ("logit_bias", !message.logit_bias.is_empty()),
        ("prompt", !message.prompt.is_empty()),
        ("output", !message.output.is_empty()),
        ("output_length", message.output_length.is_some()),
        ("counts", !message.counts.is_empty()),
        ("history", message.history.is_some()),
    ];
    others.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
}

/// The message that asks for it; the breakers are with the parameters.
pub fn message(spec: &AdjustmentsSpec) -> api::Adjustments {
    let mask = spec.allowed_bitmask.iter().flat_map(|word| word.to_le_bytes());
    let bias = |&(token, bias): &(u32, f32)| api::TokenBias { token, bias };
    api::Adjustments {
        allowed_bitmask: mask.collect(),
        allowed_ids: spec.allowed_ids.clone(),
        banned_ids: spec.banned_ids.clone(),
        bad_words: sequences(&spec.bad_words),
        stop_ids: spec.stop_ids.clone(),
        logit_bias: spec.logit_bias.iter().map(bias).collect(),
        prompt: spec.prompt.clone(),
        output: spec.output.clone(),
        output_length: spec.output_length,
        counts: spec.counts.iter().flat_map(|&(token, count)| [token, count]).collect(),
        history: None,
    }
}

/// Sequences as messages.
pub fn sequences(sequences: &[Vec<u32>]) -> Vec<api::TokenSequence> {
    sequences.iter().map(|tokens| api::TokenSequence { tokens: tokens.clone() }).collect()
}

/// The rows of a request, as far as adjustments of them go.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// How many there are.
    pub count: usize,
    /// Tokens of each.
    pub vocab_size: u32,
    /// What a message says of their parameters: nothing, one for all, or one a row.
    pub params: &'a [api::SamplingParams],
    /// These, parsed: one for all, or one a row.
    pub parsed: &'a [SamplingParams],
    /// What stands for the vocabulary, where they are rows of candidates.
    pub candidates: &'a [TokenList],
}

/// The adjustments of each row, or everything that is wrong with them, by its path in the request. Empty where no row
/// has any.
pub fn of_rows(
    given: Vec<api::Adjustments>,
    rows: Rows<'_>,
    limits: Limits,
) -> Result<Vec<Adjustments>, Vec<AdjustmentsError>> {
    if !matches!(given.len(), 0 | 1) && given.len() != rows.count {
        let (sets, rows) = (given.len(), rows.count);
        let text =
            format!("has {sets} sets for {rows} rows; allowed: none, 1 for all, or one a row");
        return wrong("adjustments", text).map_err(|error| vec![error]);
    }
    let mut errors = Vec::new();
    let breakers = all(breakers(rows.params), &mut errors, "params");
    let parsed = given.into_iter().map(|message| {
        let spec = spec(message).map_err(|error| vec![error])?;
        spec.parse(rows.vocab_size, limits)
    });
    let parsed = all(parsed, &mut errors, "adjustments");
    if !errors.is_empty() || parsed.is_empty() {
        return if errors.is_empty() { Ok(vec![]) } else { Err(errors) };
    }
    let of_row = |row: usize| {
        let (set, n) = (one_of(&parsed, row), row.min(parsed.len() - 1));
        let params = one_of(rows.parsed, row);
        let breakers = breakers.get(row.min(breakers.len().saturating_sub(1)));
        let set = set.clone().with_breakers(breakers.cloned().unwrap_or_default());
        let checked = set.check_with(params).and_then(|()| match rows.candidates.get(row) {
            Some(tokens) => of_candidates(set, params, tokens, rows.vocab_size),
            None => Ok(set),
        });
        checked.map_err(|error| within(&format!("adjustments[{n}]"), error))
    };
    let mut of_rows = Vec::with_capacity(rows.count);
    for row in 0..rows.count {
        match of_row(row) {
            Ok(set) => of_rows.push(set),
            Err(error) if errors.last() == Some(&error) => {}
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(of_rows) } else { Err(errors) }
}

/// The row's own, or the one of all rows.
fn one_of<T>(list: &[T], row: usize) -> &T {
    &list[row.min(list.len() - 1)]
}

/// What was parsed, and what could not be, by its path.
fn all<T>(
    parsed: impl Iterator<Item = Result<T, Vec<AdjustmentsError>>>,
    errors: &mut Vec<AdjustmentsError>,
    path: &str,
) -> Vec<T> {
    let mut list = Vec::new();
    for (i, parsed) in parsed.enumerate() {
        match parsed {
            Ok(one) => list.push(one),
            Err(found) => {
                let path = format!("{path}[{i}]");
                errors.extend(found.into_iter().map(|error| within(&path, error)));
            }
        }
    }
    list
}

fn within(path: &str, error: AdjustmentsError) -> AdjustmentsError {
    AdjustmentsError { field: format!("{path}.{}", error.field), ..error }
}

/// The breakers of each set. Sets one after another with the same have them in the same memory.
fn breakers(
    params: &[api::SamplingParams],
) -> impl Iterator<Item = Result<Breakers, Vec<AdjustmentsError>>> {
    let mut last: (&[api::TokenSequence], _) = (&[], Ok(Breakers::default()));
    params.iter().map(move |params| {
        let given = params.dry.as_ref().map_or(&[][..], |dry| &dry.breakers);
        if given != last.0 {
            let breakers = given.iter().map(|breaker| breaker.tokens.clone()).collect();
            last = (given, Breakers::parse(breakers).map_err(|error| vec![error]));
        }
        last.1.clone()
    })
}

/// The same for a row of candidates. Biases above 0 of candidates leave out nothing that could matter; all else could
/// let in a token that is not among them.
fn of_candidates(
    set: Adjustments,
    params: &SamplingParams,
    tokens: &TokenList,
    vocab_size: u32,
) -> Result<Adjustments, AdjustmentsError> {
    if tokens.len() == vocab_size as usize {
        return Ok(set);
    }
    let lists = set.lists();
    let in_order = params.dry().is_some() || params.no_repeat_ngram().is_some();
    let penalised = params.penalties().is_some();
    let history = !lists.prompt.is_empty() || !lists.output.is_empty();
    let refused = [
        ("allowed_bitmask", !lists.allowed_bitmask.is_empty()),
        ("allowed_ids", !lists.allowed_ids.is_empty()),
        ("banned_ids", !lists.banned_ids.is_empty()),
        ("bad_words", !lists.bad_words.is_empty()),
        ("stop_ids", !lists.stop_ids.is_empty() && params.min_tokens() > 0),
        ("counts", !lists.counts.is_empty() && penalised),
        ("prompt and output", history && (penalised || in_order)),
    ];
    if let Some((field, _)) = refused.iter().find(|(_, given)| *given) {
        return wrong(
            field,
            "could let in tokens that are not among the candidates; allowed: logit_bias above 0, or all tokens as \
             candidates"
                .into(),
        );
    }
    let mut logit_bias = Vec::new();
    for (i, &(token, bias)) in lists.logit_bias.iter().enumerate() {
        match tokens.index(token) {
            Some(index) if bias >= 0.0 => logit_bias.push((index, bias)),
            _ => {
                return wrong(
                    &format!("logit_bias[{i}]"),
                    format!(
                        "adds {bias} to token {token}; allowed beside candidates: 0 and above, to candidates of the \
                         row, or all tokens as candidates"
                    ),
                );
            }
        }
    }
    let lists = AdjustmentsSpec { logit_bias, ..Default::default() };
    lists.parse(tokens.len() as u32, Limits::default()).map_err(|mut errors| errors.swap_remove(0))
}

/// What is given, as keys of the API and JSON.
pub fn to_json(adjustments: &Adjustments) -> Vec<(&'static str, Json)> {
    let lists = adjustments.lists();
    let hex = |word: &u32| format!("{word:08x}");
    let bias = |&(token, bias): &(u32, f32)| match bias.is_finite() {
        true => json!([token, bias]),
        false => json!([token, "-inf"]),
    };
    let mask: Vec<String> = lists.allowed_bitmask.iter().map(hex).collect();
    let biases: Vec<Json> = lists.logit_bias.iter().map(bias).collect();
    let all = [
        ("allowed_bitmask", json!(mask)),
        ("allowed_ids", json!(lists.allowed_ids)),
        ("banned_ids", json!(lists.banned_ids)),
        ("bad_words", json!(lists.bad_words)),
        ("stop_ids", json!(lists.stop_ids)),
        ("logit_bias", json!(biases)),
        ("prompt", json!(lists.prompt)),
        ("output", json!(lists.output)),
        ("output_length", json!(lists.output_length)),
        ("counts", json!(lists.counts)),
        ("dry_breakers", json!(adjustments.breakers())),
    ];
    all.into_iter().filter(|(_, list)| !list.is_null() && *list != json!([])).collect()
}

/// The keys that [`set`] knows. `dry_breakers` is `breakers` within `dry`.
pub fn keys() -> impl Iterator<Item = &'static str> {
    LISTS.into_iter().chain(["dry_breakers"])
}

/// Sets what stands behind one of these keys, written as JSON.
pub fn set(spec: &mut AdjustmentsSpec, key: &str, text: &str) -> Result<(), String> {
    match key {
        "allowed_bitmask" => {
            let words: Vec<Word> =
                read(key, text, "a list of u32 words, as numbers or in hexadecimal")?;
            spec.allowed_bitmask = words.into_iter().map(|Word(word)| word).collect();
        }
        "logit_bias" => {
            let pairs: Vec<(u32, Bias)> =
                read(key, text, "pairs of a token and a number or \"-inf\"")?;
            spec.logit_bias = pairs.into_iter().map(|(token, Bias(bias))| (token, bias)).collect();
        }
        "counts" => spec.counts = read(key, text, "pairs of a token and its count")?,
        "bad_words" => spec.bad_words = read(key, text, "lists of tokens")?,
        "dry_breakers" => spec.breakers = read("dry.breakers", text, "lists of tokens")?,
        "output_length" => spec.output_length = Some(read(key, text, "a whole number")?),
        "allowed_ids" => spec.allowed_ids = read(key, text, TOKENS)?,
        "banned_ids" => spec.banned_ids = read(key, text, TOKENS)?,
        "stop_ids" => spec.stop_ids = read(key, text, TOKENS)?,
        "prompt" => spec.prompt = read(key, text, TOKENS)?,
        "output" => spec.output = read(key, text, TOKENS)?,
        _ => unreachable!("{key} is none of the keys"),
    }
    Ok(())
}

const TOKENS: &str = "a list of tokens, whole numbers from 0 on";

fn read<T: serde::de::DeserializeOwned>(key: &str, text: &str, allowed: &str) -> Result<T, String> {
    serde_json::from_str(text)
        .map_err(|_| format!("{key} is {}; allowed: {allowed}", super::json::short(text)))
}

/// A word of a mask.
#[derive(serde::Deserialize)]
#[serde(try_from = "Json")]
struct Word(u32);

impl TryFrom<Json> for Word {
    type Error = &'static str;

    fn try_from(json: Json) -> Result<Self, Self::Error> {
        let word = match &json {
            Json::String(text) => u32::from_str_radix(text, 16).ok(),
            json => json.as_u64().and_then(|word| word.try_into().ok()),
        };
        word.map(Self).ok_or("a word")
    }
}

/// What is added to a logit.
#[derive(serde::Deserialize)]
#[serde(try_from = "Json")]
struct Bias(f32);

impl TryFrom<Json> for Bias {
    type Error = &'static str;

    fn try_from(json: Json) -> Result<Self, Self::Error> {
        match &json {
            Json::String(text) if text == "-inf" => Ok(Self(f32::NEG_INFINITY)),
            // As it is written, not by way of an f64, which would round twice.
            Json::Number(number) => number.to_string().parse().map(Self).map_err(|_| "a number"),
            _ => Err("a number or \"-inf\""),
        }
    }
}

fn wrong<T>(field: &str, description: String) -> Result<T, AdjustmentsError> {
    Err(AdjustmentsError { field: field.into(), description })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> AdjustmentsSpec {
        AdjustmentsSpec {
            allowed_bitmask: vec![0x8000_0001, 7],
            allowed_ids: vec![1, 2],
            banned_ids: vec![3],
            bad_words: vec![vec![4, 5], vec![6]],
            stop_ids: vec![7, 900],
            logit_bias: vec![(8, 0.1), (9, f32::NEG_INFINITY)],
            prompt: vec![10, 99],
            output: vec![11],
            output_length: Some(0),
            counts: vec![(12, 0), (13, 3)],
            breakers: vec![vec![14, 15]],
        }
    }

    #[test]
    fn a_message_and_back() {
        let without_breakers = AdjustmentsSpec { breakers: vec![], ..full() };
        assert_eq!(spec(message(&full())), Ok(without_breakers));
        assert_eq!(spec(api::Adjustments::default()), Ok(AdjustmentsSpec::default()));
        let odd = api::Adjustments { allowed_bitmask: vec![1; 5].into(), ..Default::default() };
        assert_eq!(spec(odd).unwrap_err().field, "allowed_bitmask");
        let odd = api::Adjustments { counts: vec![1; 3], ..Default::default() };
        assert_eq!(spec(odd).unwrap_err().field, "counts");
    }

    #[test]
    fn rows_with_the_same_breakers_share_them() {
        let set = |token| {
            let breakers = vec![api::TokenSequence { tokens: vec![token] }];
            let dry = api::Dry { multiplier: 1.0, breakers, ..Default::default() };
            api::SamplingParams { dry: Some(dry), ..Default::default() }
        };
        let params = [set(1), set(1), set(2), api::SamplingParams::default()];
        let parsed = [crate::wire::params::spec(&params[0]).unwrap().parse(|| 0).unwrap()];
        let rows =
            Rows { count: 4, vocab_size: 9, params: &params, parsed: &parsed, candidates: &[] };
        let of_rows = of_rows(vec![Default::default()], rows, Limits::default()).unwrap();
        let breakers: Vec<_> = of_rows.iter().map(Adjustments::breakers).collect();
        assert_eq!(breakers, [&[vec![1]][..], &[vec![1]], &[vec![2]], &[]]);
        let shared = of_rows.windows(2).map(|two| two[0].shares_breakers_with(&two[1]));
        assert_eq!(shared.collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(of_rows[0].breaker_bytes(), 24 + 4);
    }

    #[test]
    fn json_has_what_is_given_and_reads_back() {
        let parsed = full().parse(40, Limits::default()).unwrap();
        let json = to_json(&parsed);
        assert!(json.iter().map(|(key, _)| *key).eq(keys()));
        let mut again = AdjustmentsSpec::default();
        for (key, value) in json {
            set(&mut again, key, &value.to_string()).unwrap();
        }
        assert_eq!(again, full());
        set(&mut again, "allowed_bitmask", "[1, \"ffffffff\"]").unwrap();
        assert_eq!(again.allowed_bitmask, [1, u32::MAX]);
        for (key, text) in [
            ("allowed_bitmask", "[-1]"),
            ("allowed_bitmask", "[\"x\"]"),
            ("logit_bias", "[[1]]"),
            ("logit_bias", "[[1, \"inf\"]]"),
            ("counts", "[1, 2]"),
            ("prompt", "[1.5]"),
            ("prompt", "7"),
            ("output_length", "-1"),
        ] {
            let said = set(&mut again, key, text).unwrap_err();
            assert!(said.starts_with(&format!("{key} is {text}; allowed: ")), "{said}");
        }
    }
}
