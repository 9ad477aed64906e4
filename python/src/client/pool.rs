//! Memory that is shared with the server, kept from call to call, and what is lent of it to be written.

use super::driver::Driver;
use crate::memory::export::Keeps;
use logitd_client::api::SlotRef;
use logitd_client::{Direct, Region};
use std::collections::TryReserveError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Semaphore;

/// Memory has at least this much room, so that a growing batch does not have it made anew each time.
pub const SLOT_BYTES_MIN: usize = 1 << 20;
/// Calls that have memory at a time: of a few, more are not faster, and a server has so much for each process.
const CALLS_MAX: usize = 4;

/// A region of one slot, and a connection for direct calls.
pub struct Memory {
    pub direct: Option<Direct>,
    /// What drives that connection, where whoever calls does, so that a call wakes no other thread. Before what it drives
    /// is gone, it is not.
    pub driver: Option<Driver>,
    pub region: Region,
    pub bytes: usize,
}

impl Memory {
    /// Writes rows one behind the other, and names them for a request.
    pub fn write(&mut self, rows: &[&[u8]]) -> SlotRef {
        let mut slot = self.region.slot_mut(0);
        let mut bytes = 0;
        for row in rows {
            let (here, rest) = slot.split_at_mut(row.len());
            here.copy_from_slice(row);
            bytes += row.len();
            slot = rest;
        }
        self.region.commit(0, bytes)
    }
}

/// The memory of a connection.
pub struct Pool {
    free: Mutex<Vec<Memory>>,
    leases: Mutex<Vec<Weak<Lease>>>,
    /// Room for calls.
    pub calls: Arc<Semaphore>,
}

impl Default for Pool {
    fn default() -> Self {
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        Self { free: Mutex::default(), leases: Mutex::default(), calls }
    }
}

impl Pool {
    /// Memory with so much room, if some is free. Where only smaller memory is free, it makes room for what must be made.
    pub fn take(&self, bytes: usize) -> Option<Memory> {
        let mut free = locked(&self.free);
        match free.iter().position(|memory| memory.bytes >= bytes) {
            Some(place) => Some(free.swap_remove(place)),
            None => {
                free.pop();
                None
            }
        }
    }

    /// Takes memory back that nobody uses any more.
    pub fn give(&self, memory: Memory) {
        let mut free = locked(&self.free);
        if free.len() < CALLS_MAX {
            free.push(memory);
        }
    }

    /// What is lent and begins at this address.
    pub fn leased(&self, address: usize) -> Option<Arc<Lease>> {
        let leases = locked(&self.leases);
        leases.iter().filter_map(Weak::upgrade).find(|lease| lease.address == address)
    }
}

/// Memory that somebody writes to. When the last who can is gone, it is free again.
pub struct Lease {
    address: usize,
    pub bytes: usize,
    /// Nothing where the memory is shared with nobody.
    pub memory: tokio::sync::Mutex<Option<Memory>>,
    /// Whether a call with it has failed: nobody knows what the server still has of it.
    pub has_failed: AtomicBool,
    /// Of u64, so that elements of every type are aligned.
    _own: Vec<u64>,
    pool: Arc<Pool>,
}

impl Lease {
    /// Lends memory of a pool.
    pub fn of(pool: &Arc<Pool>, mut memory: Memory) -> Arc<Self> {
        let address = memory.region.slot_mut(0).as_mut_ptr().expose_provenance();
        let lease = Arc::new(Self {
            address,
            bytes: memory.bytes,
            memory: tokio::sync::Mutex::new(Some(memory)),
            has_failed: AtomicBool::new(false),
            _own: Vec::new(),
            pool: Arc::clone(pool),
        });
        let mut leases = locked(&pool.leases);
        leases.retain(|lease| lease.strong_count() > 0);
        leases.push(Arc::downgrade(&lease));
        drop(leases);
        lease
    }

    /// Memory of this process alone, if it gets so much.
    pub fn private(pool: &Arc<Pool>, bytes: usize) -> Result<Arc<Self>, TryReserveError> {
        let words = bytes.div_ceil(size_of::<u64>());
        let mut own = Vec::new();
        own.try_reserve_exact(words)?;
        own.resize(words, 0);
        Ok(Arc::new(Self {
            address: own.as_mut_ptr().expose_provenance(),
            bytes,
            memory: tokio::sync::Mutex::new(None),
            has_failed: AtomicBool::new(false),
            _own: own,
            pool: Arc::clone(pool),
        }))
    }
}

/// A region stays mapped where it is, and so do the elements of a vector, wherever their owner is moved to. No reference to
/// them is held between calls.
impl Keeps for Arc<Lease> {
    fn memory(&self) -> *mut [u8] {
        let at = std::ptr::with_exposed_provenance_mut(self.address);
        std::ptr::slice_from_raw_parts_mut(at, self.bytes)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.get_mut().take()
            && !self.has_failed.load(Ordering::Relaxed)
        {
            self.pool.give(memory);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
