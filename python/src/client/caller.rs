//! Calls that the caller waits for.

use super::driver::Driver;
use super::planes::{Link, Plane, Staged, Target};
use super::pool::Memory;
use super::requests::Request;
use logitd_client::Error;
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
    pub runtime: Driver,
    pub link: Link,
}

impl Caller {
    pub fn connect(target: Target) -> Result<Self, Failure> {
        let runtime = Driver::with_a_thread()?;
        let link = wait(&runtime, Link::connect(target))?;
        Ok(Self { runtime, link })
    }

    /// Sends a request whose logits are these rows, one after another, or lie where they are lent, and waits for the
    /// answer. Of no rows nothing is asked: a server would refuse that, and nothing comes of them.
    pub fn ask<R: Request>(
        &self,
        mut request: R,
        rows: &[&[u8]],
        staged: Option<Staged>,
    ) -> Result<R::Response, Failure> {
        if rows.is_empty() {
            return Ok(R::Response::default());
        }
        let Some(plane) = self.link.shared_for::<R>() else { return self.send(request, rows) };
        let answer = match staged {
            Some(staged) => self.in_place(plane, &mut request, &staged),
            None => self.copy(plane, &mut request, rows),
        };
        match answer {
            Err(Failure::Client(error)) if self.link.can_do_without(&error) => {
                self.send(request, rows)
            }
            answer => answer,
        }
    }

    /// Logits that lie in memory of the server's already. Another call with the same memory is waited for.
    fn in_place<R: Request>(
        &self,
        plane: Plane,
        request: &mut R,
        staged: &Staged,
    ) -> Result<R::Response, Failure> {
        let place = &staged.lease.memory;
        let mut memory = match place.try_lock() {
            Ok(memory) => memory,
            Err(_) => wait(&self.runtime, async { Ok(place.lock().await) })?,
        };
        let memory = memory.as_mut().ok_or(Error::Closed)?;
        staged.place(memory, request);
        let had_failed = staged.begin();
        staged.end(had_failed, self.call(plane, memory, request))
    }

    fn send<R: Request>(&self, request: R, rows: &[&[u8]]) -> Result<R::Response, Failure> {
        wait(&self.runtime, self.link.send(request, rows.concat()))
    }

    /// After an error the memory is let go of, since nobody knows what the server still has of it.
    fn copy<R: Request>(
        &self,
        plane: Plane,
        request: &mut R,
        rows: &[&[u8]],
    ) -> Result<R::Response, Failure> {
        let pool = &self.link.pool;
        let _call = match pool.calls.try_acquire() {
            Ok(call) => call,
            Err(_) => wait(&self.runtime, async {
                pool.calls.acquire().await.map_err(|_| Error::Closed)
            })?,
        };
        let mut memory = self.link.memory(rows.iter().map(|row| row.len()).sum())?;
        request.place(memory.write(rows), 0);
        let response = self.call(plane, &mut memory, request)?;
        pool.give(memory);
        Ok(response)
    }

    /// What a direct call takes is driven by whoever calls.
    fn call<R: Request>(
        &self,
        plane: Plane,
        memory: &mut Memory,
        request: &mut R,
    ) -> Result<R::Response, Failure> {
        let Memory { direct, driver, .. } = memory;
        if plane != Plane::Direct {
            return wait(&self.runtime, self.link.call(plane, direct, request));
        }
        let driver = match driver {
            Some(driver) => driver,
            None => driver.insert(Driver::of_the_caller()?),
        };
        wait(driver, self.link.call(plane, direct, request))
    }
}

/// Waits for a call, and for Ctrl-C.
///
/// Handlers of signals are run between two turns of the runtime: they may make calls of their own, which no turn allows.
pub fn wait<T>(
    runtime: &Runtime,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    let mut call = std::pin::pin!(call);
    loop {
        // The timer begins within the runtime, which it needs.
        let turn = async { tokio::time::timeout(SIGNALS_EVERY, &mut call).await };
        match runtime.block_on(turn) {
            Ok(answer) => return answer.map_err(Failure::Client),
            Err(_) => Python::attach(|py| py.check_signals()).map_err(Failure::Python)?,
        }
    }
}
