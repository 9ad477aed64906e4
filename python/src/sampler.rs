//! Samplers: what a call goes through from its array to its results.

use crate::call::{Asked, Call};
use crate::results::Results;
use crate::table::{RowOfTable, Status, Table};
use logitd_core::backend::cpu::{Cpu, CpuOptions, THREADS_MAX};
use logitd_core::backend::reference::Reference;
use logitd_core::backend::{Backend, DeviceInfo};
use logitd_core::batch::{self, Row};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Threads and memory that rows are sampled with, kept from call to call. Calls of several threads take turns; what is
/// to sample at the same time is several samplers, with a part of the threads each.
///
/// `threads` is how many to compute with, the caller's among them (None: one for each processor); `isa` is portable,
/// avx2 or avx512 (None: the best that this machine has); `device` is cpu, or reference, the slow oracle that the others
/// are held to. The results are the same, to the bit.
#[pyclass(frozen, module = "logitd")]
pub struct Sampler {
    options: Options,
    info: DeviceInfo,
    /// Locked with the GIL held and never for long, so that no fork can come in between.
    bench: Mutex<(u32, Arc<Mutex<Bench>>)>,
}

#[derive(Clone, Copy)]
enum Options {
    Cpu(CpuOptions),
    Reference,
}

/// What one call at a time works with.
struct Bench {
    backend: Box<dyn Backend>,
    results: batch::Results,
}

/// Draws tokens from rows of logits.
///
/// `x` has float16, bfloat16 or float32 logits: `[rows, vocab_size]`, or `[vocab_size]` for a single row, whose results
/// are arrays of one. It is a numpy array, a torch tensor, or anything else with DLPack or a buffer, in the memory of
/// the processor, and is read where it lies, without a copy; rows may be any distance apart. The GIL is released:
/// nobody may write to `x` meanwhile.
///
/// Controls are keywords by the names of the API, each one for all rows or a list or array of one a row: temperature,
/// top_k, top_p, min_p, seed, position, draws, and all others of `logitd.fields()`; and what is done to single logits:
/// allowed_bitmask, allowed_ids, banned_ids, bad_words, stop_ids, logit_bias, prompt, output, output_length, counts,
/// history (a `History`, in place of prompt and output), dry_breakers. None is the default. Rows without a seed get one,
/// which `Results.seeds` has.
///
/// `logprobs` (a distribution's name, or a `Logprobs`) and `return_kept` ask for more than tokens. `vocab_size` says how
/// many logits of a row count, where padding follows them. `on_invalid_row="status"` gives rows with wrong parameters a
/// status, where the whole call would raise.
#[pyfunction]
#[pyo3(signature = (x, /, **controls))]
pub fn sample(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    controls: Option<&Bound<'_, PyDict>>,
) -> PyResult<Results> {
    static DEFAULT: PyOnceLock<Sampler> = PyOnceLock::new();
    DEFAULT.get_or_try_init(py, || Sampler::new(None, None, "cpu"))?.sample(py, x, controls)
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (threads=None, isa=None, device="cpu"))]
    fn new(threads: Option<i64>, isa: Option<&str>, device: &str) -> PyResult<Self> {
        let options = options(threads, isa, device)?;
        let bench = Bench::new(options)?;
        let info = bench.backend.device().clone();
        let bench = Mutex::new((std::process::id(), Arc::new(Mutex::new(bench))));
        Ok(Self { options, info, bench })
    }

    /// Draws tokens from rows of logits, as `logitd.sample` does.
    #[pyo3(signature = (x, /, **controls))]
    fn sample(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Results> {
        let Call { logits, asked } = Call::of(x, controls)?;
        let Asked { params, adjustments, inspect, .. } = &asked;
        let rows =
            logits.bytes().into_iter().zip(params).enumerate().map(|(i, (bytes, params))| {
                let row = Row::new(logits.dtype(), bytes, *params)?;
                let adjusted = row.with_adjustments(adjustments.as_ref().map(|each| each.get(i)));
                let inspect = inspect.as_ref().map(|each| each.get(i));
                Ok(adjusted.with_inspect(inspect.filter(|inspect| !inspect.is_empty())))
            });
        let rows = rows
            .collect::<Result<Vec<Row<'_>>, batch::RowError>>()
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        let bench = self.bench()?;
        let table = py.detach(|| {
            let Bench { backend, results } = &mut *locked(&bench);
            backend.sample(&rows, results)?;
            Ok(table(results, &asked))
        });
        table.map(Results::from).map_err(|error: logitd_core::backend::DeviceError| {
            PyRuntimeError::new_err(error.to_string())
        })
    }

    /// What it computes on: cpu or reference.
    #[getter]
    fn device(&self) -> &str {
        &self.info.id
    }

    /// What the code was chosen for: portable, avx2 or avx512.
    #[getter]
    fn isa(&self) -> &str {
        &self.info.isa
    }

    /// How many threads it computes with, the caller's among them.
    #[getter]
    fn threads(&self) -> usize {
        self.info.threads
    }

    fn __repr__(&self) -> String {
        let DeviceInfo { id, isa, threads, .. } = &self.info;
        format!("Sampler(threads={threads}, isa={isa:?}, device={id:?})")
    }
}

impl Sampler {
    /// What this process works with. A fork has the memory of its parent without the threads, so it starts its own.
    fn bench(&self) -> PyResult<Arc<Mutex<Bench>>> {
        let (process, bench) = &mut *locked(&self.bench);
        if *process != std::process::id() {
            let fresh = Arc::new(Mutex::new(Bench::new(self.options)?));
            // Its end would wait for threads that are not here.
            std::mem::forget(std::mem::replace(bench, fresh));
            *process = std::process::id();
        }
        Ok(bench.clone())
    }
}

impl Bench {
    fn new(options: Options) -> PyResult<Self> {
        let backend: Box<dyn Backend> = match options {
            Options::Reference => Box::<Reference>::default(),
            Options::Cpu(options) => Box::new(
                Cpu::new(options).map_err(|error| PyValueError::new_err(error.to_string()))?,
            ),
        };
        Ok(Self { backend, results: batch::Results::default() })
    }
}

fn options(threads: Option<i64>, isa: Option<&str>, device: &str) -> PyResult<Options> {
    match device {
        "cpu" => {
            let isa = isa.map(str::parse).transpose();
            let isa = isa.map_err(|error: logitd_core::backend::cpu::UnknownIsa| {
                PyValueError::new_err(error.to_string())
            })?;
            let given = threads.unwrap_or(0);
            let threads = usize::try_from(given).or_else(|_| {
                wrong(format!(
                    "threads is {given}; allowed: 0 (one for each core) to {THREADS_MAX}"
                ))
            })?;
            Ok(Options::Cpu(CpuOptions { isa, threads }))
        }
        "reference" if threads.is_none() && isa.is_none() => Ok(Options::Reference),
        "reference" => wrong("the device reference has no threads and no isa".into()),
        _ => wrong(format!(
            "device is {device}; allowed: cpu, reference (GPUs are for the server: logitd serve --device cuda)"
        )),
    }
}

fn wrong<T>(said: String) -> PyResult<T> {
    Err(PyValueError::new_err(said))
}

fn table(results: &batch::Results, asked: &Asked) -> Table {
    let mut table = Table::new(asked);
    for (i, (params, result)) in asked.params.iter().zip(results.iter()).enumerate() {
        if let Some(violation) = asked.invalid.get(i) {
            table.push_invalid(violation.clone());
            continue;
        }
        let batch::Outcome { status, kept, kept_mass } = result.outcome;
        let status = Status::Sampled(status);
        let inspection = result.inspection.cloned().map(Box::new);
        let (seed, state) = (params.seed(), result.state);
        let row = RowOfTable { status, seed, kept, kept_mass, inspection, state };
        table.push(row, result.draws.iter().map(|draw| (draw.token, draw.logprob)));
    }
    table
}

/// What was being sampled when another thread panicked is lost; the next call begins anew.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
