//! Device memory: buffers at made-up addresses, every access checked for bounds and alignment.

use super::parse::CONSTANT_BASE;

/// Global buffers lie this far apart, so that no overrun of one reaches another.
const STRIDE: u64 = 1 << 40;
/// Generic addresses of shared memory start here; below it, block rank << 24 | offset.
pub const SHARED_WINDOW: u64 = 1 << 61;
/// Shared addresses carry the block's rank in its cluster from this bit up.
pub const RANK_SHIFT: u32 = 24;

/// Global memory and constants.
#[derive(Debug, Default)]
pub struct Memory {
    buffers: Vec<Vec<u8>>,
    pub constants: Vec<u8>,
}

impl Memory {
    /// Allocates a buffer and returns its address, aligned as cudaMalloc's are.
    pub fn allocate(&mut self, bytes: Vec<u8>) -> u64 {
        self.buffers.push(bytes);
        self.buffers.len() as u64 * STRIDE
    }

    /// The buffer at an address that [`allocate`](Self::allocate) returned.
    pub fn buffer(&mut self, address: u64) -> &mut Vec<u8> {
        &mut self.buffers[(address / STRIDE) as usize - 1]
    }

    /// The bytes at a global or constant address.
    pub fn slice(&mut self, address: u64, bytes: usize, write: bool) -> Result<&mut [u8], String> {
        let (name, buffer, offset) = if address >= CONSTANT_BASE {
            if write {
                return Err(format!("writes constant memory at {address:#x}"));
            }
            ("constant memory".to_owned(), &mut self.constants, address - CONSTANT_BASE)
        } else {
            let index = (address / STRIDE) as usize;
            let count = self.buffers.len();
            let buffer = index
                .checked_sub(1)
                .and_then(|i| self.buffers.get_mut(i))
                .ok_or_else(|| format!("address {address:#x} is in none of {count} buffers"))?;
            (format!("buffer {index}"), buffer, address % STRIDE)
        };
        checked(&name, buffer, offset, bytes)
    }
}

/// A slice of `memory`, or an error that names what was touched.
pub fn checked<'a>(
    name: &str,
    memory: &'a mut [u8],
    offset: u64,
    bytes: usize,
) -> Result<&'a mut [u8], String> {
    let size = memory.len();
    if !offset.is_multiple_of(bytes as u64) {
        return Err(format!("{bytes} bytes at misaligned offset {offset} of {name}"));
    }
    let at = usize::try_from(offset).map_err(|e| e.to_string())?;
    memory
        .get_mut(at..at.saturating_add(bytes))
        .ok_or_else(|| format!("{bytes} bytes at offset {offset} of {name}, which has {size}"))
}
