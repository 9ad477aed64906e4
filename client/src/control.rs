//! The client's end of the control socket: a frame out, an answer back, and a descriptor with either.

use super::Error;
use logitd_proto::shm::{
    Allocation, Authorize, REGION_ID_BYTES, Register, Registered, SLOT_ALIGN_BYTES,
    SLOT_HEADER_BYTES,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long the server may take to answer a registration.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server answers that takes a region.
#[derive(Debug)]
pub(super) struct Registration {
    /// The region is there as long as this is open.
    pub control: UnixStream,
    pub id: [u8; REGION_ID_BYTES],
    /// Where the memory is the server's.
    pub allocation: Option<(Allocation, OwnedFd)>,
}

/// A slot's stride, and the bytes of all.
pub(super) fn layout(slot_bytes: usize, slot_count: u32) -> io::Result<(usize, usize)> {
    let stride = slot_bytes
        .checked_add(SLOT_HEADER_BYTES)
        .and_then(|bytes| bytes.checked_next_multiple_of(SLOT_ALIGN_BYTES));
    let bytes = stride.and_then(|stride| stride.checked_mul(slot_count as usize));
    let too_large = || io::Error::other(format!("{slot_count} slots of {slot_bytes} bytes"));
    stride.zip(bytes).ok_or_else(too_large)
}

/// An error of the control socket, as a client sees it.
pub(super) fn error(control: &str, reason: &io::Error) -> Error {
    Error::Region { control: control.to_owned(), reason: reason.to_string() }
}

/// Registers a region at `control` (`unix:PATH`), with the memory if it is ours. Blocks until the server has
/// answered.
pub(super) fn register(
    control: &str,
    token: Option<&str>,
    wanted: Register,
    memory: Option<BorrowedFd<'_>>,
) -> io::Result<Registration> {
    let path = control.strip_prefix("unix:").unwrap_or(control);
    let mut control = UnixStream::connect(path)?;
    control.set_read_timeout(Some(REGISTER_TIMEOUT))?;
    control.set_write_timeout(Some(REGISTER_TIMEOUT))?;
    if let Some(token) = token {
        let authorize = Authorize { token_bytes: token.len() as u32 };
        control.write_all(&[&authorize.encode(), token.as_bytes()].concat())?;
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = memory.map(|memory| [memory]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    // So few bytes fit any socket buffer: they go in one piece, with the descriptor.
    let frame = wanted.encode();
    sendmsg(&control, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL)?;

    let mut head = [0; Registered::HEAD_BYTES];
    let descriptor = receive(&control, &mut head)?;
    let (id, length) = head.split_at(REGION_ID_BYTES);
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    if length > 0 {
        let mut reason = vec![0; length.min(Registered::REASON_BYTES_MAX)];
        control.read_exact(&mut reason)?;
        return Err(io::Error::other(String::from_utf8_lossy(&reason).into_owned()));
    }
    let id = id.try_into().expect("sixteen bytes");
    let allocation = match wanted.device {
        None => None,
        Some(_) => {
            let mut frame = [0; Allocation::BYTES];
            control.read_exact(&mut frame)?;
            let missing = || io::Error::other("the server sent no descriptor of the memory");
            Some((Allocation::decode(&frame), descriptor.ok_or_else(missing)?))
        }
    };
    Ok(Registration { control, id, allocation })
}

/// Fills a frame, and takes the descriptor that comes with it.
fn receive(control: &UnixStream, into: &mut [u8]) -> io::Result<Option<OwnedFd>> {
    let mut filled = 0;
    let mut descriptor = None;
    while filled < into.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut into[filled..])];
        let received = recvmsg(control, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += received.bytes;
        descriptor = descriptor.or(ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        }));
    }
    Ok(descriptor)
}
