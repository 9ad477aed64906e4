//! Sequences with drafts, from message to answer: their rows are rows of a batch like any other, all of them at once, and
//! what they say is walked over when it is there.

use super::borrow;
use super::call::Call;
use super::convert::{self, Lent, Violations};
use super::error::Error;
use super::frames::Admitted;
use super::history;
use super::metrics;
use super::run::{self, Run};
use super::sample::Answered;
use super::state::Shared;
use super::whole_rows::{self, Given, WholeRows, renamed};
use crate::engine::{Completed, Permit, Priority, RequestRow};
use crate::wire;
use crate::wire::inspection::{self, Asked, InspectError};
use logitd_core::adjustments::Adjustments;
use logitd_core::arithmetic;
use logitd_core::batch::RowResult;
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::{Draft, Proposal, Rule, Typical};
use logitd_core::verify::drafts::{self, DraftError};
use logitd_core::verify::{self, Mode};
use logitd_proto::draft_distribution::Kind;
use logitd_proto::{self as api, DraftedSequence, Limits, Plane, VerifyRequest, VerifyResponse};
use std::ops::Range;
use std::sync::Arc;

/// Verifies the sequences of one request, of a unary call or of a stream, with what its message was let in with. `bytes`
/// is the plane of logits that come as bytes.
pub async fn verify(
    shared: &Shared,
    call: &Call,
    admitted: Admitted,
    mut request: VerifyRequest,
    bytes: Plane,
) -> Result<Answered<VerifyResponse>, Error> {
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
    let verified = compute(shared, call, permit, request, lent, plane, &size).await;
    if let (Ok(_), Some(loan)) = (&verified, copied) {
        loan.settle();
    }
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
    let Batch { rows, sequences, priority, bytes } = batch;
    let answer_bytes = answer_bytes(&rows, &sequences);
    let run = Run { rows, bytes, answer_bytes, priority, plane };
    let ran = run.on(shared, call, permit).await?;
    Ok(Answered { response: response(&ran.done, &sequences, plane), room: ran.room })
}

/// What a request asks for, checked.
#[derive(Debug)]
pub struct Batch {
    /// Those of all sequences, one sequence after another; at least one.
    pub rows: Vec<RequestRow>,
    pub sequences: Vec<Sequence>,
    pub priority: Option<Priority>,
    /// Bytes of the rows and of what stands beside them.
    pub bytes: usize,
}

/// A sequence whose rows are sampled.
#[derive(Debug)]
pub struct Sequence {
    /// Its first row in the batch.
    at: usize,
    mode: Mode,
    drafts: Arc<[u32]>,
    /// Of a tree.
    parents: Option<Vec<u32>>,
    seed: u64,
    /// Whether more than its tokens is asked for.
    is_inspected: bool,
}

/// Checks a request against the API and these limits, and cuts its logits into rows: its own, or those that are lent.
pub fn batch(request: VerifyRequest, lent: Option<Lent>, limits: &Limits) -> Result<Batch, Error> {
    Size::of(&request, limits)?;
    let mut wrong = Violations::new(None);
    let VerifyRequest { dtype, vocab_size, row_stride, rows, logits, sequences, .. } = request;
    let given = Given { dtype, vocab_size, row_stride, rows };
    let priority = wrong.keep("priority", convert::priority(request.priority));
    if sequences.is_empty() {
        let text = "sequences is empty; allowed: one sequence or more";
        wrong.add(|| "sequences".into(), || text.into());
    }
    let Some(rows) = WholeRows::of(given, logits, lent, &mut wrong) else {
        return Err(wrong.into_error());
    };
    let is_placed = sequences.iter().any(|sequence| sequence.first_row.is_some());
    let mut next = 0;
    let mut checked = Vec::with_capacity(sequences.len());
    for (i, sequence) in sequences.into_iter().enumerate() {
        let check = Check { rows: &rows, limits, path: format!("sequences[{i}]") };
        let count = sequence.drafts.len() + 1;
        let first = check.place(&sequence, count, next, &mut wrong);
        next = first.saturating_add(count);
        checked.extend(check.sequence(sequence, first, &mut wrong));
    }
    if wrong.none() && !is_placed {
        let used = checked.iter().flat_map(Checked::places);
        rows.check_used(&mut wrong, used, "sequence or distribution");
    }
    let (Some(priority), true) = (priority, wrong.none()) else {
        return Err(wrong.into_error());
    };
    lay_out(checked, &rows, priority, limits)
}

/// A sequence as it was checked.
struct Checked {
    first: usize,
    mode: Mode,
    drafts: Arc<[u32]>,
    parents: Option<Vec<u32>>,
    params: SamplingParams,
    has_seed: bool,
    adjustments: Option<Adjustments>,
    of_rows: Vec<Adjustments>,
    asked: Option<Asked>,
    /// One a draft, where these were drawn from something.
    origins: Vec<Origin>,
    typical: Typical,
}

/// What a draft was drawn from.
enum Origin {
    Known(Proposal),
    Row { row: usize, params: SamplingParams, adjustments: Option<Adjustments> },
}

/// Where a sequence is checked, and against what.
struct Check<'a> {
    rows: &'a WholeRows,
    limits: &'a Limits,
    path: String,
}

impl Check<'_> {
    fn place(
        &self,
        sequence: &DraftedSequence,
        count: usize,
        next: usize,
        wrong: &mut Violations<'_>,
    ) -> usize {
        let (first_row, rows) = (sequence.first_row, sequence.rows);
        let asked = whole_rows::Asked { first_row, rows, count, next };
        self.rows.place(wrong, &|| self.path.clone(), asked, "a draft and one more")
    }

    /// `None` where something is wrong, which is noted.
    fn sequence(
        &self,
        mut sequence: DraftedSequence,
        first: usize,
        wrong: &mut Violations<'_>,
    ) -> Option<Checked> {
        let vocab_size = self.rows.vocab_size();
        let mode = self.mode(&sequence, wrong);
        let DraftedSequence { parents, typical_epsilon, typical_delta, .. } = &sequence;
        self.keep(wrong, drafts::check(&sequence.drafts, parents, vocab_size));
        let typical = self.keep(wrong, drafts::typical(*typical_epsilon, *typical_delta));
        let given = std::mem::take(&mut sequence.params).unwrap_or_default();
        let last = sequence.drafts.len() as u64;
        let (spec, params) = self.params("params", &given, last, wrong);
        if spec.draft {
            let text = "draft is true, in a sequence to be verified; allowed: false; a draft's row may have it";
            self.add(wrong, "params.draft", text.into());
        }
        let own = sequence.adjustments.take();
        let adjustments = self.adjustments("", own, &given, params, wrong);
        let of_rows = std::mem::take(&mut sequence.row_adjustments);
        let of_rows = self.row_adjustments(of_rows, sequence.drafts.len() + 1, wrong);
        let asked = self.asked(&given, wrong);
        let distributions = std::mem::take(&mut sequence.distributions);
        let origins = self.origins(distributions, sequence.drafts.len(), mode?, wrong);
        let parents = (!sequence.parents.is_empty()).then_some(sequence.parents);
        Some(Checked {
            first,
            mode: mode?,
            drafts: sequence.drafts.into(),
            parents,
            params: params?,
            has_seed: spec.seed.is_some(),
            adjustments: adjustments?,
            of_rows: of_rows?,
            asked: asked?,
            origins: origins?,
            typical: typical?,
        })
    }

    fn mode(&self, sequence: &DraftedSequence, wrong: &mut Violations<'_>) -> Option<Mode> {
        let number = sequence.mode;
        let Some(mode) = wire::verify::mode(number) else {
            let text = format!(
                "mode is {number}; allowed: 0 (match), 1 (match), 2 (rejection), 3 (typical)"
            );
            self.add(wrong, "mode", text);
            return None;
        };
        let name = wire::verify::mode_message(mode).as_str_name();
        let only = [
            ("parents", !sequence.parents.is_empty(), Mode::Match),
            ("distributions", !sequence.distributions.is_empty(), Mode::Rejection),
            ("typical_epsilon", sequence.typical_epsilon.is_some(), Mode::Typical),
            ("typical_delta", sequence.typical_delta.is_some(), Mode::Typical),
        ];
        for (field, _, needed) in only.into_iter().filter(|one| one.1 && one.2 != mode) {
            let needed = wire::verify::mode_message(needed).as_str_name();
            self.add(
                wrong,
                field,
                format!("{field} stands in a sequence of {name}; allowed: with {needed} only"),
            );
        }
        Some(mode)
    }

    /// Parameters of a sequence, whose last row is so many tokens behind its first, or of a draft.
    fn params(
        &self,
        field: &str,
        given: &api::SamplingParams,
        last: u64,
        wrong: &mut Violations<'_>,
    ) -> (ParamsSpec, Option<SamplingParams>) {
        let path = || format!("{}.{field}", self.path);
        let spec = wrong.spec(&path, given);
        let params = wrong.params(&path, spec);
        if let Some((name, value)) = drafts::refused(&spec) {
            let text =
                format!("{name} is {value}, in a sequence to be verified; allowed: its default");
            self.add(wrong, &format!("{field}.{name}"), text);
        }
        let within = |error: DraftError| {
            let field = format!("{field}.{}", error.field);
            DraftError { field, ..error }
        };
        self.keep(wrong, drafts::check_position(spec.position, last).map_err(within));
        (spec, params)
    }

    /// Adjustments with the breakers of these parameters. `field` leads to both.
    fn adjustments(
        &self,
        field: &str,
        given: Option<api::Adjustments>,
        params: &api::SamplingParams,
        parsed: Option<SamplingParams>,
        wrong: &mut Violations<'_>,
    ) -> Option<Option<Adjustments>> {
        let parsed = [parsed.unwrap_or_else(convert::default_params)];
        let vocab_size = self.rows.vocab_size();
        let params = std::slice::from_ref(params);
        let rows = wire::adjustments::Rows {
            count: 1,
            vocab_size,
            params,
            parsed: &parsed,
            candidates: &[],
        };
        let limits = convert::adjustment_limits(self.limits);
        let made = wire::adjustments::of_rows(given.into_iter().collect(), rows, limits);
        let rename = |path: &str| format!("{}.{field}{}", self.path, path.replacen("[0]", "", 1));
        let made = wrong.keep_adjustments(made.map_err(|errors| renamed(errors, &rename)))?;
        Some(made.into_iter().next())
    }

    /// What is allowed and banned in single rows.
    fn row_adjustments(
        &self,
        given: Vec<api::Adjustments>,
        count: usize,
        wrong: &mut Violations<'_>,
    ) -> Option<Vec<Adjustments>> {
        if !given.is_empty() && given.len() != count {
            let sets = given.len();
            let text = format!(
                "row_adjustments has {sets} sets for {count} rows; allowed: none, or one a row"
            );
            self.add(wrong, "row_adjustments", text);
            return None;
        }
        let mut right = true;
        for (i, set) in given.iter().enumerate() {
            if let Some(field) = wire::adjustments::beyond_bans(set) {
                right = false;
                let text = format!(
                    "{field} stands with a single row; allowed: allowed_bitmask, allowed_ids, banned_ids; put it with the sequence"
                );
                self.add(wrong, &format!("row_adjustments[{i}].{field}"), text);
            }
        }
        if !right {
            return None;
        }
        let parsed = [convert::default_params()];
        let vocab_size = self.rows.vocab_size();
        let rows = wire::adjustments::Rows {
            count,
            vocab_size,
            params: &[],
            parsed: &parsed,
            candidates: &[],
        };
        let made = wire::adjustments::of_rows(given, rows, convert::adjustment_limits(self.limits));
        let rename = |path: &str| format!("{}.row_{path}", self.path);
        wrong.keep_adjustments(made.map_err(|errors| renamed(errors, &rename)))
    }

    /// What is asked of the sequence's rows beside their tokens.
    fn asked(
        &self,
        params: &api::SamplingParams,
        wrong: &mut Violations<'_>,
    ) -> Option<Option<Asked>> {
        let vocab_size = self.rows.vocab_size();
        let params = std::slice::from_ref(params);
        let rows = inspection::Rows { count: 1, vocab_size, params, candidates: &[] };
        let asked = inspection::of_rows(rows, convert::inspection_limits(self.limits));
        let rename = |error: InspectError| {
            let field = format!("{}.{}", self.path, error.field.replacen("[0]", "", 1));
            InspectError { field, ..error }
        };
        let asked = asked.map_err(|errors| errors.into_iter().map(rename).collect());
        Some(wrong.keep_inspected(asked)?.into_iter().next().flatten())
    }

    /// What drafts were drawn from, one a draft.
    fn origins(
        &self,
        given: Vec<api::DraftDistribution>,
        drafts: usize,
        mode: Mode,
        wrong: &mut Violations<'_>,
    ) -> Option<Vec<Origin>> {
        if mode != Mode::Rejection {
            return Some(vec![]);
        }
        if !given.is_empty() && given.len() != drafts {
            let sets = given.len();
            let text = format!(
                "distributions has {sets} for {drafts} drafts; allowed: none, or one a draft"
            );
            self.add(wrong, "distributions", text);
            return None;
        }
        let all: Vec<Option<Origin>> =
            given.into_iter().enumerate().map(|(j, one)| self.origin(j, one, wrong)).collect();
        all.into_iter().collect()
    }

    fn origin(
        &self,
        j: usize,
        given: api::DraftDistribution,
        wrong: &mut Violations<'_>,
    ) -> Option<Origin> {
        let vocab_size = self.rows.vocab_size();
        let made = match given.kind {
            None => Ok(Proposal::Point),
            Some(Kind::Sparse(draft)) => drafts::sparse(draft.tokens, draft.weights, vocab_size),
            Some(Kind::Dense(draft)) => drafts::dense(draft.probabilities, vocab_size),
            Some(Kind::Logits(draft)) => return self.draft_row(j, *draft, wrong),
        };
        let within = |error: DraftError| {
            let field = format!("distributions[{j}].{}", error.field);
            DraftError { field, ..error }
        };
        self.keep(wrong, made.map_err(within)).map(Origin::Known)
    }

    fn draft_row(
        &self,
        j: usize,
        draft: api::LogitsDraft,
        wrong: &mut Violations<'_>,
    ) -> Option<Origin> {
        let (row, rows) = (draft.row as usize, self.rows.count());
        let field = format!("distributions[{j}].logits");
        if row >= rows {
            let text =
                format!("row is {row}; allowed: the request's {rows} rows, 0 to {}", rows - 1);
            self.add(wrong, &format!("{field}.row"), text);
        }
        let given = draft.params.unwrap_or_default();
        for (name, is_given) in
            [("logprobs", given.logprobs.is_some()), ("return_kept", given.return_kept)]
        {
            if is_given {
                let text = format!(
                    "{name} stands with a draft's row, of which nothing is told; allowed: nothing; ask the sequence's `params`"
                );
                self.add(wrong, &format!("{field}.params.{name}"), text);
            }
        }
        let (_, params) = self.params(&format!("{field}.params"), &given, 0, wrong);
        let adjustments =
            self.adjustments(&format!("{field}."), draft.adjustments, &given, params, wrong);
        let (params, adjustments) = (params?, adjustments?);
        (row < rows).then_some(Origin::Row { row, params, adjustments })
    }

    fn add(&self, wrong: &mut Violations<'_>, field: &str, text: String) {
        wrong.add(|| format!("{}.{field}", self.path), || text);
    }

    fn keep<T>(&self, wrong: &mut Violations<'_>, made: Result<T, DraftError>) -> Option<T> {
        made.map_err(|error| self.add(wrong, &error.field, error.description)).ok()
    }
}

/// The rows of sequences that are right, one sequence after another.
fn lay_out(
    checked: Vec<Checked>,
    rows: &WholeRows,
    priority: Option<Priority>,
    limits: &Limits,
) -> Result<Batch, Error> {
    let seedless = checked.iter().filter(|one| !one.has_seed).count();
    let mut seeds = wire::whole::fresh_seeds(seedless).map_err(Error::NoSeed)?.into_iter();
    let (mut batch, mut sequences, mut side_bytes) = (vec![], vec![], 0);
    for mut one in checked {
        if !one.has_seed {
            one.params = one.params.with_seed(seeds.next().expect("one a sequence without"));
        }
        let at = batch.len();
        side_bytes += one.side_bytes(rows);
        one.lay_out(rows, &mut batch)?;
        let Checked { mode, drafts, parents, params, asked, .. } = one;
        let (seed, is_inspected) = (params.seed(), asked.is_some());
        sequences.push(Sequence { at, mode, drafts, parents, seed, is_inspected });
    }
    within_work(&batch, limits)?;
    let in_rows: usize = batch.iter().map(RequestRow::bytes).sum();
    let bytes = in_rows.max(rows.bytes()) + side_bytes;
    Ok(Batch { rows: batch, sequences, priority, bytes })
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

impl Checked {
    /// The places of the rows that it uses.
    fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let own = self.first..self.first + self.drafts.len() + 1;
        let of_draft = |origin: &Origin| match *origin {
            Origin::Row { row, .. } => Some(row..row + 1),
            Origin::Known(_) => None,
        };
        std::iter::once(own).chain(self.origins.iter().filter_map(of_draft))
    }

    /// Bytes of what stands beside the rows of the sequence.
    fn side_bytes(&self, rows: &WholeRows) -> usize {
        let asked = self.asked.as_ref().map_or(0, |asked| size_of_val(&*asked.ids));
        let lists = whole_rows::bytes(self.adjustments.iter().chain(&self.of_rows));
        let row_bytes = rows.bytes() / rows.count();
        let origin = |origin: &Origin| match origin {
            Origin::Known(Proposal::Sparse(weights)) => size_of_val(&weights[..]),
            Origin::Known(Proposal::Dense(probabilities)) => size_of_val(&probabilities[..]),
            Origin::Known(_) => 0,
            Origin::Row { adjustments, .. } => row_bytes + whole_rows::bytes(adjustments),
        };
        let origins: usize = self.origins.iter().map(origin).sum();
        asked + lists + origins + size_of_val(&*self.drafts)
    }

    /// Adds the rows of the sequence.
    fn lay_out(&mut self, rows: &WholeRows, into: &mut Vec<RequestRow>) -> Result<(), Error> {
        let paths = self.parents.as_ref().map(|parents| verify::paths(parents, &self.drafts));
        let mut origins = std::mem::take(&mut self.origins).into_iter();
        for place in 0..=self.drafts.len() {
            let (history, depth) = match &paths {
                None => (&self.drafts, place),
                Some(paths) => (&paths[place], paths[place].len()),
            };
            let params = self.params.with_position(self.params.position() + depth as u64);
            let of_row = self.of_rows.get(place);
            let own = self.adjustments.as_ref();
            let adjustments = verify::of_row(own, &params, history, depth, of_row);
            let draft = match self.drafts.get(place) {
                Some(&token) => {
                    self.rule(origins.next(), rows, params)?.map(|rule| Draft { token, rule })
                }
                None => None,
            };
            let inspect = self.asked.as_ref().map(|asked| Arc::clone(&asked.inspect));
            let row = rows.row(self.first + place, params)?;
            let row = row.with_adjustments(adjustments).with_inspect(inspect);
            into.push(row.with_draft(draft.map(Arc::new)));
        }
        Ok(())
    }

    /// What decides about a draft of a row with these parameters, where that is not the token that it draws.
    fn rule(
        &self,
        origin: Option<Origin>,
        rows: &WholeRows,
        params: SamplingParams,
    ) -> Result<Option<Rule>, Error> {
        Ok(match self.mode {
            Mode::Match => None,
            Mode::Typical => Some(Rule::Typical(self.typical)),
            Mode::Rejection => Some(Rule::Rejection(match origin {
                None => Proposal::Point,
                Some(Origin::Known(proposal)) => proposal,
                Some(Origin::Row { row, params: drafted, adjustments }) => {
                    let drafted = drafted.with_seed(params.seed()).with_position(params.position());
                    let row = rows.row(row, drafted)?.with_adjustments(adjustments);
                    Proposal::Row(Arc::new(row))
                }
            })),
        })
    }
}

/// Bytes that the answer takes at most, before it is encoded and after.
pub fn answer_bytes(rows: &[RequestRow], sequences: &[Sequence]) -> usize {
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
pub fn response(done: &Completed, sequences: &[Sequence], plane: Plane) -> VerifyResponse {
    VerifyResponse {
        sequences: sequences.iter().map(|sequence| sequence.answer(done)).collect(),
        timings: Some(convert::timings(done)),
        device: convert::device(done),
        arithmetic_version: arithmetic::VERSION,
        plane: plane.into(),
    }
}

impl Sequence {
    fn answer(&self, done: &Completed) -> api::VerifiedSequence {
        let Self { at, drafts, parents, seed, .. } = self;
        let result = |place: usize| done.results.row(at + place);
        let verified = match parents {
            None => verify::chain(drafts, result),
            Some(parents) => verify::tree(parents, drafts, result),
        };
        metrics::verified(self.mode, drafts.len(), verified.accepted);
        let tree = parents.as_ref().map(|parents| (&parents[..], &drafts[..]));
        let message = |result: RowResult<'_>| wire::row::result_message(result, *seed, None);
        let message: &dyn Fn(RowResult<'_>) -> api::RowResult = &message;
        let wanted = self.is_inspected.then_some(message);
        wire::verify::message(&verified, *seed, tree, result, wanted)
    }
}
