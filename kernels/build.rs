//! Puts the sources of the CUDA kernels into the library, and their code for GPUs where nvcc is found.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    embed_kernels(&out)
}

/// The chips that the fatbin has code for. `.ci/run kernels` compiles for the same ones.
const CHIPS: &[u32] = &[75, 80, 86, 89, 90, 100, 120];

/// Writes `kernels.rs`, which `src/lib.rs` includes: the sources, for NVRTC to compile at
/// start, and the fatbin if there is an nvcc. That there is none, or that it fails, fails no build.
fn embed_kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let folder = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let mut names: Vec<String> = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    names.retain(|name| name.ends_with(".cuh"));
    names.sort();

    let mut text = String::from(
        "/// The headers of [`SOURCE`], by name.\npub const HEADERS: &[(&str, &str)] = &[\n",
    );
    for name in &names {
        println!("cargo::rerun-if-changed={name}");
        writeln!(text, "    ({name:?}, include_str!({:?})),", folder.join(name))?;
    }
    println!("cargo::rerun-if-changed=sample.cu");
    let source = folder.join("sample.cu");
    writeln!(
        text,
        "];\n/// The kernels: `sample.cu`.\npub const SOURCE: &str = include_str!({source:?});"
    )?;
    let fatbin = out.join("kernels.fatbin");
    let mut compiled_by = None;
    let image = match nvcc() {
        None => "None".into(),
        Some(nvcc) => match compile_fatbin(&nvcc, &source, &fatbin) {
            Ok(()) => {
                compiled_by = Some(release(&nvcc));
                format!("Some(&Aligned(*include_bytes!({fatbin:?})))")
            }
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
    writeln!(text, "/// The release of the nvcc that compiled them, as it says: \"13.0\".")?;
    writeln!(text, "pub const NVCC_RELEASE: Option<&str> = {compiled_by:?};")?;
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

/// The release of an nvcc, as it says: "13.0".
fn release(nvcc: &Path) -> String {
    let output = Command::new(nvcc).arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let after = said.unwrap_or_default().split_once("release ").map(|(_, after)| after.to_owned());
    let release = after.as_deref().and_then(|after| after.split([',', ' ', '\n']).next());
    release.unwrap_or("of no known release").to_owned()
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
