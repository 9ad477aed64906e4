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
    pub fn buffer(&self, address: u64) -> &[u8] {
        &self.buffers[(address / STRIDE) as usize - 1]
    }

    /// The same, to be changed; its length is what launches may touch.
    pub fn buffer_mut(&mut self, address: u64) -> &mut Vec<u8> {
        &mut self.buffers[(address / STRIDE) as usize - 1]
    }

    /// The bytes at a global or constant address.
    pub fn slice(&mut self, address: u64, bytes: usize, write: bool) -> Result<&mut [u8], String> {
        if address >= CONSTANT_BASE {
            if write {
                return Err(format!("writes constant memory at {address:#x}"));
            }
            let offset = address - CONSTANT_BASE;
            return checked(|| "constant memory".into(), &mut self.constants, offset, bytes);
        }
        let index = (address / STRIDE) as usize;
        let count = self.buffers.len();
        let buffer = index
            .checked_sub(1)
            .and_then(|i| self.buffers.get_mut(i))
            .ok_or_else(|| format!("address {address:#x} is in none of {count} buffers"))?;
        checked(|| format!("buffer {index}"), buffer, address % STRIDE, bytes)
    }
}

/// A slice of `memory`, or an error that names what was touched. `bytes` is a power of two.
pub fn checked(
    name: impl Fn() -> String,
    memory: &mut [u8],
    offset: u64,
    bytes: usize,
) -> Result<&mut [u8], String> {
    let size = memory.len();
    let at = offset as usize;
    if at & (bytes - 1) != 0 {
        return Err(format!("{bytes} bytes at misaligned offset {offset} of {}", name()));
    }
    memory
        .get_mut(at..at.saturating_add(bytes))
        .ok_or_else(|| format!("{bytes} bytes at offset {offset} of {}, which has {size}", name()))
}

/// The value in up to 8 bytes.
pub fn read(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("values have 1, 2, 4 or 8 bytes"),
    }
}

/// Puts the low bytes of a value into memory.
pub fn write(bytes: &mut [u8], value: u64) {
    let count = bytes.len();
    bytes.copy_from_slice(&value.to_le_bytes()[..count]);
}
