//! Memory between two pages that nobody may touch: whoever reads a byte too far ends the process.

// The one place of the suites that needs it: safe Rust has no way to take access from a page.
#![allow(unsafe_code)]

use std::ptr::{NonNull, null_mut};

/// Some pages, with one at each end that faults.
pub struct Guarded {
    mapping: NonNull<u8>,
    page: usize,
    size: usize,
}

impl Guarded {
    /// At least `size` bytes between the guards.
    pub fn new(size: usize) -> Self {
        // SAFETY: a query without arguments that point anywhere.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let size = size.next_multiple_of(page);
        let (read, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a fresh private mapping, at no address in particular; success is checked below.
        let mapping = unsafe { libc::mmap(null_mut(), size + 2 * page, read, flags, -1, 0) };
        assert_ne!(mapping, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let mapping = NonNull::new(mapping.cast::<u8>()).expect("a mapping is not at 0");
        for guard in [0, page + size] {
            // SAFETY: the first and the last page of the mapping just made.
            let denied = unsafe {
                libc::mprotect(mapping.as_ptr().add(guard).cast(), page, libc::PROT_NONE)
            };
            assert_eq!(denied, 0, "mprotect: {}", std::io::Error::last_os_error());
        }
        Self { mapping, page, size }
    }

    /// The last bytes before the guard.
    pub fn at_end(&mut self, bytes: usize) -> &mut [u8] {
        let size = self.size;
        &mut self.all()[size - bytes..]
    }

    /// The first bytes after the guard.
    pub fn at_start(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.all()[..bytes]
    }

    fn all(&mut self) -> &mut [u8] {
        // SAFETY: `size` readable and writable bytes start a page into the mapping, which lives as
        // long as `self`, which is borrowed mutably; fresh pages are zero.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.as_ptr().add(self.page), self.size) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole mapping made in `new`, which nothing borrows any more.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.size + 2 * self.page) };
    }
}
