//! The public API, `logitd.v1`, generated from `proto/logitd/v1/sampler.proto`.

mod codec;
pub mod direct;
pub mod shm;

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod generated {
    tonic::include_proto!("logitd.v1");
}

pub use codec::{Codec, PARAMS_MAX, decode};
pub use generated::*;

/// The encoded `FileDescriptorSet` of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/logitd_descriptor.bin"));
