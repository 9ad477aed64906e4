//! Compiles the CUDA kernels for the CPU with an ordinary C++ compiler, and for GPUs with nvcc where it is
//! found.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    compile_shim();
    embed_kernels(&out)?;
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

/// The chips that the fatbin has code for. `.ci/run kernels` compiles for the same ones.
const CHIPS: &[u32] = &[75, 80, 86, 89, 90, 100, 120];

/// Writes `kernels.rs`, which `src/backend/cuda/kernels.rs` includes: the sources, for NVRTC to compile at
/// start, and the fatbin if there is an nvcc. That there is none, or that it fails, fails no build.
fn embed_kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("kernels");
    let mut names: Vec<String> = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    names.retain(|name| name.ends_with(".cuh"));
    names.sort();

    let mut text = String::from(
        "/// The headers of `sample.cu`, by name.\nconst HEADERS: &[(&str, &str)] = &[\n",
    );
    for name in &names {
        writeln!(text, "    ({name:?}, include_str!({:?})),", folder.join(name))?;
    }
    let source = folder.join("sample.cu");
    writeln!(text, "];\n/// The kernels.\nconst SOURCE: &str = include_str!({source:?});")?;
    let fatbin = out.join("kernels.fatbin");
    let image = match nvcc() {
        None => "None".into(),
        Some(nvcc) => match compile_fatbin(&nvcc, &source, &fatbin) {
            Ok(()) => format!("Some(&Aligned(*include_bytes!({fatbin:?})))"),
            Err(reason) => {
                println!(
                    "cargo::warning={} does not compile the kernels, so this build carries their sources only: {}",
                    nvcc.display(),
                    reason.trim().replace('\n', " / ")
                );
                "None".into()
            }
        },
    };
    writeln!(text, "/// Their code for GPUs, where the build had nvcc.")?;
    writeln!(text, "static FATBIN: Option<&Aligned<[u8]>> = {image};")?;
    std::fs::write(out.join("kernels.rs"), text)?;
    Ok(())
}

/// `NVCC`, or the one of `CUDA_HOME`, or the first on the path.
fn nvcc() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(named) = variable("NVCC") {
        return Some(named.into());
    }
    let of_home = variable("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = variable("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("nvcc"));
    of_home.into_iter().chain(on_path).find(|nvcc| nvcc.is_file())
}

/// Code for every chip, and PTX for the oldest, which chips to come compile for themselves.
fn compile_fatbin(nvcc: &Path, source: &Path, fatbin: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let mut command = Command::new(nvcc);
    command.args([
        "--std=c++17",
        "-O3",
        "-fmad=false",
        "-ftz=false",
        "-prec-div=true",
        "-prec-sqrt=true",
    ]);
    command.args(["--threads", "0", "-fatbin", "-o"]).arg(fatbin).arg(source);
    for chip in CHIPS {
        command.arg("-gencode").arg(format!("arch=compute_{chip},code=sm_{chip}"));
    }
    command.arg("-gencode").arg(format!("arch=compute_{0},code=compute_{0}", CHIPS[0]));
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}
