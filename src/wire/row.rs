//! A row of the API: how its logits are stored, what became of it, and what was drawn.

use super::inspection::{self, Names, UnknownInspection};
use logitd_core::backend::dual::OwnedResult;
use logitd_core::batch::{Draw, Dtype, Outcome, RowResult, RowStatus, State};
use logitd_core::inspection::{Inspection, Logprobs};
use logitd_proto as api;

/// The dtype of that number, if it is one.
pub fn dtype(number: i32) -> Option<Dtype> {
    match api::Dtype::try_from(number) {
        Ok(api::Dtype::F16) => Some(Dtype::F16),
        Ok(api::Dtype::Bf16) => Some(Dtype::Bf16),
        Ok(api::Dtype::F32) => Some(Dtype::F32),
        Ok(api::Dtype::Unspecified) | Err(_) => None,
    }
}

/// The API's name of a dtype.
pub fn dtype_message(dtype: Dtype) -> api::Dtype {
    match dtype {
        Dtype::F16 => api::Dtype::F16,
        Dtype::Bf16 => api::Dtype::Bf16,
        Dtype::F32 => api::Dtype::F32,
    }
}

/// The status of that number, if a row that was sampled can have it.
pub fn status(number: i32) -> Option<RowStatus> {
    match api::RowStatus::try_from(number) {
        Ok(api::RowStatus::Ok) => Some(RowStatus::Ok),
        Ok(api::RowStatus::Nan) => Some(RowStatus::Nan),
        Ok(api::RowStatus::PositiveInfinity) => Some(RowStatus::PositiveInfinity),
        Ok(api::RowStatus::NoCandidate) => Some(RowStatus::NoCandidate),
        // Nobody who reads results as values asks for wrong rows.
        Ok(api::RowStatus::Unspecified | api::RowStatus::InvalidParameters) | Err(_) => None,
    }
}

/// A status as messages have it.
pub fn status_message(status: RowStatus) -> api::RowStatus {
    match status {
        RowStatus::Ok => api::RowStatus::Ok,
        RowStatus::Nan => api::RowStatus::Nan,
        RowStatus::PositiveInfinity => api::RowStatus::PositiveInfinity,
        RowStatus::NoCandidate => api::RowStatus::NoCandidate,
    }
}

/// The result of a row that was sampled with this seed. `names` are what its indices stand for, where it is a
/// row of candidates.
pub fn result_message(
    result: RowResult<'_>,
    seed: u64,
    names: Option<&Names<'_>>,
) -> api::RowResult {
    let token = |draw: &Draw| names.map_or(draw.token, |names| names.tokens.token(draw.token));
    let draw = |draw: &Draw| api::Draw { token: token(draw), logprob: draw.logprob };
    let first = result.draws.first();
    let logprobs = |found: &Logprobs| api::LogprobsResult {
        status: status_message(found.status).into(),
        ..inspection::logprobs_message(found, names)
    };
    let found = result.inspection;
    let kept = found.and_then(|found| found.kept.as_ref());
    let (kept_ids, kept_bitmask) = inspection::kept_message(kept, names);
    let (mirostat_mu, adaptive_sum, adaptive_weight) = match result.state {
        Some(State::Mirostat { mu }) => (Some(mu), None, None),
        Some(State::Adaptive { sum, weight }) => (None, Some(sum), Some(weight)),
        None => (None, None, None),
    };
    api::RowResult {
        status: status_message(result.outcome.status).into(),
        token: first.map(token),
        logprob: first.map(|draw| draw.logprob),
        kept: result.outcome.kept,
        kept_mass: result.outcome.kept_mass,
        seed,
        draws: match result.draws {
            // A single draw is said in `token` and `logprob` alone.
            [_] => Vec::new(),
            draws => draws.iter().map(draw).collect(),
        },
        logprobs: found.map_or(vec![], |found| found.logprobs.iter().map(logprobs).collect()),
        kept_ids,
        kept_bitmask,
        violation: None,
        mirostat_mu,
        adaptive_sum,
        adaptive_weight,
    }
}

/// The result of a row that was not sampled, because this is wrong with it.
pub fn invalid_message(violation: api::Violation) -> api::RowResult {
    api::RowResult {
        status: api::RowStatus::InvalidParameters.into(),
        violation: Some(violation),
        ..Default::default()
    }
}

/// What an answer says of a row.
pub fn result(row: &api::RowResult) -> Result<OwnedResult, UnknownAnswer> {
    let status = status(row.status).ok_or(UnknownAnswer::Status(row.status))?;
    let draws = match (row.token, row.logprob) {
        (Some(token), Some(logprob)) if row.draws.is_empty() => vec![Draw { token, logprob }],
        _ => row.draws.iter().map(|d| Draw { token: d.token, logprob: d.logprob }).collect(),
    };
    let outcome = Outcome { status, kept: row.kept, kept_mass: row.kept_mass };
    let inspection = Some(inspection(row)?).filter(|found| *found != Inspection::default());
    Ok(OwnedResult { outcome, draws, inspection, state: state(row), accepted: None })
}

/// What an answer gives back to the row's sequence.
fn state(row: &api::RowResult) -> Option<State> {
    match (row.mirostat_mu, row.adaptive_sum, row.adaptive_weight) {
        (Some(mu), ..) => Some(State::Mirostat { mu }),
        (None, Some(sum), Some(weight)) => Some(State::Adaptive { sum, weight }),
        _ => None,
    }
}

/// What an answer says of a row beside its tokens.
pub fn inspection(row: &api::RowResult) -> Result<Inspection, UnknownAnswer> {
    let logprobs = row.logprobs.iter().map(|found| {
        let status = status(found.status).ok_or(UnknownAnswer::Status(found.status))?;
        Ok(inspection::logprobs(found, status)?)
    });
    let logprobs = logprobs.collect::<Result<_, UnknownAnswer>>()?;
    Ok(Inspection { logprobs, kept: inspection::kept(row), continuations: None })
}

/// An answer that says of a row what this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownAnswer {
    /// A status.
    #[error("the answer has the row status {0}; is the server newer?")]
    Status(i32),
    /// A distribution.
    #[error(transparent)]
    Inspection(#[from] UnknownInspection),
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::inspection::{Distribution, Entropy, KeptIds, TokenLogprob};

    #[test]
    fn names_there_and_back() {
        for each in Dtype::ALL {
            assert_eq!(dtype(dtype_message(each).into()), Some(each));
        }
        assert_eq!((dtype(0), dtype(4), dtype(-1)), (None, None, None));
    }

    #[test]
    fn what_is_told_beside_tokens_comes_back() {
        let token = TokenLogprob { token: 3, rank: 1, logprob: -0.5 };
        let logprobs = |of, status| Logprobs {
            of,
            status,
            entropy: Entropy(0.25),
            drawn: vec![token],
            top: vec![token; 2],
            ids: vec![],
        };
        let inspection = Inspection {
            logprobs: vec![
                logprobs(Distribution::Raw, RowStatus::NoCandidate),
                logprobs(Distribution::Sampled, RowStatus::Ok),
            ],
            kept: Some(KeptIds::Ids(vec![3, 9])),
            continuations: None,
        };
        let outcome = Outcome { status: RowStatus::Ok, kept: 2, kept_mass: 5 };
        let draws = [Draw { token: 3, logprob: -0.5 }];
        let found = RowResult {
            outcome,
            draws: &draws,
            inspection: Some(&inspection),
            state: None,
            accepted: None,
        };
        let back = result(&result_message(found, 6, None)).unwrap();
        assert_eq!(back.inspection, Some(inspection));
    }

    #[test]
    fn a_result_and_back() {
        let draws = [Draw { token: 3, logprob: -0.5 }, Draw { token: 1, logprob: -2.0 }];
        for status in
            [RowStatus::Ok, RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::NoCandidate]
        {
            for (count, state) in [
                (0, None),
                (1, Some(State::Mirostat { mu: -0.5 })),
                (1, Some(State::Adaptive { sum: 0.25, weight: 3.0 })),
                (2, None),
            ] {
                let outcome = Outcome { status, kept: 4, kept_mass: 5 };
                let message = result_message(
                    RowResult {
                        outcome,
                        draws: &draws[..count],
                        inspection: None,
                        state,
                        accepted: None,
                    },
                    6,
                    None,
                );
                assert_eq!(
                    (message.seed, message.draws.len()),
                    (6, if count == 2 { 2 } else { 0 })
                );
                let draws = draws[..count].to_vec();
                let expected =
                    OwnedResult { outcome, draws, inspection: None, state, accepted: None };
                assert_eq!(result(&message), Ok(expected));
            }
        }
        let unknown = api::RowResult { status: 9, ..Default::default() };
        assert_eq!(result(&unknown), Err(UnknownAnswer::Status(9)));
        let of_raw = api::LogprobsResult { of: 1, status: 9, ..Default::default() };
        let logprobs = vec![of_raw];
        let unknown = api::RowResult { status: 1, logprobs, ..Default::default() };
        assert_eq!(result(&unknown), Err(UnknownAnswer::Status(9)));
        assert_eq!(result(&api::RowResult::default()), Err(UnknownAnswer::Status(0)));
    }
}
