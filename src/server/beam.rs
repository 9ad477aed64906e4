//! A step of beams, from message to answer: rows are asked how they go on, and what they say is merged group by group.

use super::borrow;
use super::call::Call;
use super::convert::{self, Lent, Violations};
use super::error::Error;
use super::frames::Admitted;
use super::history;
use super::run::{self, Run};
use super::sample::Answered;
use super::state::Shared;
use super::whole_rows::{self, Given, WholeRows, renamed};
use crate::engine::{Completed, Permit, Priority, RequestRow};
use crate::wire;
use logitd_core::adjustments::Adjustments;
use logitd_core::arithmetic;
use logitd_core::beams::{Step, StepError, stop_at};
use logitd_core::inspection::Inspect;
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_proto::{self as api, BeamGroup, BeamStepRequest, BeamStepResponse, Limits, Plane};
use std::sync::Arc;

/// Steps the groups of one request, with what its message was let in with. `bytes` is the plane of logits that come as
/// bytes.
pub async fn step(
    shared: &Shared,
    call: &Call,
    admitted: Admitted,
    mut request: BeamStepRequest,
    bytes: Plane,
) -> Result<Answered<BeamStepResponse>, Error> {
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
    let stepped = compute(shared, call, permit, request, lent, plane).await;
    if let (Ok(_), Some(loan)) = (&stepped, copied) {
        loan.settle();
    }
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
    let Batch { rows, steps, priority, bytes } = batch;
    let answer_bytes = answer_bytes(&steps);
    let run = Run { rows, bytes, answer_bytes, priority, plane };
    let ran = run.on(shared, call, permit).await?;
    Ok(Answered { response: response(&ran.done, &steps, plane), room: ran.room })
}

/// What a request asks for, checked.
#[derive(Debug)]
pub struct Batch {
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
) -> Result<Batch, Error> {
    within_limits(&request.groups, limits)?;
    let mut wrong = Violations::new(None);
    let BeamStepRequest { dtype, vocab_size, row_stride, rows, logits, groups, .. } = request;
    let given = Given { dtype, vocab_size, row_stride, rows };
    let priority = wrong.keep("priority", convert::priority(request.priority));
    if groups.is_empty() {
        let text = "groups is empty; allowed: one group or more";
        wrong.add(|| "groups".into(), || text.into());
    }
    let Some(rows) = WholeRows::of(given, logits, lent, &mut wrong) else {
        return Err(wrong.into_error());
    };
    let is_placed = groups.iter().any(|group| group.first_row.is_some());
    let mut next = 0;
    let mut checked = Vec::with_capacity(groups.len());
    for (i, group) in groups.into_iter().enumerate() {
        let check = Check { rows: &rows, limits, path: format!("groups[{i}]") };
        let count = group.scores.len().max(1);
        let first = check.place(&group, count, next, &mut wrong);
        next = first.saturating_add(count);
        checked.extend(check.group(group, first, &mut wrong));
    }
    if wrong.none() && !is_placed {
        let places = |one: &Checked| one.first..one.first + one.step.spec().scores.len();
        rows.check_used(&mut wrong, checked.iter().map(places), "group");
    }
    let (Some(priority), true) = (priority, wrong.none()) else {
        return Err(wrong.into_error());
    };
    lay_out(checked, &rows, priority)
}

/// A group as it was checked.
struct Checked {
    first: usize,
    step: Step,
    /// One for all rows, or one a row.
    params: Vec<SamplingParams>,
    /// One a row, or none.
    adjustments: Vec<Adjustments>,
}

/// Where a group is checked, and against what.
struct Check<'a> {
    rows: &'a WholeRows,
    limits: &'a Limits,
    path: String,
}

impl Check<'_> {
    fn place(
        &self,
        group: &BeamGroup,
        count: usize,
        next: usize,
        wrong: &mut Violations<'_>,
    ) -> usize {
        let (first_row, rows) = (group.first_row, group.rows);
        let asked = whole_rows::Asked { first_row, rows, count, next };
        self.rows.place(wrong, &|| self.path.clone(), asked, "a score")
    }

    /// `None` where something is wrong, which is noted.
    fn group(
        &self,
        mut group: BeamGroup,
        first: usize,
        wrong: &mut Violations<'_>,
    ) -> Option<Checked> {
        // Its eos_ids go into all adjustments, so they are few before that.
        let step = self.step(&group, wrong)?;
        let params = self.params(&group, wrong);
        let adjustments = std::mem::take(&mut group.adjustments);
        let adjustments = self.adjustments(adjustments, &group, &params, wrong)?;
        let params: Option<Vec<SamplingParams>> = params.into_iter().collect();
        Some(Checked { first, step, params: params?, adjustments })
    }

    fn step(&self, group: &BeamGroup, wrong: &mut Violations<'_>) -> Option<Step> {
        let spec = match wire::beam::spec(group) {
            Ok(spec) => spec,
            Err(text) => {
                self.add(wrong, "normaliser", text);
                return None;
            }
        };
        let add = |StepError { field, description }: StepError| {
            let name = field.split('[').next().unwrap_or_default();
            self.add(wrong, &field, format!("{name} {description}"));
        };
        spec.parse(self.rows.vocab_size()).map_err(|errors| errors.into_iter().for_each(add)).ok()
    }

    /// The parameters of the rows, which are greedy, so that drawing costs nothing: one for all, or one a row.
    fn params(&self, group: &BeamGroup, wrong: &mut Violations<'_>) -> Vec<Option<SamplingParams>> {
        let (given, rows) = (group.params.len(), group.scores.len());
        if !matches!(given, 0 | 1) && given != rows {
            let text = format!(
                "params has {given} for {rows} rows; allowed: none, 1 for all, or one a row"
            );
            self.add(wrong, "params", text);
        }
        let greedy = |spec: ParamsSpec| ParamsSpec { temperature: 0.0, seed: Some(0), ..spec };
        if given == 0 {
            return vec![greedy(ParamsSpec::default()).parse(|| 0).ok()];
        }
        let all = group.params.iter().enumerate().map(|(j, params)| {
            let path = || format!("{}.params[{j}]", self.path);
            let spec = wrong.spec(&path, params);
            if let Some((name, value)) = wire::beam::beyond_coefficients(params, &spec) {
                let text = format!(
                    "{name} is {value}, and a step of beams cuts and draws nothing; allowed: its default"
                );
                self.add(wrong, &format!("params[{j}].{name}"), text);
                return None;
            }
            wrong.params(&path, greedy(spec))
        });
        all.collect()
    }

    /// The adjustments of each row, or none where no row has any.
    fn adjustments(
        &self,
        mut given: Vec<api::Adjustments>,
        group: &BeamGroup,
        params: &[Option<SamplingParams>],
        wrong: &mut Violations<'_>,
    ) -> Option<Vec<Adjustments>> {
        let BeamGroup { eos_ids, scores, .. } = group;
        // More sets than rows are refused as they are.
        let stops = given.len() <= scores.len().max(1)
            && params.iter().flatten().any(|params| params.min_tokens() > 0);
        if stops && given.is_empty() && !eos_ids.is_empty() {
            given.push(api::Adjustments::default());
        }
        let mut errors = vec![];
        for (j, set) in given.iter_mut().enumerate().filter(|_| stops) {
            if let Err(mut error) = stop_at(&mut set.stop_ids, eos_ids) {
                error.field = format!("adjustments[{j}].{}", error.field);
                errors.push(error);
            }
        }
        let parsed: Vec<SamplingParams> =
            params.iter().map(|one| one.unwrap_or_else(convert::default_params)).collect();
        let (count, vocab_size) = (scores.len().max(1), self.rows.vocab_size());
        let (params, parsed) = (&group.params[..], &parsed[..]);
        let rows = wire::adjustments::Rows { count, vocab_size, params, parsed, candidates: &[] };
        let made = match errors.is_empty() {
            true => {
                wire::adjustments::of_rows(given, rows, convert::adjustment_limits(self.limits))
            }
            false => Err(errors),
        };
        let rename = |path: &str| format!("{}.{path}", self.path);
        wrong.keep_adjustments(made.map_err(|errors| renamed(errors, &rename)))
    }

    fn add(&self, wrong: &mut Violations<'_>, field: &str, text: String) {
        wrong.add(|| format!("{}.{field}", self.path), || text);
    }
}

/// The rows of groups that are right, one group after another.
fn lay_out(
    checked: Vec<Checked>,
    rows: &WholeRows,
    priority: Option<Priority>,
) -> Result<Batch, Error> {
    let (mut batch, mut steps, mut side_bytes) = (vec![], vec![], 0);
    for Checked { first, step, params, adjustments } in checked {
        side_bytes += match &adjustments[..] {
            [one, another, ..] if one.shares_with(another) => whole_rows::bytes([one]),
            all => whole_rows::bytes(all),
        };
        let inspect: Arc<Inspect> = Arc::new(step.inspect());
        for beam in 0..step.spec().scores.len() {
            let row = rows.row(first + beam, params[beam.min(params.len() - 1)])?;
            let row = row.with_adjustments(adjustments.get(beam).cloned());
            batch.push(row.with_inspect(Some(Arc::clone(&inspect))));
        }
        steps.push(step);
    }
    let in_rows: usize = batch.iter().map(RequestRow::bytes).sum();
    let bytes = in_rows.max(rows.bytes()) + side_bytes;
    Ok(Batch { rows: batch, steps, priority, bytes })
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
    let mut at = 0;
    let group = |step: &Step| {
        let rows = at..at + step.spec().scores.len();
        at = rows.end;
        let found = rows.map(|row| {
            let inspection = done.results.row(row).inspection.expect("it was asked for");
            inspection.continuations.as_ref().expect("they were asked for")
        });
        wire::beam::message(&step.merge(found))
    };
    BeamStepResponse {
        groups: steps.iter().map(group).collect(),
        timings: Some(convert::timings(done)),
        device: convert::device(done),
        arithmetic_version: arithmetic::VERSION,
        plane: plane.into(),
    }
}
