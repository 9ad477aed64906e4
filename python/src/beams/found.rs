//! What came of a step of beams, as numpy arrays.

use crate::arrays::array_of;
use crate::table::Status;
use logitd_core::beams::{Candidate, Stepped};
use pyo3::prelude::*;

/// How a group of beams goes on. Continuations are best first: by score, equal ones by beam, then by the order of their row.
#[pyclass(frozen, module = "logitd")]
pub struct BeamGroup(pub Stepped);

/// Continuations of beams, best first, as columns of equal length.
#[pyclass(frozen, module = "logitd")]
pub struct Continuations(Vec<Candidate>);

#[pymethods]
impl BeamGroup {
    /// What became of each row, a `Status`. One that is not OK gives no continuations. uint8.
    #[getter]
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let status = self.0.statuses.iter().map(|&status| [Status::Sampled(status).number()]);
        array_of(py, "uint8", status)
    }

    /// The best continuations that are not finished: the beams of the next step.
    #[getter]
    fn running(&self) -> Continuations {
        Continuations(self.0.running.clone())
    }

    /// Those of the best `beams` candidates that are finished.
    #[getter]
    fn finished(&self) -> Continuations {
        Continuations(self.0.finished.clone())
    }

    /// The best continuations of all rows, finished or not.
    #[getter]
    fn candidates(&self) -> Continuations {
        Continuations(self.0.candidates.clone())
    }

    fn __repr__(&self) -> String {
        let Stepped { statuses, running, finished, .. } = &self.0;
        let (rows, running, finished) = (statuses.len(), running.len(), finished.len());
        format!("BeamGroup(rows={rows}, running={running}, finished={finished})")
    }
}

#[pymethods]
impl Continuations {
    /// Which beam each goes on from: its row's place in the group. uint32.
    #[getter]
    fn beams<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array_of(py, "uint32", self.0.iter().map(|one| one.beam.to_ne_bytes()))
    }

    /// The tokens that they go on with. uint32.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array_of(py, "uint32", self.0.iter().map(|one| one.token.to_ne_bytes()))
    }

    /// Their scores, in units of 2^-32 nat. int64.
    #[getter]
    fn scores<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        array_of(py, "int64", self.0.iter().map(|one| one.score.to_ne_bytes()))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        let each = self.0.iter().map(|one| format!("({}, {}, {})", one.beam, one.token, one.score));
        format!("Continuations([{}])", each.collect::<Vec<_>>().join(", "))
    }
}
