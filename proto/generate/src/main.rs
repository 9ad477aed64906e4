//! Writes `proto/src/generated.rs` and `proto/src/descriptors.bin` from `proto/logitd/v1/sampler.proto`; with
//! `--check` it compares them instead.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let check = std::env::args().any(|argument| argument == "--check");
    let api = root.join("proto/src");
    let mut fresh = true;
    for (name, bytes) in [("generated.rs", code(&root)?), ("descriptors.bin", descriptors(&root)?)] {
        let path = api.join(name);
        if !check {
            std::fs::write(path, bytes)?;
        } else if std::fs::read(path).ok() != Some(bytes) {
            eprintln!("proto/src/{name} is not what proto/ says: {RENEW}");
            fresh = false;
        }
    }
    Ok(if fresh { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const RENEW: &str = "cargo run --manifest-path proto/generate/Cargo.toml";

/// The messages, the client and the server.
fn code(root: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let out = std::env::temp_dir().join(format!("logitd-generate-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    // Payloads as `Bytes`: slices of the buffer that a message was received in, not copies.
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::Codec")
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(compile(root)?)?;
    let code = std::fs::read_to_string(out.join("logitd.v1.rs"))?;
    std::fs::remove_dir_all(out)?;
    let source = std::fs::read(root.join("proto/logitd/v1/sampler.proto"))?;
    let checksum = crc32fast::hash(&source);
    let head = format!("// From sampler.proto (CRC-32 {checksum:08x}). Not to be edited: {RENEW}\n");
    Ok((head + &code).into_bytes())
}

/// What reflection serves: comments left out.
fn descriptors(root: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bare = compile(root)?;
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    Ok(prost::Message::encode_to_vec(&bare))
}

fn compile(root: &Path) -> Result<prost_types::FileDescriptorSet, Box<dyn Error>> {
    Ok(protox::compile(["logitd/v1/sampler.proto"], [root.join("proto")])?)
}
