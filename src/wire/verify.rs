//! Sequences to be verified: modes as messages have them, and what came of a sequence.

use logitd_core::batch::RowResult;
use logitd_core::verify::drafts::path;
use logitd_core::verify::{Mode, Verified};
use logitd_proto as api;

/// The mode of that number, if it is one.
pub fn mode(number: i32) -> Option<Mode> {
    match api::VerifyMode::try_from(number) {
        Ok(api::VerifyMode::Unspecified | api::VerifyMode::Match) => Some(Mode::Match),
        Ok(api::VerifyMode::Rejection) => Some(Mode::Rejection),
        Ok(api::VerifyMode::Typical) => Some(Mode::Typical),
        Err(_) => None,
    }
}

/// The API's name of a mode.
pub fn mode_message(mode: Mode) -> api::VerifyMode {
    match mode {
        Mode::Match => api::VerifyMode::Match,
        Mode::Rejection => api::VerifyMode::Rejection,
        Mode::Typical => api::VerifyMode::Typical,
    }
}

/// What came of a sequence whose rows were sampled with this seed. `parents` are those of a tree; `result` gives the result of
/// one of its rows, and `message` that as a message, where it is wanted.
pub fn message<'r>(
    verified: &Verified,
    seed: u64,
    parents: Option<(&[u32], &[u32])>,
    result: impl Fn(usize) -> RowResult<'r>,
    message: Option<&dyn Fn(RowResult<'r>) -> api::RowResult>,
) -> api::VerifiedSequence {
    let drawn = || verified.rows.iter().map(|&row| result(row).draws[0]);
    let tokens: Vec<u32> = drawn().map(|draw| draw.token).collect();
    let path = parents.map(|(parents, drafts)| path(parents, drafts, &tokens[..verified.accepted]));
    let rows = message.map(|message| verified.rows.iter().map(|&row| message(result(row))));
    api::VerifiedSequence {
        status: super::row::status_message(verified.status).into(),
        accepted: verified.accepted as u32,
        logprobs: drawn().map(|draw| draw.logprob).collect(),
        tokens,
        path: path.unwrap_or_default(),
        seed,
        rows: rows.map_or_else(Vec::new, Iterator::collect),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_there_and_back() {
        for each in Mode::ALL {
            assert_eq!(mode(mode_message(each).into()), Some(each));
        }
        assert_eq!((mode(0), mode(4), mode(-1)), (Some(Mode::Match), None, None));
    }
}
