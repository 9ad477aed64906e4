//! Errors of the client as exceptions of `logitd.errors`.

use logitd_client::Error;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The exception of an error: its kind by the gRPC code, with what is wrong in which field and when to come again.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let kind = match error {
        Error::Target(said) => return PyValueError::new_err(said.clone()),
        Error::Connect { .. } | Error::Region { .. } | Error::Closed => "Unavailable".into(),
        Error::Version { .. } => "FailedPrecondition".into(),
        error => match error.code().map(|code| format!("{code:?}")) {
            // What tonic says where the client's own time is over; nothing else here cancels a call.
            Some(code) if code == "Cancelled" => "DeadlineExceeded".into(),
            code => code.unwrap_or_default(),
        },
    };
    let retry_after = error.retry_after().map(|delay| delay.as_secs_f64());
    let made = py.import("logitd.errors").and_then(|errors| {
        errors.call_method1("make", (kind, error.to_string(), error.violations(), retry_after))
    });
    made.map_or_else(|error| error, PyErr::from_value)
}
