//! The sampler of logitd as a Python package.
//!
//! `sample(x, **controls)` is one way through this crate: the array becomes rows of bytes where they lie ([`memory`]),
//! the controls become valid parameters and adjustments of each row ([`controls`], [`adjustments`]; both make up a [`call`]), a sampler draws
//! without the GIL ([`sampler`]), and what it found becomes numpy arrays when somebody looks at them ([`results`]).
//! [`client`] sends the same calls to a server, and makes the same results of its answers. Which controls there are is read in `logitd_core::params::FIELDS`.

// The documentation is read with its private items: it walks through the rooms.
#![allow(rustdoc::private_intra_doc_links)]

mod adjustments;
mod arrays;
mod beams;
mod call;
mod client;
mod controls;
mod distribution;
mod each;
mod evaluate;
mod history;
mod inspect;
mod invalid;
mod logits;
mod memory;
mod of;
mod results;
mod sampler;
mod table;
mod tokens;
mod verify;

use logitd_core::params::{FIELDS, Field, ParamsSpec, Value};
use pyo3::prelude::*;
use pyo3::types::PyDict;

#[pymodule(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<sampler::Sampler>()?;
    module.add_class::<client::Client>()?;
    module.add_class::<client::AsyncConnection>()?;
    module.add_class::<client::Task>()?;
    module.add_class::<client::Staging>()?;
    module.add_class::<results::Results>()?;
    module.add_class::<verify::verified::Verified>()?;
    module.add_class::<beams::found::BeamGroup>()?;
    module.add_class::<beams::found::Continuations>()?;
    module.add_class::<beams::search::BeamSearch>()?;
    module.add_class::<beams::search::BeamText>()?;
    module.add_class::<history::History>()?;
    module.add_class::<distribution::Distribution>()?;
    module.add("RowError", module.py().get_type::<table::RowError>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("arithmetic_version", logitd_core::arithmetic::VERSION)?;
    module.add("STATUSES", table::Status::all().collect::<Vec<_>>())?;
    module.add("OPTIONS", controls::OPTIONS)?;
    module.add("ADJUSTMENTS", adjustments::List::names().collect::<Vec<_>>())?;
    module.add_function(wrap_pyfunction!(sampler::sample, module)?)?;
    module.add_function(wrap_pyfunction!(sampler::verify, module)?)?;
    module.add_function(wrap_pyfunction!(sampler::beam_step, module)?)?;
    module.add_function(wrap_pyfunction!(evaluate::evaluate, module)?)?;
    module.add_function(wrap_pyfunction!(fields, module)?)
}

/// Every parameter of a row, in the API's order: a dict of `name`, `default`, `allowed` and `about`.
///
/// The default of `seed` is None: one a row, taken from the operating system and returned.
#[pyfunction]
fn fields(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    FIELDS.iter().map(|field| describe(py, field)).collect()
}

fn describe<'py>(py: Python<'py>, field: &'static Field) -> PyResult<Bound<'py, PyDict>> {
    let described = PyDict::new(py);
    described.set_item("name", field.name)?;
    match field.get(ParamsSpec::default()) {
        // As it is written: the double nearest to the f32 has more digits.
        Value::Real(x) => described.set_item("default", x.to_string().parse::<f64>()?)?,
        Value::Whole(n) => described.set_item("default", n)?,
        Value::Name(name) => described.set_item("default", name)?,
        Value::Flag(on) => described.set_item("default", on)?,
        Value::Unset => described.set_item("default", py.None())?,
    }
    described.set_item("allowed", field.allowed)?;
    described.set_item("about", field.about)?;
    Ok(described)
}
