//! The kernels as nvcc compiles them, where there is an nvcc.

use super::parse::{Module, parse};
use super::program::{Program, prepare};
use crate::common::skipped;
use logitd_shim::Build;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

/// The chips that the kernels are shipped for. `.ci/run kernels` has the same, and the same flags.
pub const CHIPS: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];
pub const FLAGS: [&str; 6] =
    ["--std=c++17", "-O3", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true"];

/// Where the kernels are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// The kernels, compiled for one chip.
pub struct Kernels {
    pub text: String,
    pub module: Module,
    pub grid: Program,
    pub cluster: Program,
    pub adjust: Program,
    pub cut: Program,
    pub inspect: Program,
    pub probe: Program,
}

impl Kernels {
    /// Of the PTX of `kernels/sample.cu`.
    pub fn read(text: String) -> Result<Self, String> {
        let module = parse(&text)?;
        let program = |name| prepare(module.entry(name)?);
        let grid = program("logitd_sample_grid")?;
        let cluster = program("logitd_sample_cluster")?;
        let adjust = program("logitd_adjust")?;
        let cut = program("logitd_cut")?;
        let inspect = program("logitd_inspect")?;
        let probe = program("logitd_probe")?;
        Ok(Self { text, module, grid, cluster, adjust, cut, inspect, probe })
    }
}

/// nvcc, or a line on stderr that says that there is none.
///
/// # Panics
/// If there is none and `LOGITD_REQUIRE_NVCC` is set.
pub fn nvcc_or_skip(test: &str) -> Option<&'static Path> {
    static FOUND: LazyLock<Option<PathBuf>> = LazyLock::new(find);
    let found = FOUND.as_deref();
    if found.is_none() {
        let required =
            std::env::var("LOGITD_REQUIRE_NVCC").is_ok_and(|v| !v.is_empty() && v != "0");
        let why = "there is no nvcc in NVCC, CUDA_HOME/bin or PATH";
        assert!(!required, "{test} needs nvcc, and LOGITD_REQUIRE_NVCC is set: {why}");
        skipped(test, why);
    }
    found
}

/// `NVCC`, or the one of `CUDA_HOME`, or the first on the path.
fn find() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(named) = variable("NVCC") {
        return Some(named.into());
    }
    let of_home = variable("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let path = variable("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("nvcc"));
    of_home.into_iter().chain(on_path).find(|nvcc| nvcc.is_file())
}

/// The kernels of a build for a chip. Compiled once a process.
pub fn kernels(nvcc: &Path, chip: u32, build: Build) -> Arc<Kernels> {
    type Cell = Arc<OnceLock<Arc<Kernels>>>;
    static DONE: LazyLock<Mutex<HashMap<(u32, Build), Cell>>> = LazyLock::new(Mutex::default);
    let cell = DONE.lock().expect("nobody panics here").entry((chip, build)).or_default().clone();
    let compile = || {
        let text = compile(nvcc, &sources().join("sample.cu"), chip, &FLAGS, defines(build));
        Arc::new(text.and_then(Kernels::read).unwrap_or_else(|e| panic!("sm_{chip}: {e}")))
    };
    cell.get_or_init(compile).clone()
}

/// What a build defines: as `kernels/host/build.rs` does for the shim.
fn defines(build: Build) -> &'static [&'static str] {
    match build {
        Build::Shipped => &[],
        Build::Small => &[
            "-DLOGITD_THREADS=64",
            "-DLOGITD_LIST=32",
            "-DLOGITD_COUNT_BINS=64",
            "-DLOGITD_MASS_BINS=64",
        ],
    }
}

/// CUDA C++ -> PTX.
pub fn compile(
    nvcc: &Path,
    source: &Path,
    chip: u32,
    flags: &[&str],
    more_flags: &[&str],
) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let out = folder.path().join("out.ptx");
    let mut command = Command::new(nvcc);
    command.args(flags).args(more_flags).arg("-I").arg(sources());
    command.arg("-ptx").arg(format!("-arch=compute_{chip}")).arg("-o").arg(&out).arg(source);
    let output = command.output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed, {}:\n{said}", output.status));
    }
    std::fs::read_to_string(&out).map_err(|e| format!("{}: {e}", out.display()))
}
