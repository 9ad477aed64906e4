//! The sets of a call: a list, columns, or every combination of some values.

use super::wrong;
use crate::controls::{plain, value};
use crate::each::is_single;
use logitd_core::evaluate::sets::{FIELDS_OF_SETS, Grid, Sets};
use logitd_core::params::{Field, ParamsSpec, Value};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

/// As many as `logitd tune` searches at most.
const SETS_MAX: usize = 1 << 20;

/// Sets as they are given.
pub struct Given {
    pub sets: Sets,
    /// The values that they are every combination of, if they are.
    pub grid: Option<Grid>,
}

/// The sets that are asked for. Without any there is one: the model as it is.
pub fn of(sets: Option<&Bound<'_, PyAny>>, axes: &Bound<'_, PyDict>) -> PyResult<Given> {
    let (specs, grid) = match sets {
        None => {
            let grid = grid(axes)?;
            (grid.specs(), Some(grid))
        }
        Some(sets) if axes.is_empty() => (listed(sets)?, None),
        Some(_) => {
            let axes = axes.keys();
            return Err(PyTypeError::new_err(format!(
                "there are sets, and values of {axes} beside them; allowed: one of the two"
            )));
        }
    };
    let parsed = specs.into_iter().map(|spec| spec.parse(|| 0).map_err(wrong));
    let sets = Sets::new(parsed.collect::<PyResult<_>>()?).map_err(wrong)?;
    Ok(Given { sets, grid })
}

/// Every combination of the values of each axis.
fn grid(axes: &Bound<'_, PyDict>) -> PyResult<Grid> {
    let mut grid = Grid::default();
    for name in FIELDS_OF_SETS {
        let field = field(axes.py(), name, "a grid")?;
        let Some(given) = axes.get_item(name)? else { continue };
        let own = column(field, &given, name)?;
        if own.is_empty() {
            return Err(wrong(format!("{name} has no value; allowed: at least one, or None")));
        }
        grid = grid.with(name, own);
    }
    check_count(grid.sets().unwrap_or(usize::MAX))?;
    Ok(grid)
}

/// Parameters as they are in a list of dicts, or in columns.
fn listed(sets: &Bound<'_, PyAny>) -> PyResult<Vec<ParamsSpec>> {
    if let Some(names) = names_of_structured(sets)? {
        return columns(sets, &names);
    }
    if sets.hasattr(intern!(sets.py(), "keys"))? {
        let names = sets.call_method0(intern!(sets.py(), "keys"))?;
        let names = names.try_iter()?.map(|name| name?.extract()).collect::<PyResult<Vec<_>>>()?;
        return columns(sets, &names);
    }
    let Ok(items) = sets.try_iter() else {
        return Err(PyTypeError::new_err(format!(
            "sets is {sets}; allowed: a list of dicts, or columns by the names of parameters"
        )));
    };
    items.enumerate().map(|(i, item)| one(i, &item?)).collect()
}

/// The names of the fields of a structured array of numpy.
fn names_of_structured(sets: &Bound<'_, PyAny>) -> PyResult<Option<Vec<String>>> {
    let Some(dtype) = sets.getattr_opt(intern!(sets.py(), "dtype"))? else { return Ok(None) };
    let names = dtype.getattr_opt(intern!(sets.py(), "names"))?;
    Ok(names.map(|names| names.extract()).transpose()?.flatten())
}

fn columns(sets: &Bound<'_, PyAny>, names: &[String]) -> PyResult<Vec<ParamsSpec>> {
    let (mut read, mut length) = (Vec::new(), None::<(&str, usize)>);
    for name in names {
        let field = field(sets.py(), name, "sets")?;
        // A number of numpy is one, too.
        let given = plain(&sets.get_item(name)?)?;
        let own = column(field, &given, &format!("sets[{name:?}]"))?;
        if !is_single(&given) {
            match length {
                Some((first, first_length)) if first_length != own.len() => {
                    return Err(wrong(format!(
                        "sets[{name:?}] has {} values and sets[{first:?}] has {first_length}; allowed: as many in each \
                         column, or one number for all sets",
                        own.len()
                    )));
                }
                _ => length = Some((name, own.len())),
            }
        }
        read.push((field, own, is_single(&given)));
    }
    let length = length.map_or(1, |(_, length)| length);
    check_count(length)?;
    let set = |i: usize| {
        let mut spec = ParamsSpec::DEFAULT;
        for (field, values, is_single) in &read {
            field.set(&mut spec, values[if *is_single { 0 } else { i }]);
        }
        spec
    };
    Ok((0..length).map(set).collect())
}

/// A set of a list.
fn one(i: usize, item: &Bound<'_, PyAny>) -> PyResult<ParamsSpec> {
    check_count(i + 1)?;
    let place = format!("sets[{i}]");
    let Ok(item) = item.cast::<PyDict>() else {
        let kind = item.get_type();
        return Err(PyTypeError::new_err(format!(
            "{place} is a {kind}; allowed: a dict of parameters"
        )));
    };
    let mut spec = ParamsSpec::DEFAULT;
    for (name, given) in item {
        let name = name.cast_into::<PyString>()?;
        let field = field(item.py(), name.to_str()?, &place)?;
        field.set(&mut spec, checked(field, &given, &place)?);
    }
    Ok(spec)
}

/// The values of a column: one number, or a list or an array of numbers.
fn column(field: &'static Field, given: &Bound<'_, PyAny>, place: &str) -> PyResult<Vec<Value>> {
    let given = plain(given)?;
    if is_single(&given) {
        return Ok(vec![checked(field, &given, place)?]);
    }
    let values = given.try_iter()?.enumerate();
    values.map(|(i, given)| checked(field, &given?, &format!("{place}[{i}]"))).collect()
}

/// A value that the parameter may have.
fn checked(field: &'static Field, given: &Bound<'_, PyAny>, place: &str) -> PyResult<Value> {
    let at_place = |error: PyErr| {
        let said = format!("{place}: {}", error.value(given.py()));
        PyErr::from_type(error.get_type(given.py()), said)
    };
    let read = value(field, given).map_err(at_place)?;
    let mut alone = ParamsSpec::DEFAULT;
    field.set(&mut alone, read);
    alone.parse(|| 0).map_err(wrong).map_err(at_place)?;
    Ok(read)
}

fn field(py: Python<'_>, name: &str, place: &str) -> PyResult<&'static Field> {
    if FIELDS_OF_SETS.contains(&name) {
        return Ok(Field::named(name).expect("a parameter"));
    }
    let known = FIELDS_OF_SETS.join(", ");
    let close =
        py.import("difflib")?.call_method1("get_close_matches", (name, FIELDS_OF_SETS, 1))?;
    let meant = match close.extract::<Vec<String>>()?.pop() {
        Some(nearest) => format!(" (did you mean {nearest}?)"),
        None => String::new(),
    };
    Err(PyTypeError::new_err(format!("{place} has {name}{meant}; sets can have: {known}")))
}

fn check_count(sets: usize) -> PyResult<()> {
    if sets <= SETS_MAX {
        return Ok(());
    }
    Err(wrong(format!(
        "there are {sets} sets or more; allowed: up to {SETS_MAX} a call. Evaluate a part of them in each of several calls"
    )))
}
