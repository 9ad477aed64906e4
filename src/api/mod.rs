//! The public API, `logitd.v1`: `generated.rs` and `descriptors.bin` are made from
//! `proto/logitd/v1/sampler.proto` by `proto/generate/`, after every change of it.

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
        let source = include_bytes!("../../proto/logitd/v1/sampler.proto");
        let head = include_str!("generated.rs").lines().next().unwrap();
        let checksum = format!("(CRC-32 {:08x})", crc32fast::hash(source));
        assert!(
            head.contains(&checksum),
            "sampler.proto has changed: cargo run --manifest-path proto/generate/Cargo.toml"
        );
    }
}
