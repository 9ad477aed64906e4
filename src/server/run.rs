//! Rows on their way through the engine, whatever they were asked with: room is taken for them and for their answer, and
//! both are held until it is there.

use super::budget::Held;
use super::call::Call;
use super::error::Error;
use super::metrics;
use super::state::Shared;
use crate::engine::{self, Completed, Failure, Permit, Priority, Refused, RequestRow};
use logitd_proto::Plane;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::SemaphorePermit;

/// Answers up to this size are encoded as soon as they are there: less than 100 us. Larger ones, which take up to a
/// millisecond, take turns, so that many that are ready at once do not hold up the calls behind them.
const ENCODE_INLINE_BYTES_MAX: usize = 64 << 10;

/// Requests with lists of up to so many bytes are checked where the call is handled: some 100 us.
const CHECK_INLINE_BYTES_MAX: usize = 64 << 10;

/// Rows to be sampled for a request.
pub struct Run {
    /// At least one.
    pub rows: Vec<RequestRow>,
    /// Bytes of their logits and of what stands beside them.
    pub bytes: usize,
    /// What the answer takes at most.
    pub answer_bytes: usize,
    /// Who goes first, if the request says it.
    pub priority: Option<Priority>,
    /// How the logits came.
    pub plane: Plane,
}

/// Rows that were sampled. A large answer comes with its turn.
pub struct Ran<'a> {
    pub done: Completed,
    pub room: AnswerRoom,
    pub turn: Option<SemaphorePermit<'a>>,
}

impl Run {
    /// Takes room for it, and has the engine sample the rows.
    pub async fn on<'a>(
        self,
        shared: &'a Shared,
        call: &Call,
        mut permit: Permit,
    ) -> Result<Ran<'a>, Error> {
        let Self { rows, bytes, answer_bytes, priority, plane } = self;
        permit.resize(rows.len(), bytes)?;
        metrics::plane_bytes(plane, bytes);
        let side_bytes = bytes - rows.iter().map(RequestRow::bytes).sum::<usize>();
        // The engine holds room for the logits; what stands beside them waits here for its answer.
        let _side_room = (side_bytes > 0).then(|| permit.split_off(side_bytes));
        tracing::Span::current().record("rows", rows.len());
        let _token_rows = call.token.as_ref().map(|token| token.reserve(rows.len())).transpose()?;
        let room = AnswerRoom::take(shared, call, answer_bytes)?;
        let priority = self::priority(call, priority)?;
        let request =
            engine::Request { rows, deadline: call.deadline, priority, source: call.source() };
        let done = shared.engine.submit(permit, request)?.await?;
        Ok(Ran { done, room, turn: turn(shared, answer_bytes).await })
    }
}

/// Whether a request with lists of so many bytes is checked with no more than a look.
pub fn is_small(list_bytes: usize) -> bool {
    list_bytes <= CHECK_INLINE_BYTES_MAX
}

/// What a check of a request finds, or a copy for it has. Where it is not small, that is done away from the threads that
/// serve calls. One that panics is a failure of its request alone.
pub async fn checked<T: Send + 'static>(
    is_small: bool,
    check: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if is_small {
        let checked = catch_unwind(AssertUnwindSafe(check));
        return checked.unwrap_or(Err(Error::Failed(Failure::Panicked)));
    }
    let checked = tokio::task::spawn_blocking(check).await;
    checked.map_err(|error| match error.is_panic() {
        true => Error::Failed(Failure::Panicked),
        false => Error::Refused(Refused::Draining),
    })?
}

/// Waits until an answer of so many bytes may be encoded: a large one behind the calls that are ready.
pub async fn turn(shared: &Shared, answer_bytes: usize) -> Option<SemaphorePermit<'_>> {
    if answer_bytes <= ENCODE_INLINE_BYTES_MAX {
        return None;
    }
    let turn = shared.large_answers.acquire().await.ok();
    tokio::task::yield_now().await;
    turn
}

/// Room for an answer, taken before there is one: of the server's and of its connection's.
pub struct AnswerRoom {
    _held: [Held; 2],
}

impl AnswerRoom {
    pub fn take(shared: &Shared, call: &Call, bytes: usize) -> Result<Self, Error> {
        Ok(Self { _held: [call.account.answers.take(bytes)?, shared.answers.take(bytes)?] })
    }
}

/// What a request is served with: what it asks for, where its token may. One that does not say is normal,
/// or whatever less its token may have.
pub fn priority(call: &Call, asked: Option<Priority>) -> Result<Priority, Error> {
    match &call.token {
        Some(token) => token.priority(asked),
        None => Ok(asked.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::convert;
    use tonic::Code;

    #[tokio::test]
    async fn a_check_that_panics_is_a_fault_of_the_server() {
        for is_small in [true, false] {
            let checked = checked(is_small, || -> Result<(), Error> { panic!("a test") }).await;
            let status = convert::status(&checked.unwrap_err());
            assert_eq!(status.code(), Code::Internal);
            assert!(status.message().contains("its log says where"), "{}", status.message());
        }
    }
}
