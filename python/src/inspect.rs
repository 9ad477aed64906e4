//! What is asked of rows beside their tokens: logprobs of distributions, and which tokens the cuts kept.

use crate::each::Each;
use crate::invalid::Invalid;
use crate::tokens::ids;
use logitd_core::inspection::{Distribution, Inspect, LOGPROB_IDS_MAX, TOP_LOGPROBS_MAX};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

/// Kept tokens that are found as a list of ids; more are a bitmask, as a server has it by default.
const KEPT_IDS_MAX: u32 = 4096;

/// The keywords that ask for it, as they are given.
#[derive(Default)]
pub struct Asked<'py> {
    pub logprobs: Option<Bound<'py, PyAny>>,
    pub return_kept: Option<Bound<'py, PyAny>>,
}

/// What is asked of each row; None where nothing is asked of any.
pub fn of_rows(
    asked: &Asked<'_>,
    vocab_size: usize,
    invalid: &mut Invalid,
) -> PyResult<Option<Each<Inspect>>> {
    let logprobs = match &asked.logprobs {
        None => Each::All(Inspect::default()),
        Some(given) => Each::split("logprobs", given, 0, invalid.of())?.try_map(
            "params.logprobs",
            invalid,
            &Inspect::default(),
            |given| logprobs(&given, vocab_size),
        )?,
    };
    let kept = match &asked.return_kept {
        None => Each::All(None),
        Some(given) => Each::split("return_kept", given, 0, invalid.of())?.try_map(
            "params.return_kept",
            invalid,
            &None,
            |given| kept(&given),
        )?,
    };
    let both =
        |inspect: &Inspect, kept: &Option<u32>| Inspect { kept_ids_max: *kept, ..inspect.clone() };
    Ok(match (logprobs, kept) {
        (Each::All(inspect), Each::All(kept)) => {
            Some(both(&inspect, &kept)).filter(|inspect| !inspect.is_empty()).map(Each::All)
        }
        (inspect, kept) => {
            let of_row = |row| both(inspect.get(row), kept.get(row));
            let each: Vec<_> = (0..invalid.of().count).map(of_row).collect();
            each.iter().any(|inspect| !inspect.is_empty()).then_some(Each::Rows(each))
        }
    })
}

/// The name of a distribution, or an object with `of`, `top` and `ids`: a `logitd.Logprobs`.
fn logprobs(given: &Bound<'_, PyAny>, vocab_size: usize) -> PyResult<Inspect> {
    if given.is_none() {
        return Ok(Inspect::default());
    }
    if let Ok(name) = given.cast::<PyString>() {
        return Ok(Inspect { of: distributions(name)?, ..Inspect::default() });
    }
    let (Some(of), Some(top), Some(listed)) =
        (given.getattr_opt("of")?, given.getattr_opt("top")?, given.getattr_opt("ids")?)
    else {
        let kind = given.get_type();
        return Err(PyTypeError::new_err(format!(
            "logprobs is a {kind}; allowed: raw, adjusted, sampled, or a logitd.Logprobs"
        )));
    };
    let top = match top.extract::<u32>() {
        Ok(top @ ..=TOP_LOGPROBS_MAX) => top,
        _ => {
            let text = format!("logprobs.top is {top}; allowed: 0 to {TOP_LOGPROBS_MAX}");
            return Err(PyValueError::new_err(text));
        }
    };
    let ids = ids("logprobs.ids", &listed)?;
    let said = if ids.len() > LOGPROB_IDS_MAX {
        Some(format!("logprobs.ids has {} tokens; allowed: up to {LOGPROB_IDS_MAX}", ids.len()))
    } else {
        let beyond = ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size);
        beyond.map(|(i, id)| {
            format!("logprobs.ids[{i}] is token {id}; allowed: below vocab_size, {vocab_size}")
        })
    };
    match said {
        Some(said) => Err(PyValueError::new_err(said)),
        None => Ok(Inspect { of: distributions(&of)?, top, ids: ids.into(), ..Inspect::default() }),
    }
}

/// The distributions that are named: one, or several, none twice.
fn distributions(given: &Bound<'_, PyAny>) -> PyResult<[bool; 3]> {
    let names = match given.cast::<PyString>() {
        Ok(name) => vec![name.to_string()],
        Err(_) => given.extract::<Vec<String>>()?,
    };
    let mut of = [false; 3];
    for name in &names {
        match Distribution::named(name) {
            Some(found) if !of[found as usize] => of[found as usize] = true,
            _ => {
                let text = format!(
                    "logprobs.of names {name}; allowed: raw, adjusted, sampled, each of them once"
                );
                return Err(PyValueError::new_err(text));
            }
        }
    }
    if names.is_empty() {
        let text = "logprobs.of is empty; allowed: raw, adjusted, sampled, at least one of them";
        return Err(PyValueError::new_err(text));
    }
    Ok(of)
}

fn kept(given: &Bound<'_, PyAny>) -> PyResult<Option<u32>> {
    if given.is_none() {
        return Ok(None);
    }
    match given.extract::<bool>() {
        Ok(is_asked) => Ok(is_asked.then_some(KEPT_IDS_MAX)),
        Err(_) => {
            let kind = given.get_type();
            Err(PyTypeError::new_err(format!("return_kept is a {kind}; allowed: True, False")))
        }
    }
}
