//! A step of beams, from message to answer: rows are asked how they go on, and what they say is merged group by group.

use super::borrow;
use super::call::Call;
use super::convert::{self, Lent};
use super::error::Error;
use super::frames::Admitted;
use super::history;
use super::recording::Recording;
use super::run::{self, Run};
use super::sample::Answered;
use super::state::Shared;
use super::whole_rows::{self, Logits};
use crate::engine::{Completed, Permit, Priority, RequestRow};
use crate::wire;
use crate::wire::groups::{self, Group};
use crate::wire::violations::Violations;
use crate::wire::whole_rows::{Given, WholeRows, bytes as list_bytes};
use logitd_core::arithmetic;
use logitd_core::beams::{self, Step};
use logitd_core::inspection::Inspect;
use logitd_proto::{self as api, BeamGroup, BeamStepRequest, BeamStepResponse, Limits, Plane};
use std::sync::Arc;
use std::time::Instant;

/// Steps the groups of one request, with what its message was let in with. `bytes` is the plane of logits that come as
/// bytes.
pub async fn step(
    shared: &Shared,
    call: &Call,
    admitted: Admitted,
    mut request: BeamStepRequest,
    bytes: Plane,
) -> Result<Answered<BeamStepResponse>, Error> {
    let arrived = Instant::now();
    let _working = shared.working();
    let (mut permit, _shares) = admitted.complete(&mut request.logits);
    let rows = within_limits(&request.groups, &shared.limits)?;
    let BeamStepRequest { slot, logits, .. } = &mut request;
    let (plane, slot) = match slot {
        Some(_) => borrow::borrow(shared, call, &mut permit, slot, logits, rows).await?,
        None => (bytes, borrow::Slot::None),
    };
    let (lent, copied) = slot.split();
    let groups = &mut request.groups;
    let _histories = history::read(shared, call, &mut permit, adjustments(groups), path_of).await?;
    let recording = Recording::of(shared, arrived, &request);
    let stepped = compute(shared, call, permit, request, lent, plane).await;
    if let (Ok(_), Some(loan)) = (&stepped, copied) {
        loan.settle();
    }
    recording.end(stepped.as_ref().map(|answered| &answered.response));
    stepped
}

/// The rows of all groups, if they and the beams are no more than there may be.
fn within_limits(groups: &[BeamGroup], limits: &Limits) -> Result<usize, Error> {
    let most = groups.iter().map(|group| group.beams).max().unwrap_or(0);
    if most > limits.beams_max {
        let (what, name) = ("beams of a group", "beams_max");
        let (value, limit, way_out) = (most.into(), limits.beams_max.into(), "ask for fewer");
        return Err(Error::OverLimit { what, value, limit, name, way_out });
    }
    let rows = groups.iter().map(|group| group.scores.len()).sum();
    convert::within_rows(rows, limits)?;
    Ok(rows)
}

/// The adjustments in a request, each with its group and its place there.
fn adjustments(
    groups: &mut [BeamGroup],
) -> impl Iterator<Item = ((usize, usize), &mut api::Adjustments)> {
    groups.iter_mut().enumerate().flat_map(|(i, group)| {
        group.adjustments.iter_mut().enumerate().map(move |(j, set)| ((i, j), set))
    })
}

fn path_of((group, set): (usize, usize)) -> String {
    format!("groups[{group}].adjustments[{set}]")
}

async fn compute(
    shared: &Shared,
    call: &Call,
    permit: Permit,
    request: BeamStepRequest,
    lent: Option<Lent>,
    plane: Plane,
) -> Result<Answered<BeamStepResponse>, Error> {
    let limits = shared.limits;
    let list_bytes: usize = request.groups.iter().map(prost::Message::encoded_len).sum();
    let is_small = run::is_small(list_bytes);
    let check = move || Ok((permit, batch(request, lent, &limits)?));
    let (permit, batch) = run::checked(is_small, check).await?;
    let CheckedGroups { rows, steps, priority, bytes } = batch;
    let answer_bytes = answer_bytes(&steps);
    let run = Run { rows, bytes, answer_bytes, priority, plane };
    let ran = run.on(shared, call, permit).await?;
    Ok(Answered { response: response(&ran.done, &steps, plane), room: ran.room })
}

/// What a request asks for, checked.
#[derive(Debug)]
pub struct CheckedGroups {
    /// Those of all groups, one group after another; at least one.
    pub rows: Vec<RequestRow>,
    /// One a group.
    pub steps: Vec<Step>,
    pub priority: Option<Priority>,
    /// Bytes of the rows and of what stands beside them.
    pub bytes: usize,
}

/// Checks a request against the API and these limits, and cuts its logits into rows: its own, or those that are lent.
pub fn batch(
    request: BeamStepRequest,
    lent: Option<Lent>,
    limits: &Limits,
) -> Result<CheckedGroups, Error> {
    within_limits(&request.groups, limits)?;
    let mut wrong = Violations::new(None);
    let BeamStepRequest { dtype, vocab_size, row_stride, rows, logits, groups, .. } = request;
    let given = Given { dtype, vocab_size, row_stride, rows };
    let priority = wrong.keep("priority", convert::priority(request.priority));
    if groups.is_empty() {
        let text = "groups is empty; allowed: one group or more";
        wrong.add(|| "groups".into(), || text.into());
    }
    let logits = Logits::of(logits, lent);
    let Some(rows) = WholeRows::of(given, logits.bytes(), &mut wrong) else {
        return Err(wrong.into());
    };
    let (allowed, beams_max) = (whole_rows::limits(limits), limits.beams_max);
    let groups = groups::check(groups, &rows, allowed, beams_max, &mut wrong);
    let (Some(priority), true) = (priority, wrong.none()) else {
        return Err(wrong.into());
    };
    lay_out(groups, &rows, &logits, priority)
}

/// The rows of groups that are right, one group after another.
fn lay_out(
    groups: Vec<Group>,
    rows: &WholeRows,
    logits: &Logits,
    priority: Option<Priority>,
) -> Result<CheckedGroups, Error> {
    let (mut batch, mut steps, mut side_bytes) = (vec![], vec![], 0);
    for group in groups {
        side_bytes += match &group.adjustments[..] {
            [one, another, ..] if one.shares_with(another) => list_bytes([one]),
            all => list_bytes(all),
        };
        let inspect: Arc<Inspect> = Arc::new(group.step.inspect());
        for beam in 0..group.rows() {
            let row = logits.row(rows, group.first + beam, group.params(beam))?;
            let row = row.with_adjustments(group.adjustments.get(beam).cloned());
            batch.push(row.with_inspect(Some(Arc::clone(&inspect))));
        }
        steps.push(group.step);
    }
    let in_rows: usize = batch.iter().map(RequestRow::bytes).sum();
    let bytes = in_rows.max(rows.bytes()) + side_bytes;
    Ok(CheckedGroups { rows: batch, steps, priority, bytes })
}

/// Bytes that the answer takes at most, before it is encoded and after.
pub fn answer_bytes(steps: &[Step]) -> usize {
    const MESSAGE_BYTES: usize = 512;
    const GROUP_BYTES: usize = 320;
    // A beam, a token and a score; and a status.
    const CONTINUATION_BYTES: usize = 16;
    const STATUS_BYTES: usize = 4;
    let group = |step: &Step| {
        let spec = step.spec();
        let continuations = step.count() as usize + 2 * spec.beams as usize;
        GROUP_BYTES + spec.scores.len() * STATUS_BYTES + continuations * CONTINUATION_BYTES
    };
    MESSAGE_BYTES + steps.iter().map(group).sum::<usize>()
}

/// The answer to a request whose rows were asked.
pub fn response(done: &Completed, steps: &[Step], plane: Plane) -> BeamStepResponse {
    BeamStepResponse {
        groups: beams::merged(steps, &done.results).iter().map(wire::beam::message).collect(),
        timings: Some(convert::timings(done)),
        device: convert::device(done),
        arithmetic_version: arithmetic::VERSION,
        plane: plane.into(),
    }
}
