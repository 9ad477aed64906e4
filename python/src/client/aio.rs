//! Calls that an event loop of asyncio goes on beside.

use super::caller::Failure;
use super::driver::Driver;
use super::options::Options;
use super::planes::{Link, Plane, Staged, Target};
use super::pool::{Lease, Memory};
use super::requests::Request;
use super::staging::{Shape, Staging, lease};
use super::{beams, errors, evaluations, messages, options, raise, sequences};
use crate::beams::asked::Call as BeamCall;
use crate::call::{Asked, Call};
use crate::evaluate::asked::{Call as EvaluateCall, Options as Evaluating};
use crate::evaluate::found;
use crate::results::Results;
use crate::verify::asked::Call as VerifyCall;
use crate::verify::verified::Verified;
use logitd_client::Error;
use logitd_client::api::{
    BeamStepRequest, BeamStepResponse, EvaluateRequest, EvaluateResponse, GetInfoResponse,
    SampleRequest, SampleResponse, SlotRef, VerifyResponse,
};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OnceCell, OwnedSemaphorePermit};
use tokio::task::AbortHandle;

/// What `AsyncClient` is made of: calls that begin at once, go on in a thread of the connection, and in the end call
/// `done(value, error)` there, one of them None.
#[pyclass(frozen, module = "logitd")]
pub struct AsyncConnection {
    /// Its end waits for nothing: nobody waits for its calls any more.
    runtime: Driver,
    link: Arc<Lazy>,
}

/// A call that goes on.
#[pyclass(frozen, module = "logitd")]
pub struct Task {
    handle: AbortHandle,
    is_cancelled: Arc<AtomicBool>,
}

#[pymethods]
impl Task {
    /// Ends it, if it has not ended: its request is cancelled, and `done` is not called.
    fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        self.handle.abort();
    }
}

/// Whom a call tells of its end, however it ends: who waits for an answer would otherwise wait for ever.
struct Done {
    callback: Option<Py<PyAny>>,
    is_cancelled: Arc<AtomicBool>,
}

impl Done {
    fn tell(mut self, py: Python<'_>, answer: PyResult<Py<PyAny>>) {
        if let Some(callback) = self.callback.take() {
            tell(py, &callback, answer);
        }
    }
}

impl Drop for Done {
    /// A call that has not told of its end has panicked, was cancelled, or goes with its connection.
    fn drop(&mut self) {
        let Some(callback) = self.callback.take() else { return };
        if self.is_cancelled.load(Ordering::Relaxed) {
            return;
        }
        let lost = move |py: Python<'_>| {
            let said = "the call has ended without an answer: its connection is gone, or it has panicked, as stderr says";
            tell(py, &callback, Err(PyRuntimeError::new_err(said)));
        };
        // In a thread of its own: a task may end in the midst of anything, with Python's lock held or in a runtime that
        // shuts down.
        let _ = std::thread::Builder::new().spawn(|| Python::try_attach(lost));
    }
}

/// Calls `done(value, error)`.
fn tell(py: Python<'_>, done: &Py<PyAny>, answer: PyResult<Py<PyAny>>) {
    let told = match answer {
        Ok(value) => done.call1(py, (value, py.None())),
        Err(error) => done.call1(py, (py.None(), error)),
    };
    // The event loop may be closed by now: then nobody waits.
    drop(told);
}

/// A connection that the first call makes.
struct Lazy {
    target: Target,
    link: OnceCell<Link>,
}

impl Lazy {
    async fn link(&self) -> Result<&Link, Error> {
        self.link.get_or_try_init(|| Link::connect(self.target.clone())).await
    }
}

/// The logits of a call, when it begins: nothing of them is the caller's any more, but for what is lent.
enum Source {
    Bytes(Vec<u8>),
    Written(Box<Written>),
    Staged(Staged),
}

/// Rows in memory of a call's own.
struct Written {
    memory: Memory,
    slot: SlotRef,
    _call: OwnedSemaphorePermit,
}

impl Written {
    fn new(mut memory: Memory, rows: &[&[u8]], call: OwnedSemaphorePermit) -> Self {
        let slot = memory.write(rows);
        Self { memory, slot, _call: call }
    }
}

impl Source {
    /// The logits as bytes, wherever they lie.
    async fn bytes(self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Written(mut written) => {
                let length = written.slot.length_bytes as usize;
                Ok(written.memory.region.slot_mut(0)[..length].to_vec())
            }
            Self::Staged(staged) => {
                let mut memory = staged.lease.memory.lock().await;
                Ok(staged.bytes(memory.as_mut().ok_or(Error::Closed)?))
            }
        }
    }
}

#[pymethods]
impl AsyncConnection {
    #[new]
    #[pyo3(signature = (target, **options))]
    fn new(py: Python<'_>, target: String, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let target = Options::of(options)?.target(target)?;
        let runtime = Driver::with_a_thread().map_err(|error| errors::raise(py, &error))?;
        Ok(Self { runtime, link: Arc::new(Lazy { target, link: OnceCell::new() }) })
    }

    /// Begins to sample. What `x` has is taken before this returns.
    fn sample(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
        done: Py<PyAny>,
    ) -> PyResult<Task> {
        let Call { logits, asked } = Call::of(x, controls)?;
        let (dtype, rows) = (logits.dtype(), logits.bytes());
        let link = self.link.link.get();
        let staged = link.and_then(|link| link.staged::<SampleRequest>(&logits));
        let source = self.source(py, staged, &rows);
        let link = Arc::clone(&self.link);
        let sampled = async move {
            let Some(source) = source else { return Ok((SampleResponse::default(), asked)) };
            let link = link.link().await?;
            let request = messages::request(dtype, &asked, link.has_columns());
            Ok((send(link, request, source).await?, asked))
        };
        let value = |py: Python<'_>, (response, asked): (SampleResponse, Asked)| {
            let table = messages::table(response, &asked)?;
            Ok(Py::new(py, Results::from(table))?.into_any())
        };
        Ok(self.begin(sampled, value, done))
    }

    /// Begins to verify. What `x` has is taken before this returns.
    fn verify(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        drafts: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
        done: Py<PyAny>,
    ) -> PyResult<Task> {
        let VerifyCall { logits, asked } = VerifyCall::of(None, x, drafts, controls)?;
        let request = sequences::request(&logits, &asked);
        let link = self.link.link.get();
        let staged = link.and_then(|link| sequences::staged(link, &logits, &asked));
        let mut rows = logits.bytes();
        rows.extend(sequences::rows(&asked));
        let source = self.source(py, staged, &rows);
        let link = Arc::clone(&self.link);
        let verified = async move { Ok((ask(&link, request, source).await?, asked)) };
        let value = |py: Python<'_>, (response, asked): (VerifyResponse, _)| {
            let verified = Verified::new(py, sequences::found(response, &asked)?)?;
            Ok(Py::new(py, verified)?.into_any())
        };
        Ok(self.begin(verified, value, done))
    }

    /// Begins to make a step of beam searches. What `x` has is taken before this returns.
    fn beam_step(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        scores: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
        done: Py<PyAny>,
    ) -> PyResult<Task> {
        let BeamCall { logits, asked } = BeamCall::of(None, x, scores, controls)?;
        let request = beams::request(&logits, &asked);
        let link = self.link.link.get();
        let staged = link.and_then(|link| link.staged::<BeamStepRequest>(&logits));
        let source = self.source(py, staged, &logits.bytes());
        let link = Arc::clone(&self.link);
        let stepped = async move { Ok((ask(&link, request, source).await?, asked)) };
        let value = |py: Python<'_>, (response, asked): (BeamStepResponse, _)| {
            let groups = beams::found(response, &asked)?;
            Ok(groups.into_pyobject(py)?.into_any().unbind())
        };
        Ok(self.begin(stepped, value, done))
    }

    /// Begins to evaluate. What `logits` has is taken before this returns.
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        logits: &Bound<'py, PyAny>,
        references: &Bound<'py, PyAny>,
        options: Evaluating<'py>,
        done: Py<PyAny>,
    ) -> PyResult<Task> {
        let EvaluateCall { logits, asked } = EvaluateCall::of(logits, references, &options)?;
        let request = evaluations::request(&logits, &asked);
        let link = self.link.link.get();
        let staged = link.and_then(|link| link.staged::<EvaluateRequest>(&logits));
        let source = self.source(py, staged, &logits.bytes());
        let link = Arc::clone(&self.link);
        let evaluated = async move { Ok((ask(&link, request, source).await?, asked)) };
        let value = |py: Python<'_>, (response, asked): (EvaluateResponse, _)| {
            let answer = evaluations::answer(response, &asked)?;
            Ok(found::arrays(py, &asked, &answer)?.into_any().unbind())
        };
        Ok(self.begin(evaluated, value, done))
    }

    /// Begins to ask the server what it is.
    fn info(&self, done: Py<PyAny>) -> Task {
        let link = Arc::clone(&self.link);
        let info = async move { link.link().await?.client.info().await };
        let value = |py: Python<'_>, info: GetInfoResponse| {
            Ok(options::describe(py, &info)?.into_any().unbind())
        };
        self.begin(info, value, done)
    }

    /// Memory to write logits to. It waits for the server: not for an event loop's thread.
    fn staging(&self, py: Python<'_>, shape: (usize, usize), dtype: &str) -> PyResult<Staging> {
        let shape = Shape::of(shape, dtype)?;
        let made = py.detach(|| -> Result<Arc<Lease>, Failure> {
            let link = self.runtime.block_on(self.link.link())?;
            lease(link, shape)
        });
        made.map(|lease| Staging::new(lease, shape)).map_err(|failure| raise(py, failure))
    }
}

impl AsyncConnection {
    /// The logits of a call that begins: these rows, or what is lent; `None` where there are no rows.
    fn source(&self, py: Python<'_>, staged: Option<Staged>, rows: &[&[u8]]) -> Option<Source> {
        if rows.is_empty() {
            return None;
        }
        Some(match (staged, self.link.link.get()) {
            (Some(staged), _) => Source::Staged(staged),
            // Other threads of Python go on beside the copy.
            (None, Some(link)) => py.detach(|| written(link, rows)),
            (None, None) => py.detach(|| Source::Bytes(rows.concat())),
        })
    }

    fn begin<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
        value: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
        done: Py<PyAny>,
    ) -> Task {
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let done = Done { callback: Some(done), is_cancelled: Arc::clone(&is_cancelled) };
        let task = self.runtime.spawn(async move {
            let found = call.await;
            let tell = |py: Python<'_>| {
                let answer = match found {
                    Ok(found) => value(py, found),
                    Err(error) => Err(errors::raise(py, &error)),
                };
                done.tell(py, answer);
            };
            // Python runs outside of the runtime: whatever its collector ends here may wait, and make calls. An
            // interpreter that ends wants no answer.
            tokio::task::block_in_place(|| Python::try_attach(tell));
        });
        Task { handle: task.abort_handle(), is_cancelled }
    }
}

/// Rows in memory that is free, if some is, else their bytes.
fn written(link: &Link, rows: &[&[u8]]) -> Source {
    let bytes = rows.iter().map(|row| row.len()).sum();
    let calls = Arc::clone(&link.pool.calls);
    let call = link.shared().and_then(|_| calls.try_acquire_owned().ok());
    match call.and_then(|call| Some((link.pool.take(bytes)?, call))) {
        Some((memory, call)) => Source::Written(Box::new(Written::new(memory, rows, call))),
        None => Source::Bytes(rows.concat()),
    }
}

/// Asks the server, as [`Caller`](super::caller::Caller) does: not about no rows.
async fn ask<R: Request>(
    link: &Lazy,
    request: R,
    source: Option<Source>,
) -> Result<R::Response, Error> {
    match source {
        Some(source) => send(link.link().await?, request, source).await,
        None => Ok(R::Response::default()),
    }
}

/// After an error memory is let go of, since nobody knows what the server still has of it; so it is where a call is
/// cancelled.
async fn send<R: Request>(
    link: &Link,
    mut request: R,
    mut source: Source,
) -> Result<R::Response, Error> {
    if let Some(plane) = link.shared_for::<R>() {
        match in_memory(link, plane, &mut request, &mut source).await {
            Err(error) if link.can_do_without(&error) => {}
            Err(error) => return Err(error),
            Ok(response) => {
                if let Source::Written(written) = source {
                    link.pool.give(written.memory);
                }
                return Ok(response);
            }
        }
    }
    let logits = source.bytes().await?;
    link.send(request, logits).await
}

/// A call whose logits lie in memory of the server's, or are written there first.
async fn in_memory<R: Request>(
    link: &Link,
    plane: Plane,
    request: &mut R,
    source: &mut Source,
) -> Result<R::Response, Error> {
    if let Source::Bytes(bytes) = source {
        *source = Source::Written(Box::new(fresh(link, bytes).await?));
    }
    match source {
        Source::Bytes(_) => unreachable!("they are written by now"),
        Source::Written(written) => {
            request.place(written.slot.clone(), 0);
            link.call(plane, &mut written.memory.direct, request).await
        }
        Source::Staged(staged) => {
            let mut memory = staged.lease.memory.lock().await;
            let memory = memory.as_mut().ok_or(Error::Closed)?;
            staged.place(memory, request);
            let had_failed = staged.begin();
            let answer = link.call(plane, &mut memory.direct, request).await;
            staged.end(had_failed, answer)
        }
    }
}

/// Bytes in memory that is made for them, when there is room for a call.
async fn fresh(link: &Link, bytes: &[u8]) -> Result<Written, Error> {
    let calls = Arc::clone(&link.pool.calls);
    let call = calls.acquire_owned().await.map_err(|_| Error::Closed)?;
    // The server answers within 10 s, and mostly at once; meanwhile other tasks go to another thread.
    let memory = tokio::task::block_in_place(|| link.memory(bytes.len()))?;
    Ok(Written::new(memory, &[bytes], call))
}
