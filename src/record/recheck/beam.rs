//! Answers of `BeamStep`, checked group by group.

use super::asked::{Asked, sample};
use super::{Difference, Recheck, RecheckError, Within, check_version};
use crate::wire;
use crate::wire::groups::{self, Group};
use crate::wire::inspection::Asked as Inspected;
use crate::wire::violations::Violations;
use crate::wire::whole_rows::{Given, Limits, WholeRows};
use logitd_core::backend::{Backend, dual};
use logitd_core::batch::Results;
use logitd_core::beams::{self, BEAMS_MAX};
use logitd_proto::{BeamContinuations, BeamGroupResult, BeamStepRequest, BeamStepResponse};
use std::sync::Arc;

impl Recheck for BeamStepRequest {
    type Answer = BeamStepResponse;

    fn recheck(
        &self,
        backend: &mut dyn Backend,
        answer: &BeamStepResponse,
        results: &mut Results,
    ) -> Result<Vec<Difference>, RecheckError> {
        check_version(answer.arithmetic_version)?;
        Ok(compare(&stepped(self, backend, results)?, &answer.groups))
    }

    fn replayable(
        &self,
        backend: &mut dyn Backend,
        _: &BeamStepResponse,
        difference: &Difference,
    ) -> Result<dual::Difference, RecheckError> {
        let Some(Within::Group(place)) = difference.within else {
            return Err(RecheckError::NoRow);
        };
        let (rows, groups) = groups(self)?;
        let group = groups.get(place).ok_or(RecheckError::NoRow)?;
        let asked = asked(self, &rows, group);
        let row = asked.get(difference.row).ok_or(RecheckError::NoRow)?;
        // An answer says what was made of all rows, and nothing of one.
        row.replayable(backend, difference.row, None)
    }

    fn differences(recorded: &BeamStepResponse, got: &BeamStepResponse) -> Vec<Difference> {
        compare(&recorded.groups, &got.groups)
    }

    fn row_count(&self, _: &BeamStepResponse) -> usize {
        self.groups.iter().map(|group| group.scores.len()).sum()
    }

    fn seeded(&self, _: &BeamStepResponse) -> Self {
        self.clone()
    }

    fn arithmetic_version(answer: &BeamStepResponse) -> u32 {
        answer.arithmetic_version
    }

    fn device(answer: &BeamStepResponse) -> &str {
        &answer.device
    }
}

/// What comes of the groups of a request.
fn stepped(
    request: &BeamStepRequest,
    backend: &mut dyn Backend,
    results: &mut Results,
) -> Result<Vec<BeamGroupResult>, RecheckError> {
    let (rows, groups) = groups(request)?;
    let all: Vec<Asked> = groups.iter().flat_map(|group| asked(request, &rows, group)).collect();
    sample(backend, &all, results)?;
    let merged = beams::merged(groups.iter().map(|group| &group.step), results);
    Ok(merged.iter().map(wire::beam::message).collect())
}

/// The rows of a request, and its groups.
fn groups(request: &BeamStepRequest) -> Result<(WholeRows, Vec<Group>), RecheckError> {
    let &BeamStepRequest { dtype, vocab_size, row_stride, rows, .. } = request;
    let mut wrong = Violations::new(None);
    let given = Given { dtype, vocab_size, row_stride, rows };
    let Some(rows) = WholeRows::of(given, request.logits.len(), &mut wrong) else {
        return Err(wrong.into());
    };
    let beams_max = BEAMS_MAX as u32;
    let groups = groups::check(request.groups.clone(), &rows, Limits::NONE, beams_max, &mut wrong);
    if wrong.none() { Ok((rows, groups)) } else { Err(wrong.into()) }
}

/// The rows of a group.
fn asked(request: &BeamStepRequest, rows: &WholeRows, group: &Group) -> Vec<Asked> {
    let inspected = Inspected { inspect: Arc::new(group.step.inspect()), ids: Arc::default() };
    let row = |beam: usize| {
        let logits = request.logits.slice(rows.range(group.first + beam));
        let plain = Asked::plain(rows.dtype(), logits, group.params(beam), rows.vocab_size());
        let adjustments = group.adjustments.get(beam).cloned();
        Asked { adjustments, inspected: Some(inspected.clone()), ..plain }
    };
    (0..group.rows()).map(row).collect()
}

/// Compares two lists of what came of groups. Returns the first difference of each.
fn compare(expected: &[BeamGroupResult], got: &[BeamGroupResult]) -> Vec<Difference> {
    if expected.len() != got.len() {
        let (expected, got) = (expected.len().to_string(), got.len().to_string());
        return vec![Difference { within: None, row: 0, field: "groups", expected, got }];
    }
    let pairs = expected.iter().zip(got).enumerate();
    pairs.filter_map(|(place, (expected, got))| difference(place, expected, got)).collect()
}

fn difference(place: usize, a: &BeamGroupResult, b: &BeamGroupResult) -> Option<Difference> {
    let within = Some(Within::Group(place));
    let count = a.statuses.len().max(b.statuses.len());
    if let Some(row) = (0..count).find(|&row| a.statuses.get(row) != b.statuses.get(row)) {
        let status = |one: &BeamGroupResult| {
            let status = one.statuses().nth(row);
            status.map_or_else(|| "absent".into(), |status| status.as_str_name().to_owned())
        };
        let (expected, got) = (status(a), status(b));
        return Some(Difference { within, row, field: "statuses", expected, got });
    }
    let lists = [
        ("candidates", &a.candidates, &b.candidates),
        ("running", &a.running, &b.running),
        ("finished", &a.finished, &b.finished),
    ];
    lists.into_iter().find_map(|(field, a, b)| {
        let (a, b) = (a.clone().unwrap_or_default(), b.clone().unwrap_or_default());
        let at = (0..longest(&a).max(longest(&b))).find(|&at| one(&a, at) != one(&b, at))?;
        // The row of which something else is expected, or else the one of which something was answered.
        let row = a.beams.get(at).or(b.beams.get(at)).map_or(0, |&beam| beam as usize);
        let (expected, got) = (shown(&a, at), shown(&b, at));
        Some(Difference { within, row, field, expected, got })
    })
}

type Continuation = (Option<u32>, Option<u32>, Option<i64>);

fn one(columns: &BeamContinuations, at: usize) -> Continuation {
    let BeamContinuations { beams, tokens, scores } = columns;
    (beams.get(at).copied(), tokens.get(at).copied(), scores.get(at).copied())
}

fn longest(columns: &BeamContinuations) -> usize {
    columns.beams.len().max(columns.tokens.len()).max(columns.scores.len())
}

fn shown(columns: &BeamContinuations, at: usize) -> String {
    match one(columns, at) {
        (Some(beam), Some(token), Some(score)) => {
            format!("number {at}: beam {beam}, token {token}, score {score}")
        }
        (None, None, None) => format!("number {at}: absent"),
        _ => format!("number {at}: of columns that differ in length"),
    }
}

/// What a server answers, but for timings and device.
#[cfg(test)]
pub(crate) fn answer(backend: &mut dyn Backend, request: &BeamStepRequest) -> BeamStepResponse {
    let groups = stepped(request, backend, &mut Results::default()).unwrap();
    let arithmetic_version = logitd_core::arithmetic::VERSION;
    BeamStepResponse { groups, arithmetic_version, ..Default::default() }
}
