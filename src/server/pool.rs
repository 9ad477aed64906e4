//! Buffers that are used again: fresh memory costs a page fault each 4 KiB at first touch.

use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers below this come from the allocator, which keeps such sizes itself.
const POOLED_BYTES_MIN: usize = 32 << 10;

/// As large as a block can be for glibc to learn from it (`DEFAULT_MMAP_THRESHOLD_MAX`, less its header).
const LESSON_BYTES: usize = (32 << 20) - (64 << 10);

/// Makes the allocator keep what is freed, for the buffers that are not ours (HTTP/2 has one a frame).
///
/// glibc maps a large block for itself and unmaps it when it is freed, or trims the heap below it, so
/// that each frame of a megabyte is fresh memory again. Once a block of some size has been freed, it
/// keeps blocks up to that size, and twice as much at the end of its heaps. Other allocators do not
/// care.
pub fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LESSON_BYTES)));
}

/// A bounded set of idle buffers.
#[derive(Clone, Debug)]
pub struct Pool {
    idle: Arc<Mutex<Idle>>,
}

#[derive(Debug)]
struct Idle {
    /// By the binary logarithm of their size. The last to come back is the first to go: it may still
    /// be in the processor's caches.
    buffers: [Vec<Vec<u8>>; usize::BITS as usize],
    bytes: usize,
    bytes_max: usize,
}

impl Pool {
    /// A pool that keeps at most `bytes_max` bytes while they are idle.
    pub fn new(bytes_max: usize) -> Self {
        let idle = Idle { buffers: std::array::from_fn(|_| Vec::new()), bytes: 0, bytes_max };
        Self { idle: Arc::new(Mutex::new(idle)) }
    }

    /// An empty buffer with room for `bytes`; an idle one if there is one of that size.
    pub fn take(&self, bytes: usize) -> Buffer {
        let data = match class(bytes) {
            Some(class) => {
                self.lock().take(class).unwrap_or_else(|| Vec::with_capacity(1 << class))
            }
            None => Vec::with_capacity(bytes),
        };
        Buffer { data, pool: self.clone() }
    }

    fn give_back(&self, mut data: Vec<u8>) {
        // What was not taken from here, or has grown since, is of no class.
        let of_class = |class: &usize| data.capacity() == 1 << class;
        if let Some(class) = class(data.capacity()).filter(of_class) {
            data.clear();
            let surplus = self.lock().give_back(class, data);
            drop(surplus);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers of a class have `1 << class` bytes. What is never written of them is never memory.
fn class(bytes: usize) -> Option<usize> {
    let size = bytes.checked_next_power_of_two()?;
    (bytes >= POOLED_BYTES_MIN).then_some(size.ilog2() as usize)
}

impl Idle {
    fn take(&mut self, class: usize) -> Option<Vec<u8>> {
        let data = self.buffers[class].pop()?;
        self.bytes -= data.capacity();
        Some(data)
    }

    /// Makes room at the cost of the class that has most; returned is what does not fit.
    fn give_back(&mut self, class: usize, data: Vec<u8>) -> Vec<Vec<u8>> {
        let mut surplus = Vec::new();
        self.bytes += data.capacity();
        self.buffers[class].push(data);
        while self.bytes > self.bytes_max {
            let most = (0..self.buffers.len()).rev().max_by_key(|&i| self.buffers[i].len() << i);
            surplus.extend(most.and_then(|most| self.take(most)));
        }
        surplus
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

    const BYTES: usize = 100_000;
    const CLASS_BYTES: usize = 1 << 17;

    #[test]
    fn a_dropped_buffer_is_used_again_and_empty() {
        let pool = Pool::new(1 << 20);
        let mut buffer = pool.take(BYTES);
        buffer.data.extend_from_slice(&[7; BYTES]);
        let address = buffer.data.as_ptr();
        let shares = [buffer.freeze()];
        let half = shares[0].slice(500..);
        drop(shares);
        let other = pool.take(BYTES);
        assert_ne!(other.data.as_ptr(), address, "still shared");
        drop(half);
        let again = pool.take(BYTES + 1);
        assert_eq!((again.data.as_ptr(), again.data.len()), (address, 0));
    }

    #[test]
    fn no_more_than_the_limit_is_kept_and_the_commonest_size_gives_way() {
        let pool = Pool::new(3 * CLASS_BYTES);
        let sizes = [BYTES, BYTES, BYTES, 2 * BYTES];
        let buffers = sizes.map(|bytes| pool.take(bytes));
        drop(buffers);
        let count = |class: usize| pool.lock().buffers[class].len();
        assert_eq!((count(17), count(18)), (1, 1));
        assert_eq!(pool.lock().bytes, 3 * CLASS_BYTES);
        drop(pool.take(8 * BYTES));
        assert!(pool.lock().bytes <= 3 * CLASS_BYTES, "larger than all that may be kept");
    }

    #[test]
    fn small_buffers_and_those_that_grew_are_not_kept() {
        let pool = Pool::new(1 << 20);
        drop(pool.take(100));
        let mut grown = pool.take(BYTES);
        grown.data = Vec::with_capacity(BYTES + 1);
        drop(grown);
        assert_eq!(pool.lock().bytes, 0);
    }
}
