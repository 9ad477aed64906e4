//! The socket where memory is handed over: one task a connection, and its regions end with it. A connection that
//! begins with a [`Hello`] is one for calls instead, and is handed on.

use super::shm::{Peer, Registration, Registry};
use crate::api::direct::Hello;
use crate::api::shm::{Register, Registered};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
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
    registry: Arc<Registry>,
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
        let (registry, calls, stop) = (Arc::clone(&registry), calls.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let ended = tokio::select! {
                ended = connection(stream, &registry, calls) => ended,
                () = stop.cancelled() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "control socket: connection ended");
            }
        });
    }
}

/// Registers regions until the peer hangs up, then lets go of all of them.
async fn connection<C, F>(
    mut stream: UnixStream,
    registry: &Arc<Registry>,
    calls: C,
) -> io::Result<()>
where
    C: Fn(UnixStream, Peer, Hello) -> F,
    F: Future<Output = io::Result<()>>,
{
    let credentials = stream.peer_cred()?;
    let pid = credentials.pid().ok_or_else(|| io::Error::other("the peer has no process id"))?;
    let peer = Peer { uid: credentials.uid(), pid };
    let mut next = receive(&stream).await?;
    match next.as_ref().and_then(|(frame, _)| Hello::decode(frame)) {
        None => {}
        Some(Ok(hello)) => return calls(stream, peer, hello).await,
        Some(Err(reason)) => {
            let refusal = [&(reason.len() as u32).to_le_bytes(), reason.as_bytes()].concat();
            return timeout(WRITE_TIMEOUT, stream.write_all(&refusal)).await?;
        }
    }
    let mut registrations: Vec<Registration> = Vec::new();
    while let Some((frame, descriptor)) = next {
        let answer = match register(registry, &frame, descriptor, peer) {
            Ok(registration) => {
                let id = registration.id();
                registrations.push(registration);
                Registered::Accepted(id)
            }
            Err(reason) => Registered::Refused(reason),
        };
        timeout(WRITE_TIMEOUT, stream.write_all(&answer.encode())).await??;
        next = receive(&stream).await?;
    }
    Ok(())
}

fn register(
    registry: &Arc<Registry>,
    frame: &[u8; Register::BYTES],
    descriptor: Option<OwnedFd>,
    peer: Peer,
) -> Result<Registration, String> {
    let layout = Register::decode(frame)?;
    let descriptor = descriptor.ok_or("no descriptor came with the frame (SCM_RIGHTS)")?;
    registry.register(&descriptor, layout, peer).map_err(|error| error.to_string())
}

/// One frame and the descriptor that came with it; `None` when the peer has hung up.
async fn receive(
    stream: &UnixStream,
) -> io::Result<Option<([u8; Register::BYTES], Option<OwnedFd>)>> {
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
