//! Writes what `proto/src/` has of the proto files: the Rust of the API and of traces, and the descriptors of the API. With
//! `--check` it compares them instead.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let check = std::env::args().any(|argument| argument == "--check");
    let sources = root.join("proto/src");
    let mut fresh = true;
    for (name, bytes) in [
        ("generated.rs", code(&root, &API)?),
        ("generated_trace.rs", code(&root, &TRACE)?),
        ("descriptors.bin", descriptors(&root)?),
    ] {
        let path = sources.join(name);
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

/// A proto file, which is all of its package.
struct Proto {
    file: &'static str,
    package: &'static str,
    /// Packages that have been made already, and where their Rust is.
    known: &'static [(&'static str, &'static str)],
}

const API: Proto = Proto { file: "logitd/v1/sampler.proto", package: "logitd.v1", known: &[] };

const TRACE: Proto = Proto {
    file: "logitd/trace/v1/trace.proto",
    package: "logitd.trace.v1",
    known: &[(".logitd.v1", "crate")],
};

/// The messages, and of a service the client and the server.
fn code(root: &Path, proto: &Proto) -> Result<Vec<u8>, Box<dyn Error>> {
    let out = std::env::temp_dir().join(format!("logitd-generate-{}", std::process::id()));
    std::fs::create_dir_all(&out)?;
    // Payloads as `Bytes`: slices of the buffer that a message was received in, not copies.
    let config = tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::Codec")
        .emit_rerun_if_changed(false)
        .out_dir(&out);
    let known = proto.known.iter();
    let config = known.fold(config, |config, (package, path)| config.extern_path(*package, *path));
    config.compile_fds(compile(root, proto)?)?;
    let code = std::fs::read_to_string(out.join(format!("{}.rs", proto.package)))?;
    std::fs::remove_dir_all(out)?;
    let source = std::fs::read(root.join("proto").join(proto.file))?;
    let checksum = crc32fast::hash(&source);
    let name = proto.file.rsplit('/').next().unwrap_or(proto.file);
    let head = format!("// From {name} (CRC-32 {checksum:08x}). Not to be edited: {RENEW}\n");
    Ok((head + &code).into_bytes())
}

/// What reflection serves: comments left out.
fn descriptors(root: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bare = compile(root, &API)?;
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    Ok(prost::Message::encode_to_vec(&bare))
}

fn compile(root: &Path, proto: &Proto) -> Result<prost_types::FileDescriptorSet, Box<dyn Error>> {
    Ok(protox::compile([proto.file], [root.join("proto")])?)
}
