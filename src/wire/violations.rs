//! What is wrong with a request, field by field, so that its sender hears of every wrong field at once.

use super::columns::{Path, Paths};
use super::inspection::InspectError;
use logitd_core::adjustments::AdjustmentsError;
use logitd_core::candidates::CandidatesError;
use logitd_core::params::{Field, ParamsSpec, SamplingParams};
use logitd_proto as api;
use std::collections::HashSet;

/// The most wrong fields told in one refusal: details travel in a header, and clients bound those.
const VIOLATIONS_MAX: usize = 24;

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the message: `params[3].temperature`.
    pub field: String,
    /// The value and the allowed range.
    pub description: String,
}

/// Wrong fields as they are found: the first are described, the others counted.
pub struct Violations<'a> {
    /// Those of columns, where the request came with them.
    paths: Option<&'a Paths>,
    /// What is wrong with all rows and has been found.
    for_all: HashSet<String>,
    listed: Vec<Violation>,
    more: usize,
}

impl<'a> Violations<'a> {
    /// None yet.
    pub fn new(paths: Option<&'a Paths>) -> Self {
        Self { paths, for_all: HashSet::new(), listed: vec![], more: 0 }
    }

    /// Whether nothing is wrong so far.
    pub fn none(&self) -> bool {
        self.listed.is_empty()
    }

    /// A field, by its path in messages, and what is wrong with it. What columns say for all rows is wrong once.
    pub fn add(&mut self, field: impl FnOnce() -> String, describe: impl FnOnce() -> String) {
        let is_told = self.listed.len() < VIOLATIONS_MAX;
        let path = match self.paths {
            Some(paths) => paths.of(&field()),
            None if is_told => Path { field: field(), is_for_all: false },
            None => Path::default(),
        };
        if path.is_for_all && !self.for_all.insert(path.field.clone()) {
            return;
        }
        if is_told {
            self.listed.push(Violation { field: path.field, description: describe() });
        } else {
            self.more += 1;
        }
    }

    /// What a check gave, or a note of what it found.
    pub fn keep<T>(&mut self, field: &str, checked: Result<T, String>) -> Option<T> {
        let add = |text| self.add(|| field.into(), || format!("{field} {text}"));
        checked.map_err(add).ok()
    }

    /// The same of a check that finds what is wrong with the candidates.
    pub fn keep_all<T>(&mut self, checked: Result<T, Vec<CandidatesError>>) -> Option<T> {
        let add = |CandidatesError { field, description }| {
            self.add(|| field.into(), || description);
        };
        checked.map_err(|errors| errors.into_iter().for_each(add)).ok()
    }

    /// What a set asks for; or a note of what has no name, and the defaults.
    pub fn spec(&mut self, path: &dyn Fn() -> String, params: &api::SamplingParams) -> ParamsSpec {
        super::params::spec(params).unwrap_or_else(|error| {
            self.add(|| format!("{}.{}", path(), error.field), || error.to_string());
            ParamsSpec::default()
        })
    }

    /// The parameters of a set, with seed 0 where none is given; or a note of every wrong one: each is replaced by
    /// its default until the rest is right.
    pub fn params(
        &mut self,
        path: &dyn Fn() -> String,
        mut spec: ParamsSpec,
    ) -> Option<SamplingParams> {
        let mut right = true;
        loop {
            match spec.parse(|| 0) {
                Ok(params) => return right.then_some(params),
                Err(error) => {
                    right = false;
                    let field = || format!("{}.{}", path(), super::params::path(error.field));
                    self.add(field, || error.to_string());
                    Field::named(error.field).expect("a parameter is wrong").reset(&mut spec);
                }
            }
        }
    }

    /// The adjustments, or a note of all that is wrong with them.
    pub fn keep_adjustments<T>(&mut self, checked: Result<T, Vec<AdjustmentsError>>) -> Option<T> {
        let add = |error| {
            let Violation { field, description } = of_adjustments(error, "");
            self.add(|| field, || description);
        };
        checked.map_err(|errors| errors.into_iter().for_each(add)).ok()
    }

    /// What is asked for beside tokens, or a note of all that is wrong with it.
    pub fn keep_inspected<T>(&mut self, checked: Result<T, Vec<InspectError>>) -> Option<T> {
        let add = |InspectError { field, description }| self.add(|| field, || description);
        checked.map_err(|errors| errors.into_iter().for_each(add)).ok()
    }

    /// What is told, and how many there are besides.
    pub fn into_parts(self) -> (Vec<Violation>, usize) {
        (self.listed, self.more)
    }
}

/// What is wrong with adjustments, whose path goes on from `place`.
pub fn of_adjustments(
    AdjustmentsError { field, description }: AdjustmentsError,
    place: &str,
) -> Violation {
    // The path says where, the last of its names what.
    let name = field.split('.').next_back().unwrap_or_default();
    let description = format!("{name} {description}");
    Violation { field: format!("{place}{field}"), description }
}
