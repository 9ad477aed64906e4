//! Samplers: what a call goes through from its array to its results.

use crate::beams::asked::Call as BeamCall;
use crate::beams::found::BeamGroup;
use crate::call::{Asked, Call};
use crate::logits::Logits;
use crate::memory::device::Reader;
use crate::results::Results;
use crate::table::Table;
use crate::verify::asked::Call as VerifyCall;
use crate::verify::laid;
use crate::verify::verified::Verified;
use logitd_core::backend::cpu::{Cpu, CpuOptions, THREADS_MAX};
use logitd_core::backend::cuda::{Cuda, CudaOptions};
use logitd_core::backend::reference::Reference;
use logitd_core::backend::{Backend, DeviceError, DeviceInfo};
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
/// avx2 or avx512 (None: the best that this machine has); `device` is cpu, cuda:0 and so on, or reference, the slow oracle
/// that the others are held to. The results are the same, to the bit.
///
/// On a CUDA device `x` may lie in its memory: a tensor with DLPack or `__cuda_array_interface__`, which is read behind what
/// its stream has, without a copy to the host.
#[pyclass(frozen, module = "logitd")]
pub struct Sampler {
    options: Options,
    info: DeviceInfo,
    /// What reads arrays in the memory of its device, if that has some of its own.
    reader: Option<Reader>,
    /// Locked with the GIL held and never for long, so that no fork can come in between.
    bench: Mutex<(u32, Arc<Mutex<Bench>>)>,
}

#[derive(Clone, Copy)]
enum Options {
    Cpu(CpuOptions),
    Reference,
    Cuda(u32),
}

/// What one call at a time works with.
struct Bench {
    machine: Machine,
    results: batch::Results,
}

/// What samples.
enum Machine {
    Processor(Box<dyn Backend>),
    Cuda(Box<Cuda>),
}

impl Machine {
    fn backend(&mut self) -> &mut dyn Backend {
        match self {
            Self::Processor(backend) => &mut **backend,
            Self::Cuda(cuda) => &mut **cuda,
        }
    }

    /// What reads arrays in the memory of the device.
    fn reader(&self, options: Options) -> PyResult<Option<Reader>> {
        let (Self::Cuda(cuda), Options::Cuda(ordinal)) = (self, options) else { return Ok(None) };
        let tensors = cuda.driver().tensors().map_err(PyRuntimeError::new_err)?;
        Ok(Some(Reader { tensors, ordinal: i32::try_from(ordinal)? }))
    }

    /// Samples rows, behind what those who write arrays of this reader have in their streams.
    fn sample(
        &mut self,
        reader: Option<&Reader>,
        rows: &[Row<'_>],
        results: &mut batch::Results,
    ) -> Result<(), DeviceError> {
        if let (Self::Cuda(cuda), Some(Reader { tensors, .. })) = (&mut *self, reader) {
            let device = cuda.device().id.clone();
            let failed = |reason| DeviceError { device, reason };
            cuda.driver_mut().follow(tensors).map_err(failed)?;
        }
        self.backend().sample(rows, results)
    }
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
    default(py)?.sample(py, x, controls)
}

/// Verifies drafts of sequences: speculative decoding.
///
/// `x` has the rows of all sequences, one sequence after another: a row for each draft, and one more. `drafts` has the
/// tokens of one sequence, or a list for each. Controls are those of `sample`, one for all sequences or one a sequence;
/// those of a sequence's later rows are the same at `position` + 1, + 2, .., with the drafts before them as history.
///
/// `mode` is match (tokens are those of decoding without drafts, bit for bit), rejection (they have the target's
/// distribution, where `distributions` says what drafts were drawn from) or typical (`typical_epsilon`, `typical_delta`).
/// `distributions` is a `DraftLogits`, a float32 array of probabilities, or a list with one of these, a dict of weights or
/// None for each draft of all sequences. `parents` makes trees of drafts: draft i is node i + 1, under the node `parents[i]`.
/// `row_allowed_bitmask`, `row_allowed_ids` and `row_banned_ids` stand beside the controls, one a row of `x`.
#[pyfunction]
#[pyo3(signature = (x, drafts, /, **controls))]
pub fn verify(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    drafts: &Bound<'_, PyAny>,
    controls: Option<&Bound<'_, PyDict>>,
) -> PyResult<Verified> {
    default(py)?.verify(py, x, drafts, controls)
}

/// Makes a step of beam searches: which continuations of beams are the best.
///
/// `x` has a row for each beam, one group after another; `scores` their running scores in units of 2^-32 nat, a list for a
/// single group or one for each (`[0]` in the first step). `beams` is how many go on, `eos_ids` what finishes a text,
/// `temperature` divides logits, and `normaliser` is adjusted or raw: over which logits probabilities add up to 1. Controls
/// are those of `sample` that adjust logits: penalties, bans, biases and histories, one for all rows or one a row.
///
/// Returns a `BeamGroup` for each group. `BeamSearch` makes a search of it.
#[pyfunction]
#[pyo3(signature = (x, scores, /, **controls))]
pub fn beam_step(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
    controls: Option<&Bound<'_, PyDict>>,
) -> PyResult<Vec<BeamGroup>> {
    default(py)?.beam_step(py, x, scores, controls)
}

/// The sampler of calls that name none.
fn default(py: Python<'_>) -> PyResult<&'static Sampler> {
    static DEFAULT: PyOnceLock<Sampler> = PyOnceLock::new();
    DEFAULT.get_or_try_init(py, || Sampler::new(py, None, None, "cpu"))
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (threads=None, isa=None, device="cpu"))]
    fn new(
        py: Python<'_>,
        threads: Option<i64>,
        isa: Option<&str>,
        device: &str,
    ) -> PyResult<Self> {
        let options = options(threads, isa, device)?;
        // The kernels of a device may have to be compiled.
        let mut bench = py.detach(|| Bench::new(options))?;
        let info = bench.machine.backend().device().clone();
        let reader = bench.machine.reader(options)?;
        let bench = Mutex::new((std::process::id(), Arc::new(Mutex::new(bench))));
        Ok(Self { options, info, reader, bench })
    }

    /// Draws tokens from rows of logits, as `logitd.sample` does.
    #[pyo3(signature = (x, /, **controls))]
    fn sample(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Results> {
        let Call { logits, asked } = Call::named(self.reader.as_ref(), "x", x, controls)?;
        let Asked { params, adjustments, inspect, .. } = &asked;
        let rows = logits.each().into_iter().zip(params).enumerate().map(|(i, (own, params))| {
            let row = own.row(logits.dtype(), *params)?;
            let adjusted = row.with_adjustments(adjustments.as_ref().map(|each| each.get(i)));
            let inspect = inspect.as_ref().map(|each| each.get(i));
            Ok(adjusted.with_inspect(inspect.filter(|inspect| !inspect.is_empty())))
        });
        let rows = rows.collect::<Result<Vec<Row<'_>>, batch::RowError>>().map_err(wrong_row)?;
        self.run(py, &logits, &rows, |results| table(results, &asked)).map(Results::from)
    }

    /// Verifies drafts of sequences, as `logitd.verify` does.
    #[pyo3(signature = (x, drafts, /, **controls))]
    fn verify(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        drafts: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Verified> {
        let VerifyCall { logits, asked } =
            VerifyCall::of(self.reader.as_ref(), x, drafts, controls)?;
        let laid = py.detach(|| laid::rows(&asked));
        let rows = logits.each().into_iter().zip(&laid);
        let rows = rows.map(|(own, laid)| laid.row(logits.dtype(), own, &asked));
        let rows = rows.collect::<Result<Vec<Row<'_>>, _>>().map_err(wrong_row)?;
        Verified::new(py, self.run(py, &logits, &rows, |results| laid::found(&asked, results))?)
    }

    /// Makes a step of beam searches, as `logitd.beam_step` does.
    #[pyo3(signature = (x, scores, /, **controls))]
    fn beam_step(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        scores: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<BeamGroup>> {
        let BeamCall { logits, asked } = BeamCall::of(self.reader.as_ref(), x, scores, controls)?;
        let inspects = asked.inspects();
        let rows = asked.rows(&logits, &inspects).map_err(wrong_row)?;
        let stepped = self.run(py, &logits, &rows, |results| asked.stepped(results))?;
        Ok(stepped.into_iter().map(BeamGroup).collect())
    }

    /// What it computes on: cpu, reference, or a CUDA device: cuda:0.
    #[getter]
    fn device(&self) -> &str {
        &self.info.id
    }

    /// What the code was chosen for: portable, avx2 or avx512; of a CUDA device its chip and where its kernels are from.
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
    /// Samples rows, without the GIL, and says what came of them.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        logits: &Logits<'_>,
        rows: &[Row<'_>],
        found: impl FnOnce(&batch::Results) -> T + Send,
    ) -> PyResult<T> {
        let bench = self.bench()?;
        let ran = py.detach(|| {
            let Bench { machine, results } = &mut *locked(&bench);
            machine.sample(self.reader.as_ref(), rows, results)?;
            Ok(found(results))
        });
        let failed = |error: DeviceError| PyRuntimeError::new_err(error.to_string());
        let found = ran.map_err(failed)?;
        logits.check()?;
        Ok(found)
    }

    /// What this process works with. A fork has the memory of its parent without the threads, so it starts its own.
    fn bench(&self) -> PyResult<Arc<Mutex<Bench>>> {
        let (process, bench) = &mut *locked(&self.bench);
        if *process != std::process::id() {
            if let Options::Cuda(ordinal) = self.options {
                return Err(PyRuntimeError::new_err(format!(
                    "this sampler of cuda:{ordinal} was made before a fork, in which CUDA does not work; make one in a process \
                     of its own (multiprocessing's method spawn)"
                )));
            }
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
        let machine = match options {
            Options::Reference => Machine::Processor(Box::<Reference>::default()),
            Options::Cpu(options) => Machine::Processor(Box::new(
                Cpu::new(options).map_err(|error| PyValueError::new_err(error.to_string()))?,
            )),
            Options::Cuda(ordinal) => {
                let opened = Cuda::open(ordinal, &CudaOptions::default());
                let opened = opened.map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
                Machine::Cuda(Box::new(opened))
            }
        };
        Ok(Self { machine, results: batch::Results::default() })
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
        _ => match device.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) if threads.is_none() && isa.is_none() => Ok(Options::Cuda(ordinal)),
            Some(Ok(_)) => wrong(format!("the device {device} has no threads and no isa")),
            _ => wrong(format!(
                "device is {device}; allowed: cpu, reference, or cuda:0 and so on, by the number of the device"
            )),
        },
    }
}

fn wrong_row(error: batch::RowError) -> PyErr {
    PyValueError::new_err(error.to_string())
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
        table.add(result, params.seed());
    }
    table
}

/// What was being sampled when another thread panicked is lost; the next call begins anew.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
