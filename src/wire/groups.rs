//! The groups of a step of beams, checked: which rows they have, and what each of these is asked.

use super::violations::Violations;
use super::whole_rows::{Limits, Place, WholeRows, renamed};
use super::{adjustments, beam, params};
use logitd_core::adjustments::Adjustments;
use logitd_core::beams::{Step, StepError, stop_at};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_proto::{self as api, BeamGroup};

/// A group that is right.
#[derive(Debug)]
pub struct Group {
    /// The place of its first row.
    pub first: usize,
    /// What is asked of its rows, and how that is merged.
    pub step: Step,
    /// One for all rows, or one a row.
    params: Vec<SamplingParams>,
    /// One a row, or none.
    pub adjustments: Vec<Adjustments>,
}

/// Checks the groups of a request, of so many beams at most, against its rows. What is wrong is noted, and then some may
/// be missing.
pub fn check(
    groups: Vec<BeamGroup>,
    rows: &WholeRows,
    limits: Limits,
    beams_max: u32,
    wrong: &mut Violations<'_>,
) -> Vec<Group> {
    let is_placed = groups.iter().any(|group| group.first_row.is_some());
    let mut next = 0;
    let mut checked = Vec::with_capacity(groups.len());
    for (i, group) in groups.into_iter().enumerate() {
        let check = Check { rows, limits, beams_max, path: format!("groups[{i}]") };
        let count = group.scores.len().max(1);
        let first = check.place(&group, count, next, wrong);
        next = first.saturating_add(count);
        checked.extend(check.group(group, first, wrong));
    }
    if wrong.none() && !is_placed {
        let places = |one: &Group| one.first..one.first + one.rows();
        rows.check_used(wrong, checked.iter().map(places), "group");
    }
    checked
}

impl Group {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.step.spec().scores.len()
    }

    /// The parameters of one of its rows.
    pub fn params(&self, beam: usize) -> SamplingParams {
        self.params[beam.min(self.params.len() - 1)]
    }
}

/// Where a group is checked, and against what.
struct Check<'a> {
    rows: &'a WholeRows,
    limits: Limits,
    beams_max: u32,
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
        let asked = Place { first_row, rows, count, next };
        self.rows.place(wrong, &|| self.path.clone(), asked, "a score")
    }

    /// `None` where something is wrong, which is noted.
    fn group(
        &self,
        mut group: BeamGroup,
        first: usize,
        wrong: &mut Violations<'_>,
    ) -> Option<Group> {
        // Its eos_ids go into all adjustments, so they are few before that.
        let step = self.step(&group, wrong)?;
        let params = self.params(&group, wrong);
        let adjustments = std::mem::take(&mut group.adjustments);
        let adjustments = self.adjustments(adjustments, &group, &params, wrong)?;
        let params: Option<Vec<SamplingParams>> = params.into_iter().collect();
        Some(Group { first, step, params: params?, adjustments })
    }

    fn step(&self, group: &BeamGroup, wrong: &mut Violations<'_>) -> Option<Step> {
        let spec = match beam::spec(group) {
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
        spec.parse_within(self.rows.vocab_size(), self.beams_max)
            .map_err(|errors| errors.into_iter().for_each(add))
            .ok()
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
            if let Some((name, value)) = beam::beyond_coefficients(params, &spec) {
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
            params.iter().map(|one| one.unwrap_or_else(params::defaults)).collect();
        let (count, vocab_size) = (scores.len().max(1), self.rows.vocab_size());
        let (given_params, parsed) = (&group.params[..], &parsed[..]);
        let rows =
            adjustments::Rows { count, vocab_size, params: given_params, parsed, candidates: &[] };
        let made = match errors.is_empty() {
            true => adjustments::of_rows(given, rows, self.limits.adjustments),
            false => Err(errors),
        };
        let rename = |path: &str| format!("{}.{path}", self.path);
        wrong.keep_adjustments(made.map_err(|errors| renamed(errors, &rename)))
    }

    fn add(&self, wrong: &mut Violations<'_>, field: &str, text: String) {
        wrong.add(|| format!("{}.{field}", self.path), || text);
    }
}
