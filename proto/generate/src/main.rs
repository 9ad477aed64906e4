//! Writes what `proto/src/` has of the proto files: the Rust of the API and of traces, and of the API the fields that
//! requests have, and the descriptors. With `--check` it compares them instead.

use prost_types::field_descriptor_proto::Type;
use std::error::Error;
use std::fmt::Write;
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
        ("generated_fields.rs", fields(&root)?),
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
        // One a draft, most of which are something smaller.
        .boxed(".logitd.v1.DraftDistribution.kind.logits")
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

/// The fields of every message that requests are made of.
fn fields(root: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let set = compile(root, &API)?;
    let file = set.file.iter().find(|file| file.package() == API.package).ok_or("no API")?;
    let mut code = format!("// From {}. Not to be edited: {RENEW}\nuse super::Fields;\n", API.file);
    let roots =
        ["SampleStreamRequest", "EvaluateStreamRequest", "VerifyStreamRequest", "BeamStepRequest"];
    let mut messages = roots.map(str::to_owned).to_vec();
    let mut next = 0;
    while let Some(name) = messages.get(next).cloned() {
        let message = file.message_type.iter().find(|message| message.name() == name);
        write!(code, "pub static {}: Fields = Fields(&[", constant(&name))?;
        for field in &message.ok_or("a message of the API")?.field {
            let of = match field.r#type() {
                Type::Message => {
                    let of = field.type_name().rsplit('.').next().unwrap_or_default().to_owned();
                    let value = format!("Some(&{})", constant(&of));
                    if !messages.contains(&of) {
                        messages.push(of);
                    }
                    value
                }
                _ => "None".into(),
            };
            write!(code, "({}, {:?}, {of}), ", field.number(), field.name())?;
        }
        code.truncate(code.len() - 2);
        code.push_str("]);\n");
        next += 1;
    }
    Ok(code.into_bytes())
}

/// `SAMPLE_REQUEST` of `SampleRequest`.
fn constant(message: &str) -> String {
    let mut name = String::new();
    for letter in message.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
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
