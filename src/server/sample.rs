//! One request, from its message to its answer: what is asked is checked, its logits are found, room is taken for
//! the answer, and the engine samples. Every way to the server comes through here.

use super::borrow::{self, Slot};
use super::by_row;
use super::call::Call;
use super::columns::Columns;
use super::convert::{self, Lent};
use super::error::Error;
use super::frames::Admitted;
use super::history;
use super::recording::Recording;
use super::run::{self, AnswerRoom, Run};
use super::state::Shared;
use crate::engine::Permit;
use logitd_proto::{Adjustments, OnInvalidRow, Plane, SampleRequest, SampleResponse};
use std::time::Instant;
use tokio::sync::SemaphorePermit;

/// Tokens of candidates up to this size are put in order where the call is handled: 4096 of them, which
/// takes some 100 us. Larger ones would hold up the calls behind them. Lists of columns, which are copied for each row,
/// count as well.
const SORT_INLINE_BYTES_MAX: usize = 16 << 10;
/// Requests whose rows may be looked at one by one are where they have no more sets than this: less than 100 us.
const CHECK_INLINE_ROWS_MAX: usize = 64;
/// Samples one request, of a unary call or of a stream, with what its message was let in with. `bytes` is
/// the plane of logits that come as bytes.
pub async fn sample(
    shared: &Shared,
    call: &Call,
    admitted: Admitted,
    mut request: SampleRequest,
    bytes: Plane,
) -> Result<Sampled, Error> {
    let arrived = Instant::now();
    let _working = shared.working();
    let (mut permit, _shares) = admitted.complete(&mut request.logits);
    let (plane, slot) = match (&request.slot, &request.candidates) {
        (Some(_), _) => borrow(shared, call, &mut permit, &mut request).await?,
        (None, Some(_)) => (Plane::Candidates, Slot::None),
        (None, None) => (bytes, Slot::None),
    };
    let columns = Columns::take(&mut request, call, &mut permit, &shared.limits)?;
    let adjustments = request.adjustments.iter_mut().enumerate();
    let _histories =
        history::read(shared, call, &mut permit, adjustments, history::of_list).await?;
    let (lent, copied) = slot.split();
    let recording = Recording::of(shared, arrived, &request);
    let sampled = compute(shared, call, permit, request, lent, columns.list_bytes, plane).await;
    if let (Ok(_), Some(loan)) = (&sampled, copied) {
        loan.settle();
    }
    recording.end(sampled.as_ref().map(|(sampled, _)| &sampled.response));
    // Columns are made within the turn.
    let (Sampled { response, room }, _turn) = sampled?;
    Ok(Sampled { response: columns.answer(response), room })
}

/// Samples a request with its own logits, or with those that are lent to it. Its columns have so many bytes of lists once
/// they are messages. A large answer comes with its turn.
async fn compute<'a>(
    shared: &'a Shared,
    call: &Call,
    permit: Permit,
    request: SampleRequest,
    lent: Option<Lent>,
    list_bytes: usize,
    plane: Plane,
) -> Result<(Sampled, Option<SemaphorePermit<'a>>), Error> {
    let (permit, batch) = checked(shared, permit, request, lent, list_bytes).await?;
    let bytes = batch.bytes() + batch.side_bytes();
    let (answer_bytes, priority) = (convert::answer_bytes(&batch), batch.priority);
    let (rows, told) = batch.split();
    let run = Run { rows, bytes, answer_bytes, priority, plane };
    let ran = run.on(shared, call, permit).await?;
    let response = convert::response(&ran.done, &told, plane);
    Ok((Sampled { response, room: ran.room }, ran.turn))
}

/// A response, with room for it until the transport has it.
pub struct Answered<R> {
    pub response: R,
    pub room: AnswerRoom,
}

/// The answer to a request for samples.
pub type Sampled = Answered<SampleResponse>;

/// A request as a batch. Where checking it is more than a look, that is done away from the threads that
/// serve calls, and the permit stays with it, whoever may have given up meanwhile.
async fn checked(
    shared: &Shared,
    permit: Permit,
    request: SampleRequest,
    lent: Option<Lent>,
    list_bytes: usize,
) -> Result<(Permit, convert::CheckedRows), Error> {
    let limits = shared.limits;
    let token_bytes = request.candidates.as_ref().map_or(0, |given| given.tokens.len());
    let listed_bytes: usize = request.adjustments.iter().map(listed_bytes).sum();
    let by_row = request.on_invalid_row() == OnInvalidRow::Status;
    let sets = convert::params_sets(&request, &limits)? + request.adjustments.len();
    let many = by_row && sets > CHECK_INLINE_ROWS_MAX;
    let is_small = token_bytes + listed_bytes + list_bytes <= SORT_INLINE_BYTES_MAX && !many;
    run::checked(is_small, move || Ok((permit, by_row::batch(request, lent, &limits)?))).await
}

/// Bytes of what is looked through for tokens that come twice. Of a history only a very long one is.
fn listed_bytes(adjustments: &Adjustments) -> usize {
    const LONG_TOKENS: usize = 1 << 16;
    let history = adjustments.prompt.len() + adjustments.output.len();
    let history = if history > LONG_TOKENS { history * 4 } else { 0 };
    adjustments.counts.len() * 4 + adjustments.logit_bias.len() * 8 + history
}

/// The slot that a request names, and in what memory it lies.
async fn borrow(
    shared: &Shared,
    call: &Call,
    permit: &mut Permit,
    request: &mut SampleRequest,
) -> Result<(Plane, Slot), Error> {
    // Beside logits the slot is what is wrong first.
    if request.candidates.is_some() && request.logits.is_empty() {
        let text = "stands beside a slot; allowed: one or the other, candidates come as bytes";
        return Err(Error::invalid("candidates", text));
    }
    let sets = convert::params_sets(request, &shared.limits)?;
    let SampleRequest { slot, logits, .. } = request;
    borrow::borrow(shared, call, permit, slot, logits, sets).await
}
