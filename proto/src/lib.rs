//! The public API of logitd, `logitd.v1`: its messages, the gRPC client and server, a codec that decodes within
//! bounds, and the frames of shared memory and of direct calls.
//!
//! `generated.rs` and `descriptors.bin` are made from `logitd/v1/sampler.proto` by `generate/`, after every
//! change of it.

#![warn(missing_docs)]
#![forbid(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links)]

mod codec;
pub mod direct;
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
mod generated;
pub mod shm;

pub use codec::{Codec, PARAMS_MAX, decode};
pub use generated::*;

/// The encoded `FileDescriptorSet` of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

#[cfg(test)]
mod tests {
    #[test]
    fn the_generated_code_is_that_of_the_proto() {
        let source = include_bytes!("../logitd/v1/sampler.proto");
        let head = include_str!("generated.rs").lines().next().unwrap();
        let checksum = format!("(CRC-32 {:08x})", crc32fast::hash(source));
        assert!(
            head.contains(&checksum),
            "sampler.proto has changed: cargo run --manifest-path proto/generate/Cargo.toml"
        );
    }
}
