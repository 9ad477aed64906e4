//! What is asked of sequences with drafts, from an array and keywords.

use super::origins::{self, Origin};
use crate::adjustments::{self, List};
use crate::call;
use crate::controls::{Controls, Own};
use crate::each::{Each, lists};
use crate::inspect;
use crate::invalid::{Invalid, of_one};
use crate::logits::Logits;
use crate::memory::device::Reader;
use crate::of::Of;
use crate::tokens::ids;
use logitd_core::adjustments::Adjustments;
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::{DRAFTS_MAX, Proposal, Typical};
use logitd_core::verify::drafts;
use logitd_core::verify::{Mode, TREE_NODES_MAX};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::sync::Arc;

/// The keywords of `verify` beside the controls.
const OWN: [&str; 8] = [
    "mode",
    "parents",
    "distributions",
    "typical_epsilon",
    "typical_delta",
    "row_allowed_bitmask",
    "row_allowed_ids",
    "row_banned_ids",
];

/// A call of `verify`, checked.
pub struct Call<'py> {
    pub logits: Logits<'py>,
    pub asked: Asked,
}

/// How its sequences are to be verified.
pub struct Asked {
    pub sequences: Vec<Sequence>,
    /// The controls of each sequence.
    pub each: call::Asked,
    /// What is allowed and banned in single rows of all sequences.
    pub of_rows: Option<Each<Adjustments>>,
}

/// A sequence: a row for each draft, and one more.
pub struct Sequence {
    /// The first of its rows.
    pub first: usize,
    pub mode: Mode,
    pub drafts: Arc<[u32]>,
    /// Of a tree: the node that each draft hangs under.
    pub parents: Option<Vec<u32>>,
    /// In [`Mode::Rejection`], what each draft was drawn from; empty where all were certain.
    pub origins: Vec<Origin>,
    /// In [`Mode::Typical`], when a draft is likely enough.
    pub typical: Typical,
}

impl<'py> Call<'py> {
    /// From its arrays, of which `reader` may read the first one on a device, and its keywords.
    pub fn of(
        reader: Option<&Reader>,
        x: &Bound<'py, PyAny>,
        drafts: &Bound<'py, PyAny>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Self> {
        let controls = Controls::beside(&OWN, keywords)?;
        let logits = Logits::read_by(reader, "x", x, controls.vocab_size.as_ref())?;
        let own = Own(keywords);
        let mut sequences = sequences(drafts, &own, &logits)?;
        let of = Of::sequences(sequences.len());
        if controls.keeps_invalid_rows {
            let said = "on_invalid_row is status; allowed: refuse, since rows of a sequence belong together";
            return Err(PyValueError::new_err(said));
        }
        let mut invalid = Invalid::among(of, false);
        let params = controls.params(&mut invalid)?;
        check_params(&params, &sequences, of)?;
        let vocab_size = logits.vocab_size();
        let adjustments = adjustments::of_rows(&controls.lists, &params, vocab_size, &mut invalid)?;
        let inspect = inspect::of_rows(&controls.asked, vocab_size, &mut invalid)?;
        let of_rows = of_rows(&own, &logits)?;
        if let Some(given) = own.get("distributions")? {
            distribute(&mut sequences, &given, &logits)?;
        }
        let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let each = call::Asked { params, adjustments, inspect, invalid, vocab_size };
        Ok(Self { logits, asked: Asked { sequences, each, of_rows } })
    }
}

fn sequences(
    given: &Bound<'_, PyAny>,
    own: &Own<'_, '_>,
    logits: &Logits<'_>,
) -> PyResult<Vec<Sequence>> {
    let given = lists(given)?;
    let of = Of::sequences(given.len());
    let parents = match own.get("parents")? {
        None => vec![],
        Some(parents) => lists(&parents)?,
    };
    if ![0, of.count].contains(&parents.len()) {
        let (trees, sequences) = (parents.len(), of.count);
        return Err(PyValueError::new_err(format!(
            "parents has {trees} lists for {sequences} sequences; allowed: one a sequence, or None"
        )));
    }
    let modes = own.each("mode", of)?;
    let epsilon = own.each("typical_epsilon", of)?;
    let delta = own.each("typical_delta", of)?;
    let (mut sequences, mut first) = (Vec::with_capacity(given.len()), 0);
    for (i, drafts) in given.iter().enumerate() {
        let one = One {
            drafts: tokens("drafts", Some(drafts))?,
            parents: tokens("parents", parents.get(i))?,
            mode: of_sequence(modes.as_ref(), i).map_or(Ok(Mode::Match), mode)?,
            epsilon: of_sequence(epsilon.as_ref(), i).map(|given| real("typical_epsilon", given)),
            delta: of_sequence(delta.as_ref(), i).map(|given| real("typical_delta", given)),
        };
        let sequence = one.sequence(first, logits.vocab_size());
        let sequence = sequence.map_err(|error| of_one(of, i, &error))?;
        first += sequence.drafts.len() + 1;
        sequences.push(sequence);
    }
    match logits.rows() {
        rows if rows == first => Ok(sequences),
        rows => Err(PyValueError::new_err(format!(
            "x has {rows} rows, and the sequences have {first}, one a draft and one more each; allowed: as many"
        ))),
    }
}

/// What is given of a sequence.
fn of_sequence<'a, 'py>(
    each: Option<&'a Each<Bound<'py, PyAny>>>,
    place: usize,
) -> Option<&'a Bound<'py, PyAny>> {
    each.map(|each| each.get(place)).filter(|given| !given.is_none())
}

/// A sequence as it is given.
struct One {
    drafts: Vec<u32>,
    parents: Vec<u32>,
    mode: Mode,
    epsilon: Option<PyResult<f32>>,
    delta: Option<PyResult<f32>>,
}

impl One {
    fn sequence(self, first: usize, vocab_size: usize) -> PyResult<Sequence> {
        let Self { drafts, parents, mode, epsilon, delta } = self;
        let (what, count, most) = match parents.is_empty() {
            true => ("drafts", drafts.len(), DRAFTS_MAX),
            false => ("nodes, its root included,", drafts.len() + 1, TREE_NODES_MAX),
        };
        if count > most {
            return Err(wrong(format!("it has {count} {what}; allowed: up to {most}")));
        }
        drafts::check(&drafts, &parents, vocab_size as u32).map_err(wrong)?;
        only("parents", !parents.is_empty(), Mode::Match, mode)?;
        only("typical_epsilon", epsilon.is_some(), Mode::Typical, mode)?;
        only("typical_delta", delta.is_some(), Mode::Typical, mode)?;
        let typical = drafts::typical(epsilon.transpose()?, delta.transpose()?).map_err(wrong)?;
        Ok(Sequence {
            first,
            mode,
            drafts: drafts.into(),
            parents: (!parents.is_empty()).then_some(parents),
            origins: vec![],
            typical,
        })
    }
}

/// Refuses what another mode needs.
fn only(name: &str, is_given: bool, needed: Mode, mode: Mode) -> PyResult<()> {
    if !is_given || mode == needed {
        return Ok(());
    }
    let (needed, mode) = (needed.name(), mode.name());
    Err(wrong(format!("{name} stands in a sequence of mode {mode}; allowed: with {needed} only")))
}

fn tokens(name: &str, given: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<u32>> {
    given.filter(|given| !given.is_none()).map_or_else(|| Ok(vec![]), |given| ids(name, given))
}

fn mode(given: &Bound<'_, PyAny>) -> PyResult<Mode> {
    let named = |name: &Bound<'_, PyString>| {
        Mode::ALL.into_iter().find(|mode| name.to_str().is_ok_and(|name| name == mode.name()))
    };
    given.cast::<PyString>().ok().and_then(named).ok_or_else(|| {
        let names = Mode::ALL.map(Mode::name).join(", ");
        wrong(format!("mode is {given}; allowed: {names}"))
    })
}

fn real(name: &str, given: &Bound<'_, PyAny>) -> PyResult<f32> {
    given.extract::<f64>().map(|number| number as f32).map_err(|_| {
        let kind = given.get_type();
        PyTypeError::new_err(format!("{name} is a {kind}; allowed: a number above 0, up to 1"))
    })
}

/// Refuses what no sequence can have.
fn check_params(params: &[SamplingParams], sequences: &[Sequence], of: Of) -> PyResult<()> {
    for (i, (params, sequence)) in params.iter().zip(sequences).enumerate() {
        let spec: ParamsSpec = (*params).into();
        origins::check_params(&format!("sequence {i}"), &spec)?;
        let following = sequence.drafts.len() as u64;
        let checked = drafts::check_position(spec.position, following).map_err(wrong);
        let checked = match spec.draft {
            true => Err(wrong(
                "draft is true, in a sequence to be verified; allowed: false; a draft's row may have it",
            )),
            false => checked,
        };
        checked.map_err(|error| of_one(of, i, &error))?;
    }
    Ok(())
}

/// What is allowed and banned in single rows.
fn of_rows(own: &Own<'_, '_>, logits: &Logits<'_>) -> PyResult<Option<Each<Adjustments>>> {
    let mut given = vec![];
    for list in List::of_rows() {
        given.extend(own.get(list.name())?.map(|value| (list, value)));
    }
    let rows = logits.rows();
    let defaults = ParamsSpec::default().parse(|| 0).expect("the defaults are valid");
    let mut invalid = Invalid::among(Of::rows(rows), false);
    adjustments::of_rows(&given, &vec![defaults; rows], logits.vocab_size(), &mut invalid)
}

/// Gives each sequence what its drafts were drawn from.
fn distribute(
    sequences: &mut [Sequence],
    given: &Bound<'_, PyAny>,
    logits: &Logits<'_>,
) -> PyResult<()> {
    let drafts = sequences.iter().map(|sequence| sequence.drafts.len()).sum();
    let mut origins = origins::of(given, drafts, logits)?.into_iter();
    let of = Of::sequences(sequences.len());
    for (i, sequence) in sequences.iter_mut().enumerate() {
        sequence.origins = origins.by_ref().take(sequence.drafts.len()).collect();
        let is_certain = |origin: &Origin| matches!(origin, Origin::Known(Proposal::Point));
        let are_drawn = !sequence.origins.iter().all(is_certain);
        only("distributions", are_drawn, Mode::Rejection, sequence.mode)
            .map_err(|error| of_one(of, i, &error))?;
        if !are_drawn {
            sequence.origins.clear();
        }
    }
    Ok(())
}

fn wrong(said: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(said.to_string())
}
