//! A client of a server, with the calls and the results of a sampler.

mod aio;
mod beams;
mod caller;
mod driver;
mod errors;
mod evaluations;
mod messages;
mod options;
mod planes;
mod pool;
mod requests;
mod sequences;
mod staging;

pub use aio::{AsyncConnection, Task};
pub use staging::Staging;

use crate::beams::asked::Call as BeamCall;
use crate::beams::found::BeamGroup;
use crate::call::Call;
use crate::evaluate::asked::{Call as EvaluateCall, Options};
use crate::evaluate::found;
use crate::results::Results;
use crate::verify::asked::Call as VerifyCall;
use crate::verify::verified::Verified;
use caller::{Caller, Failure, wait};
use logitd_client::api;
use options::Options as ClientOptions;
use planes::Choice;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use staging::{Shape, lease};

/// A connection to a server, whose calls and results are those of a sampler in process, to the bit.
///
/// `target` is `http://HOST:PORT`, `https://HOST:PORT` (with `tls_roots`, PEM), `HOST:PORT` or `unix:PATH`. `plane` says
/// how logits get there: inline, chunked (a large batch in pieces), shared_memory or direct (over a Unix socket of a
/// server with --shm), or auto, which takes the fastest that there is. `timeout` is in seconds, for each attempt of a
/// call; an overloaded server is asked again when it says, up to `retries_max` times (3).
///
/// Exceptions are those of `logitd.errors`. A client is for one process: a fork needs its own.
#[pyclass(frozen, module = "logitd")]
pub struct Client {
    caller: Caller,
    target: String,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (target, **options))]
    fn new(py: Python<'_>, target: String, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let wanted = ClientOptions::of(options)?.target(target.clone())?;
        let caller = py.detach(|| Caller::connect(wanted));
        let caller = caller.map_err(|failure| raise(py, failure))?;
        Ok(Self { caller, target })
    }

    /// Draws tokens from rows of logits, as `logitd.sample` does, on the server.
    #[pyo3(signature = (x, /, **controls))]
    fn sample(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Results> {
        let Call { logits, asked } = Call::of(x, controls)?;
        let link = &self.caller.link;
        let request = messages::request(logits.dtype(), &asked, link.has_columns());
        let (rows, staged) = (logits.bytes(), link.staged::<api::SampleRequest>(&logits));
        let response = py.detach(|| self.caller.ask(request, &rows, staged));
        let response = response.map_err(|failure| raise(py, failure))?;
        messages::table(response, &asked).map(Results::from)
    }

    /// Verifies drafts of sequences, as `logitd.verify` does, on the server.
    #[pyo3(signature = (x, drafts, /, **controls))]
    fn verify(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        drafts: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Verified> {
        let VerifyCall { logits, asked } = VerifyCall::of(None, x, drafts, controls)?;
        let request = sequences::request(&logits, &asked);
        let (mut rows, staged) =
            (logits.bytes(), sequences::staged(&self.caller.link, &logits, &asked));
        rows.extend(sequences::rows(&asked));
        let response = py.detach(|| self.caller.ask(request, &rows, staged));
        let response = response.map_err(|failure| raise(py, failure))?;
        Verified::new(py, sequences::found(response, &asked)?)
    }

    /// Makes a step of beam searches, as `logitd.beam_step` does, on the server.
    #[pyo3(signature = (x, scores, /, **controls))]
    fn beam_step(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        scores: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<BeamGroup>> {
        let BeamCall { logits, asked } = BeamCall::of(None, x, scores, controls)?;
        let request = beams::request(&logits, &asked);
        let (rows, staged) =
            (logits.bytes(), self.caller.link.staged::<api::BeamStepRequest>(&logits));
        let response = py.detach(|| self.caller.ask(request, &rows, staged));
        let response = response.map_err(|failure| raise(py, failure))?;
        beams::found(response, &asked)
    }

    /// Evaluates sets of sampling parameters over rows whose next token is known, as `logitd.evaluate` does, on the server.
    #[pyo3(signature = (logits, references, sets=None, **options))]
    fn evaluate<'py>(
        this: &Bound<'py, Self>,
        logits: &Bound<'py, PyAny>,
        references: &Bound<'py, PyAny>,
        sets: Option<&Bound<'py, PyAny>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // What is found of it is an object of Python's.
        let through = this.py().import("logitd._evaluate")?.getattr("through")?;
        through.call((this.getattr("_evaluate")?, logits, references, sets), options)
    }

    /// What `evaluate` is made of: arrays by their names.
    #[pyo3(signature = (logits, references, options, /))]
    fn _evaluate<'py>(
        &self,
        py: Python<'py>,
        logits: &Bound<'py, PyAny>,
        references: &Bound<'py, PyAny>,
        options: Options<'py>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let EvaluateCall { logits, asked } = EvaluateCall::of(logits, references, &options)?;
        let request = evaluations::request(&logits, &asked);
        let (rows, staged) =
            (logits.bytes(), self.caller.link.staged::<api::EvaluateRequest>(&logits));
        let response = py.detach(|| self.caller.ask(request, &rows, staged));
        let response = response.map_err(|failure| raise(py, failure))?;
        found::arrays(py, &asked, &evaluations::answer(response, &asked)?)
    }

    /// Memory to write logits to, `[rows, vocab_size]` of f16, bf16 or f32, until the end of a `with` block.
    ///
    /// Where the server shares memory it is the server's too, and sampling it sends no copy.
    fn staging(&self, py: Python<'_>, shape: (usize, usize), dtype: &str) -> PyResult<Staging> {
        let shape = Shape::of(shape, dtype)?;
        let made = py.detach(|| lease(&self.caller.link, shape));
        made.map(|lease| Staging::new(lease, shape)).map_err(|failure| raise(py, failure))
    }

    /// What the server says of itself: its version, devices (ids), planes, and the address of its control socket.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Caller { runtime, link } = &self.caller;
        let info = py.detach(|| wait(runtime, link.client.info()));
        options::describe(py, &info.map_err(|failure| raise(py, failure))?)
    }

    fn __repr__(&self) -> String {
        let plane = match self.caller.link.choice {
            Choice::Only(plane) => plane.name(),
            Choice::OnThisHost | Choice::Bytes => "auto",
        };
        format!("Client({:?}, plane={plane:?})", self.target)
    }
}

fn raise(py: Python<'_>, failure: Failure) -> PyErr {
    match failure {
        Failure::Client(error) => errors::raise(py, &error),
        Failure::Python(error) => error,
    }
}
