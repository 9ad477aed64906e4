//! A client of a server, with the calls and the results of a sampler.

mod errors;
mod messages;
mod planes;

use crate::call::Call;
use crate::results::Results;
use crate::table::Table;
use logitd_client::Builder;
use planes::{Choice, Connection, Failure, Plane};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::time::Duration;

/// A connection to a server, whose calls and results are those of a sampler in process, to the bit.
///
/// `target` is `http://HOST:PORT`, `https://HOST:PORT` (with `tls_roots`, PEM), `HOST:PORT` or `unix:PATH`. `plane` says
/// how logits get there: inline, chunked (a large batch in pieces), shared_memory or direct (over a Unix socket of a
/// server with --shm), or auto, which takes the fastest that there is. `timeout` is in seconds, for each attempt of a
/// call; an overloaded server is asked again when it says, up to `retries_max` times.
///
/// Exceptions are those of `logitd.errors`. A client is for one process: a fork needs its own.
#[pyclass(frozen, module = "logitd")]
pub struct Client {
    connection: Connection,
    target: String,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (target, *, plane="auto", timeout=None, retries_max=3, token=None, tls_roots=None,
        tls_identity=None, tls_domain=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn new(
        py: Python<'_>,
        target: String,
        plane: &str,
        timeout: Option<f64>,
        retries_max: u32,
        token: Option<&str>,
        tls_roots: Option<Vec<u8>>,
        tls_identity: Option<(Vec<u8>, Vec<u8>)>,
        tls_domain: Option<&str>,
    ) -> PyResult<Self> {
        let plane = named(plane)?;
        let mut builder = logitd_client::Client::builder(target.clone()).retries_max(retries_max);
        builder = optional(builder, time_limit(timeout)?, Builder::timeout);
        builder = optional(builder, token, Builder::token);
        builder = optional(builder, tls_roots, Builder::tls_roots);
        builder = optional(builder, tls_domain, Builder::tls_domain);
        builder = optional(builder, tls_identity, |b, (cert, key)| b.tls_identity(cert, key));
        let connection = py.detach(|| connect(builder, &target, plane, retries_max));
        let connection = connection.map_err(|failure| raise(py, failure))?;
        Ok(Self { connection, target })
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
        let request = messages::request(logits.dtype(), &asked);
        let rows = logits.bytes();
        let response = py.detach(|| self.connection.sample(request, &rows));
        let response = response.map_err(|failure| raise(py, failure))?;
        let table = messages::table(response.rows, &asked);
        table.map(Results::from).ok_or_else(|| {
            PyRuntimeError::new_err(
                "the server's answer has other rows, or statuses that are not known here",
            )
        })
    }

    /// What the server says of itself: its version, devices (ids), planes, and the address of its control socket.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let call =
            py.detach(|| planes::wait(&self.connection.runtime, self.connection.client.info()));
        let info = call.map_err(|failure| raise(py, failure))?;
        let said = PyDict::new(py);
        let planes: Vec<_> = info.planes().map(|plane| plane.as_str_name()).collect();
        let devices: Vec<_> = info.devices.iter().map(|device| &device.id).collect();
        said.set_item("version", &info.version)?;
        said.set_item("arithmetic_version", info.arithmetic_version)?;
        said.set_item("devices", devices)?;
        said.set_item("planes", planes)?;
        said.set_item("shm_control", &info.shm_control)?;
        Ok(said)
    }

    fn __repr__(&self) -> String {
        let plane = match self.connection.choice {
            Choice::Only(plane) => plane.name(),
            Choice::OnThisHost | Choice::Bytes => "auto",
        };
        format!("Client({:?}, plane={plane:?})", self.target)
    }
}

/// Sets what is given.
fn optional<T>(builder: Builder, value: Option<T>, set: impl Fn(Builder, T) -> Builder) -> Builder {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}

fn named(name: &str) -> PyResult<Option<Plane>> {
    match Plane::ALL.into_iter().find(|plane| plane.name() == name) {
        None if name == "auto" => Ok(None),
        None => {
            let names = Plane::ALL.map(Plane::name).join(", ");
            Err(PyValueError::new_err(format!("plane is {name}; allowed: auto, {names}")))
        }
        plane => Ok(plane),
    }
}

fn time_limit(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let timeout = seconds.map(Duration::try_from_secs_f64).transpose().ok();
    timeout.filter(|timeout| *timeout != Some(Duration::ZERO)).ok_or_else(|| {
        PyValueError::new_err(format!(
            "timeout is {}; allowed: seconds above 0",
            seconds.unwrap_or(0.0)
        ))
    })
}

fn connect(
    builder: Builder,
    target: &str,
    plane: Option<Plane>,
    retries_max: u32,
) -> Result<Connection, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("logitd-client")
        .enable_all()
        .build()
        .map_err(|error| logitd_client::Error::Target(error.to_string()))?;
    let client = planes::wait(&runtime, builder.connect())?;
    let info = planes::wait(&runtime, client.info())?;
    let plane = match plane {
        Some(plane) => Choice::Only(plane),
        None if target.starts_with("unix:") && !info.shm_control.is_empty() => Choice::OnThisHost,
        None => Choice::Bytes,
    };
    Ok(Connection::new(runtime, client, info, plane, retries_max))
}

fn raise(py: Python<'_>, failure: Failure) -> PyErr {
    match failure {
        Failure::Client(error) => errors::raise(py, &error),
        Failure::Python(error) => error,
    }
}
