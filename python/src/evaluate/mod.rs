//! What sets of parameters come to over rows whose next token is known: `logitd.evaluate`.
//!
//! Rows are read where they lie, as for a sample, and evaluated some at a time without the GIL; sums of integers add up to
//! the same however they are cut. What was found goes to Python as arrays by their names; `logitd._evaluate` makes one
//! object of them, and means.

pub mod asked;
pub mod found;
mod sets;

use asked::{Asked, Call, Options};
use logitd_core::backend::cpu::THREADS_MAX;
use logitd_core::batch::Row;
use logitd_core::evaluate::cpu::Cpu;
use logitd_core::evaluate::{EvaluationResult, Evaluator, Position, Question};
use logitd_core::params::ParamsSpec;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::ops::RangeInclusive;

/// What is evaluated between two looks at signals: a second or two of one thread.
const PAIRS_AT_A_TIME: usize = 1 << 22;
/// Rows of that. Fewer leave threads without work, and of more the digests take much memory (100 KB each).
const ROWS_AT_A_TIME: RangeInclusive<usize> = 64..=1024;

/// What `logitd.evaluate` is made of: arrays by their names.
#[pyfunction]
#[pyo3(signature = (logits, references, options, /))]
pub fn evaluate<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    references: &Bound<'py, PyAny>,
    options: Options<'py>,
) -> PyResult<Bound<'py, PyDict>> {
    let Call { logits, asked } = Call::of(logits, references, &options)?;
    let cpu = Cpu::new(threads(options.threads)?);
    let Asked { references, groups, sets, tail, rows, .. } = &asked;
    let question = Question { sets: &sets.sets, tail: *tail, rows: *rows };
    let bytes = logits.bytes();
    let mut positions = Vec::with_capacity(bytes.len());
    for ((bytes, reference), group) in bytes.into_iter().zip(references).zip(groups) {
        let row = Row::new(logits.dtype(), bytes, plain()).map_err(wrong)?;
        positions.push(Position::new(row, *reference, *group).expect("references were checked"));
    }
    let answer = in_parts(py, &cpu, &positions, &question)?;
    found::arrays(py, &asked, &answer)
}

/// Everything, a part of the rows at a time; between two of them Python has its signals.
fn in_parts(
    py: Python<'_>,
    cpu: &Cpu,
    positions: &[Position<'_>],
    question: &Question<'_>,
) -> PyResult<EvaluationResult> {
    let at_a_time = PAIRS_AT_A_TIME / question.sets.len().max(1);
    let at_a_time = at_a_time.clamp(*ROWS_AT_A_TIME.start(), *ROWS_AT_A_TIME.end());
    let mut all = EvaluationResult::default();
    for part in positions.chunks(at_a_time) {
        let EvaluationResult { references, sums, rows } =
            py.detach(|| cpu.evaluate(part, question));
        all.references.extend(references);
        all.sums.merge(sums);
        all.rows.extend(rows);
        py.check_signals()?;
    }
    Ok(all)
}

fn threads(given: i64) -> PyResult<usize> {
    match usize::try_from(given) {
        Ok(0) => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Ok(threads @ 1..=THREADS_MAX) => Ok(threads),
        _ => Err(wrong(format!(
            "threads is {given}; allowed: 0 (one for each core) to {THREADS_MAX}"
        ))),
    }
}

/// Parameters that nobody looks at.
fn plain() -> logitd_core::params::SamplingParams {
    ParamsSpec::DEFAULT.parse(|| 0).expect("the defaults are valid")
}

fn wrong(said: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(said.to_string())
}
