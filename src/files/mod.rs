//! What is read from files, written to files, and carried in the binary as if it were one.

pub mod assets;
pub mod difference;
pub mod digests;
pub mod npy;
pub mod params;
pub mod vectors;
