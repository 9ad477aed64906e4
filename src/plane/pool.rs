//! Buffers that are used again: fresh memory costs a page fault each 4 KiB at first touch.

use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// A bounded set of idle buffers.
#[derive(Clone, Debug)]
pub struct Pool {
    idle: Arc<Mutex<Idle>>,
}

#[derive(Debug)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    bytes_max: usize,
}

impl Pool {
    /// A pool that keeps at most `bytes_max` bytes while they are idle.
    pub fn new(bytes_max: usize) -> Self {
        let idle = Idle { buffers: Vec::new(), bytes: 0, bytes_max };
        Self { idle: Arc::new(Mutex::new(idle)) }
    }

    /// An empty buffer with room for `bytes`; an idle one if there is one that large.
    pub fn take(&self, bytes: usize) -> Buffer {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The smallest that is large enough; there are few.
        let best = (0..idle.buffers.len())
            .filter(|&i| idle.buffers[i].capacity() >= bytes)
            .min_by_key(|&i| idle.buffers[i].capacity());
        let data = match best {
            Some(i) => {
                let data = idle.buffers.swap_remove(i);
                idle.bytes -= data.capacity();
                data
            }
            None => Vec::with_capacity(bytes),
        };
        Buffer { data, pool: self.clone() }
    }

    fn give_back(&self, mut data: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if idle.bytes + data.capacity() <= idle.bytes_max {
            data.clear();
            idle.bytes += data.capacity();
            idle.buffers.push(data);
        }
    }
}

/// A buffer on loan: it goes back when dropped, also as [`Bytes`].
#[derive(Debug)]
pub struct Buffer {
    /// What it holds.
    pub data: Vec<u8>,
    pool: Pool,
}

impl Buffer {
    /// The contents, shareable; the buffer goes back when the last share is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again_and_empty() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(1000);
        buffer.data.extend_from_slice(&[7; 1000]);
        let address = buffer.data.as_ptr();
        let shares = [buffer.freeze()];
        let half = shares[0].slice(500..);
        drop(shares);
        let other = pool.take(900);
        assert_ne!(other.data.as_ptr(), address, "still shared");
        drop(half);
        let again = pool.take(900);
        assert_eq!((again.data.as_ptr(), again.data.len()), (address, 0));
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let pool = Pool::new(1500);
        let buffers = [pool.take(1000), pool.take(1000)];
        drop(buffers);
        assert_eq!(pool.idle.lock().unwrap().buffers.len(), 1);
    }
}
