//! Between messages and the domain: requests in, responses out, and the one table from errors to
//! gRPC statuses.
//!
//! A request is checked whole, so that its sender hears of every wrong field at once; beyond as many as are told
//! they are only counted. Its logits are
//! cut into rows where they lie; nothing is copied, but candidates whose tokens do not ascend.

use super::error::Error;
use crate::config::Config;
use crate::engine::{Completed, Failure, Priority, Refused, RequestRow};
use crate::plane::{ShmError, SlotRef};
use crate::wire::adjustments::Rows;
use crate::wire::columns::Paths;
use crate::wire::inspection::{self, Asked, Names};
use crate::wire::layout::{self, Layout};
use crate::wire::violations::{self, Violation, Violations};
use crate::wire::{self, whole};
use bytes::Bytes;
use logitd_core::adjustments::{self, Adjustments};
use logitd_core::arithmetic;
use logitd_core::batch::{Dtype, Loan, LoanError, RowResult, VOCAB_SIZE_MAX};
use logitd_core::candidates::{self, CandidateRow, TokenList};
use logitd_core::params::{DRAWS_MAX, Field, ParamsSpec, SamplingParams};
use logitd_proto::{self as api, RowLayout};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt};

/// What a request asks for, checked.
#[derive(Debug)]
pub struct CheckedRows {
    /// At least one.
    pub rows: Vec<RequestRow>,
    /// Who goes first.
    /// What the request asks for, if anything.
    pub priority: Option<Priority>,
    /// What indices of rows of candidates stand for, one list a row; empty where rows are whole.
    pub tokens: Vec<TokenList>,
    /// Tokens of a whole row.
    pub vocab_size: u32,
    /// What is asked of each row beside its tokens; empty where nothing is of any.
    pub asked: Vec<Option<Asked>>,
    /// Bytes of adjustments and breakers, those of several rows counted once.
    pub adjustment_bytes: usize,
    /// Bytes of padding between the rows.
    pub padding_bytes: usize,
    /// The rows that are wrong, where the others are sampled all the same; something else stands in their places.
    pub invalid: Invalid,
}

/// What is wrong with some rows, by their places.
pub type Invalid = BTreeMap<usize, Violation>;

impl CheckedRows {
    /// Bytes of logits.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(RequestRow::bytes).sum()
    }

    /// Bytes of what stands beside the logits: tokens of candidates, adjustments, tokens whose logprobs are wanted, and
    /// padding.
    pub fn side_bytes(&self) -> usize {
        let tokens: usize = self.tokens.iter().map(TokenList::bytes).sum();
        let asked = inspection::distinct_bytes(&self.asked);
        tokens + self.adjustment_bytes + asked + self.padding_bytes
    }

    /// The rows, and what it takes to tell their results.
    pub fn split(self) -> (Vec<RequestRow>, Told) {
        let Self { rows, tokens, asked, vocab_size, invalid, .. } = self;
        let params = rows.iter().map(|row| *row.params()).collect();
        (rows, Told { params, tokens, asked, vocab_size, invalid })
    }
}

/// What it takes to tell the results of a batch's rows.
pub struct Told {
    params: Vec<SamplingParams>,
    tokens: Vec<TokenList>,
    asked: Vec<Option<Asked>>,
    vocab_size: u32,
    invalid: Invalid,
}

impl Told {
    fn row(&self, row: usize, result: RowResult<'_>) -> api::RowResult {
        if let Some(Violation { field, description }) = self.invalid.get(&row) {
            let (field, description) = (field.clone(), description.clone());
            return wire::row::invalid_message(api::Violation { field, description });
        }
        let asked = self.asked.get(row).and_then(Option::as_ref);
        let ids = asked.map_or(&[][..], |asked| &asked.ids);
        let vocab_size = self.vocab_size;
        let names = self.tokens.get(row).map(|tokens| Names { tokens, vocab_size, ids });
        wire::row::result_message(result, self.params[row].seed(), names.as_ref())
    }
}

/// Logits that are lent instead of sent.
#[derive(Clone, Debug)]
pub struct Lent {
    /// The memory they lie in, from its first byte on.
    pub loan: Arc<dyn Loan>,
    /// Their bytes.
    pub bytes: usize,
}

/// Where the logits of a request's rows are.
enum Source {
    /// Each in bytes of its own.
    Sent(Vec<Bytes>),
    /// In memory that is lent.
    Lent(Lent, RowLayout),
}

/// Checks a request against the API and these limits, and cuts its logits into rows: its own, or those that
/// are lent. What is wrong is named by the paths of the columns, where the request came with them.
pub fn batch(
    mut request: api::SampleRequest,
    lent: Option<Lent>,
    paths: Option<&Paths>,
    limits: &api::Limits,
) -> Result<CheckedRows, Error> {
    let mut wrong = Violations::new(paths);
    within_rows(request.params.len(), limits)?;
    let dtype = wrong.keep("dtype", layout::dtype(request.dtype));
    let priority = wrong.keep("priority", priority(request.priority));
    let vocab_size = wrong.keep("vocab_size", layout::vocab_size(request.vocab_size));
    wrong.keep("on_invalid_row", on_invalid_row(request.on_invalid_row));

    // How many rows there are is known only once dtype and vocab_size are.
    let layout = dtype.zip(vocab_size).and_then(|(dtype, vocab_size)| {
        let rows = match &request.candidates {
            None => {
                wrong.keep("row_stride", layout::row_stride(request.row_stride, vocab_size))?;
                let bytes = lent.as_ref().map_or(request.logits.len(), |lent| lent.bytes);
                let (stride, count) = (request.row_stride, request.rows);
                let layout = layout::row_layout(bytes, dtype, vocab_size, stride, count);
                Layout::Whole(wrong.keep("logits", layout)?)
            }
            Some(given) => {
                wrong.keep("row_stride", no_row_stride(request.row_stride))?;
                let rows = candidates::row_count(&given.counts).map_err(|e| vec![e]);
                Layout::Candidates { rows: wrong.keep_all(rows)? }
            }
        };
        wrong.keep("rows", layout::as_many(request.rows, rows, dtype, vocab_size))?;
        Some((dtype, vocab_size, rows))
    });
    if let Some((_, _, rows)) = layout {
        let rows = rows.count();
        within_rows(rows, limits)?;
        if !matches!(request.params.len(), 0 | 1) && request.params.len() != rows {
            let given = request.params.len();
            wrong.add(
                || "params".into(),
                || format!("{given} for {rows} rows; allowed: none, 1 for all, or one a row"),
            );
        }
    }

    let specs: Vec<ParamsSpec> = match request.params.as_slice() {
        [] => vec![ParamsSpec::default()],
        params => params
            .iter()
            .enumerate()
            .map(|(i, params)| wrong.spec(&in_list("params", i), params))
            .collect(),
    };
    let sets: Vec<Option<SamplingParams>> = specs
        .iter()
        .enumerate()
        .map(|(i, spec)| wrong.params(&in_list("params", i), *spec))
        .collect();
    let parsed: Vec<_> =
        sets.iter().map(|set| set.unwrap_or_else(wire::params::defaults)).collect();
    let adjusted =
        |request: &mut api::SampleRequest, vocab_size: usize, rows, tokens: &[TokenList]| {
            let given = std::mem::take(&mut request.adjustments);
            let params = &request.params;
            let (parsed, vocab_size) = (&parsed, vocab_size as u32);
            let rows = Rows { count: rows, vocab_size, params, parsed, candidates: tokens };
            wire::adjustments::of_rows(given, rows, adjustment_limits(limits))
        };
    let asked =
        |request: &api::SampleRequest, vocab_size: usize, count, candidates: &[TokenList]| {
            let (vocab_size, params) = (vocab_size as u32, &request.params);
            let rows = inspection::Rows { count, vocab_size, params, candidates };
            inspection::of_rows(rows, inspection_limits(limits))
        };
    // Those of candidates are looked at when these are.
    let (mut adjustments, mut inspected) = (Some(vec![]), Some(vec![]));
    if let (Some((_, vocab_size, rows)), None) = (layout, &request.candidates) {
        adjustments = wrong.keep_adjustments(adjusted(&mut request, vocab_size, rows.count(), &[]));
        inspected = wrong.keep_inspected(asked(&request, vocab_size, rows.count(), &[]));
    }
    let (Some((dtype, vocab_size, layout)), Some(priority), true) =
        (layout, priority, wrong.none())
    else {
        return Err(wrong.into());
    };
    let rows = layout.count();

    let spec_of = |row: usize| if specs.len() == 1 { specs[0] } else { specs[row] };
    let bytes = lent.as_ref().map_or(request.logits.len(), |lent| lent.bytes);
    let (source, tokens) = match (layout, lent) {
        (Layout::Candidates { .. }, _) => {
            let rows = candidate_rows(dtype, vocab_size, &request, paths, spec_of)?;
            let (logits, tokens) = rows.into_iter().map(|row| (row.logits, row.tokens)).unzip();
            (Source::Sent(logits), tokens)
        }
        (Layout::Whole(layout), Some(lent)) => (Source::Lent(lent, layout), vec![]),
        (Layout::Whole(layout), None) => {
            let row = |row| request.logits.slice(layout.row(row));
            (Source::Sent((0..rows).map(row).collect()), vec![])
        }
    };
    if request.candidates.is_some() {
        adjustments = wrong.keep_adjustments(adjusted(&mut request, vocab_size, rows, &tokens));
        inspected = wrong.keep_inspected(asked(&request, vocab_size, rows, &tokens));
    }
    let (Some(adjustments), Some(asked)) = (adjustments, inspected) else {
        return Err(wrong.into());
    };
    let adjustment_bytes = distinct_bytes(&adjustments);
    let draws = (0..rows).map(|row| u64::from(spec_of(row).draws)).sum();
    within("draws in the request", draws, limits.request_draws_max.into(), "request_draws_max")?;

    let seedless = (0..rows).filter(|&row| spec_of(row).seed.is_none()).count();
    let mut seeds = whole::fresh_seeds(seedless).map_err(Error::NoSeed)?.into_iter();
    let rows = (0..rows).map(|row| {
        let set = if sets.len() == 1 { 0 } else { row };
        let params = sets[set].expect("nothing is wrong");
        let params = match specs[set].seed {
            Some(_) => params,
            None => params.with_seed(seeds.next().expect("one a row without")),
        };
        let made = match &source {
            Source::Sent(logits) => match tokens.get(row) {
                Some(tokens) => {
                    RequestRow::of_candidates(dtype, logits[row].clone(), tokens, params)
                }
                None => RequestRow::new(dtype, logits[row].clone(), params),
            },
            Source::Lent(Lent { loan, .. }, layout) => {
                let range = layout.row(row);
                RequestRow::lent(dtype, Arc::clone(loan), range.start, range.len(), params)
            }
        };
        let made = made.map_err(|e| Error::invalid("logits", e.to_string()))?;
        let inspect = asked.get(row).and_then(Option::as_ref);
        Ok(made
            .with_adjustments(adjustments.get(row).cloned())
            .with_inspect(inspect.map(|asked| Arc::clone(&asked.inspect))))
    });
    let rows = rows.collect::<Result<Vec<_>, Error>>()?;
    let race_tokens = rows.iter().map(RequestRow::race_tokens_max).sum();
    within(
        "tokens in the request's races, top_k (or else vocab_size) times draws of each row,",
        race_tokens,
        limits.request_race_tokens_max,
        "request_race_tokens_max",
    )?;
    let padding_bytes = match layout {
        Layout::Whole(layout) => bytes - rows.len() * layout.row_bytes,
        Layout::Candidates { .. } => 0,
    };
    let (vocab_size, invalid) = (vocab_size as u32, Invalid::new());
    Ok(CheckedRows {
        rows,
        priority,
        tokens,
        vocab_size,
        asked,
        adjustment_bytes,
        padding_bytes,
        invalid,
    })
}

/// What a message says of adjustments of rows of so many tokens, or the first that is wrong with it.
pub fn adjustments(
    message: api::Adjustments,
    vocab_size: u32,
    limits: &api::Limits,
) -> Result<Adjustments, Violation> {
    let parsed = wire::adjustments::spec(message)
        .map_err(|error| vec![error])
        .and_then(|spec| spec.parse(vocab_size, adjustment_limits(limits)));
    // Of several errors the first is as good as any.
    parsed.map_err(|mut errors| violations::of_adjustments(errors.swap_remove(0), "adjustments."))
}

/// What rows may ask of their adjustments.
pub(super) fn adjustment_limits(limits: &api::Limits) -> adjustments::Limits {
    adjustments::Limits {
        history_tokens_max: limits.history_tokens_max as usize,
        adjusted_tokens_max: limits.adjusted_tokens_max as usize,
    }
}

/// What rows may ask for beside tokens.
pub(super) fn inspection_limits(limits: &api::Limits) -> inspection::Limits {
    inspection::Limits {
        top_logprobs_max: limits.top_logprobs_max,
        kept_ids_max: limits.kept_ids_max,
    }
}

/// Bytes of the adjustments of all rows: their lists, which are one and the same for all, or each row's own; and the
/// breakers, which rows one after another may have in the same memory.
fn distinct_bytes(adjustments: &[Adjustments]) -> usize {
    let lists: usize = match adjustments {
        [first, second, ..] if first.shares_with(second) => first.lists().bytes(),
        all => all.iter().map(|one| one.lists().bytes()).sum(),
    };
    let breakers = adjustments.iter().enumerate().map(|(row, one)| {
        let is_counted = row > 0 && one.shares_breakers_with(&adjustments[row - 1]);
        if is_counted { 0 } else { one.breaker_bytes() }
    });
    lists + breakers.sum::<usize>()
}

/// Bytes that the answer to a batch takes at most, before it is encoded and after.
pub fn answer_bytes(batch: &CheckedRows) -> usize {
    let CheckedRows { rows, vocab_size, invalid, .. } = batch;
    // A draw is 8 bytes, or 13 at most with its keys and lengths; a row without its draws is less than 96.
    const DRAW_BYTES: usize = 13;
    const ROW_BYTES: usize = 96;
    // Up to two numbers of 4 bytes with their keys.
    const STATE_BYTES: usize = 10;
    const MESSAGE_BYTES: usize = 512;
    let draws: usize = rows.iter().map(|row| row.params().draws() as usize).sum();
    let violations: usize = invalid.values().map(|v| v.field.len() + v.description.len()).sum();
    let states = rows.iter().filter(|row| row.params().has_state()).count();
    let inspected: usize = rows.iter().map(|row| inspection_bytes(row, *vocab_size)).sum();
    let of_rows = rows.len() * ROW_BYTES + draws * DRAW_BYTES + states * STATE_BYTES;
    MESSAGE_BYTES + of_rows + inspected + violations
}

/// Bytes of what is asked of a row beside its tokens.
pub(super) fn inspection_bytes(row: &RequestRow, vocab_size: u32) -> usize {
    // A token, its rank and its logprob; and the keys and lengths of a distribution with three lists of three columns.
    const TOKEN_BYTES: usize = 12;
    const DISTRIBUTION_BYTES: usize = 96;
    let Some(inspect) = row.inspect() else { return 0 };
    let (params, row_tokens) = (row.params(), row.as_row().vocab_size());
    let top = inspect.top.min(row_tokens) as usize;
    let tokens = params.draws() as usize + top + inspect.ids.len();
    let each = DISTRIBUTION_BYTES + tokens * TOKEN_BYTES;
    let kept_max = params.kept_max(row_tokens);
    let kept = inspect.kept_ids_max.map_or(0, |most| kept_bytes(kept_max, most, vocab_size));
    inspect.distributions().count() * each + kept
}

/// Bytes of up to so many kept tokens: those of a list, or of a mask where they can be more than `most`.
fn kept_bytes(kept_max: u32, most: u32, vocab_size: u32) -> usize {
    const FIELD_BYTES: usize = 8;
    const WORD_BYTES: usize = size_of::<u32>();
    let list = kept_max.min(most) as usize * WORD_BYTES;
    let mask = if kept_max > most { vocab_size.div_ceil(32) as usize * WORD_BYTES } else { 0 };
    FIELD_BYTES + list.max(mask)
}

/// The answer to a request that was sampled; `told` is that of its [`CheckedRows`].
pub fn response(done: &Completed, told: &Told, plane: api::Plane) -> api::SampleResponse {
    let results = done.results.iter().enumerate();
    api::SampleResponse {
        rows: results.map(|(row, result)| told.row(row, result)).collect(),
        timings: Some(timings(done)),
        device: device(done),
        arithmetic_version: arithmetic::VERSION,
        plane: plane.into(),
        columns: None,
    }
}

/// Where the time went.
pub(super) fn timings(done: &Completed) -> api::Timings {
    let us = |time: std::time::Duration| time.as_micros() as u64;
    api::Timings {
        queue_us: us(done.timings.queue),
        copy_us: us(done.timings.copy),
        compute_us: us(done.timings.compute),
    }
}

/// Who computed the rows: the device, and the processor where it sampled some in the device's place.
pub(super) fn device(done: &Completed) -> String {
    match done.results.used_host() {
        true => format!("{}+cpu", done.device.id),
        false => done.device.id.clone(),
    }
}

/// The slot that a request names.
pub fn slot(slot: &api::SlotRef) -> Result<SlotRef, Error> {
    let region = slot.region.as_ref().try_into().map_err(|_| {
        let bytes = slot.region.len();
        Error::invalid("slot.region", format!("has {bytes} bytes; allowed: 16, as registered"))
    })?;
    let api::SlotRef { slot, generation, length_bytes, .. } = *slot;
    Ok(SlotRef { region, slot, generation, length_bytes })
}

/// The parameter sets of a request whose rows are not known yet, which are no more than its rows can be.
pub fn params_sets(request: &api::SampleRequest, limits: &api::Limits) -> Result<usize, Error> {
    let columns = wire::columns::sets(request);
    let columns = columns.map_err(|wrong| Error::invalid(wrong.field, wrong.description))?;
    let sets = columns.unwrap_or(request.params.len()).max(1);
    within_rows(sets, limits)?;
    Ok(sets)
}

/// What `GetInfo` says of the limits.
pub fn limits(config: &Config) -> api::Limits {
    let work = &config.work;
    api::Limits {
        vocab_size_max: VOCAB_SIZE_MAX,
        draws_max: DRAWS_MAX,
        request_rows_max: work.request_rows_max,
        request_draws_max: work.request_draws_max,
        batch_draws_max: work.batch_draws_max,
        message_bytes_max: work.message_bytes_max as u64,
        queue_rows_max: work.queue_rows_max as u64,
        queue_bytes_max: work.queue_bytes_max as u64,
        batch_rows_max: work.batch_rows_max,
        batch_bytes_max: work.batch_bytes_max as u64,
        stream_requests_max: config.connections.stream_requests_max,
        connection_streams_max: config.connections.connection_streams_max,
        answer_bytes_max: work.answer_bytes_max as u64,
        connection_bytes_max: config.connections.connection_bytes_max as u64,
        request_race_tokens_max: work.request_race_tokens_max as u64,
        adjusted_tokens_max: work.adjusted_tokens_max,
        history_tokens_max: work.history_tokens_max,
        top_logprobs_max: work.top_logprobs_max,
        kept_ids_max: work.kept_ids_max,
        evaluate_sets_max: work.evaluate_sets_max,
        evaluate_sums_max: work.evaluate_sums_max as u64,
        drafts_max: work.drafts_max,
        tree_nodes_max: work.tree_nodes_max,
        beams_max: work.beams_max,
    }
}

/// The table from errors to statuses. No other place makes a status of a request.
pub fn status(error: &Error) -> Status {
    use Error as E;
    let mut details = ErrorDetails::new();
    let code = match error {
        E::Invalid { listed, .. } => {
            details.set_bad_request(field_violations(listed));
            Code::InvalidArgument
        }
        E::OverLimit { name, limit, .. } => {
            details.set_quota_failure(vec![quota(name, *limit, error)]);
            Code::OutOfRange
        }
        E::Refused(Refused::TooLarge { what, limit, .. }) => {
            details.set_quota_failure(vec![quota(what.limit_name(), *limit as u64, error)]);
            Code::OutOfRange
        }
        E::Refused(Refused::Overloaded { what, limit, retry_after, .. }) => {
            details.set_retry_info(Some(*retry_after));
            details.set_quota_failure(vec![quota(what.limit_name(), *limit as u64, error)]);
            Code::ResourceExhausted
        }
        E::Full { name, limit, retry_after, .. } => {
            details.set_retry_info(Some(*retry_after));
            details.set_quota_failure(vec![quota(name, *limit as u64, error)]);
            Code::ResourceExhausted
        }
        E::HeadersTooLarge { limit, .. } => {
            details.set_quota_failure(vec![quota("header_bytes_max", *limit as u64, error)]);
            Code::ResourceExhausted
        }
        E::Compressed(_) => Code::Unimplemented,
        E::Shm(ShmError::Bounds { field, .. }) => {
            details.add_bad_request_violation(format!("slot.{field}"), error.to_string());
            Code::InvalidArgument
        }
        E::Shm(ShmError::UnknownRegion) => Code::NotFound,
        E::Shm(ShmError::Lost(_)) => Code::Unavailable,
        E::Shm(_) | E::NoShm(_) | E::Failed(Failure::Loan(LoanError::Changed(_))) => {
            Code::FailedPrecondition
        }
        E::Refused(Refused::Empty) => {
            details.add_bad_request_violation("logits", error.to_string());
            Code::InvalidArgument
        }
        E::Refused(Refused::DeadlineExceeded)
        | E::Failed(Failure::DeadlineExceeded)
        | E::StreamDeadline
        | E::ReceiveTimeout(_) => Code::DeadlineExceeded,
        E::Refused(Refused::Draining | Refused::NoDevice)
        | E::Failed(Failure::Cancelled | Failure::Loan(LoanError::Lost(_)))
        | E::StreamDraining
        | E::NoSeed(_) => Code::Unavailable,
        E::Failed(Failure::Device(_) | Failure::Panicked) => Code::Internal,
        E::Unauthenticated(_) => Code::Unauthenticated,
        E::PriorityDenied { .. } => Code::PermissionDenied,
    };
    Status::with_error_details(code, error.to_string(), details)
}

/// A refusal or failure as an answer on a stream.
pub fn stream_error(error: &Error) -> api::StreamError {
    let status = status(error);
    api::StreamError {
        code: status.code().into(),
        message: status.message().into(),
        status_details: Bytes::copy_from_slice(status.details()),
    }
}

pub(super) fn priority(value: i32) -> Result<Option<Priority>, String> {
    match api::Priority::try_from(value) {
        Ok(api::Priority::Unspecified) => Ok(None),
        Ok(api::Priority::Low) => Ok(Some(Priority::Low)),
        Ok(api::Priority::Normal) => Ok(Some(Priority::Normal)),
        Ok(api::Priority::High) => Ok(Some(Priority::High)),
        Err(_) => Err(format!("is {value}; allowed: 0 (normal), 1 (low), 2 (normal), 3 (high)")),
    }
}

fn on_invalid_row(value: i32) -> Result<(), String> {
    match api::OnInvalidRow::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("is {value}; allowed: 0 (refuse), 1 (refuse), 2 (status)")),
    }
}

fn no_row_stride(value: u32) -> Result<(), String> {
    match value {
        0 => Ok(()),
        stride => {
            Err(format!("is {stride} beside candidates; allowed: 0, candidates have no padding"))
        }
    }
}

/// The rows of a request with candidates, if they are rows and each is enough for its answer.
fn candidate_rows(
    dtype: Dtype,
    vocab_size: usize,
    request: &api::SampleRequest,
    paths: Option<&Paths>,
    spec_of: impl Fn(usize) -> ParamsSpec,
) -> Result<Vec<CandidateRow>, Error> {
    let mut wrong = Violations::new(paths);
    let given = request.candidates.as_ref().expect("the rows are of candidates");
    let (counts, tokens, logits) = (&given.counts, &given.tokens, &request.logits);
    let rows = wrong.keep_all(candidates::rows(dtype, vocab_size as u32, counts, tokens, logits));
    let mut named = vec![false; request.params.len().max(1)];
    for (row, candidates) in rows.iter().flatten().enumerate() {
        let (spec, n) = (spec_of(row), candidates.logits.len() / dtype.size_bytes());
        let set = if named.len() == 1 { 0 } else { row };
        let enough = candidates::are_enough(n, vocab_size, spec.temperature, spec.top_k);
        if !enough && !std::mem::replace(&mut named[set], true) {
            let top_k = spec.top_k;
            let describe = || {
                format!(
                    "top_k is {top_k}, and row {row} has {n} candidates of {vocab_size} tokens: others \
                     could be kept; allowed: 1 to {n}, or temperature 0, or all tokens as candidates"
                )
            };
            wrong.add(|| format!("params[{set}].top_k"), describe);
        }
        let beyond = wire::params::looks_beyond(&spec).filter(|_| enough && n < vocab_size);
        if let Some(name) = beyond
            && !std::mem::replace(&mut named[set], true)
        {
            let value = Field::named(name).expect("a parameter").get(spec);
            let describe = || {
                format!(
                    "{name} is {value}, and row {row} has {n} candidates of {vocab_size} tokens: it looks at \
                     those that were left out; allowed: its default, or all tokens as candidates"
                )
            };
            wrong.add(|| format!("params[{set}].{name}"), describe);
        }
    }
    match rows {
        Some(rows) if wrong.none() => Ok(rows),
        _ => Err(wrong.into()),
    }
}

pub(super) fn within_rows(rows: usize, limits: &api::Limits) -> Result<(), Error> {
    within("rows in the request", rows as u64, limits.request_rows_max.into(), "request_rows_max")
}

pub(super) fn within(
    what: &'static str,
    value: u64,
    limit: u64,
    name: &'static str,
) -> Result<(), Error> {
    if value > limit {
        let way_out = "send several requests";
        return Err(Error::OverLimit { what, value, limit, name, way_out });
    }
    Ok(())
}

fn field_violations(violations: &[Violation]) -> Vec<FieldViolation> {
    violations.iter().map(|v| FieldViolation::new(&v.field, &v.description)).collect()
}

fn quota(name: &str, limit: u64, error: &Error) -> QuotaViolation {
    QuotaViolation {
        quota_metric: name.into(),
        quota_value: limit as i64,
        ..QuotaViolation::new(name, error.to_string())
    }
}

/// The path of an entry of a list.
pub(super) fn in_list(list: &str, i: usize) -> impl Fn() -> String {
    move || format!("{list}[{i}]")
}
