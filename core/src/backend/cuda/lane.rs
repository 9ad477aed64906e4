//! Copies between the host and memory of a device, one at a time, through pinned memory and a stream of their own.

use super::context::{self, Context, HostMemory, check};
use cudarc::driver::sys::{self, CUdeviceptr, CUevent, CUstream};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Pinned memory that copies pass through, piece by piece.
const BOUNCE_BYTES: usize = 1 << 20;

/// What copies, until it is *lost*: once a copy does not end in time or fails, the device is not touched any more, and
/// nothing is given back.
pub(super) struct Lane {
    own: Mutex<Own>,
    hang_timeout: Duration,
    lost: OnceLock<String>,
}

struct Own {
    stream: CUstream,
    done: CUevent,
    bounce: HostMemory,
    context: Context,
}

// SAFETY: the driver's handles may be used from any thread that has the context bound, which `Lane::with` sees to; and the
// pinned memory is the lane's own.
unsafe impl Send for Own {}

impl Lane {
    /// On the device of a context.
    pub fn new(mut context: Context, hang_timeout: Duration) -> Result<Self, String> {
        let stream = context.stream()?;
        let done = context.signal()?;
        let bounce = context.host_memory(BOUNCE_BYTES)?;
        let own = Mutex::new(Own { stream, done, bounce, context });
        Ok(Self { own, hang_timeout, lost: OnceLock::new() })
    }

    /// Its stream.
    pub fn stream(&self) -> CUstream {
        self.own().stream
    }

    /// Why the device is not touched any more, if it is not.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// From now on it is not touched, and nothing is given back.
    pub fn lose(&self, reason: String) {
        self.lose_own(&self.own(), reason);
    }

    /// Binds its context to the calling thread.
    pub fn bind(&self) -> Result<(), String> {
        self.own().context.bind()
    }

    /// Copies from the device, where the caller knows that so many bytes are mapped.
    pub fn read(&self, from: CUdeviceptr, into: &mut [u8]) -> Result<(), String> {
        self.with(|own| {
            let pieces = into.chunks_mut(BOUNCE_BYTES).zip((from..).step_by(BOUNCE_BYTES));
            for (piece, from) in pieces {
                own.read(from, piece, self.hang_timeout)?;
            }
            Ok(())
        })
    }

    /// Copies to the device, likewise.
    pub fn write(&self, to: CUdeviceptr, from: &[u8]) -> Result<(), String> {
        self.with(|own| {
            let pieces = from.chunks(BOUNCE_BYTES).zip((to..).step_by(BOUNCE_BYTES));
            for (piece, to) in pieces {
                own.write(to, piece, self.hang_timeout)?;
            }
            Ok(())
        })
    }

    /// Makes so many bytes zeros, likewise.
    pub fn clear(&self, address: CUdeviceptr, bytes: usize) -> Result<(), String> {
        self.with(|own| own.clear(address, bytes, self.hang_timeout))
    }

    /// Has what is done in its stream from now on come behind what is in another one now.
    ///
    /// # Safety
    /// That is a stream of the device's primary context, or one of the driver's special ones.
    pub unsafe fn follow(&self, stream: CUstream) -> Result<(), String> {
        self.with(|own| {
            // SAFETY: the event is the lane's own; the stream is alive, by the caller.
            check("cuEventRecord", unsafe { sys::cuEventRecord(own.done, stream) })?;
            // SAFETY: both are the lane's own. What was recorded is what is waited for, whatever is recorded later.
            check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(own.stream, own.done, 0) })
        })
    }

    /// Has what is done in these streams from now on come behind what is in its own now.
    ///
    /// # Safety
    /// These are streams of the device's primary context.
    pub unsafe fn lead(&self, streams: impl Iterator<Item = CUstream>) -> Result<(), String> {
        self.with(|own| {
            // SAFETY: both are the lane's own.
            check("cuEventRecord", unsafe { sys::cuEventRecord(own.done, own.stream) })?;
            for stream in streams {
                // SAFETY: the event is the lane's own; the stream is alive, by the caller.
                check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(stream, own.done, 0) })?;
            }
            Ok(())
        })
    }

    /// Does something with the context bound, unless the device is lost. It is when that fails.
    fn with(&self, work: impl FnOnce(&Own) -> Result<(), String>) -> Result<(), String> {
        let own = self.own();
        if let Some(reason) = self.lost.get() {
            return Err(reason.clone());
        }
        let done = own.context.bind().and_then(|()| work(&own));
        done.inspect_err(|reason| self.lose_own(&own, reason.clone()))
    }

    fn lose_own(&self, own: &Own, reason: String) {
        own.context.lose();
        // The first reason is the one that tells.
        let _ = self.lost.set(reason);
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Own {
    /// From the device; at most [`BOUNCE_BYTES`].
    fn read(&self, from: CUdeviceptr, into: &mut [u8], longest: Duration) -> Result<(), String> {
        let bounce = self.bounce.start;
        assert!(into.len() <= self.bounce.bytes);
        // SAFETY: the callers know that so many bytes are mapped there, and there is room for them; the pinned memory is
        // not touched before the copy is waited for, or never again where that fails.
        check("cuMemcpyDtoHAsync", unsafe {
            sys::cuMemcpyDtoHAsync_v2(bounce.cast(), from, into.len(), self.stream)
        })?;
        self.finish(longest)?;
        // SAFETY: so many bytes were written there just now; nobody else has the lane.
        into.copy_from_slice(unsafe { std::slice::from_raw_parts(bounce, into.len()) });
        Ok(())
    }

    /// To the device; at most [`BOUNCE_BYTES`].
    fn write(&self, to: CUdeviceptr, from: &[u8], longest: Duration) -> Result<(), String> {
        let bounce = self.bounce.start;
        assert!(from.len() <= self.bounce.bytes);
        // SAFETY: there is room for so many bytes, in memory of the lane's own; no copy is on its way, since each
        // is waited for, and where that fails there is no other.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), bounce, from.len()) };
        // SAFETY: as in `read`, the other way.
        check("cuMemcpyHtoDAsync", unsafe {
            sys::cuMemcpyHtoDAsync_v2(to, bounce.cast(), from.len(), self.stream)
        })?;
        self.finish(longest)
    }

    /// Makes it all zeros.
    fn clear(&self, address: CUdeviceptr, bytes: usize, longest: Duration) -> Result<(), String> {
        // SAFETY: the callers know that so many bytes are mapped there.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(address, 0, bytes, self.stream) })?;
        self.finish(longest)
    }

    fn finish(&self, longest: Duration) -> Result<(), String> {
        // SAFETY: both are this lane's own and alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.done, self.stream) })?;
        // SAFETY: the event is alive, and `Lane::with` has bound the context.
        unsafe { context::wait(self.done, "a copy", longest) }
    }
}
