//! The socket where memory is handed over: one task a connection, and its regions end with it. A connection that
//! begins with a [`Hello`] is one for calls instead, and is handed on.

use super::Regions;
use super::device::DeviceRegistration;
use super::shm::{Peer, Registration};
use crate::api::direct::Hello;
use crate::api::shm::{Register, Registered};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long an answer may take to be written: it fits a socket buffer, unless nobody reads.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts connections until `stop`; at most `connections_max` at a time, others wait. `calls` serves those that are
/// for calls.
pub async fn serve<C, F>(
    listener: UnixListener,
    regions: Regions,
    connections_max: usize,
    calls: C,
    stop: CancellationToken,
) where
    C: Fn(UnixStream, Peer, Hello) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<()>> + Send,
{
    let permits = Arc::new(Semaphore::new(connections_max));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket: accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (regions, calls, stop) = (regions.clone(), calls.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let ended = tokio::select! {
                ended = connection(stream, &regions, calls) => ended,
                () = stop.cancelled() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "control socket: connection ended");
            }
        });
    }
}

/// A region that belongs to a connection.
enum Kept {
    Memory { _registration: Registration },
    Device { _registration: DeviceRegistration },
}

/// Registers regions until the peer hangs up, then lets go of all of them.
async fn connection<C, F>(mut stream: UnixStream, regions: &Regions, calls: C) -> io::Result<()>
where
    C: Fn(UnixStream, Peer, Hello) -> F,
    F: Future<Output = io::Result<()>>,
{
    let credentials = stream.peer_cred()?;
    let pid = credentials.pid().ok_or_else(|| io::Error::other("the peer has no process id"))?;
    let peer = Peer { uid: credentials.uid(), pid };
    let Some(first) = receive(&stream).await? else { return Ok(()) };
    match Hello::decode(&first.0) {
        None => {}
        Some(Ok(hello)) => return calls(stream, peer, hello).await,
        Some(Err(reason)) => {
            let refusal = [&(reason.len() as u32).to_le_bytes(), reason.as_bytes()].concat();
            return timeout(WRITE_TIMEOUT, stream.write_all(&refusal)).await?;
        }
    }
    let mut kept = Vec::new();
    let ended = register_all(&mut stream, first, regions, peer, &mut kept).await;
    // A device may take a while.
    let _ = tokio::task::spawn_blocking(move || drop(kept)).await;
    ended
}

/// A frame and the descriptor that came with it.
type Received = ([u8; Register::BYTES], Option<OwnedFd>);

async fn register_all(
    stream: &mut UnixStream,
    first: Received,
    regions: &Regions,
    peer: Peer,
    kept: &mut Vec<Kept>,
) -> io::Result<()> {
    let mut next = Some(first);
    while let Some((frame, descriptor)) = next {
        let (answer, descriptor) = match register(regions, &frame, descriptor, peer).await {
            Ok((answer, region, descriptor)) => {
                kept.push(region);
                (answer, descriptor)
            }
            Err(reason) => (Registered::Refused(reason), None),
        };
        timeout(WRITE_TIMEOUT, send(stream, &answer.encode(), descriptor)).await??;
        next = receive(stream).await?;
    }
    Ok(())
}

/// The answer, what is to be kept, and the descriptor that goes with the answer.
async fn register(
    regions: &Regions,
    frame: &[u8; Register::BYTES],
    descriptor: Option<OwnedFd>,
    peer: Peer,
) -> Result<(Registered, Kept, Option<OwnedFd>), String> {
    let layout = Register::decode(frame)?;
    let Some(device) = layout.device else {
        let descriptor = descriptor.ok_or("no descriptor came with the frame (SCM_RIGHTS)")?;
        let registration = regions.memory.register(&descriptor, layout, peer);
        let registration = registration.map_err(|error| error.to_string())?;
        let answer = Registered::Accepted(registration.id());
        return Ok((answer, Kept::Memory { _registration: registration }, None));
    };
    if descriptor.is_some() {
        return Err("memory of a device is made here; send the frame without a descriptor".into());
    }
    let registry = regions.device.clone().ok_or(
        "memory of devices is not offered here; the server needs a CUDA device and --cuda-region-bytes-max",
    )?;
    let made = tokio::task::spawn_blocking(move || registry.register(device, layout, peer)).await;
    let made = made.map_err(|_| "the server is shutting down")?;
    let (registration, allocation, descriptor) = made.map_err(|error| error.to_string())?;
    let answer = Registered::Allocated(registration.id(), allocation);
    Ok((answer, Kept::Device { _registration: registration }, Some(descriptor)))
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
