//! A complete beam search: the Rust client's, over steps of this process or of a server.

use super::found::BeamGroup;
use crate::arrays::array_of;
use crate::tokens::{ids, whole};
use logitd_client::api;
use logitd_client::beam::{Candidate, EarlyStopping, End, Found, Options, Search, Step, Text};
use logitd_core::beams::{self, Stepped};
use logitd_core::status::RowStatus;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Beam searches side by side, as Hugging Face's `generate(num_beams=...)` makes them, in whole numbers: a step asks for a
/// row of logits behind each of `tokens`, and `step` takes them.
///
/// `groups` is how many searches there are, `beams` how many texts each looks at side by side and finds (1 to 64), `eos_ids`
/// what ends a text, `max_length` how many tokens it has at most (20 if it is left out). Finished texts are compared by `score / length **
/// length_penalty`; `early_stopping` is True, False or "never", as there.
#[pyclass(frozen, module = "logitd")]
pub struct BeamSearch(Mutex<State>);

struct State {
    search: Search,
    /// Where the rows of each group began in the step before.
    firsts: Vec<usize>,
}

/// A text that a search has found.
#[pyclass(frozen, module = "logitd")]
pub struct BeamText(Text);

#[pymethods]
impl BeamText {
    /// Its tokens, the one that ended it included. uint32.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array_of(py, "uint32", self.0.tokens.iter().map(|id| id.to_ne_bytes()))
    }

    /// The natural logarithm of its probability, in units of 2^-32.
    #[getter]
    fn score(&self) -> i64 {
        self.0.score
    }

    /// By what texts are compared: the score in nats, divided by the power of the length.
    #[getter]
    fn normalised(&self) -> f64 {
        self.0.normalised
    }

    fn __repr__(&self) -> String {
        let Text { tokens, normalised, .. } = &self.0;
        format!("BeamText(tokens={tokens:?}, normalised={normalised})")
    }
}

#[pymethods]
impl BeamSearch {
    #[new]
    #[pyo3(signature = (groups=1, *, beams, eos_ids=None, max_length=None, length_penalty=1.0, early_stopping=None))]
    fn new(
        groups: usize,
        beams: &Bound<'_, PyAny>,
        eos_ids: Option<&Bound<'_, PyAny>>,
        max_length: Option<&Bound<'_, PyAny>>,
        length_penalty: f64,
        early_stopping: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let usual = Options::default();
        let options = Options {
            beams: whole("beams", beams)?,
            eos_ids: eos_ids.map_or_else(|| Ok(vec![]), |given| ids("eos_ids", given))?,
            max_length: max_length.map_or(Ok(usual.max_length), |n| whole("max_length", n))?,
            length_penalty,
            early_stopping: early_stopping.map_or(Ok(usual.early_stopping), stopping)?,
        };
        let search = Search::new(options, groups).map_err(wrong)?;
        Ok(Self(Mutex::new(State { search, firsts: (0..groups).collect() })))
    }

    /// The searches that are not at their end, by their numbers: the groups of the next step. None are left in the end.
    #[getter]
    fn open(&self) -> Vec<usize> {
        self.state().search.open().map(|group| group.index()).collect()
    }

    /// The tokens behind which a row of logits is wanted, without the prompt: those of each beam of each open group, in
    /// order. In the first step a group has one beam, without tokens. A list of uint32 arrays.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let beams: Vec<Vec<u32>> = {
            let state = self.state();
            let beams = state.search.open().flat_map(|group| group.beams());
            beams.map(|beam| beam.tokens.clone()).collect()
        };
        let array = |ids: Vec<u32>| array_of(py, "uint32", ids.iter().map(|id| id.to_ne_bytes()));
        beams.into_iter().map(array).collect()
    }

    /// The running scores of the beams, in units of 2^-32 nat: a list for each open group, as `beam_step` takes them.
    #[getter]
    fn scores(&self) -> Vec<Vec<i64>> {
        let state = self.state();
        let scores = state.search.open().map(|group| group.beams().iter().map(|beam| beam.score));
        scores.map(Iterator::collect).collect()
    }

    /// The row of the step before that each row goes on from, which is where its model's cache is; in the first step the
    /// number of its group. int64.
    #[getter]
    fn parents<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let parents: Vec<usize> = {
            let State { search, firsts } = &*self.state();
            let parents = search.open().flat_map(|group| {
                let first = firsts[group.index()];
                group.beams().iter().map(move |beam| first + beam.parent as usize)
            });
            parents.collect()
        };
        array_of(py, "int64", parents.into_iter().map(|row| (row as i64).to_ne_bytes()))
    }

    /// Takes a row of logits for each of `tokens`, and goes on: a step of `by` (a `Sampler` or a `Client`; None is
    /// `logitd.beam_step`) with these controls, and `temperature` and `normaliser`.
    #[pyo3(signature = (x, /, by=None, **controls))]
    fn step(
        &self,
        x: &Bound<'_, PyAny>,
        by: Option<&Bound<'_, PyAny>>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = x.py();
        let by =
            by.map_or_else(|| py.import("logitd").map(Bound::into_any), |by| Ok(by.clone()))?;
        let keywords = self.options(py)?;
        for (name, value) in controls.into_iter().flatten() {
            if keywords.contains(&name)? {
                return Err(PyTypeError::new_err(format!(
                    "{name} is the search's own; leave it out"
                )));
            }
            keywords.set_item(name, value)?;
        }
        let groups = by.call_method("beam_step", (x, self.scores()), Some(&keywords))?;
        self.advance(groups.extract()?)
    }

    /// The keywords of `beam_step` that are the search's own: `beams` and `eos_ids`.
    #[getter]
    fn options<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Options { beams, eos_ids, .. } = self.state().search.options().clone();
        let options = PyDict::new(py);
        options.set_item("beams", beams)?;
        options.set_item("eos_ids", eos_ids)?;
        Ok(options)
    }

    /// Takes what a `beam_step` of the open groups has found: what `step` does by itself. An error changes nothing.
    fn advance(&self, groups: Vec<PyRef<'_, BeamGroup>>) -> PyResult<()> {
        let State { search, firsts } = &mut *self.state();
        let mut began = firsts.clone();
        let mut at = 0;
        for group in search.open() {
            began[group.index()] = at;
            at += group.beams().len();
        }
        let mut next = search.clone();
        next.advance(groups.iter().map(|group| step(&group.0))).map_err(wrong)?;
        (*search, *firsts) = (next, began);
        Ok(())
    }

    /// The best finished texts of each search, best first: those of the end, or those so far where it is open.
    #[getter]
    fn found(&self) -> Vec<Vec<BeamText>> {
        let state = self.state();
        let so_far: Vec<Vec<Text>> = {
            let mut all = vec![vec![]; state.firsts.len()];
            state.search.open().for_each(|group| all[group.index()] = group.texts().to_vec());
            all
        };
        let ended = state.search.clone().found();
        let texts = ended.into_iter().zip(so_far).map(|(found, so_far)| match found {
            Some(Found { texts, .. }) => texts,
            None => so_far,
        });
        texts.map(|texts| texts.into_iter().map(BeamText).collect()).collect()
    }

    /// Why each search has ended: "early", "length", or "no_candidate" where no beam could go on; None where it is open.
    #[getter]
    fn ends(&self) -> Vec<Option<&'static str>> {
        let name = |found: Found| match found.end {
            End::Early => "early",
            End::Length => "length",
            End::NoCandidate(_) => "no_candidate",
        };
        self.state().search.clone().found().into_iter().map(|found| found.map(name)).collect()
    }

    fn __repr__(&self) -> String {
        let state = self.state();
        let (open, all) = (state.search.open().count(), state.firsts.len());
        format!("BeamSearch(groups={all}, open={open}, beams={})", state.search.options().beams)
    }
}

impl BeamSearch {
    /// Nothing of Python's is called or made while it is held: another thread may wait for it with the GIL.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopping(given: &Bound<'_, PyAny>) -> PyResult<EarlyStopping> {
    if let Ok(flag) = given.cast::<PyBool>() {
        return Ok(match flag.is_true() {
            true => EarlyStopping::WhenFull,
            false => EarlyStopping::WhenUnlikely,
        });
    }
    match given.cast::<PyString>().ok().and_then(|name| name.to_str().ok()) {
        Some("never") => Ok(EarlyStopping::Never),
        _ => Err(wrong(format!("early_stopping is {given}; allowed: True, False, never"))),
    }
}

/// A step as the search takes it.
fn step(stepped: &Stepped) -> Step {
    let candidates = |of: &[beams::Candidate]| {
        let each = of.iter().map(|&beams::Candidate { beam, token, score }| Candidate {
            beam,
            token,
            score,
        });
        each.collect()
    };
    let status = |status: &RowStatus| match status {
        RowStatus::Ok => api::RowStatus::Ok,
        RowStatus::Nan => api::RowStatus::Nan,
        RowStatus::PositiveInfinity => api::RowStatus::PositiveInfinity,
        RowStatus::NoCandidate => api::RowStatus::NoCandidate,
    };
    Step {
        statuses: stepped.statuses.iter().map(status).collect(),
        candidates: candidates(&stepped.candidates),
        running: candidates(&stepped.running),
        finished: candidates(&stepped.finished),
    }
}

fn wrong(said: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(said.to_string())
}
