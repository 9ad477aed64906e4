//! A client of a server, with the calls and the results of a sampler.

mod aio;
mod caller;
mod driver;
mod errors;
mod messages;
mod options;
mod planes;
mod pool;
mod staging;

pub use aio::{AsyncConnection, Task};
pub use staging::Staging;

use crate::call::Call;
use crate::results::Results;
use crate::table::Table;
use caller::{Caller, Failure, wait};
use options::Options;
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
        let wanted = Options::of(options)?.target(target.clone())?;
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
        if asked.params.is_empty() {
            return Ok(Table::new(&asked).into());
        }
        let link = &self.caller.link;
        let request = messages::request(logits.dtype(), &asked, link.has_columns());
        let (rows, staged) = (logits.bytes(), link.staged(&logits));
        let response = py.detach(|| self.caller.sample(request, &rows, staged));
        let response = response.map_err(|failure| raise(py, failure))?;
        messages::table(response, &asked).map(Results::from)
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
