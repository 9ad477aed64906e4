//! The public API of logitd, `logitd.v1`: its messages, the gRPC client and server, a codec that decodes within
//! bounds, and the frames of shared memory and of direct calls.
//!
//! `generated.rs`, `generated_fields.rs` and `descriptors.bin` are made from `logitd/v1/sampler.proto` by `generate/`, and
//! `generated_trace.rs` from `logitd/trace/v1/trace.proto`, after every change of them.

#![warn(missing_docs)]
#![forbid(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links)]

mod codec;
mod columns;
pub mod direct;
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
mod generated;
mod known;
mod rows;
mod sent;
pub mod shm;
/// Recorded traffic, `logitd.trace.v1`: what the frames of a trace hold.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated_trace.rs"]
pub mod trace;

pub use codec::{Codec, PARAMS_MAX, Received, decode};
pub use columns::WrongColumn;
pub use generated::*;
pub use rows::{RequestRows, RowLayout};
pub use sent::{Growing, Sent};

/// The encoded `FileDescriptorSet` of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

#[cfg(test)]
mod tests {
    #[test]
    fn the_generated_code_is_that_of_the_proto() {
        for (name, proto, generated) in [
            (
                "sampler.proto",
                &include_bytes!("../logitd/v1/sampler.proto")[..],
                include_str!("generated.rs"),
            ),
            (
                "trace.proto",
                &include_bytes!("../logitd/trace/v1/trace.proto")[..],
                include_str!("generated_trace.rs"),
            ),
        ] {
            let head = generated.lines().next().unwrap();
            let checksum = format!("From {name} (CRC-32 {:08x})", crc32fast::hash(proto));
            assert!(
                head.contains(&checksum),
                "{name} has changed: cargo run --manifest-path proto/generate/Cargo.toml"
            );
        }
    }
}
