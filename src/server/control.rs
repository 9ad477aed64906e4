//! The socket where memory is handed over: one task a connection, and its regions end with it. A connection that
//! begins with a [`Hello`] is one for calls instead, and is handed on.
//!
//! A place is for who uses it: a connection says what it is for, and holds memory, within a time, or is closed; one
//! that holds memory may be silent for ever. One process does not get all places. Who comes when there is none is
//! told so.

use crate::config::ControlLimits;
use crate::plane::{Peer, Regions, Registration};
use logitd_proto::direct::Hello;
use logitd_proto::shm::{Authorize, Register, Registered};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long an answer may take to be written: it fits a socket buffer, unless nobody reads.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when the system has no more file descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections beyond the limits that are being told so.
const REFUSALS_MAX: usize = 16;
/// How long that may take: they have to say what they are for.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The server that the socket belongs to.
pub trait Host: Clone + Send + Sync + 'static {
    /// Serves calls on a connection that has begun with a [`Hello`].
    fn calls(
        &self,
        stream: UnixStream,
        peer: Peer,
        hello: Hello,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Whether who has this token may hand over memory. It is empty where none was sent.
    fn check_token(&self, token: &[u8]) -> Result<(), String>;

    /// A connection has come, or (-1) gone.
    fn connections(&self, change: i32);

    /// There was no place for a connection.
    fn refused(&self, peer: Peer, reason: &str);

    /// A connection could not be accepted.
    fn not_accepted(&self, error: &io::Error);
}

/// Accepts connections until `stop`.
pub async fn serve(
    listener: UnixListener,
    regions: Regions,
    limits: ControlLimits,
    host: impl Host,
    stop: CancellationToken,
) {
    let places = Arc::new(Places { limits, taken: Mutex::default() });
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.and_then(|(stream, _)| with_peer(stream)),
            () = stop.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                host.not_accepted(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match places.take(peer) {
            Ok(place) => place,
            Err(reason) => {
                host.refused(peer, &reason);
                if let Ok(seat) = Arc::clone(&refusals).try_acquire_owned() {
                    tokio::spawn(async move {
                        let _ = timeout(REFUSAL_TIMEOUT, refuse(stream, reason)).await;
                        drop(seat);
                    });
                }
                continue;
            }
        };
        let (regions, host, stop) = (regions.clone(), host.clone(), stop.clone());
        tokio::spawn(async move {
            host.connections(1);
            let ended = tokio::select! {
                ended = connection(stream, peer, &regions, limits.silence_max, &host) => ended,
                () = stop.cancelled() => Ok(()),
            };
            drop(place);
            host.connections(-1);
            if let Err(error) = ended {
                tracing::debug!(%error, "control socket: connection ended");
            }
        });
    }
}

fn with_peer(stream: UnixStream) -> io::Result<(UnixStream, Peer)> {
    let credentials = stream.peer_cred()?;
    let pid = credentials.pid().ok_or_else(|| io::Error::other("the peer has no process id"))?;
    Ok((stream, Peer { uid: credentials.uid(), pid }))
}

/// Says why there is no place, in the words of what the connection is for.
async fn refuse(stream: UnixStream, reason: String) -> io::Result<()> {
    let Some((frame, _)) = receive(&stream).await? else { return Ok(()) };
    let refusal = match Hello::decode(&frame) {
        Some(_) => refusal_of_calls(&reason),
        None => Registered::Refused(reason).encode(),
    };
    say_last(stream, &refusal).await
}

/// Says one last thing, and reads past what is sent meanwhile: a client that finds the connection closed while it
/// sends would not hear it.
async fn say_last(mut stream: UnixStream, frame: &[u8]) -> io::Result<()> {
    let said = async {
        stream.write_all(frame).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    timeout(REFUSAL_TIMEOUT, said).await?.map(|_| ())
}

fn refusal_of_calls(reason: &str) -> Vec<u8> {
    [&(reason.len() as u32).to_le_bytes(), reason.as_bytes()].concat()
}

/// The places for connections.
#[derive(Debug)]
struct Places {
    limits: ControlLimits,
    /// By process.
    taken: Mutex<HashMap<Peer, usize>>,
}

/// One of them, until it is dropped.
struct Place {
    places: Arc<Places>,
    peer: Peer,
}

impl Places {
    fn take(self: &Arc<Self>, peer: Peer) -> Result<Place, String> {
        let ControlLimits { connections_max, per_peer_max, .. } = self.limits;
        let mut taken = self.lock();
        let all: usize = taken.values().sum();
        let of_peer = taken.get(&peer).copied().unwrap_or_default();
        for (what, count, limit, flag) in [
            ("this process has", of_peer, per_peer_max, "--shm-connections-per-peer-max"),
            ("all processes have", all, connections_max, "--shm-connections-max"),
        ] {
            if count >= limit {
                return Err(format!(
                    "{what} {count} connections to this socket open; the server allows {limit} ({flag}); close one"
                ));
            }
        }
        taken.insert(peer, of_peer + 1);
        Ok(Place { places: Arc::clone(self), peer })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.peer)),
        }
    }
}

/// Registers regions until the peer hangs up, then lets go of all of them.
async fn connection(
    mut stream: UnixStream,
    peer: Peer,
    regions: &Regions,
    silence_max: Duration,
    host: &impl Host,
) -> io::Result<()> {
    let Some(mut first) = timeout(silence_max, receive(&stream)).await?? else { return Ok(()) };
    match Hello::decode(&first.0) {
        None => {}
        Some(Ok(hello)) => return host.calls(stream, peer, hello).await,
        Some(Err(reason)) => {
            return say_last(stream, &refusal_of_calls(&reason)).await;
        }
    }
    let mut token = Vec::new();
    if let Some(authorize) = Authorize::decode(&first.0) {
        let token_bytes = match authorize {
            Ok(Authorize { token_bytes }) => token_bytes as usize,
            Err(reason) => {
                return say_last(stream, &Registered::Refused(reason).encode()).await;
            }
        };
        token.resize(token_bytes, 0);
        timeout(silence_max, stream.read_exact(&mut token)).await??;
        let Some(next) = timeout(silence_max, receive(&stream)).await?? else { return Ok(()) };
        first = next;
    }
    let asks = Asks { peer, token, silence_max };
    let mut kept = Vec::new();
    let ended = register_all(&mut stream, first, regions, &asks, host, &mut kept).await;
    // A device may take a while.
    let _ = tokio::task::spawn_blocking(move || drop(kept)).await;
    ended
}

/// Who asks for regions.
struct Asks {
    peer: Peer,
    token: Vec<u8>,
    /// How long it may be silent while it has none.
    silence_max: Duration,
}

/// A frame and the descriptor that came with it.
type Received = ([u8; Register::BYTES], Option<OwnedFd>);

async fn register_all(
    stream: &mut UnixStream,
    first: Received,
    regions: &Regions,
    asks: &Asks,
    host: &impl Host,
    kept: &mut Vec<Registration>,
) -> io::Result<()> {
    let mut next = Some(first);
    while let Some((frame, descriptor)) = next {
        let registered = match host.check_token(&asks.token) {
            Ok(()) => register(regions, &frame, descriptor, asks.peer).await,
            Err(reason) => Err(reason),
        };
        let (answer, descriptor) = match registered {
            Ok((answer, region, descriptor)) => {
                kept.push(region);
                (answer, descriptor)
            }
            Err(reason) => (Registered::Refused(reason), None),
        };
        timeout(WRITE_TIMEOUT, send(stream, &answer.encode(), descriptor)).await??;
        next = match kept.is_empty() {
            true => timeout(asks.silence_max, receive(stream)).await??,
            false => receive(stream).await?,
        };
    }
    Ok(())
}

/// The answer, what is to be kept, and the descriptor that goes with the answer.
async fn register(
    regions: &Regions,
    frame: &[u8; Register::BYTES],
    descriptor: Option<OwnedFd>,
    peer: Peer,
) -> Result<(Registered, Registration, Option<OwnedFd>), String> {
    let layout = Register::decode(frame)?;
    let Some(device) = layout.device else {
        let descriptor = descriptor.ok_or("no descriptor came with the frame (SCM_RIGHTS)")?;
        let registration = regions.take(&descriptor, layout, peer);
        let registration = registration.map_err(|error| error.to_string())?;
        let answer = Registered::Accepted(registration.id());
        return Ok((answer, registration, None));
    };
    if descriptor.is_some() {
        return Err("memory of a device is made here; send the frame without a descriptor".into());
    }
    if !regions.has_devices() {
        return Err("memory of devices is not offered here; the server needs a CUDA device and --cuda-region-bytes-max".into());
    }
    let regions = regions.clone();
    let made = tokio::task::spawn_blocking(move || regions.make(device, layout, peer)).await;
    let made = made.map_err(|_| "the server is shutting down")?;
    let (registration, allocation, descriptor) = made.map_err(|error| error.to_string())?;
    let answer = Registered::Allocated(registration.id(), allocation);
    Ok((answer, registration, Some(descriptor)))
}

/// Sends a frame, its first bytes with the descriptor.
async fn send(
    stream: &mut UnixStream,
    frame: &[u8],
    descriptor: Option<OwnedFd>,
) -> io::Result<()> {
    let Some(descriptor) = descriptor else { return stream.write_all(frame).await };
    let attached = || {
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let slices = [IoSlice::new(frame)];
        Ok(sendmsg(&*stream, &slices, &mut ancillary, SendFlags::NOSIGNAL)?)
    };
    let sent = stream.async_io(Interest::WRITABLE, attached).await?;
    stream.write_all(&frame[sent..]).await
}

/// One frame and the descriptor that came with it; `None` when the peer has hung up.
async fn receive(stream: &UnixStream) -> io::Result<Option<Received>> {
    let mut frame = [0; Register::BYTES];
    let mut filled = 0;
    let mut descriptor = None;
    while filled < frame.len() {
        let rest = &mut frame[filled..];
        let (bytes, found) =
            stream.async_io(Interest::READABLE, || receive_part(stream, rest)).await?;
        if bytes == 0 {
            return Ok(None);
        }
        filled += bytes;
        descriptor = descriptor.or(found);
    }
    Ok(Some((frame, descriptor)))
}

fn receive_part(stream: &UnixStream, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    // Room for one descriptor: the kernel closes the others itself and says so.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(into)];
    let received = recvmsg(stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("a frame carries one descriptor, not several"));
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
}
