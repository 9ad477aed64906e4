//! The parameters of each row, from keywords by the names of `FIELDS`.

use crate::adjustments;
use crate::each::{Each, is_single};
use crate::inspect;
use crate::invalid::{Invalid, path};
use crate::of::Of;
use logitd_core::params::{FIELDS, Field, ParamsError, ParamsSpec, SamplingParams, Value};
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

/// What -1 switches off too, as other samplers have it.
const OFF_BELOW_ZERO: &str = "top_k";
/// What results have as NaN for rows without it, and rows are then without.
const STATES: [&str; 3] = ["mirostat_mu", "adaptive_sum", "adaptive_weight"];

/// Keywords that are neither parameters nor adjustments.
pub const OPTIONS: [&str; 4] = ["logprobs", "return_kept", "vocab_size", "on_invalid_row"];

/// What keywords ask for: the parameters, what is done to single logits, what is told beside tokens, and what holds for
/// the whole call.
#[derive(Default)]
pub struct Controls<'py> {
    pub fields: Vec<(&'static Field, Bound<'py, PyAny>)>,
    pub lists: Vec<(&'static adjustments::List, Bound<'py, PyAny>)>,
    pub asked: inspect::Asked<'py>,
    pub vocab_size: Option<Bound<'py, PyAny>>,
    /// Whether the rows that are wrong have a status, and the call goes on.
    pub keeps_invalid_rows: bool,
    /// The keywords that the call has beside these.
    own: &'static [&'static str],
}

impl<'py> Controls<'py> {
    /// The keywords, each known. None is as good as a keyword that is left out.
    pub fn of(keywords: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        Self::beside(&[], keywords)
    }

    /// The same of what stands beside keywords of a call's own.
    pub fn beside(
        own: &'static [&'static str],
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Self> {
        let mut controls = Self { own, ..Self::default() };
        for (name, value) in keywords.into_iter().flatten() {
            let name = name.cast_into::<PyString>()?;
            let name = name.to_str()?;
            if own.contains(&name) {
                continue;
            }
            match value.cast::<PyDict>() {
                Ok(group) if Field::of_group(name).next().is_some() => {
                    for (key, value) in group {
                        controls.add(&format!("{name}_{key}"), value)?;
                    }
                }
                _ => controls.add(name, value)?,
            }
        }
        Ok(controls)
    }

    fn add(&mut self, name: &str, value: Bound<'py, PyAny>) -> PyResult<()> {
        if value.is_none() {
            // Still only what is known.
            return if known(self.own).any(|known| known == name) {
                Ok(())
            } else {
                Err(unknown(value.py(), name, self.own))
            };
        }
        if let Some(field) = Field::named(name) {
            self.fields.push((field, value));
        } else if let Some(list) = adjustments::List::named(name) {
            self.lists.push((list, value));
        } else {
            return self.add_option(name, value);
        }
        Ok(())
    }

    fn add_option(&mut self, name: &str, value: Bound<'py, PyAny>) -> PyResult<()> {
        match name {
            "logprobs" => self.asked.logprobs = Some(value),
            "return_kept" => self.asked.return_kept = Some(value),
            "vocab_size" => self.vocab_size = Some(value),
            "on_invalid_row" => {
                self.keeps_invalid_rows = match value.extract::<&str>() {
                    Ok("refuse") => false,
                    Ok("status") => true,
                    _ => {
                        return Err(PyValueError::new_err(format!(
                            "on_invalid_row is {value}; allowed: refuse, status"
                        )));
                    }
                }
            }
            _ => return Err(unknown(value.py(), name, self.own)),
        }
        Ok(())
    }

    /// The parameters of each row, or sequence. Those without a seed get one of the operating system's.
    pub fn params(&self, invalid: &mut Invalid) -> PyResult<Vec<SamplingParams>> {
        let specs = self.specs(invalid)?;
        let seedless = specs.iter().filter(|spec| spec.seed.is_none()).count();
        let mut seeds = fresh_seeds(seedless)?.into_iter();
        let mut parsed = Vec::with_capacity(specs.len());
        for (row, spec) in specs.into_iter().enumerate() {
            let seed = || seeds.next().expect("one for each that has none");
            parsed.push(match spec.parse(seed) {
                Ok(params) => params,
                Err(error) => {
                    invalid.keep(row, &path(error.field), wrong(error))?;
                    ParamsSpec::default().parse(|| 0).expect("the defaults are valid")
                }
            });
        }
        Ok(parsed)
    }

    /// The same as they are given.
    pub fn specs(&self, invalid: &mut Invalid) -> PyResult<Vec<ParamsSpec>> {
        let mut all = ParamsSpec::default();
        let mut each = Vec::new();
        for (field, given) in &self.fields {
            match values(field, given, invalid)? {
                Each::All(value) => field.set(&mut all, value),
                values => each.push((field, values)),
            }
        }
        let mut specs = vec![all; invalid.of().count];
        for (row, spec) in specs.iter_mut().enumerate() {
            for (field, values) in &each {
                field.set(spec, *values.get(row));
            }
        }
        Ok(specs)
    }
}

/// The keywords of a call, of which it reads its own by their names.
pub struct Own<'a, 'py>(pub Option<&'a Bound<'py, PyDict>>);

impl<'py> Own<'_, 'py> {
    /// What is given; None is nothing.
    pub fn get(&self, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let given = self.0.map(|keywords| keywords.get_item(name)).transpose()?.flatten();
        Ok(given.filter(|given| !given.is_none()))
    }

    /// The same, one for all or one for each.
    pub fn each(&self, name: &str, of: Of) -> PyResult<Option<Each<Bound<'py, PyAny>>>> {
        let Some(given) = self.get(name)? else { return Ok(None) };
        Each::split(name, &plain(&given)?, 0, of).map(Some)
    }
}

/// Every keyword, those of a call's own first.
fn known(own: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    let controls = FIELDS.iter().map(|field| field.name).chain(adjustments::List::names());
    own.iter().copied().chain(controls).chain(OPTIONS)
}

fn unknown(py: Python<'_>, name: &str, own: &'static [&'static str]) -> PyErr {
    let nearest = || -> PyResult<Option<String>> {
        let known = known(own).collect::<Vec<_>>();
        let close = py.import("difflib")?.call_method1("get_close_matches", (name, known, 1))?;
        Ok(close.extract::<Vec<String>>()?.pop())
    };
    let meant = match nearest() {
        Ok(Some(nearest)) => format!(" (did you mean {nearest}?)"),
        _ => String::new(),
    };
    let known = known(own).collect::<Vec<_>>().join(", ");
    PyTypeError::new_err(format!("there is no control {name}{meant}; there are: {known}"))
}

/// A seed of the operating system for each of some rows: below 2^53, so that every program reads it whole.
fn fresh_seeds(count: usize) -> PyResult<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    getrandom::fill(&mut bytes).map_err(|error| PyOSError::new_err(error.to_string()))?;
    Ok(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word) >> 11).collect())
}

fn values(
    field: &'static Field,
    given: &Bound<'_, PyAny>,
    invalid: &mut Invalid,
) -> PyResult<Each<Value>> {
    let given = plain(given)?;
    let values = Each::split(field.name, &given, 0, invalid.of())?;
    if let Each::All(one) = &values
        && !invalid.are_kept()
    {
        return value(field, one).map(Each::All);
    }
    let default = field.get(ParamsSpec::default());
    values.try_map(&path(field.name), invalid, &default, |given| value(field, &given))
}

/// An array as a list of Python's numbers, and one of its numbers as such.
pub fn plain<'py>(given: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if is_single(given) {
        return Ok(given.clone());
    }
    match given.getattr_opt(intern!(given.py(), "tolist"))? {
        Some(to_list) => to_list.call0(),
        None => Ok(given.clone()),
    }
}

/// What a value is for a parameter; None is its default.
pub fn value(field: &'static Field, given: &Bound<'_, PyAny>) -> PyResult<Value> {
    if given.is_none() {
        return Ok(field.get(ParamsSpec::default()));
    }
    if let Ok(text) = given.cast::<PyString>() {
        return match field.get(ParamsSpec::default()) {
            Value::Name(_) => field.read(text.to_str()?).map_err(wrong),
            _ => Err(no_number(field, given)),
        };
    }
    let is_no_state = |number: f64| number.is_nan() && STATES.contains(&field.name);
    if given.cast::<PyFloat>().is_ok_and(|float| is_no_state(float.value())) {
        return Ok(Value::Unset);
    }
    let read = if given.is_instance_of::<PyBool>() {
        match field.is_flag() {
            true => field.read(&given.to_string()),
            false => Err(field.refuse_text(&given.to_string())),
        }
    } else if let Ok(float) = given.cast::<PyFloat>() {
        field.of_f64(float.value())
    } else if let Ok(whole) = given.extract::<u64>() {
        field.of_u64(whole)
    } else if let Ok(whole) = given.cast::<PyInt>() {
        // Below 0, or beyond 64 bits.
        match whole.to_string() {
            text if field.name == OFF_BELOW_ZERO && text == "-1" => field.of_u64(0),
            text => field.read(&text),
        }
    } else {
        match given.extract::<f64>() {
            Ok(number) => field.of_f64(number),
            Err(_) => return Err(no_number(field, given)),
        }
    };
    read.map_err(wrong)
}

fn wrong(error: ParamsError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn no_number(field: &'static Field, given: &Bound<'_, PyAny>) -> PyErr {
    let kind = given.get_type();
    PyTypeError::new_err(format!("{} is a {kind}; allowed: {}", field.name, field.allowed))
}
