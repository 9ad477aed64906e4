//! Cases of the kind `sample`: a row, its parameters, and what it comes to.
//!
//! A parameter of the API is known here when it stands in `FIELDS` or among the keys of adjustments; any other has an
//! entry in [`OTHERS`]. What is compared has an entry in [`EXPECTED`].

use super::check::Check;
use super::logprobs;
use super::subject::Subject;
use super::unknown::{keys, strangers};
use crate::cli::answer::RowAnswer;
use crate::cli::params;
use crate::files::params::Set;
use crate::files::vectors::{Case, StoredRow, Vectors, parameter, shown};
use crate::wire::adjustments;
use crate::wire::inspection::{self, kept_tokens};
use logitd_core::arithmetic::key::key32;
use logitd_core::backend::adjusted::Adjuster;
use logitd_core::batch::{Row, State};
use logitd_core::params::{Field, ParamsSpec};
use serde_json::{Map, Value as Json, json};
use std::cmp::Reverse;
use std::error::Error;
use std::num::NonZero;

/// What a case asks for.
struct Asked {
    set: Set,
    /// Tokens of the row.
    vocab_size: u32,
}

/// Reads a parameter that has no place of its own.
type Read = fn(&Json, &mut Asked) -> Result<(), String>;

/// Parameters that have no place of their own, by their names.
static OTHERS: [(&str, Read); 4] = [
    ("allowed_mod", allowed_mod),
    ("dry", dry),
    ("logprobs", |value, asked| {
        inspection::set(&mut asked.set.inspect, "logprobs", &value.to_string())
    }),
    ("return_kept", |value, asked| {
        inspection::set(&mut asked.set.inspect, "return_kept", &value.to_string())
    }),
];

/// What became of the row of a case.
struct Answered {
    answer: RowAnswer,
    /// The first and the last kept token in the total order, where the case tells them.
    bounds: Option<[u32; 2]>,
}

/// How a field of an expectation is compared.
enum Compare {
    /// In all bits.
    Exact(fn(&Answered) -> Json),
    /// The bits of an f32, within a unit in the last place.
    Near(fn(&Answered) -> Option<f32>),
    /// In all bits, where the subject tells which tokens were kept: servers of before do not.
    Kept(fn(&Answered) -> Json),
    /// Field by field.
    Logprobs,
}

/// The fields of an expectation that are compared, by their names.
static EXPECTED: [(&str, Compare); 12] = [
    ("status", Compare::Exact(|row| json!(row.answer.outcome.status.name()))),
    ("token", Compare::Exact(|row| json!(row.answer.draws.first().map(|draw| draw.token)))),
    ("kept", Compare::Exact(|row| json!(row.answer.outcome.kept))),
    ("kept_mass", Compare::Exact(|row| json!(row.answer.outcome.kept_mass))),
    ("bounds", Compare::Kept(|row| json!(row.bounds))),
    ("kept_ids", Compare::Kept(|row| json!(row.answer.inspection.kept.as_ref().map(kept_tokens)))),
    ("logprobs", Compare::Logprobs),
    ("draws", Compare::Exact(tokens)),
    ("mirostat_mu_bits", Compare::Exact(|row| state_bits(row)[0].clone())),
    ("adaptive_sum_bits", Compare::Exact(|row| state_bits(row)[1].clone())),
    ("adaptive_weight_bits", Compare::Exact(|row| state_bits(row)[2].clone())),
    ("logprob_bits", Compare::Near(|row| row.answer.draws.first().map(|draw| draw.logprob))),
];

/// What of a case is not known here.
pub fn unknown(case: &Case) -> Vec<String> {
    let expected: Vec<&str> = EXPECTED.iter().map(|(name, _)| *name).collect();
    let mut unknown = keys(case, &["row", "params"], &expected);
    if let Some(Json::Object(params)) = case.fields.get("params") {
        unknown.extend(unknown_parameters(params));
    }
    if let Some(Json::Object(expect)) = case.fields.get("expect") {
        unknown.extend(logprobs::unknown(expect.get("logprobs")));
    }
    unknown
}

/// The parameters that are not known here.
pub fn unknown_parameters(params: &Map<String, Json>) -> Vec<String> {
    strangers("parameter", params, is_parameter)
}

/// Samples the row, and compares what the case expects.
pub fn check(
    case: &Case,
    vectors: &Vectors,
    subject: &mut Subject,
) -> Result<Check, Box<dyn Error>> {
    let expect = case.object("expect")?;
    if !expect.contains_key("status") {
        return Err("expects no status".into());
    }
    let row = subject.row(vectors, case.get("row")?)?;
    let mut set = set(case.object("params")?, row.vocab_size())?;
    set.inspect.return_kept = asks_for_kept(expect) && subject.tells_kept;
    let answer = subject.sample(&row, &set)?;
    let bounds = match answer.inspection.kept.as_ref().filter(|_| expect.contains_key("bounds")) {
        Some(kept) => bounds(&row, &set, &kept_tokens(kept))?,
        None => None,
    };
    Ok(compare(expect, &Answered { answer, bounds }, subject.tells_kept))
}

/// The parameters of a row of so many tokens.
pub fn set(params: &Map<String, Json>, vocab_size: u32) -> Result<Set, String> {
    // Without a seed there is no known answer, but for a greedy row.
    let set = Set::from(ParamsSpec { seed: Some(0), ..ParamsSpec::DEFAULT });
    let mut asked = Asked { set, vocab_size };
    for (name, value) in params.iter().filter(|(_, value)| !value.is_null()) {
        match OTHERS.iter().find(|(other, _)| other == name) {
            Some((_, read)) => read(value, &mut asked)?,
            None => set_one(&mut asked.set, name, value)?,
        }
    }
    Ok(asked.set)
}

/// Whether a parameter is known here.
pub fn is_parameter(name: &str) -> bool {
    let is_other = OTHERS.iter().any(|(other, _)| *other == name);
    Field::named(name).is_some() || is_adjustment(name) || is_other
}

fn is_adjustment(name: &str) -> bool {
    adjustments::keys().any(|known| known == name)
}

fn set_one(set: &mut Set, name: &str, value: &Json) -> Result<(), String> {
    if is_adjustment(name) {
        return adjustments::set(&mut set.adjustments, name, &value.to_string());
    }
    let found = parameter(name, value)?.ok_or_else(|| format!("{name} is no parameter"))?;
    let (field, value) = found;
    field.set(&mut set.params, value);
    Ok(())
}

/// `{"multiplier": 0.8, ..}`: each key is a parameter by itself, `dry_multiplier`.
fn dry(value: &Json, asked: &mut Asked) -> Result<(), String> {
    let object = value.as_object().ok_or_else(|| format!("dry is {}: no object", shown(value)))?;
    let mut each = object.iter().filter(|(_, value)| !value.is_null());
    each.try_for_each(|(key, value)| set_one(&mut asked.set, &format!("dry_{key}"), value))
}

/// `[n, rests]`: a mask of the tokens that leave one of these rests when divided by `n`.
fn allowed_mod(value: &Json, asked: &mut Asked) -> Result<(), String> {
    let (n, rests): (NonZero<u32>, Vec<u32>) = serde_json::from_value(value.clone())
        .map_err(|_| format!("allowed_mod is {}; allowed: [n, rests]", shown(value)))?;
    let mut words = vec![0; asked.vocab_size.div_ceil(32) as usize];
    for token in (0..asked.vocab_size).filter(|token| rests.contains(&(*token % n))) {
        words[token as usize / 32] |= 1 << (token % 32);
    }
    asked.set.adjustments.allowed_bitmask = words;
    Ok(())
}

fn compare(expect: &Map<String, Json>, row: &Answered, tells_kept: bool) -> Check {
    let mut check = Check::default();
    for (name, compare) in &EXPECTED {
        let Some(expected) = expect.get(*name) else { continue };
        match compare {
            Compare::Exact(got) => check.exact(name, expected, got(row)),
            Compare::Near(got) => check.within_a_unit(name, expected, got(row)),
            Compare::Kept(_) if !tells_kept => check.skip(name),
            Compare::Kept(got) => check.exact(name, expected, got(row)),
            Compare::Logprobs => {
                logprobs::compare(expected, row.answer.inspection.logprobs.first(), &mut check);
            }
        }
    }
    check
}

fn asks_for_kept(expect: &Map<String, Json>) -> bool {
    EXPECTED.iter().any(|(name, how)| matches!(how, Compare::Kept(_)) && expect.contains_key(*name))
}

/// The first and the last of these tokens, in the total order of a row with its adjustments.
fn bounds(row: &StoredRow, set: &Set, kept: &[u32]) -> Result<Option<[u32; 2]>, Box<dyn Error>> {
    let params = params::parse(set.params)?;
    let stored = Row::new(row.dtype, &row.logits, params)?;
    let adjustments = params::adjustments(set, &params, stored.vocab_size())?;
    let (mut adjuster, mut copy) = (Adjuster::default(), Vec::new());
    let row = adjuster.apply(&stored.with_adjustments(adjustments.as_ref()), &mut copy);
    let order = |&&token: &&u32| (Reverse(key32(row.logit(token))), token);
    let (first, last) = (kept.iter().min_by_key(order), kept.iter().max_by_key(order));
    Ok(first.zip(last).map(|(&first, &last)| [first, last]))
}

/// What the sequence is given back, as the bits of mirostat's mu, and of adaptive-p's sum and weight.
fn state_bits(row: &Answered) -> [Json; 3] {
    let bits = |x: f32| json!(format!("{:08x}", x.to_bits()));
    match row.answer.state {
        Some(State::Mirostat { mu }) => [bits(mu), Json::Null, Json::Null],
        Some(State::Adaptive { sum, weight }) => [Json::Null, bits(sum), bits(weight)],
        None => [Json::Null, Json::Null, Json::Null],
    }
}

fn tokens(row: &Answered) -> Json {
    json!(row.answer.draws.iter().map(|draw| draw.token).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::batch::{Draw, Dtype, Outcome, RowStatus};
    use logitd_core::inspection::{Inspection, KeptIds};

    fn answer(kept: Option<KeptIds>) -> RowAnswer {
        RowAnswer {
            outcome: Outcome { status: RowStatus::Ok, kept: 4, kept_mass: 9 },
            draws: vec![Draw { token: 1, logprob: -1.0 }],
            inspection: Inspection { kept, ..Inspection::default() },
            state: None,
            seed: 0,
        }
    }

    #[test]
    fn bounds_follow_the_total_order() {
        let logits = [1.0f32, 3.0, -0.0, 3.0, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = StoredRow { dtype: Dtype::F32, logits };
        let of = |kept: &[u32]| bounds(&row, &Set::default(), kept).unwrap();
        assert_eq!(of(&[0, 1, 2, 3]), Some([1, 2]));
        assert_eq!(of(&[2, 4]), Some([2, 4]), "zeros are equal");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn every_field_is_compared_where_the_subject_tells_it() {
        let expect = json!({"bounds": [1, 2], "kept_ids": [0, 1, 2, 3], "kept": 4, "token": 1,
            "draws": [1], "status": "OK", "kept_mass": 9, "logprob_bits": "bf800000"});
        let kept = Some(KeptIds::Bitmask(vec![0b1111]));
        let answered = Answered { answer: answer(kept), bounds: Some([1, 2]) };
        let check = compare(expect.as_object().unwrap(), &answered, true);
        assert_eq!((check.compared, check.wrong.len()), (8, 0), "{:?}", check.wrong);
        for (state, expect) in [
            (State::Mirostat { mu: 1.0 }, json!({"mirostat_mu_bits": "3f800000"})),
            (
                State::Adaptive { sum: -0.0, weight: 2.0 },
                json!({"adaptive_sum_bits": "80000000", "adaptive_weight_bits": "40000000"}),
            ),
        ] {
            let expect = expect.as_object().unwrap();
            for (state, wrong) in [(Some(state), 0), (None, expect.len())] {
                let answer = RowAnswer { state, ..answer(None) };
                let check = compare(expect, &Answered { answer, bounds: None }, true);
                assert_eq!((check.compared, check.wrong.len()), (expect.len(), wrong));
            }
        }
        let old = Answered { answer: answer(None), bounds: None };
        let of_before = compare(expect.as_object().unwrap(), &old, false);
        assert_eq!((of_before.compared, of_before.wrong.len()), (6, 0));
        assert_eq!(of_before.skipped, ["bounds", "kept_ids"]);
        let other = json!({"bounds": [1, 4], "kept_ids": [0, 1, 2], "token": 3, "draws": [1, 1]});
        let check = compare(other.as_object().unwrap(), &answered, true);
        assert_eq!(check.wrong.len(), 4, "{:?}", check.wrong);
    }
}
