//! Compiles the public API from `proto/`, in pure Rust: no protoc is needed.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["logitd/v1/sampler.proto"], ["proto"])?;

    // Reflection serves the descriptors, comments left out.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("logitd_descriptor.bin"), prost::Message::encode_to_vec(&bare))?;

    // Payloads as `Bytes`: slices of the buffer that a message was received in, not copies.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::api::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}
