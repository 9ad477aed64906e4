//! What is done to single logits of each row, from keywords by the names of the API.

use crate::each::Each;
use crate::history::History;
use crate::invalid::Invalid;
use crate::memory::Element;
use crate::tokens::{array, ids, items, whole};
use logitd_core::adjustments::{Adjustments, AdjustmentsError, AdjustmentsSpec, Limits};
use logitd_core::params::SamplingParams;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// A keyword that stands beside the parameters.
pub struct List {
    name: &'static str,
    kind: Kind,
}

/// What stands behind it, and where it goes.
enum Kind {
    Mask,
    Ids(fn(&mut AdjustmentsSpec) -> &mut Vec<u32>),
    Sequences(fn(&mut AdjustmentsSpec) -> &mut Vec<Vec<u32>>),
    Biases,
    Counts,
    Length,
    History,
}

static LISTS: [List; 12] = [
    List { name: "allowed_bitmask", kind: Kind::Mask },
    List { name: "allowed_ids", kind: Kind::Ids(|spec| &mut spec.allowed_ids) },
    List { name: "banned_ids", kind: Kind::Ids(|spec| &mut spec.banned_ids) },
    List { name: "bad_words", kind: Kind::Sequences(|spec| &mut spec.bad_words) },
    List { name: "stop_ids", kind: Kind::Ids(|spec| &mut spec.stop_ids) },
    List { name: "logit_bias", kind: Kind::Biases },
    List { name: "prompt", kind: Kind::Ids(|spec| &mut spec.prompt) },
    List { name: "output", kind: Kind::Ids(|spec| &mut spec.output) },
    List { name: "output_length", kind: Kind::Length },
    List { name: "counts", kind: Kind::Counts },
    List { name: "history", kind: Kind::History },
    List { name: "dry_breakers", kind: Kind::Sequences(|spec| &mut spec.breakers) },
];

/// The keywords that are for single rows of a sequence.
static LISTS_OF_ROWS: [List; 3] = [
    List { name: "row_allowed_bitmask", kind: Kind::Mask },
    List { name: "row_allowed_ids", kind: Kind::Ids(|spec| &mut spec.allowed_ids) },
    List { name: "row_banned_ids", kind: Kind::Ids(|spec| &mut spec.banned_ids) },
];

impl List {
    /// Those that are for single rows of a sequence.
    pub fn of_rows() -> &'static [Self] {
        &LISTS_OF_ROWS
    }

    /// Its own.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The keyword of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        LISTS.iter().find(|list| list.name == name)
    }

    /// All of them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        LISTS.iter().map(|list| list.name)
    }

    fn path(&self) -> String {
        path(self.name)
    }

    /// How deep lists are nested in what is for all rows.
    fn depth(&self) -> usize {
        match self.kind {
            Kind::Length | Kind::History => 0,
            Kind::Mask | Kind::Ids(_) => 1,
            Kind::Sequences(_) | Kind::Biases | Kind::Counts => 2,
        }
    }

    /// Sets it. None is nothing.
    fn set(&self, spec: &mut AdjustmentsSpec, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if value.is_none() {
            return Ok(());
        }
        let name = self.name;
        match self.kind {
            Kind::Mask => spec.allowed_bitmask = mask(name, value)?,
            Kind::Ids(place) => *place(spec) = ids(name, value)?,
            Kind::Sequences(place) => {
                let sequences = items(name, value)?;
                let each = sequences.iter().enumerate();
                *place(spec) = each
                    .map(|(i, tokens)| ids(&format!("{name}[{i}]"), tokens))
                    .collect::<PyResult<_>>()?;
            }
            Kind::Biases => {
                let bias = |of: &str, bias: &Bound<'_, PyAny>| match bias.extract::<f64>() {
                    Ok(bias) => Ok(bias as f32),
                    Err(_) => {
                        Err(PyTypeError::new_err(format!("{of} adds {bias}; allowed: a number")))
                    }
                };
                spec.logit_bias = pairs(name, value, bias)?;
            }
            Kind::Counts => spec.counts = pairs(name, value, whole)?,
            Kind::Length => spec.output_length = Some(whole(name, value)?),
            Kind::History => {
                let Ok(history) = value.cast::<History>() else {
                    let kind = value.get_type();
                    return Err(PyTypeError::new_err(format!(
                        "history is a {kind}; allowed: a logitd.History, or one a row"
                    )));
                };
                (spec.prompt, spec.output) = history.get().parts();
            }
        }
        Ok(())
    }
}

/// The adjustments of each row; None where there is nothing to adjust.
pub fn of_rows(
    lists: &[(&'static List, Bound<'_, PyAny>)],
    params: &[SamplingParams],
    vocab_size: usize,
    invalid: &mut Invalid,
) -> PyResult<Option<Each<Adjustments>>> {
    if lists.is_empty() {
        return Ok(None);
    }
    let is_given = |names: &[&str]| lists.iter().any(|(list, _)| names.contains(&list.name));
    if is_given(&["history"]) && is_given(&["prompt", "output"]) {
        let text = "history stands beside prompt and output; allowed: one or the other";
        return Err(PyValueError::new_err(text));
    }
    let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
    let mut all = AdjustmentsSpec::default();
    let mut each = Vec::new();
    for (list, value) in lists {
        match Each::split(list.name, value, list.depth(), invalid.of())? {
            Each::All(value) => {
                if let Err(error) = list.set(&mut all, &value) {
                    invalid.keep_of_all(&list.path(), error)?;
                }
            }
            values => each.push((list, values)),
        }
    }
    let adjustments = if each.is_empty() {
        Each::All(parse(all, vocab_size).or_else(|wrong| {
            invalid.keep_of_all(&wrong.field, wrong.error)?;
            PyResult::Ok(nothing())
        })?)
    } else {
        let mut rows = Vec::with_capacity(params.len());
        for row in 0..params.len() {
            let mut spec = all.clone();
            let set = each.iter().try_for_each(|(list, values)| {
                let set = list.set(&mut spec, values.get(row));
                set.map_err(|error| Wrong { field: list.path(), error })
            });
            rows.push(match set.and_then(|()| parse(spec, vocab_size)) {
                Ok(adjustments) => adjustments,
                Err(wrong) => {
                    invalid.keep(row, &wrong.field, wrong.error)?;
                    nothing()
                }
            });
        }
        Each::Rows(rows)
    };
    for (row, params) in params.iter().enumerate() {
        if let Err(error) = adjustments.get(row).check_with(params) {
            let wrong = Wrong::of(&[error]);
            invalid.keep(row, &wrong.field, wrong.error)?;
        }
    }
    Ok(Some(adjustments))
}

/// Adjustments that do nothing.
pub fn nothing() -> Adjustments {
    AdjustmentsSpec::default().parse(1, Limits::default()).expect("nothing is valid")
}

fn parse(spec: AdjustmentsSpec, vocab_size: u32) -> Result<Adjustments, Wrong> {
    spec.parse(vocab_size, Limits::default()).map_err(|errors| Wrong::of(&errors))
}

/// What is wrong with adjustments, and the path of the first field of it.
struct Wrong {
    field: String,
    error: PyErr,
}

impl Wrong {
    fn of(errors: &[AdjustmentsError]) -> Self {
        let field = errors.first().map_or_else(String::new, |error| path(&error.field));
        let said: Vec<String> = errors.iter().map(AdjustmentsError::to_string).collect();
        Self { field, error: PyValueError::new_err(said.join("; ")) }
    }
}

/// The path of a list in the API, which has the breakers with the parameters.
fn path(name: &str) -> String {
    match name.strip_prefix("dry") {
        Some(_) => format!("params.{}", name.replacen("dry_", "dry.", 1)),
        None => format!("adjustments.{name}"),
    }
}

/// Words of 32 tokens: the bytes of them, or an array of int32 or uint32, as grammar engines write it.
fn mask(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        let (words, rest) = bytes.as_bytes().as_chunks();
        if !rest.is_empty() {
            let bytes = bytes.as_bytes().len();
            return Err(PyValueError::new_err(format!(
                "{name} has {bytes} bytes; allowed: whole words of 4"
            )));
        }
        return Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect());
    }
    match array(name, value)? {
        None => ids(name, value),
        Some(array) if matches!(array.element(), Element::Signed(32) | Element::Unsigned(32)) => {
            // A word is its 32 bits, whatever sign they make.
            Ok(array.integers(name, 0)?.into_iter().map(|word| word as u32).collect())
        }
        Some(array) => Err(PyTypeError::new_err(format!(
            "{name} is an array of {}; allowed: int32 or uint32, a bit a token",
            array.element()
        ))),
    }
}

/// The pairs of a dict, or of a list of pairs.
fn pairs<T>(
    name: &str,
    value: &Bound<'_, PyAny>,
    second: impl Fn(&str, &Bound<'_, PyAny>) -> PyResult<T>,
) -> PyResult<Vec<(u32, T)>> {
    let pairs = match value.cast::<PyDict>() {
        Ok(dict) => dict.items().into_any(),
        Err(_) => value.clone(),
    };
    let pair = |(i, pair): (usize, &Bound<'_, PyAny>)| {
        let place = format!("{name}[{i}]");
        match &items(&place, pair)?[..] {
            [token, value] => Ok((whole(&place, token)?, second(&place, value)?)),
            _ => Err(PyTypeError::new_err(format!("{place} is {pair}; allowed: a pair"))),
        }
    };
    items(name, &pairs)?.iter().enumerate().map(pair).collect()
}
