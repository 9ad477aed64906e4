//! Evaluations, from message to answer: what is asked is counted and finds room before it is unfolded, a grid of a hundred
//! bytes being thousands of sets.

use super::budget::Held;
use super::call::Call;
use super::convert::{self, Lent};
use super::error::Error;
use super::frames::Admitted;
use super::metrics;
use super::run::{self, AnswerRoom};
use super::sample::Answered;
use super::state::Shared;
use crate::engine::{
    self, Evaluated, EvaluationRequest, EvaluationRow, Permit, Priority, RequestRow,
};
use crate::wire;
use crate::wire::violations::Violations;
use logitd_core::arithmetic;
use logitd_core::batch::Dtype;
use logitd_core::evaluate::sets::{FIELDS_OF_SETS, Grid, SetError, Sets, give_way};
use logitd_core::evaluate::sums::{SetSums, TAIL_SHARE};
use logitd_core::evaluate::{Evaluation, GROUPS_END, TailShare};
use logitd_core::params::{Field, ParamsSpec, SamplingParams, Value};
use logitd_proto::{self as api, EvaluateRequest, EvaluateResponse, Limits, Plane, RowLayout};
use std::sync::Arc;

/// Bytes that a set takes: as it is asked for, as it was parsed, and by its cuts.
const SET_BYTES: usize = size_of::<ParamsSpec>() + size_of::<SamplingParams>() + 256;
/// Bytes that a set of a list takes beside, which may have further cuts: its stages, if no other set shares them.
const LISTED_BYTES: usize = 2048;
/// Up to so many sets are checked, and so many sums arranged, where the call is handled: less than 100 us. More are for the
/// threads that evaluate, which leave the processor to samples.
const INLINE_MAX: usize = 256;

/// Evaluates one request, of a unary call or of a stream, with what its message was let in with. `bytes` is the plane of
/// logits that come as bytes.
pub async fn evaluate(
    shared: &Shared,
    call: &Call,
    admitted: Admitted,
    mut request: EvaluateRequest,
    bytes: Plane,
) -> Result<Answered<EvaluateResponse>, Error> {
    let _working = shared.working();
    let (mut permit, _shares) = admitted.complete(&mut request.logits);
    let limits = &shared.limits;
    let size = Size::of(&request, limits)?;
    let lent = borrow(shared, call, &mut request)?;
    let plane = if lent.is_some() { Plane::SharedMemory } else { bytes };
    let logits = lent.as_ref().map_or(request.logits.len(), |lent| lent.bytes);
    let held = size.take(shared, call, &mut permit, logits)?;
    metrics::plane_bytes(plane, logits);

    let asked_priority = request.priority;
    let limits = *limits;
    // Whoever hangs up leaves the request where it is looked at, and with it its room.
    let work = move || (check(&request, lent.as_ref(), &limits), permit, held);
    let (checked, permit, held) = match size.sets <= INLINE_MAX {
        true => work(),
        false => shared.evaluations.work(work).await?,
    };
    let checked = checked?;
    let Checked { rows, labels, sets, tail, evaluations } = checked;
    tracing::Span::current().record("rows", rows.len());
    let _token_rows = call.token.as_ref().map(|token| token.reserve(rows.len())).transpose()?;
    let answers = if evaluations { rows.len() * sets.len() } else { 0 };
    let sums = labels.len() * sets.len();
    let answer_bytes = answer_bytes(rows.len(), sums, answers);
    let room = AnswerRoom::take(shared, call, answer_bytes)?;
    let asked = convert::priority(asked_priority).unwrap_or_default();
    let priority = run::priority(call, Some(asked.unwrap_or(Priority::Low)))?;
    let request = EvaluationRequest {
        rows,
        groups: labels.len(),
        sets,
        tail,
        evaluations,
        deadline: call.deadline,
        priority,
        source: call.source(),
    };
    let done = shared.evaluations.submit(permit, request)?.await?;
    let work = move || (response(done, &labels, plane), room, held);
    let (response, room, _held) = match sums + answers <= INLINE_MAX {
        true => work(),
        false => shared.evaluations.work(work).await?,
    };
    let _turn = run::turn(shared, answer_bytes).await;
    Ok(Answered { response, room })
}

/// How much is asked for.
struct Size {
    sets: usize,
    /// Those of a list.
    listed: usize,
    rows: usize,
    /// Those that occur, ascending.
    labels: Vec<u32>,
    evaluations: bool,
}

impl Size {
    fn of(request: &EvaluateRequest, limits: &Limits) -> Result<Self, Error> {
        convert::within_rows(request.references.len(), limits)?;
        within(
            "sets in the list",
            request.sets.len() as u64,
            limits.request_rows_max.into(),
            "request_rows_max",
        )?;
        let grid = request.grid.as_ref().map_or(0, grid_sets);
        let sets = grid.saturating_add(request.sets.len() as u64);
        within("sets", sets, limits.evaluate_sets_max.into(), "evaluate_sets_max")?;
        let mut labels = request.groups.clone();
        labels.sort_unstable();
        labels.dedup();
        if labels.is_empty() {
            labels.push(0);
        }
        let (sets, rows) = (sets as usize, request.references.len());
        let name = "evaluate_sums_max";
        let limit = limits.evaluate_sums_max;
        within("sets times labels", (sets * labels.len()) as u64, limit, name)?;
        if request.rows {
            within("sets times rows", (sets * rows) as u64, limit, name)?;
        }
        let listed = request.sets.len();
        Ok(Self { sets, listed, rows, labels, evaluations: request.rows })
    }

    /// Takes room for the logits and for all that the sets are unfolded to: of the server, of which evaluations have a
    /// half at most, of the connection and of the token.
    fn take(
        &self,
        shared: &Shared,
        call: &Call,
        permit: &mut Permit,
        logits: usize,
    ) -> Result<Vec<Held>, Error> {
        let Self { sets, listed, rows, labels, evaluations } = self;
        let answers = if *evaluations { rows * sets * size_of::<Evaluation>() } else { 0 };
        let sums = labels.len() * sets * size_of::<SetSums>();
        let unfolded = sets * SET_BYTES + listed * LISTED_BYTES;
        let side = unfolded + sums + answers + rows * size_of::<EvaluationRow>();
        let bytes = logits.saturating_add(side);
        let mut held = call.hold(side)?;
        held.push(shared.evaluating.take(bytes)?);
        permit.resize(permit.rows(), bytes)?;
        Ok(held)
    }
}

/// The combinations of a grid.
fn grid_sets(grid: &api::SetGrid) -> u64 {
    let axes = [grid.temperature.len(), grid.top_k.len(), grid.top_p.len(), grid.min_p.len()];
    axes.into_iter().fold(1, |sets: u64, values| sets.saturating_mul(values.max(1) as u64))
}

fn within(what: &'static str, value: u64, limit: u64, name: &'static str) -> Result<(), Error> {
    if value > limit {
        let way_out = "send fewer sets, or rows, in each of several requests";
        return Err(Error::OverLimit { what, value, limit, name, way_out });
    }
    Ok(())
}

/// The slot that a request names, on loan.
fn borrow(
    shared: &Shared,
    call: &Call,
    request: &mut EvaluateRequest,
) -> Result<Option<Lent>, Error> {
    let Some(slot) = request.slot.take() else { return Ok(None) };
    if !request.logits.is_empty() {
        let bytes = request.logits.len();
        let text = format!("logits has {bytes} bytes beside a slot; allowed: one or the other");
        return Err(Error::invalid("logits", text));
    }
    let shm = shared.shm.as_ref().ok_or(Error::NoShm("the server has no --shm socket"))?;
    let peer = call.peer.ok_or(Error::NoShm("call over the server's Unix socket"))?;
    let slot = shm.regions.borrow(convert::slot(&slot)?, peer)?;
    if slot.is_on_device() {
        let text =
            "slot lies in memory of a device; allowed: memory of the host, where evaluations run";
        return Err(Error::invalid("slot", text));
    }
    let bytes = slot.length_bytes();
    Ok(Some(Lent { loan: Arc::new(slot), bytes }))
}

/// What is asked for, checked.
#[derive(Debug)]
pub struct Checked {
    pub rows: Vec<EvaluationRow>,
    /// Those that occur, ascending.
    pub labels: Vec<u32>,
    pub sets: Sets,
    pub tail: TailShare,
    pub evaluations: bool,
}

/// Checks a request against the API and these limits: its own logits, or those that are lent.
pub fn check(
    request: &EvaluateRequest,
    lent: Option<&Lent>,
    limits: &Limits,
) -> Result<Checked, Error> {
    let size = Size::of(request, limits)?;
    let mut wrong = Violations::new(None);
    let dtype = wrong.keep("dtype", wire::layout::dtype(request.dtype));
    let vocab_size = wrong.keep("vocab_size", wire::layout::vocab_size(request.vocab_size));
    wrong.keep("priority", convert::priority(request.priority));
    let tail = wrong.keep("tail_share", tail(request.tail_share));
    let bytes = lent.map_or(request.logits.len(), |lent| lent.bytes);
    let layout = dtype
        .zip(vocab_size)
        .and_then(|(dtype, vocab_size)| wrong.keep("logits", layout(bytes, dtype, vocab_size)));
    if let Some(layout) = layout {
        convert::within_rows(layout.rows, limits)?;
        wrong.keep("references", as_many(request.references.len(), layout.rows, false));
        wrong.keep("groups", as_many(request.groups.len(), layout.rows, true));
    }
    if let Some(vocab_size) = vocab_size {
        below(&mut wrong, "references", &request.references, vocab_size as u32, "vocab_size");
    }
    below(&mut wrong, "groups", &request.groups, GROUPS_END, "labels");
    if size.sets == 0 {
        let text = "sets is empty, and so is grid; allowed: one set or more";
        wrong.add(|| "sets".into(), || text.into());
    }
    let sets = sets(&mut wrong, request);
    let (Some(dtype), Some(layout), Some(tail), Some(sets), true) =
        (dtype, layout, tail, sets, wrong.none())
    else {
        return Err(wrong.into());
    };
    let params = ParamsSpec::DEFAULT.parse(|| 0).expect("the defaults are valid");
    let rows = (0..layout.rows).map(|place| {
        let range = layout.row(place);
        let row = match lent {
            None => RequestRow::new(dtype, request.logits.slice(range), params),
            Some(Lent { loan, .. }) => {
                RequestRow::lent(dtype, Arc::clone(loan), range.start, range.len(), params)
            }
        };
        let row = row.map_err(|error| Error::invalid("logits", error.to_string()))?;
        let label = request.groups.get(place).copied().unwrap_or(0);
        let group = size.labels.binary_search(&label).expect("every label was counted");
        Ok(EvaluationRow { row, reference: request.references[place], group })
    });
    let rows = rows.collect::<Result<Vec<_>, Error>>()?;
    Ok(Checked { rows, labels: size.labels, sets, tail, evaluations: request.rows })
}

fn tail(share: Option<f32>) -> Result<TailShare, String> {
    let share = share.unwrap_or(TAIL_SHARE);
    TailShare::new(share).ok_or_else(|| format!("is {share}; allowed: above 0, below 1"))
}

fn layout(bytes: usize, dtype: Dtype, vocab_size: usize) -> Result<RowLayout, String> {
    RowLayout::of(bytes, vocab_size as u32, 0, dtype.size_bytes()).ok_or_else(|| {
        let row = vocab_size * dtype.size_bytes();
        format!(
            "has {bytes} bytes; allowed: one or more rows of {row} bytes ({vocab_size} {dtype} logits)"
        )
    })
}

fn as_many(given: usize, rows: usize, may_be_none: bool) -> Result<(), String> {
    if given == rows || (may_be_none && given == 0) {
        return Ok(());
    }
    let none = if may_be_none { "none, or " } else { "" };
    Err(format!("has {given} values for {rows} rows; allowed: {none}one a row"))
}

/// Notes every value that is not below a bound.
fn below(wrong: &mut Violations<'_>, name: &str, values: &[u32], bound: u32, what: &str) {
    for (place, value) in values.iter().enumerate().filter(|(_, value)| **value >= bound) {
        let describe = || format!("{name} is {value}; allowed: below {bound} ({what})");
        wrong.add(|| format!("{name}[{place}]"), describe);
    }
}

/// The sets of the list and of the grid, if nothing is wrong with them.
fn sets(wrong: &mut Violations<'_>, request: &EvaluateRequest) -> Option<Sets> {
    let mut specs: Vec<ParamsSpec> = Vec::with_capacity(request.sets.len());
    for (place, set) in request.sets.iter().enumerate() {
        specs.push(wrong.spec(&convert::in_list("sets", place), set));
        let is_asked = [
            ("logprobs", set.logprobs.is_some()),
            ("return_kept", set.return_kept),
            ("dry", set.dry.is_some()),
        ];
        for (name, _) in is_asked.into_iter().filter(|(_, given)| *given) {
            let text = || format!("{name} stands in a set; allowed: {}", FIELDS_OF_SETS.join(", "));
            wrong.add(|| format!("sets[{place}].{name}"), text);
        }
    }
    let mut parse =
        |(i, spec): (usize, &ParamsSpec)| wrong.params(&convert::in_list("sets", i), *spec);
    let mut parsed: Vec<Option<SamplingParams>> =
        specs.iter().enumerate().map(&mut parse).collect();
    if let Some(grid) = request.grid.as_ref().and_then(|grid| unfolded(wrong, grid)) {
        let parse = |(i, spec): (usize, &ParamsSpec)| {
            give_way(i);
            spec.parse(|| 0).ok()
        };
        parsed.extend(grid.specs().iter().enumerate().map(parse));
    }
    let parsed: Vec<SamplingParams> = parsed.into_iter().flatten().collect();
    if !wrong.none() {
        return None;
    }
    let refused = |SetError { set, field, value, why }: SetError| {
        let text = || format!("{field} is {value}; {why}");
        wrong.add(|| format!("sets[{set}].{}", wire::params::path(field)), text);
    };
    Sets::new(parsed).map_err(refused).ok()
}

/// The axes of a grid, if nothing is wrong with any value; notes what is.
fn unfolded(wrong: &mut Violations<'_>, grid: &api::SetGrid) -> Option<Grid> {
    let real = |values: &[f32]| values.iter().copied().map(Value::Real).collect::<Vec<_>>();
    let top_k = grid.top_k.iter().map(|k| Value::Whole((*k).into()));
    let axes = [
        ("temperature", real(&grid.temperature)),
        ("top_k", top_k.collect()),
        ("top_p", real(&grid.top_p)),
        ("min_p", real(&grid.min_p)),
    ];
    let (mut unfolded, mut right) = (Grid::default(), true);
    for (name, values) in axes {
        let field = Field::named(name).expect("a parameter");
        for (place, value) in values.iter().enumerate() {
            let mut alone = ParamsSpec::DEFAULT;
            field.set(&mut alone, *value);
            if let Err(error) = alone.parse(|| 0) {
                right = false;
                wrong.add(|| format!("grid.{name}[{place}]"), || error.to_string());
            }
        }
        // An axis without a value has its default.
        if !values.is_empty() {
            unfolded = unfolded.with(name, values);
        }
    }
    right.then_some(unfolded)
}

/// Bytes of an answer, in memory and as it is encoded.
fn answer_bytes(rows: usize, sums: usize, evaluations: usize) -> usize {
    // Eight numbers, each up to 10 bytes encoded; and as messages.
    const SUM_BYTES: usize = 8 * (8 + 10);
    const ROW_BYTES: usize = size_of::<api::RowReference>() + 24;
    const EVALUATION_BYTES: usize = size_of::<api::Evaluation>() + 24;
    const MESSAGE_BYTES: usize = 512;
    MESSAGE_BYTES + rows * ROW_BYTES + sums * SUM_BYTES + evaluations * EVALUATION_BYTES
}

fn response(done: Evaluated, labels: &[u32], plane: Plane) -> EvaluateResponse {
    let us = |time: std::time::Duration| time.as_micros() as u64;
    let references = done.references.iter().map(|reference| api::RowReference {
        status: wire::row::status_message(reference.status).into(),
        rank: reference.rank,
        logprob: reference.logprob,
        entropy: reference.entropy,
    });
    let rows = done.evaluations.iter().map(|evaluation| api::Evaluation {
        kept: evaluation.kept,
        kept_mass: evaluation.kept_mass,
        logprob: evaluation.logprob,
    });
    let groups = labels.iter().zip(&done.groups);
    EvaluateResponse {
        references: references.collect(),
        groups: groups.map(|(&label, sums)| wire::evaluate::message(label, sums)).collect(),
        rows: rows.collect(),
        timings: Some(api::Timings {
            queue_us: us(done.timings.queue),
            copy_us: us(done.timings.copy),
            compute_us: us(done.timings.compute),
        }),
        device: engine::EVALUATION_DEVICE.into(),
        arithmetic_version: arithmetic::VERSION,
        plane: plane.into(),
    }
}
