//! The ways that logits take to a server.

use logitd_client::api::{self, SampleRequest};
use logitd_client::{Client, Direct, Error, Region};
use pyo3::prelude::*;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Memory that is shared has at least this much room, so that a growing batch does not have it made anew each time.
const SLOT_BYTES_MIN: usize = 1 << 20;
/// How often a call that waits looks for Ctrl-C.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// How logits reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// As bytes in one message.
    Inline,
    /// As bytes in several messages of a stream.
    Chunked,
    /// In memory that is shared with the server; the request by gRPC.
    SharedMemory,
    /// In memory that is shared with the server; the request over its control socket, without HTTP/2.
    Direct,
}

impl Plane {
    pub const ALL: [Self; 4] = [Self::Inline, Self::Chunked, Self::SharedMemory, Self::Direct];

    /// The name that callers know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::Chunked => "chunked",
            Self::SharedMemory => "shared_memory",
            Self::Direct => "direct",
        }
    }
}

/// Which plane is taken.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    Only(Plane),
    /// Direct, or as bytes where memory cannot be shared after all: from within a container, say.
    OnThisHost,
    /// In one message or in several, by the size of the batch.
    Bytes,
}

/// A connection, and the ways to send over it.
pub struct Connection {
    /// The threads of the connection: it is alive between calls too.
    pub runtime: Runtime,
    pub client: Client,
    pub info: api::GetInfoResponse,
    pub choice: Choice,
    pub retries_max: u32,
    shared: Mutex<Option<Shared>>,
}

/// Memory that is shared with the server, with one slot, and the connection for direct calls.
struct Shared {
    /// Driven by whoever calls, so that a direct call wakes no other thread. Before what it drives is gone, it is not.
    direct: Option<Direct>,
    runtime: Runtime,
    region: Region,
    slot_bytes: usize,
}

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

impl Connection {
    pub fn new(
        runtime: Runtime,
        client: Client,
        info: api::GetInfoResponse,
        choice: Choice,
        retries_max: u32,
    ) -> Self {
        Self { runtime, client, info, choice, retries_max, shared: Mutex::new(None) }
    }

    /// Sends a request whose logits are these rows, one after another, and waits for the answer.
    pub fn sample(
        &self,
        request: SampleRequest,
        rows: &[&[u8]],
    ) -> Result<api::SampleResponse, Failure> {
        match self.choice {
            Choice::Only(plane @ (Plane::SharedMemory | Plane::Direct)) => {
                self.sample_shared(plane, request, rows)
            }
            Choice::Only(Plane::Inline) => self.sample_bytes(request, rows, false),
            Choice::Only(Plane::Chunked) => self.sample_bytes(request, rows, true),
            Choice::Bytes => self.sample_bytes(request, rows, self.is_large(rows)),
            Choice::OnThisHost => match self.sample_shared(Plane::Direct, request.clone(), rows) {
                Err(Failure::Client(Error::Region { .. } | Error::Connect { .. })) => {
                    self.sample_bytes(request, rows, self.is_large(rows))
                }
                answer => answer,
            },
        }
    }

    /// Whether a batch is best sent in pieces.
    fn is_large(&self, rows: &[&[u8]]) -> bool {
        let bytes: usize = rows.iter().map(|row| row.len()).sum();
        self.info.chunk_bytes > 0 && bytes as u64 > self.info.chunk_bytes
    }

    fn sample_bytes(
        &self,
        request: SampleRequest,
        rows: &[&[u8]],
        in_chunks: bool,
    ) -> Result<api::SampleResponse, Failure> {
        let request = SampleRequest { logits: rows.concat().into(), ..request };
        match in_chunks {
            true => wait(&self.runtime, self.client.sample_chunked(request, &self.info)),
            false => wait(&self.runtime, self.client.sample(request)),
        }
    }

    /// One call at a time: the slot is written for it. After an error the memory is made anew, since nobody knows what
    /// the server still has of it.
    fn sample_shared(
        &self,
        plane: Plane,
        mut request: SampleRequest,
        rows: &[&[u8]],
    ) -> Result<api::SampleResponse, Failure> {
        let bytes = rows.iter().map(|row| row.len()).sum();
        let mut place = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shared = match place.take() {
            Some(shared) if shared.slot_bytes >= bytes => shared,
            _ => self.share(bytes)?,
        };
        let mut slot = shared.region.slot_mut(0);
        for row in rows {
            let (here, rest) = slot.split_at_mut(row.len());
            here.copy_from_slice(row);
            slot = rest;
        }
        request.slot = Some(shared.region.commit(0, bytes));
        let response = match plane {
            Plane::Direct => self.call(&mut shared, &request)?,
            _ => wait(&self.runtime, self.client.sample(request))?,
        };
        *place = Some(shared);
        Ok(response)
    }

    fn share(&self, bytes: usize) -> Result<Shared, Failure> {
        let control = &self.info.shm_control;
        if control.is_empty() {
            let said = "the server shares no memory and takes no direct calls; start it with --shm";
            return Err(Error::Target(said.into()).into());
        }
        let slot_bytes = bytes.max(SLOT_BYTES_MIN);
        let region = Region::register_with(control, self.client.token(), slot_bytes, 1)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Target(error.to_string()))?;
        Ok(Shared { direct: None, runtime, region, slot_bytes })
    }

    /// A direct call, again where the server has no room and says when.
    fn call(
        &self,
        shared: &mut Shared,
        request: &SampleRequest,
    ) -> Result<api::SampleResponse, Failure> {
        let Shared { direct, runtime, .. } = shared;
        let mut attempt = 0;
        let calls = async {
            loop {
                let open = match direct.take().filter(Direct::is_open) {
                    Some(open) => open,
                    None => self.client.direct().await?,
                };
                let error = match direct.insert(open).sample(request).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                };
                match error.retry_after() {
                    Some(delay) if attempt < self.retries_max => {
                        attempt += 1;
                        tokio::time::sleep(delay).await;
                    }
                    _ => return Err(error),
                }
            }
        };
        wait(runtime, calls)
    }
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
