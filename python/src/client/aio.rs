//! Calls that an event loop of asyncio goes on beside.

use super::driver::Driver;
use super::options::Options;
use super::planes::{Link, Plane, Staged, Target};
use super::pool::{Lease, Memory};
use super::staging::{Shape, Staging, lease};
use super::{errors, messages, options};
use crate::call::{Asked, Call};
use crate::results::Results;
use logitd_client::Error;
use logitd_client::api::{GetInfoResponse, SampleRequest, SampleResponse, SlotRef};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::future::Future;
use std::sync::Arc;
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
pub struct Task(AbortHandle);

#[pymethods]
impl Task {
    /// Ends it, if it has not ended: its request is cancelled, and `done` is not called.
    fn cancel(&self) {
        self.0.abort();
    }
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
    Written(Box<Memory>, SlotRef, OwnedSemaphorePermit),
    Staged(Staged),
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
        x: &Bound<'_, PyAny>,
        controls: Option<&Bound<'_, PyDict>>,
        done: Py<PyAny>,
    ) -> PyResult<Task> {
        let Call { logits, asked } = Call::of(x, controls)?;
        let (dtype, rows) = (logits.dtype(), logits.bytes());
        let source = match self.link.link.get() {
            Some(link) => match link.staged(&logits) {
                Some(staged) => Source::Staged(staged),
                None => written(link, &rows),
            },
            None => Source::Bytes(rows.concat()),
        };
        let link = Arc::clone(&self.link);
        let sampled = async move {
            if asked.params.is_empty() {
                return Ok((SampleResponse::default(), asked));
            }
            let link = link.link().await?;
            let request = messages::request(dtype, &asked, link.has_columns());
            Ok((sample(link, request, source).await?, asked))
        };
        let value = |py: Python<'_>, (response, asked): (SampleResponse, Asked)| {
            let table = messages::table(response, &asked)?;
            Ok(Py::new(py, Results::from(table))?.into_any())
        };
        Ok(self.begin(sampled, value, done))
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
        let made = py.detach(|| -> Result<Arc<Lease>, Error> {
            let link = self.runtime.block_on(self.link.link())?;
            lease(link, shape.bytes())
        });
        made.map(|lease| Staging::new(lease, shape)).map_err(|error| errors::raise(py, &error))
    }
}

impl AsyncConnection {
    fn begin<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
        value: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
        done: Py<PyAny>,
    ) -> Task {
        let task = self.runtime.spawn(async move {
            let found = call.await;
            let tell = |py: Python<'_>| {
                let made = match found {
                    Ok(found) => value(py, found),
                    Err(error) => Err(errors::raise(py, &error)),
                };
                let told = match made {
                    Ok(value) => done.call1(py, (value, py.None())),
                    Err(error) => done.call1(py, (py.None(), error)),
                };
                // The event loop may be closed by now: then nobody waits.
                drop(told);
                drop(done);
            };
            // Python runs outside of the runtime: whatever its collector ends here may wait, and make calls. An
            // interpreter that ends wants no answer.
            tokio::task::block_in_place(|| Python::try_attach(tell));
        });
        Task(task.abort_handle())
    }
}

/// Rows in memory that is free, if some is, else their bytes.
fn written(link: &Link, rows: &[&[u8]]) -> Source {
    let bytes = rows.iter().map(|row| row.len()).sum();
    let calls = Arc::clone(&link.pool.calls);
    let call = link.shared().and_then(|_| calls.try_acquire_owned().ok());
    match call.and_then(|call| Some((link.pool.take(bytes)?, call))) {
        Some((mut memory, call)) => {
            let slot = memory.write(rows);
            Source::Written(Box::new(memory), slot, call)
        }
        None => Source::Bytes(rows.concat()),
    }
}

async fn sample(
    link: &Link,
    request: SampleRequest,
    source: Source,
) -> Result<SampleResponse, Error> {
    match (source, link.shared()) {
        (Source::Written(memory, slot, call), Some(plane)) => {
            let request = SampleRequest { slot: Some(slot), ..request };
            in_memory(link, plane, *memory, call, request).await
        }
        (Source::Staged(staged), Some(plane)) => {
            let mut place = staged.lease.memory.lock().await;
            let memory = place.as_mut().ok_or(Error::Closed)?;
            let request = staged.request(memory, request);
            let had_failed = staged.begin();
            let answer = link.call(plane, &mut memory.direct, request).await;
            staged.end(had_failed, answer)
        }
        (Source::Bytes(bytes), Some(plane)) => match fresh(link, &bytes).await {
            Ok((mut memory, call)) => {
                let slot = Some(memory.write(&[&bytes]));
                in_memory(link, plane, memory, call, SampleRequest { slot, ..request }).await
            }
            Err(error) if link.can_do_without(&error) => {
                link.send(SampleRequest { logits: bytes.into(), ..request }).await
            }
            Err(error) => Err(error),
        },
        (Source::Bytes(bytes), None) => {
            link.send(SampleRequest { logits: bytes.into(), ..request }).await
        }
        (Source::Written(..) | Source::Staged(_), None) => Err(Error::Closed),
    }
}

/// Memory for a call, when there is room for it.
async fn fresh(link: &Link, bytes: &[u8]) -> Result<(Memory, OwnedSemaphorePermit), Error> {
    let calls = Arc::clone(&link.pool.calls);
    let call = calls.acquire_owned().await.map_err(|_| Error::Closed)?;
    // The server answers within 10 s, and mostly at once; meanwhile other tasks go to another thread.
    let memory = tokio::task::block_in_place(|| link.memory(bytes.len()))?;
    Ok((memory, call))
}

/// A call that is cancelled, or fails, lets go of the memory.
async fn in_memory(
    link: &Link,
    plane: Plane,
    mut memory: Memory,
    _call: OwnedSemaphorePermit,
    request: SampleRequest,
) -> Result<SampleResponse, Error> {
    let response = link.call(plane, &mut memory.direct, request).await?;
    link.pool.give(memory);
    Ok(response)
}
