//! Compiles the public API from `proto/` in pure Rust (no protoc is needed), and the CUDA kernels for the
//! CPU with an ordinary C++ compiler.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    compile_api(&out)?;
    compile_shim();
    Ok(())
}

fn compile_api(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["logitd/v1/sampler.proto"], ["proto"])?;

    // Reflection serves the descriptors, comments left out.
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

/// The builds of the kernels for the CPU, and what each defines. `src/backend/cuda/shim.rs` has the same.
const SHIM_BUILDS: &[(&str, &[(&str, &str)])] = &[
    ("shipped", &[]),
    (
        "small",
        &[
            ("LOGITD_THREADS", "64"),
            ("LOGITD_LIST", "32"),
            ("LOGITD_COUNT_BINS", "64"),
            ("LOGITD_MASS_BINS", "64"),
        ],
    ),
];

fn compile_shim() {
    println!("cargo::rerun-if-changed=kernels");
    let compiler = || {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").define("LOGITD_SIMT", None);
        // What is optimised is what runs: without it the proof would take minutes. And a contracted
        // multiply-add would be another arithmetic.
        build.opt_level(2).flag("-ffp-contract=off").flag("-Wno-unknown-pragmas");
        build
    };
    let mut objects = Vec::new();
    for (name, defines) in SHIM_BUILDS {
        let mut build = compiler();
        build.file("kernels/host/shim.cpp").define("LOGITD_SHIM_NAME", *name);
        for (key, value) in *defines {
            build.define(key, *value);
        }
        // Objects are named after their source, so each build has a folder.
        let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it")).join(name);
        objects.extend(build.out_dir(out).compile_intermediates());
    }
    compiler().file("kernels/host/engine.cpp").objects(objects).compile("logitd_shim");
}
