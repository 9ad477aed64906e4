//! The sequences of a request to verify, checked: which rows they have, what each of these is asked, and what their
//! results come to.

use super::inspection::{self, Asked, InspectError};
use super::verify;
use super::violations::Violations;
use super::whole_rows::{self, Limits, Place, WholeRows, renamed};
use super::{adjustments, params, row};
use logitd_core::adjustments::Adjustments;
use logitd_core::batch::RowResult;
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::{Proposal, Rule, Source, Typical};
use logitd_core::verify::drafts::{self, DraftError};
use logitd_core::verify::{Mode, chain, of_row, paths, tree};
use logitd_proto::draft_distribution::Kind;
use logitd_proto::{self as api, DraftedSequence};
use std::ops::Range;
use std::sync::Arc;

/// A sequence that is right, but for a seed that it may lack.
#[derive(Debug)]
pub struct Sequence {
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
#[derive(Debug)]
enum Origin {
    Known(Proposal),
    Row(DraftRow),
}

/// A row of a sequence: which of the request's rows it is, and what to do with it.
#[derive(Debug)]
pub struct SequenceRow {
    /// Its place among the rows of the request.
    pub place: usize,
    /// Its parameters, at its position.
    pub params: SamplingParams,
    /// What is done to single logits of it.
    pub adjustments: Option<Adjustments>,
    /// What is asked of it beside its token.
    pub asked: Option<Asked>,
    /// Its draft and what decides about that, where that is not the token that it draws.
    pub draft: Option<(u32, RowRule)>,
}

/// What decides about the draft of a row.
#[derive(Debug)]
pub enum RowRule {
    /// All of it is told.
    Known(Rule),
    /// Rejection, and what the draft was drawn from is a row of the request.
    Row(DraftRow),
}

/// A row of a draft model.
#[derive(Debug)]
pub struct DraftRow {
    /// Its place among the rows of the request.
    pub place: usize,
    /// Its parameters, with the seed and the position of the target's row.
    pub params: SamplingParams,
    /// What was done to single logits of it.
    pub adjustments: Option<Adjustments>,
}

impl RowRule {
    /// The rule, of which `row` makes a row of a draft model.
    pub fn rule<E>(
        self,
        row: impl FnOnce(DraftRow) -> Result<Arc<dyn Source>, E>,
    ) -> Result<Rule, E> {
        Ok(match self {
            Self::Known(rule) => rule,
            Self::Row(drafted) => Rule::Rejection(Proposal::Row(row(drafted)?)),
        })
    }
}

/// What it takes to tell the results of a sequence's rows.
#[derive(Debug)]
pub struct Told {
    mode: Mode,
    drafts: Arc<[u32]>,
    /// Of a tree.
    parents: Option<Vec<u32>>,
    seed: u64,
    /// Whether more than its tokens is asked for.
    is_inspected: bool,
}

/// Checks the sequences of a request against its rows. What is wrong is noted, and then some may be missing.
pub fn check(
    sequences: Vec<DraftedSequence>,
    rows: &WholeRows,
    limits: Limits,
    wrong: &mut Violations<'_>,
) -> Vec<Sequence> {
    let is_placed = sequences.iter().any(|sequence| sequence.first_row.is_some());
    let mut next = 0;
    let mut checked = Vec::with_capacity(sequences.len());
    for (i, sequence) in sequences.into_iter().enumerate() {
        let check = Check { rows, limits, path: format!("sequences[{i}]") };
        let count = sequence.drafts.len() + 1;
        let first = check.place(&sequence, count, next, wrong);
        next = first.saturating_add(count);
        checked.extend(check.sequence(sequence, first, wrong));
    }
    if wrong.none() && !is_placed {
        let used = checked.iter().flat_map(Sequence::places);
        rows.check_used(wrong, used, "sequence or distribution");
    }
    checked
}

impl Sequence {
    /// Whether the request names its seed.
    pub fn has_seed(&self) -> bool {
        self.has_seed
    }

    /// The same sequence with another seed.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { params: self.params.with_seed(seed), has_seed: true, ..self }
    }

    /// Its seed: 0 where it has none.
    pub fn seed(&self) -> u64 {
        self.params.seed()
    }

    /// The places of the rows that it uses.
    fn places(&self) -> impl Iterator<Item = Range<usize>> {
        let own = self.first..self.first + self.drafts.len() + 1;
        let of_draft = |origin: &Origin| match *origin {
            Origin::Row(DraftRow { place, .. }) => Some(place..place + 1),
            Origin::Known(_) => None,
        };
        std::iter::once(own).chain(self.origins.iter().filter_map(of_draft))
    }

    /// Bytes of what stands beside the rows of the sequence.
    pub fn side_bytes(&self, rows: &WholeRows) -> usize {
        let asked = self.asked.as_ref().map_or(0, |asked| size_of_val(&*asked.ids));
        let lists = whole_rows::bytes(self.adjustments.iter().chain(&self.of_rows));
        let row_bytes = rows.bytes() / rows.count();
        let origin = |origin: &Origin| match origin {
            Origin::Known(Proposal::Sparse(weights)) => size_of_val(&weights[..]),
            Origin::Known(Proposal::Dense(probabilities)) => size_of_val(&probabilities[..]),
            Origin::Known(_) => 0,
            Origin::Row(DraftRow { adjustments, .. }) => row_bytes + whole_rows::bytes(adjustments),
        };
        let origins: usize = self.origins.iter().map(origin).sum();
        asked + lists + origins + size_of_val(&*self.drafts)
    }

    /// Its rows, and what it takes to tell their results.
    pub fn rows(mut self) -> (Vec<SequenceRow>, Told) {
        let mut origins = std::mem::take(&mut self.origins).into_iter();
        let paths = self.parents.as_ref().map(|parents| paths(parents, &self.drafts));
        let row = |place: usize| {
            let (history, depth) = match &paths {
                None => (&self.drafts, place),
                Some(paths) => (&paths[place], paths[place].len()),
            };
            let params = self.params.with_position(self.params.position() + depth as u64);
            let (own, of_rows) = (self.adjustments.as_ref(), self.of_rows.get(place));
            let draft = self
                .drafts
                .get(place)
                .and_then(|&token| self.rule(origins.next(), params).map(|rule| (token, rule)));
            SequenceRow {
                place: self.first + place,
                params,
                adjustments: of_row(own, &params, history, depth, of_rows),
                asked: self.asked.clone(),
                draft,
            }
        };
        let rows = (0..=self.drafts.len()).map(row).collect();
        let Self { mode, drafts, parents, params, asked, .. } = self;
        let told =
            Told { mode, drafts, parents, seed: params.seed(), is_inspected: asked.is_some() };
        (rows, told)
    }

    /// What decides about a draft of a row with these parameters, where that is not the token that it draws.
    fn rule(&self, origin: Option<Origin>, params: SamplingParams) -> Option<RowRule> {
        Some(match (self.mode, origin) {
            (Mode::Match, _) => return None,
            (Mode::Typical, _) => RowRule::Known(Rule::Typical(self.typical)),
            (Mode::Rejection, None) => RowRule::Known(Rule::Rejection(Proposal::Point)),
            (Mode::Rejection, Some(Origin::Known(proposal))) => {
                RowRule::Known(Rule::Rejection(proposal))
            }
            (Mode::Rejection, Some(Origin::Row(row))) => {
                let drafted = row.params.with_seed(params.seed()).with_position(params.position());
                RowRule::Row(DraftRow { params: drafted, ..row })
            }
        })
    }
}

impl Told {
    /// How drafts were compared.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many there were.
    pub fn drafts(&self) -> usize {
        self.drafts.len()
    }

    /// What came of the sequence; `result` gives the results of its rows, from 0 on.
    pub fn message<'r>(&self, result: impl Fn(usize) -> RowResult<'r>) -> api::VerifiedSequence {
        let Self { drafts, parents, seed, .. } = self;
        let verified = match parents {
            None => chain(drafts, &result),
            Some(parents) => tree(parents, drafts, &result),
        };
        let tree = parents.as_ref().map(|parents| (&parents[..], &drafts[..]));
        let message = |result: RowResult<'r>| row::result_message(result, *seed, None);
        let message: &dyn Fn(RowResult<'r>) -> api::RowResult = &message;
        let wanted = self.is_inspected.then_some(message);
        verify::message(&verified, *seed, tree, result, wanted)
    }
}

/// Where a sequence is checked, and against what.
struct Check<'a> {
    rows: &'a WholeRows,
    limits: Limits,
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
        let asked = Place { first_row, rows, count, next };
        self.rows.place(wrong, &|| self.path.clone(), asked, "a draft and one more")
    }

    /// `None` where something is wrong, which is noted.
    fn sequence(
        &self,
        mut sequence: DraftedSequence,
        first: usize,
        wrong: &mut Violations<'_>,
    ) -> Option<Sequence> {
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
        Some(Sequence {
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
        let Some(mode) = verify::mode(number) else {
            let text = format!(
                "mode is {number}; allowed: 0 (match), 1 (match), 2 (rejection), 3 (typical)"
            );
            self.add(wrong, "mode", text);
            return None;
        };
        let name = verify::mode_message(mode).as_str_name();
        let only = [
            ("parents", !sequence.parents.is_empty(), Mode::Match),
            ("distributions", !sequence.distributions.is_empty(), Mode::Rejection),
            ("typical_epsilon", sequence.typical_epsilon.is_some(), Mode::Typical),
            ("typical_delta", sequence.typical_delta.is_some(), Mode::Typical),
        ];
        for (field, _, needed) in only.into_iter().filter(|one| one.1 && one.2 != mode) {
            let needed = verify::mode_message(needed).as_str_name();
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
        let parsed = [parsed.unwrap_or_else(params::defaults)];
        let vocab_size = self.rows.vocab_size();
        let rows = adjustments::Rows {
            count: 1,
            vocab_size,
            params: std::slice::from_ref(params),
            parsed: &parsed,
            candidates: &[],
        };
        let limits = self.limits.adjustments;
        let made = adjustments::of_rows(given.into_iter().collect(), rows, limits);
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
            if let Some(field) = adjustments::beyond_bans(set) {
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
        let parsed = [params::defaults()];
        let vocab_size = self.rows.vocab_size();
        let rows =
            adjustments::Rows { count, vocab_size, params: &[], parsed: &parsed, candidates: &[] };
        let made = adjustments::of_rows(given, rows, self.limits.adjustments);
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
        let asked = inspection::of_rows(rows, self.limits.inspection);
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
        (row < rows).then_some(Origin::Row(DraftRow { place: row, params, adjustments }))
    }

    fn add(&self, wrong: &mut Violations<'_>, field: &str, text: String) {
        wrong.add(|| format!("{}.{field}", self.path), || text);
    }

    fn keep<T>(&self, wrong: &mut Violations<'_>, made: Result<T, DraftError>) -> Option<T> {
        made.map_err(|error| self.add(wrong, &error.field, error.description)).ok()
    }
}
