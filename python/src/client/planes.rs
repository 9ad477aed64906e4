//! The ways that logits take to a server.

use super::pool::{Lease, Memory, Pool, SLOT_BYTES_MIN};
use super::requests::Request;
use crate::logits::Logits;
use logitd_client::api;
use logitd_client::{Builder, Client, Direct, Error, Region};
use std::sync::Arc;
use std::sync::atomic::Ordering;

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

/// Where to connect to, and how.
#[derive(Clone)]
pub struct Target {
    pub builder: Builder,
    pub name: String,
    /// Nothing is the fastest that there is.
    pub plane: Option<Plane>,
    pub retries_max: u32,
}

/// A connection, and the ways to send over it.
pub struct Link {
    pub client: Client,
    pub info: api::GetInfoResponse,
    pub choice: Choice,
    pub pool: Arc<Pool>,
    retries_max: u32,
}

/// A batch in memory that is lent.
pub struct Staged {
    pub lease: Arc<Lease>,
    length_bytes: usize,
    row_bytes: usize,
    row_stride_bytes: usize,
    /// What a request says of it, in logits.
    row_stride: u32,
}

impl Link {
    /// Connects, and asks the server what it is.
    pub async fn connect(target: Target) -> Result<Self, Error> {
        let Target { builder, name, plane, retries_max } = target;
        let client = builder.connect().await?;
        let info = client.info().await?;
        let choice = match plane {
            Some(plane) => Choice::Only(plane),
            None if name.starts_with("unix:") && !info.shm_control.is_empty() => Choice::OnThisHost,
            None => Choice::Bytes,
        };
        Ok(Self { client, info, choice, pool: Arc::default(), retries_max })
    }

    /// Whether the server knows columns.
    pub fn has_columns(&self) -> bool {
        self.info.controls.iter().any(|known| known == "columns")
    }

    /// The plane by which memory is shared in requests of a kind, if any is.
    pub fn shared_for<R: Request>(&self) -> Option<Plane> {
        match self.shared() {
            Some(Plane::Direct) if !R::IS_DIRECT => Some(Plane::SharedMemory),
            plane => plane,
        }
    }

    /// The plane by which memory is shared, if any is.
    pub fn shared(&self) -> Option<Plane> {
        match self.choice {
            Choice::Only(plane @ (Plane::SharedMemory | Plane::Direct)) => Some(plane),
            Choice::OnThisHost => Some(Plane::Direct),
            Choice::Only(_) | Choice::Bytes => None,
        }
    }

    /// Whether bytes can be sent instead, where memory cannot be shared.
    pub fn can_do_without(&self, error: &Error) -> bool {
        let no_memory = matches!(error, Error::Region { .. } | Error::Connect { .. });
        no_memory && matches!(self.choice, Choice::OnThisHost)
    }

    /// Memory with room for so many bytes, that is free or made. Waits for the server's answer.
    pub fn memory(&self, bytes: usize) -> Result<Memory, Error> {
        if let Some(memory) = self.pool.take(bytes) {
            return Ok(memory);
        }
        let control = &self.info.shm_control;
        if control.is_empty() {
            let said = "the server shares no memory and takes no direct calls; start it with --shm";
            return Err(Error::Target(said.into()));
        }
        let bytes = bytes.max(SLOT_BYTES_MIN);
        let region = Region::register_with(control, self.client.token(), bytes, 1)?;
        Ok(Memory { direct: None, driver: None, region, bytes })
    }

    /// The memory that logits lie in, where it is lent by this connection and requests of this kind can say where they lie.
    /// Nothing of them has to be sent then.
    pub fn staged<R: Request>(&self, logits: &Logits<'_>) -> Option<Staged> {
        let (address, stride_bytes) = logits.place()?;
        let lease = self.pool.leased(address)?;
        let (row_bytes, size) = (logits.row_bytes(), logits.dtype().size_bytes());
        let length_bytes = (logits.rows() - 1) * stride_bytes + row_bytes;
        let row_stride = match stride_bytes {
            stride if stride == row_bytes => 0,
            stride => u32::try_from(stride / size).ok()?,
        };
        let is_within = stride_bytes.is_multiple_of(size)
            && length_bytes <= lease.bytes
            && (row_stride == 0 || R::has_stride());
        let row_stride_bytes = stride_bytes;
        is_within.then_some(Staged { lease, length_bytes, row_bytes, row_stride_bytes, row_stride })
    }

    /// Sends a request with its logits as bytes: in one message, or in several.
    pub async fn send<R: Request>(
        &self,
        mut request: R,
        logits: Vec<u8>,
    ) -> Result<R::Response, Error> {
        let chunk_bytes = self.info.chunk_bytes;
        let is_large = chunk_bytes > 0 && logits.len() as u64 > chunk_bytes;
        let is_cut = match self.choice {
            Choice::Only(plane) => plane == Plane::Chunked,
            Choice::Bytes | Choice::OnThisHost => is_large,
        };
        request.carry(logits);
        request.send(&self.client, is_cut.then_some(&self.info)).await
    }

    /// A call whose logits are in the server's memory already. A direct one leaves the request as it is, for what can be
    /// done without.
    pub async fn call<R: Request>(
        &self,
        plane: Plane,
        direct: &mut Option<Direct>,
        request: &mut R,
    ) -> Result<R::Response, Error> {
        if plane != Plane::Direct {
            // Where it may have to be sent another way after all, it is left as it is.
            let sent = match self.choice {
                Choice::OnThisHost => request.clone(),
                Choice::Only(_) | Choice::Bytes => std::mem::take(request),
            };
            return sent.send(&self.client, None).await;
        }
        let mut attempt = 0;
        loop {
            let open = match direct.take().filter(Direct::is_open) {
                Some(open) => open,
                None => self.client.direct().await?,
            };
            let error = match request.send_directly(direct.insert(open)).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            // Again where the server has no room and says when.
            match error.retry_after() {
                Some(delay) if attempt < self.retries_max => {
                    attempt += 1;
                    tokio::time::sleep(delay).await;
                }
                _ => return Err(error),
            }
        }
    }
}

impl Staged {
    /// Says in a request where it lies; its memory is at hand.
    pub fn place(&self, memory: &mut Memory, request: &mut impl Request) {
        request.place(memory.region.commit(0, self.length_bytes), self.row_stride);
    }

    /// A copy of its rows, one behind the other.
    pub fn bytes(&self, memory: &mut Memory) -> Vec<u8> {
        let rows = memory.region.slot_mut(0)[..self.length_bytes].chunks(self.row_stride_bytes);
        rows.flat_map(|row| &row[..self.row_bytes]).copied().collect()
    }

    /// Until [`end`](Self::end) a call counts as failed: it may be cancelled. What it was before is returned.
    pub fn begin(&self) -> bool {
        self.lease.has_failed.swap(true, Ordering::Relaxed)
    }

    /// Notes what became of a call.
    pub fn end<T, E>(&self, had_failed: bool, found: Result<T, E>) -> Result<T, E> {
        self.lease.has_failed.store(had_failed || found.is_err(), Ordering::Relaxed);
        found
    }
}
