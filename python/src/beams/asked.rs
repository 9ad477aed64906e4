//! What is asked of beams, from an array and keywords.

use crate::adjustments;
use crate::controls::{Controls, Own};
use crate::each::{Each, lists};
use crate::invalid::{Invalid, of_one};
use crate::logits::Logits;
use crate::memory::device::Reader;
use crate::of::Of;
use crate::tokens::{array, ids, items, whole};
use logitd_core::adjustments::{Adjustments, AdjustmentsError, Limits};
use logitd_core::batch::{Results, Row, RowError};
use logitd_core::beams::{self, Step, StepSpec, Stepped};
use logitd_core::inspection::{Inspect, Normaliser};
use logitd_core::params::{ParamsSpec, SamplingParams};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// The keywords of `beam_step` beside the controls.
const OWN: [&str; 4] = ["beams", "eos_ids", "temperature", "normaliser"];

/// A call of `beam_step`, checked.
pub struct Call<'py> {
    pub logits: Logits<'py>,
    pub asked: Asked,
}

/// What is asked of groups of beams.
pub struct Asked {
    /// One a group.
    pub steps: Vec<Step>,
    /// One a row of all groups, none of which cuts or draws.
    pub specs: Vec<ParamsSpec>,
    pub adjustments: Option<Each<Adjustments>>,
    pub vocab_size: u32,
}

impl<'py> Call<'py> {
    /// From its arrays, of which `reader` may read the first one on a device, and its keywords.
    pub fn of(
        reader: Option<&Reader>,
        x: &Bound<'py, PyAny>,
        scores: &Bound<'py, PyAny>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Self> {
        let controls = Controls::beside(&OWN, keywords)?;
        if controls.asked.logprobs.is_some() || controls.asked.return_kept.is_some() {
            return Err(wrong(
                "logprobs and return_kept stand with a step of beams, which draws nothing; allowed: without",
            ));
        }
        if controls.keeps_invalid_rows {
            let said =
                "on_invalid_row is status; allowed: refuse, since beams compete with each other";
            return Err(wrong(said));
        }
        let logits = Logits::read_by(reader, "x", x, controls.vocab_size.as_ref())?;
        let spec = spec(&Own(keywords))?;
        let vocab_size = u32::try_from(logits.vocab_size()).unwrap_or(u32::MAX);
        let steps = steps(scores, &spec, vocab_size)?;
        let rows: usize = steps.iter().map(|step| step.spec().scores.len()).sum();
        if rows != logits.rows() {
            return Err(wrong(format!(
                "x has {} rows, and there are {rows} scores; allowed: a row a score",
                logits.rows()
            )));
        }
        let mut invalid = Invalid::among(Of::rows(rows), false);
        let specs = controls.specs(&mut invalid)?;
        let params = params(&specs, invalid.of())?;
        let adjustments =
            adjustments::of_rows(&controls.lists, &params, logits.vocab_size(), &mut invalid)?;
        let asked = Asked { steps, specs, adjustments, vocab_size };
        Ok(Self { logits, asked: asked.stopped_at(&spec.eos_ids)? })
    }
}

impl Asked {
    /// The rows with these logits, and what is asked of each.
    pub fn rows<'a>(
        &'a self,
        logits: &'a Logits<'_>,
        inspects: &'a [Inspect],
    ) -> Result<Vec<Row<'a>>, RowError> {
        let groups = self.steps.iter().zip(inspects);
        let of_rows = groups
            .flat_map(|(step, inspect)| std::iter::repeat_n(inspect, step.spec().scores.len()));
        let all = logits.each().into_iter().zip(&self.specs).zip(of_rows).enumerate();
        all.map(|(i, ((own, spec), inspect))| {
            let row = own.row(logits.dtype(), greedy(*spec))?.with_inspect(Some(inspect));
            Ok(row.with_adjustments(self.adjustments.as_ref().map(|each| each.get(i))))
        })
        .collect()
    }

    /// What is asked of the rows of each group.
    pub fn inspects(&self) -> Vec<Inspect> {
        self.steps.iter().map(Step::inspect).collect()
    }

    /// What came of each group.
    pub fn stepped(&self, results: &Results) -> Vec<Stepped> {
        beams::merged(&self.steps, results)
    }

    /// With the tokens that finish a beam among those that `min_tokens` bans.
    fn stopped_at(mut self, eos_ids: &[u32]) -> PyResult<Self> {
        if eos_ids.is_empty() || self.specs.iter().all(|spec| spec.min_tokens == 0) {
            return Ok(self);
        }
        let stop = |own: &Adjustments| -> Result<Adjustments, PyErr> {
            let mut spec = own.lists().clone();
            spec.breakers = own.breakers().to_vec();
            let said = |error: AdjustmentsError| wrong(error.to_string());
            beams::stop_at(&mut spec.stop_ids, eos_ids).map_err(said)?;
            let parsed = spec.parse(self.vocab_size, Limits::default());
            parsed.map_err(|mut errors| said(errors.swap_remove(0)))
        };
        let stopped = match &self.adjustments {
            None => Each::All(stop(&adjustments::nothing())?),
            Some(Each::All(own)) => Each::All(stop(own)?),
            Some(Each::Rows(rows)) => Each::Rows(rows.iter().map(stop).collect::<PyResult<_>>()?),
        };
        self.adjustments = Some(stopped);
        Ok(self)
    }
}

/// The parameters of rows that draw nothing.
fn greedy(spec: ParamsSpec) -> SamplingParams {
    let greedy = ParamsSpec { temperature: 0.0, seed: Some(0), ..spec };
    greedy.parse(|| 0).expect("it was parsed before")
}

fn params(specs: &[ParamsSpec], of: Of) -> PyResult<Vec<SamplingParams>> {
    let parse = |(i, spec): (usize, &ParamsSpec)| {
        let parsed = match beams::beyond_coefficients(spec) {
            Some((name, value)) => Err(wrong(format!(
                "{name} is {value}, and a step of beams cuts and draws nothing; allowed: its default"
            ))),
            None => spec.parse(|| 0).map_err(|error| wrong(error.to_string())),
        };
        parsed.map_err(|error| of_one(of, i, &error))
    };
    specs.iter().enumerate().map(parse).collect()
}

/// What is asked of every group, without scores.
fn spec(own: &Own<'_, '_>) -> PyResult<StepSpec> {
    let Some(beams) = own.get("beams")? else {
        let said = "beams is left out; wanted: how many beams go on";
        return Err(PyTypeError::new_err(said));
    };
    Ok(StepSpec {
        scores: vec![],
        beams: whole("beams", &beams)?,
        eos_ids: own.get("eos_ids")?.map_or_else(|| Ok(vec![]), |given| ids("eos_ids", &given))?,
        temperature: own.get("temperature")?.map_or(Ok(1.0), |given| temperature(&given))?,
        normaliser: own.get("normaliser")?.map_or(Ok(Normaliser::default()), |g| normaliser(&g))?,
    })
}

fn temperature(given: &Bound<'_, PyAny>) -> PyResult<f32> {
    given.extract::<f64>().map(|number| number as f32).map_err(|_| {
        let kind = given.get_type();
        PyTypeError::new_err(format!("temperature is a {kind}; allowed: a number, for all groups"))
    })
}

fn normaliser(given: &Bound<'_, PyAny>) -> PyResult<Normaliser> {
    match given.cast::<PyString>().ok().and_then(|name| name.to_str().ok()) {
        Some("adjusted") => Ok(Normaliser::Adjusted),
        Some("raw") => Ok(Normaliser::Raw),
        _ => Err(wrong(format!("normaliser is {given}; allowed: adjusted, raw"))),
    }
}

/// The steps of the groups that have these scores.
fn steps(given: &Bound<'_, PyAny>, spec: &StepSpec, vocab_size: u32) -> PyResult<Vec<Step>> {
    let groups = lists(given)?;
    let of = Of { count: groups.len(), one: "group" };
    let step = |(i, group): (usize, &Bound<'_, PyAny>)| {
        let scores = scores(group)?;
        let parsed = StepSpec { scores, ..spec.clone() }.parse(vocab_size);
        parsed.map_err(|errors| {
            let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
            of_one(of, i, &wrong(said.join("; ")))
        })
    };
    groups.iter().enumerate().map(step).collect()
}

fn scores(given: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    let no_score = |i: usize, said: String| {
        wrong(format!(
            "scores[{i}] is {said}; allowed: whole numbers of 64 bits, in units of 2^-32 nat"
        ))
    };
    if let Some(array) = array("scores", given)? {
        let numbers = array.integers("scores", 0)?.into_iter().enumerate();
        return numbers
            .map(|(i, n)| i64::try_from(n).map_err(|_| no_score(i, n.to_string())))
            .collect();
    }
    let each = items("scores", given)?;
    let score = |(i, score): (usize, &Bound<'_, PyAny>)| {
        score.extract::<i64>().map_err(|_| no_score(i, score.to_string()))
    };
    each.iter().enumerate().map(score).collect()
}

fn wrong(said: impl Into<String>) -> PyErr {
    PyValueError::new_err(said.into())
}
