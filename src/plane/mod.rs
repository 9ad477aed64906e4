//! Where logits may lie: memory that callers on the same host share, instead of bytes on a socket.
//!
//! [`shm`] holds the regions: what was handed over, to whom it belongs, and the one copy out of it.
//! [`control`] is the socket where they are handed over. [`pool`] is the memory they are copied into.

pub mod control;
pub mod pool;
pub mod shm;
