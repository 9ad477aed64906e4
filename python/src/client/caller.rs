//! Calls that the caller waits for.

use super::planes::{Link, Plane, Staged, Target};
use super::pool::Memory;
use logitd_client::Error;
use logitd_client::api::{SampleRequest, SampleResponse};
use pyo3::prelude::*;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How often a call that waits looks for Ctrl-C.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// Why a call has no answer: the client's error, or what Python says of a signal.
pub enum Failure {
    Client(Error),
    Python(PyErr),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

/// A connection, with the threads that keep it alive between calls.
pub struct Caller {
    pub runtime: Runtime,
    pub link: Link,
}

impl Caller {
    pub fn connect(target: Target) -> Result<Self, Failure> {
        let runtime = runtime()?;
        let link = wait(&runtime, Link::connect(target))?;
        Ok(Self { runtime, link })
    }

    /// Sends a request whose logits are these rows, one after another, or lie where they are lent, and waits for the
    /// answer.
    pub fn sample(
        &self,
        request: SampleRequest,
        rows: &[&[u8]],
        staged: Option<Staged>,
    ) -> Result<SampleResponse, Failure> {
        let Some(plane) = self.link.shared() else { return self.send(request, rows) };
        if let Some(staged) = staged {
            let mut place = staged.lease.memory.blocking_lock();
            if let Some(memory) = &mut *place {
                let request = staged.request(memory, request);
                let had_failed = staged.begin();
                return staged.end(had_failed, self.call(plane, memory, request));
            }
        }
        match self.copy(plane, request.clone(), rows) {
            Err(Failure::Client(error)) if self.link.can_do_without(&error) => {
                self.send(request, rows)
            }
            answer => answer,
        }
    }

    fn send(&self, request: SampleRequest, rows: &[&[u8]]) -> Result<SampleResponse, Failure> {
        let request = SampleRequest { logits: rows.concat().into(), ..request };
        wait(&self.runtime, self.link.send(request))
    }

    /// After an error the memory is let go of, since nobody knows what the server still has of it.
    fn copy(
        &self,
        plane: Plane,
        mut request: SampleRequest,
        rows: &[&[u8]],
    ) -> Result<SampleResponse, Failure> {
        let pool = &self.link.pool;
        let _call = match pool.calls.try_acquire() {
            Ok(call) => call,
            Err(_) => wait(&self.runtime, async {
                pool.calls.acquire().await.map_err(|_| Error::Closed)
            })?,
        };
        let mut memory = self.link.memory(rows.iter().map(|row| row.len()).sum())?;
        request.slot = Some(memory.write(rows));
        let response = self.call(plane, &mut memory, request)?;
        pool.give(memory);
        Ok(response)
    }

    /// What a direct call takes is driven by whoever calls.
    fn call(
        &self,
        plane: Plane,
        memory: &mut Memory,
        request: SampleRequest,
    ) -> Result<SampleResponse, Failure> {
        let Memory { direct, driver, .. } = memory;
        if plane != Plane::Direct {
            return wait(&self.runtime, self.link.call(plane, direct, request));
        }
        let driver = match driver {
            Some(driver) => driver,
            None => {
                let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
                driver.insert(made.map_err(|error| Error::Target(error.to_string()))?)
            }
        };
        wait(driver, self.link.call(plane, direct, request))
    }
}

/// The thread of a connection.
pub fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("logitd-client")
        .enable_all()
        .build()
        .map_err(|error| Error::Target(error.to_string()))
}

/// Waits for a call, and for Ctrl-C.
pub fn wait<T>(
    runtime: &Runtime,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    runtime.block_on(async {
        let mut call = std::pin::pin!(call);
        loop {
            tokio::select! {
                answer = &mut call => return answer.map_err(Failure::Client),
                () = tokio::time::sleep(SIGNALS_EVERY) => {
                    Python::attach(|py| py.check_signals()).map_err(Failure::Python)?;
                }
            }
        }
    })
}
