//! How a client is made, and what it says of its server.

use super::planes::{Plane, Target};
use logitd_client::{Builder, Client, api};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::time::Duration;

/// The keywords of a client.
#[derive(Default)]
pub struct Options {
    plane: Option<Plane>,
    timeout: Option<Duration>,
    retries_max: Option<u32>,
    token: Option<String>,
    tls_roots: Option<Vec<u8>>,
    tls_identity: Option<(Vec<u8>, Vec<u8>)>,
    tls_domain: Option<String>,
}

/// How often an overloaded server is asked again.
const RETRIES_MAX: u32 = 3;

impl Options {
    pub fn of(keywords: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let mut options = Self::default();
        for (name, value) in keywords.into_iter().flatten() {
            let name = name.cast_into::<PyString>()?;
            match name.to_str()? {
                "plane" => options.plane = plane(value.extract()?)?,
                "timeout" => options.timeout = time_limit(value.extract()?)?,
                "retries_max" => options.retries_max = Some(value.extract()?),
                "token" => options.token = value.extract()?,
                "tls_roots" => options.tls_roots = value.extract()?,
                "tls_identity" => options.tls_identity = value.extract()?,
                "tls_domain" => options.tls_domain = value.extract()?,
                name => {
                    return Err(PyTypeError::new_err(format!(
                        "there is no option {name}; there are: plane, timeout, retries_max, token, tls_roots, \
                         tls_identity, tls_domain"
                    )));
                }
            }
        }
        Ok(options)
    }

    pub fn target(self, name: String) -> PyResult<Target> {
        let retries_max = self.retries_max.unwrap_or(RETRIES_MAX);
        let mut builder = Client::builder(name.clone()).retries_max(retries_max);
        builder = optional(builder, self.timeout, Builder::timeout);
        builder = optional(builder, self.token, Builder::token);
        builder = optional(builder, self.tls_roots, Builder::tls_roots);
        builder = optional(builder, self.tls_domain, Builder::tls_domain);
        builder = optional(builder, self.tls_identity, |b, (cert, key)| b.tls_identity(cert, key));
        Ok(Target { builder, name, plane: self.plane, retries_max })
    }
}

/// Sets what is given.
fn optional<T>(builder: Builder, value: Option<T>, set: impl Fn(Builder, T) -> Builder) -> Builder {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}

fn plane(name: &str) -> PyResult<Option<Plane>> {
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

/// What a server says of itself, as a dict.
pub fn describe<'py>(py: Python<'py>, info: &api::GetInfoResponse) -> PyResult<Bound<'py, PyDict>> {
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
