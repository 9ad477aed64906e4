//! One request, from its message to its answer: what is asked is checked, its logits are found, room is taken for
//! the answer, and the engine samples. Every way to the server comes through here.

use super::account::Held;
use super::by_row;
use super::call::Call;
use super::columns::Columns;
use super::convert::{self, Lent};
use super::error::Error;
use super::frames::Admitted;
use super::history;
use super::metrics;
use super::state::Shared;
use crate::engine::{self, Permit, Priority};
use logitd_core::batch::Loan;
use logitd_proto::{Adjustments, OnInvalidRow, Plane, SampleRequest, SampleResponse};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::SemaphorePermit;

/// Slots up to this size are copied where the call is handled: some 50 us. Larger ones would hold up
/// the calls behind them.
const COPY_INLINE_BYTES_MAX: usize = 512 << 10;
/// Tokens of candidates up to this size are put in order where the call is handled: 4096 of them, which
/// takes some 100 us. Larger ones would hold up the calls behind them. Lists of columns, which are copied for each row,
/// count as well.
const SORT_INLINE_BYTES_MAX: usize = 16 << 10;
/// Requests whose rows may be looked at one by one are where they have no more sets than this: less than 100 us.
const CHECK_INLINE_ROWS_MAX: usize = 64;
/// Answers up to this size are encoded as soon as they are there: less than 100 us. Larger ones, which take up to a
/// millisecond, take turns, so that many that are ready at once do not hold up the calls behind them.
pub(super) const ENCODE_INLINE_BYTES_MAX: usize = 64 << 10;

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
    let _histories = history::read(shared, call, &mut permit, &mut request).await?;
    let (lent, copied) = match slot {
        Slot::Lent(lent) => (Some(lent), None),
        Slot::Copied(loan) => (None, Some(loan)),
        Slot::None => (None, None),
    };
    let offered = shared.recorder.as_ref().map(|recorder| (recorder, request.clone()));
    let sampled = compute(shared, call, permit, request, lent, columns.list_bytes, plane).await;
    if let (Ok(_), Some(loan)) = (&sampled, copied) {
        loan.settle();
    }
    if let Some((recorder, request)) = offered {
        match &sampled {
            Ok((sampled, _)) => recorder.record(arrived, &request, Ok(&sampled.response)),
            Err(error) => recorder.record(arrived, &request, Err(&convert::stream_error(error))),
        };
    }
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
    let (mut permit, batch) = checked(shared, permit, request, lent, list_bytes).await?;
    let side_bytes = batch.side_bytes();
    let bytes = batch.bytes() + side_bytes;
    permit.resize(batch.rows.len(), bytes)?;
    metrics::plane_bytes(plane, bytes);
    // The engine holds room for the logits; what stands beside them waits here for its answer.
    let _side_room = (side_bytes > 0).then(|| permit.split_off(side_bytes));
    tracing::Span::current().record("rows", batch.rows.len());
    let _token_rows =
        call.token.as_ref().map(|token| token.reserve(batch.rows.len())).transpose()?;
    let answer_bytes = convert::answer_bytes(&batch);
    let room = AnswerRoom::take(shared, call, answer_bytes)?;
    let priority = priority(call, batch.priority)?;
    let (rows, told) = batch.split();
    let request =
        engine::Request { rows, deadline: call.deadline, priority, source: call.source() };
    let done = shared.engine.submit(permit, request)?.await?;
    let turn = if answer_bytes > ENCODE_INLINE_BYTES_MAX { turn(shared).await } else { None };
    Ok((Sampled { response: convert::response(&done, &told, plane), room }, turn))
}

/// Waits until a large answer may be encoded, behind the calls that are ready.
pub(super) async fn turn(shared: &Shared) -> Option<SemaphorePermit<'_>> {
    let turn = shared.large_answers.acquire().await.ok();
    tokio::task::yield_now().await;
    turn
}

/// A response, with room for it until the transport has it.
pub struct Answered<R> {
    pub response: R,
    pub room: AnswerRoom,
}

/// The answer to a request for samples.
pub type Sampled = Answered<SampleResponse>;

/// Room for an answer, taken before there is one: of the server's and of its connection's.
pub struct AnswerRoom {
    _held: [Held; 2],
}

impl AnswerRoom {
    pub(super) fn take(shared: &Shared, call: &Call, bytes: usize) -> Result<Self, Error> {
        Ok(Self { _held: [call.account.answers.take(bytes)?, shared.answers.take(bytes)?] })
    }
}

/// What a request is served with: what it asks for, where its token may. One that does not say is normal,
/// or whatever less its token may have.
pub(super) fn priority(call: &Call, asked: Option<Priority>) -> Result<Priority, Error> {
    match &call.token {
        Some(token) => token.priority(asked),
        None => Ok(asked.unwrap_or_default()),
    }
}

/// A request as a batch. Where checking it is more than a look, that is done away from the threads that
/// serve calls, and the permit stays with it, whoever may have given up meanwhile.
async fn checked(
    shared: &Shared,
    permit: Permit,
    request: SampleRequest,
    lent: Option<Lent>,
    list_bytes: usize,
) -> Result<(Permit, convert::Batch), Error> {
    let limits = shared.limits;
    let token_bytes = request.candidates.as_ref().map_or(0, |given| given.tokens.len());
    let listed_bytes: usize = request.adjustments.iter().map(listed_bytes).sum();
    let by_row = request.on_invalid_row() == OnInvalidRow::Status;
    let sets = convert::params_sets(&request, &limits)? + request.adjustments.len();
    let many = by_row && sets > CHECK_INLINE_ROWS_MAX;
    let check = move || Ok((permit, by_row::batch(request, lent, &limits)?));
    if token_bytes + listed_bytes + list_bytes <= SORT_INLINE_BYTES_MAX && !many {
        return check();
    }
    let checked = tokio::task::spawn_blocking(check).await;
    checked.map_err(|_| Error::Refused(engine::Refused::Draining))?
}

/// Bytes of what is looked through for tokens that come twice. Of a history only a very long one is.
fn listed_bytes(adjustments: &Adjustments) -> usize {
    const LONG_TOKENS: usize = 1 << 16;
    let history = adjustments.prompt.len() + adjustments.output.len();
    let history = if history > LONG_TOKENS { history * 4 } else { 0 };
    adjustments.counts.len() * 4 + adjustments.logit_bias.len() * 8 + history
}

/// What became of the slot that a request names.
enum Slot {
    /// It names none.
    None,
    /// Its logits are sampled where they lie.
    Lent(Lent),
    /// Its logits were copied into the request. The loan is settled when that has its answer.
    Copied(Arc<dyn Loan>),
}

/// Takes the slot that a request names on loan, and says in what memory it lies. Where its logits are needed
/// again after the answer, to record it or to verify it, they are copied instead, and take the place of bytes on
/// the wire.
async fn borrow(
    shared: &Shared,
    call: &Call,
    permit: &mut Permit,
    request: &mut SampleRequest,
) -> Result<(Plane, Slot), Error> {
    let Some(slot) = request.slot.take() else { return Ok((Plane::Inline, Slot::None)) };
    if !request.logits.is_empty() {
        let bytes = request.logits.len();
        let text = format!("has {bytes} bytes beside a slot; allowed: one or the other");
        return Err(Error::invalid("logits", text));
    }
    if request.candidates.is_some() {
        let text = "stands beside a slot; allowed: one or the other, candidates come as bytes";
        return Err(Error::invalid("candidates", text));
    }
    let shm = shared.shm.as_ref().ok_or(Error::NoShm("the server has no --shm socket"))?;
    let peer = call.peer.ok_or(Error::NoShm("call over the server's Unix socket"))?;
    let slot = convert::slot(&slot)?;
    let bytes = usize::try_from(slot.length_bytes).unwrap_or(usize::MAX);
    // Parameter sets are small on the wire and take their permits before anything is done for them.
    permit.resize(convert::params_sets(request, &shared.limits)?, bytes)?;
    let slot = shm.regions.borrow(slot, peer)?;
    let plane = match slot.is_on_device() {
        false => Plane::SharedMemory,
        true => Plane::DeviceMemory,
    };
    if !shm.copy {
        let bytes = slot.length_bytes();
        return Ok((plane, Slot::Lent(Lent { loan: Arc::new(slot), bytes })));
    }
    let pool = shared.pool.clone();
    let read = move || {
        let mut buffer = pool.take(slot.length_bytes());
        slot.read(&mut buffer.data).map(|()| (buffer, Arc::new(slot)))
    };
    let (buffer, loan) = if plane == Plane::SharedMemory && bytes <= COPY_INLINE_BYTES_MAX {
        read()?
    } else {
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| Error::NoShm("the server is shutting down"))??
    };
    request.logits = buffer.freeze();
    Ok((plane, Slot::Copied(loan)))
}
