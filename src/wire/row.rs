//! A row of the API: how its logits are stored, what became of it, and what was drawn.

use logitd_core::backend::dual::Answer;
use logitd_core::batch::{Draw, Dtype, Outcome, RowResult, RowStatus};
use logitd_core::candidates::TokenList;
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

fn status(number: i32) -> Option<RowStatus> {
    match api::RowStatus::try_from(number) {
        Ok(api::RowStatus::Ok) => Some(RowStatus::Ok),
        Ok(api::RowStatus::Nan) => Some(RowStatus::Nan),
        Ok(api::RowStatus::PositiveInfinity) => Some(RowStatus::PositiveInfinity),
        Ok(api::RowStatus::NoCandidate) => Some(RowStatus::NoCandidate),
        // Nobody who reads results as values asks for wrong rows.
        Ok(api::RowStatus::Unspecified | api::RowStatus::InvalidParameters) | Err(_) => None,
    }
}

fn status_message(status: RowStatus) -> api::RowStatus {
    match status {
        RowStatus::Ok => api::RowStatus::Ok,
        RowStatus::Nan => api::RowStatus::Nan,
        RowStatus::PositiveInfinity => api::RowStatus::PositiveInfinity,
        RowStatus::NoCandidate => api::RowStatus::NoCandidate,
    }
}

/// The result of a row that was sampled with this seed. `tokens` are what its indices stand for, where it is a
/// row of candidates.
pub fn result_message(
    result: RowResult<'_>,
    seed: u64,
    tokens: Option<&TokenList>,
) -> api::RowResult {
    let token = |draw: &Draw| tokens.map_or(draw.token, |tokens| tokens.token(draw.token));
    let draw = |draw: &Draw| api::Draw { token: token(draw), logprob: draw.logprob };
    let first = result.draws.first();
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
        violation: None,
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
pub fn result(row: &api::RowResult) -> Result<Answer, UnknownStatus> {
    let status = status(row.status).ok_or(UnknownStatus(row.status))?;
    let draws = match (row.token, row.logprob) {
        (Some(token), Some(logprob)) if row.draws.is_empty() => vec![Draw { token, logprob }],
        _ => row.draws.iter().map(|d| Draw { token: d.token, logprob: d.logprob }).collect(),
    };
    let outcome = Outcome { status, kept: row.kept, kept_mass: row.kept_mass };
    Ok(Answer { outcome, draws, inspection: None })
}

/// An answer whose row has a status that this program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer has the row status {0}; is the server newer?")]
pub struct UnknownStatus(pub i32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_there_and_back() {
        for each in Dtype::ALL {
            assert_eq!(dtype(dtype_message(each).into()), Some(each));
        }
        assert_eq!((dtype(0), dtype(4), dtype(-1)), (None, None, None));
    }

    #[test]
    fn a_result_and_back() {
        let draws = [Draw { token: 3, logprob: -0.5 }, Draw { token: 1, logprob: -2.0 }];
        for status in
            [RowStatus::Ok, RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::NoCandidate]
        {
            for count in 0..=2 {
                let outcome = Outcome { status, kept: 4, kept_mass: 5 };
                let message = result_message(
                    RowResult { outcome, draws: &draws[..count], inspection: None },
                    6,
                    None,
                );
                assert_eq!(
                    (message.seed, message.draws.len()),
                    (6, if count == 2 { 2 } else { 0 })
                );
                let expected = Answer { outcome, draws: draws[..count].to_vec(), inspection: None };
                assert_eq!(result(&message), Ok(expected));
            }
        }
        let unknown = api::RowResult { status: 9, ..Default::default() };
        assert_eq!(result(&unknown), Err(UnknownStatus(9)));
        assert_eq!(result(&api::RowResult::default()), Err(UnknownStatus(0)));
    }
}
