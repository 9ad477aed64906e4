//! Sequences with drafts, from message to answer: their rows are rows of a batch like any other, all of them at once, and
//! what they say is walked over when it is there.

use super::borrow;
use super::call::Call;
use super::convert::{self, Lent};
use super::error::Error;
use super::frames::Admitted;
use super::history;
use super::metrics;
use super::recording::Recording;
use super::run::{self, Run};
use super::sample::Answered;
use super::state::Shared;
use super::whole_rows::{self, Logits};
use crate::engine::{Completed, Permit, Priority, RequestRow};
use crate::wire;
use crate::wire::sequences::{self, DraftRow, Sequence, SequenceRow, Told};
use crate::wire::violations::Violations;
use crate::wire::whole_rows::{Given, WholeRows};
use logitd_core::arithmetic;
use logitd_core::row::{Draft, Source};
use logitd_proto::draft_distribution::Kind;
use logitd_proto::{self as api, DraftedSequence, Limits, Plane, VerifyRequest, VerifyResponse};
use std::sync::Arc;
use std::time::Instant;

/// Verifies the sequences of one request, of a unary call or of a stream, with what its message was let in with. `bytes`
/// is the plane of logits that come as bytes.
pub async fn verify(
    shared: &Shared,
    call: &Call,
    admitted: Admitted,
    mut request: VerifyRequest,
    bytes: Plane,
) -> Result<Answered<VerifyResponse>, Error> {
    let arrived = Instant::now();
    let _working = shared.working();
    let (mut permit, _shares) = admitted.complete(&mut request.logits);
    let size = Size::of(&request, &shared.limits)?;
    let VerifyRequest { slot, logits, .. } = &mut request;
    let (plane, slot) = match slot {
        Some(_) => borrow::borrow(shared, call, &mut permit, slot, logits, size.rows).await?,
        None => (bytes, borrow::Slot::None),
    };
    let (lent, copied) = slot.split();
    let sequences = &mut request.sequences;
    let _histories =
        history::read(shared, call, &mut permit, adjustments(sequences), path_of).await?;
    let _paths = call.hold(size.path_bytes)?;
    permit.resize(permit.rows(), permit.bytes().saturating_add(size.path_bytes))?;
    let recording = Recording::of(shared, arrived, &request);
    let verified = compute(shared, call, permit, request, lent, plane, &size).await;
    if let (Ok(_), Some(loan)) = (&verified, copied) {
        loan.settle();
    }
    recording.end(verified.as_ref().map(|answered| &answered.response));
    verified
}

/// How much is asked for.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Rows of all sequences.
    rows: usize,
    /// Bytes of the paths to the nodes of trees.
    path_bytes: usize,
    /// Bytes of lists in the message.
    list_bytes: usize,
}

impl Size {
    fn of(request: &VerifyRequest, limits: &Limits) -> Result<Self, Error> {
        let mut size = Self { rows: 0, path_bytes: 0, list_bytes: 0 };
        let mut draft_rows = 0;
        for sequence in &request.sequences {
            let DraftedSequence { drafts, parents, distributions, .. } = sequence;
            within_drafts(drafts.len(), !parents.is_empty(), limits)?;
            size.rows += drafts.len() + 1;
            // More parents than drafts are refused by name.
            size.path_bytes += path_bytes(&parents[..parents.len().min(drafts.len())]);
            size.list_bytes += prost::Message::encoded_len(sequence);
            let is_row = |kind: &Option<Kind>| matches!(kind, Some(Kind::Logits(_)));
            draft_rows += distributions.iter().filter(|one| is_row(&one.kind)).count();
        }
        convert::within_rows(size.rows + draft_rows, limits)?;
        Ok(size)
    }
}

fn within_drafts(drafts: usize, is_tree: bool, limits: &Limits) -> Result<(), Error> {
    let (what, value, limit, name) = match is_tree {
        false => ("drafts of a sequence", drafts, limits.drafts_max, "drafts_max"),
        true => {
            let what = "nodes of a tree of drafts, its root included,";
            (what, drafts + 1, limits.tree_nodes_max, "tree_nodes_max")
        }
    };
    if value > limit as usize {
        let (value, limit, way_out) = (value as u64, limit.into(), "send fewer drafts");
        return Err(Error::OverLimit { what, value, limit, name, way_out });
    }
    Ok(())
}

/// Bytes of a list of drafts for each node of a tree.
fn path_bytes(parents: &[u32]) -> usize {
    let mut depths = vec![0usize; parents.len() + 1];
    for (i, &parent) in parents.iter().enumerate() {
        // One that is wrong is refused later.
        depths[i + 1] = depths.get(parent as usize).map_or(0, |depth| depth + 1);
    }
    depths.iter().sum::<usize>() * size_of::<u32>()
}

/// The adjustments in a request, each with its sequence, and its draft where it belongs to one.
fn adjustments(
    sequences: &mut [DraftedSequence],
) -> impl Iterator<Item = ((usize, Option<usize>), &mut api::Adjustments)> {
    sequences.iter_mut().enumerate().flat_map(|(i, sequence)| {
        let of_drafts = sequence.distributions.iter_mut().enumerate();
        let of_drafts =
            of_drafts.filter_map(move |(j, distribution)| match &mut distribution.kind {
                Some(Kind::Logits(draft)) => Some(((i, Some(j)), draft.adjustments.as_mut()?)),
                _ => None,
            });
        sequence.adjustments.as_mut().map(|own| ((i, None), own)).into_iter().chain(of_drafts)
    })
}

fn path_of((sequence, draft): (usize, Option<usize>)) -> String {
    match draft {
        None => format!("sequences[{sequence}].adjustments"),
        Some(draft) => {
            format!("sequences[{sequence}].distributions[{draft}].logits.adjustments")
        }
    }
}

async fn compute(
    shared: &Shared,
    call: &Call,
    permit: Permit,
    request: VerifyRequest,
    lent: Option<Lent>,
    plane: Plane,
    size: &Size,
) -> Result<Answered<VerifyResponse>, Error> {
    let limits = shared.limits;
    let is_small = run::is_small(size.list_bytes + size.path_bytes);
    let check = move || Ok((permit, batch(request, lent, &limits)?));
    let (permit, batch) = run::checked(is_small, check).await?;
    let CheckedSequences { rows, sequences, priority, bytes } = batch;
    let answer_bytes = answer_bytes(&rows, &sequences);
    let run = Run { rows, bytes, answer_bytes, priority, plane };
    let ran = run.on(shared, call, permit).await?;
    Ok(Answered { response: response(&ran.done, &sequences, plane), room: ran.room })
}

/// What a request asks for, checked.
#[derive(Debug)]
pub struct CheckedSequences {
    /// Those of all sequences, one sequence after another; at least one.
    pub rows: Vec<RequestRow>,
    pub sequences: Vec<Placed>,
    pub priority: Option<Priority>,
    /// Bytes of the rows and of what stands beside them.
    pub bytes: usize,
}

/// A sequence whose rows are sampled.
#[derive(Debug)]
pub struct Placed {
    /// Its first row in the batch.
    at: usize,
    told: Told,
}

/// Checks a request against the API and these limits, and cuts its logits into rows: its own, or those that are lent.
pub fn batch(
    request: VerifyRequest,
    lent: Option<Lent>,
    limits: &Limits,
) -> Result<CheckedSequences, Error> {
    Size::of(&request, limits)?;
    let mut wrong = Violations::new(None);
    let VerifyRequest { dtype, vocab_size, row_stride, rows, logits, sequences, .. } = request;
    let given = Given { dtype, vocab_size, row_stride, rows };
    let priority = wrong.keep("priority", convert::priority(request.priority));
    if sequences.is_empty() {
        let text = "sequences is empty; allowed: one sequence or more";
        wrong.add(|| "sequences".into(), || text.into());
    }
    let logits = Logits::of(logits, lent);
    let Some(rows) = WholeRows::of(given, logits.bytes(), &mut wrong) else {
        return Err(wrong.into());
    };
    let sequences = sequences::check(sequences, &rows, whole_rows::limits(limits), &mut wrong);
    let (Some(priority), true) = (priority, wrong.none()) else {
        return Err(wrong.into());
    };
    lay_out(sequences, &rows, &logits, priority, limits)
}

/// The rows of sequences that are right, one sequence after another.
fn lay_out(
    checked: Vec<Sequence>,
    rows: &WholeRows,
    logits: &Logits,
    priority: Option<Priority>,
    limits: &Limits,
) -> Result<CheckedSequences, Error> {
    let seedless = checked.iter().filter(|one| !one.has_seed()).count();
    let mut seeds = wire::whole::fresh_seeds(seedless).map_err(Error::NoSeed)?.into_iter();
    let (mut batch, mut sequences, mut side_bytes) = (vec![], vec![], 0);
    for mut one in checked {
        if !one.has_seed() {
            one = one.with_seed(seeds.next().expect("one a sequence without"));
        }
        side_bytes += one.side_bytes(rows);
        let at = batch.len();
        let (asked, told) = one.rows();
        for row in asked {
            batch.push(self::row(row, rows, logits)?);
        }
        sequences.push(Placed { at, told });
    }
    within_work(&batch, limits)?;
    let in_rows: usize = batch.iter().map(RequestRow::bytes).sum();
    let bytes = in_rows.max(rows.bytes()) + side_bytes;
    Ok(CheckedSequences { rows: batch, sequences, priority, bytes })
}

/// A row of a sequence with its logits.
fn row(asked: SequenceRow, rows: &WholeRows, logits: &Logits) -> Result<RequestRow, Error> {
    let SequenceRow { place, params, adjustments, asked, draft } = asked;
    let drafted = |DraftRow { place, params, adjustments }: DraftRow| {
        let row = logits.row(rows, place, params)?.with_adjustments(adjustments);
        Ok::<Arc<dyn Source>, Error>(Arc::new(row))
    };
    let draft = match draft {
        Some((token, rule)) => Some(Arc::new(Draft { token, rule: rule.rule(drafted)? })),
        None => None,
    };
    let row = logits.row(rows, place, params)?.with_adjustments(adjustments);
    Ok(row.with_inspect(asked.map(|asked| asked.inspect)).with_draft(draft))
}

/// Whether the draws and the races of these rows are within the limits of a request.
pub(super) fn within_work(rows: &[RequestRow], limits: &Limits) -> Result<(), Error> {
    let (draws, most) = (rows.len() as u64, limits.request_draws_max.into());
    convert::within("draws in the request", draws, most, "request_draws_max")?;
    convert::within(
        "tokens in the request's races, top_k (or else vocab_size) of each row,",
        rows.iter().map(RequestRow::race_tokens_max).sum(),
        limits.request_race_tokens_max,
        "request_race_tokens_max",
    )
}

/// Bytes that the answer takes at most, before it is encoded and after.
pub fn answer_bytes(rows: &[RequestRow], sequences: &[Placed]) -> usize {
    const MESSAGE_BYTES: usize = 512;
    const SEQUENCE_BYTES: usize = 160;
    // A token, its logprob and its node.
    const TOKEN_BYTES: usize = 14;
    const ROW_BYTES: usize = 128;
    let row = |row: &RequestRow| match row.inspect() {
        None => TOKEN_BYTES,
        Some(_) => {
            let vocab_size = row.as_row().vocab_size();
            TOKEN_BYTES + ROW_BYTES + convert::inspection_bytes(row, vocab_size)
        }
    };
    MESSAGE_BYTES + sequences.len() * SEQUENCE_BYTES + rows.iter().map(row).sum::<usize>()
}

/// The answer to a request whose rows were sampled.
pub fn response(done: &Completed, sequences: &[Placed], plane: Plane) -> VerifyResponse {
    VerifyResponse {
        sequences: sequences.iter().map(|sequence| sequence.answer(done)).collect(),
        timings: Some(convert::timings(done)),
        device: convert::device(done),
        arithmetic_version: arithmetic::VERSION,
        plane: plane.into(),
    }
}

impl Placed {
    fn answer(&self, done: &Completed) -> api::VerifiedSequence {
        let Self { at, told } = self;
        let verified = told.message(|place| done.results.row(at + place));
        metrics::verified(told.mode(), told.drafts(), verified.accepted as usize);
        verified
    }
}
