//! Builds of the kernels for this suite alone, made by the C++ compiler that the project needs anyway
//! (`c++`, or what `CXX` names), and kept while their sources stay as they are.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernels' folder.
const KERNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");

/// What kernels/host/build.rs gives the shim, but for the optimiser's level: what runs for a second is not worth
/// seconds of compiling. A geometry of little memory makes small rows take the ways
/// of large ones, and a list of four tokens a thread takes every way of sorting.
const FLAGS: [&str; 9] = [
    "-std=c++17",
    "-O1",
    "-Wno-unknown-pragmas",
    "-DLOGITD_SIMT",
    "-DLOGITD_SHIM_NAME=runner",
    "-DLOGITD_THREADS=64",
    "-DLOGITD_LIST=256",
    "-DLOGITD_COUNT_BINS=64",
    "-DLOGITD_MASS_BINS=64",
];

/// A source of the kernels: its path in `kernels/`, and its text.
#[derive(Clone, Hash)]
pub struct Source {
    /// As in `tile_masses.cuh`, or `host/simt.h`.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// The kernels' sources, in order of their paths.
pub fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in ["", "host/"] {
        let entries = std::fs::read_dir(Path::new(KERNELS).join(folder)).expect("kernels/");
        for entry in entries.map(|entry| entry.expect("kernels/").path()) {
            let name = entry.file_name().expect("an entry has a name").to_string_lossy();
            if [".cu", ".cuh", ".cpp", ".h"].iter().any(|end| name.ends_with(end)) {
                let text = std::fs::read_to_string(&entry).expect("a source is text");
                sources.push(Source { path: format!("{folder}{name}"), text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Compiles `mains` of these sources (and the engine with them) to a program.
///
/// # Errors
/// What the compiler said.
pub fn program(
    name: &str,
    sources: &[Source],
    main: &str,
    flags: &[&str],
) -> Result<PathBuf, String> {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let mut hasher = DefaultHasher::new();
    (sources, main, FLAGS, flags, &compiler).hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proof");
    let sources_folder = folder.join(format!("{name}-{:016x}", hasher.finish()));
    let path = sources_folder.join("program");
    if path.exists() {
        return Ok(path);
    }
    forget(&folder, name, &sources_folder);
    for source in sources {
        let to = sources_folder.join(&source.path);
        std::fs::create_dir_all(to.parent().expect("a folder above it")).expect("a folder");
        std::fs::write(to, &source.text).expect("a copy");
    }
    // By another name until it is whole: another test may want the same.
    let unfinished = sources_folder.join(format!("unfinished-{:?}", std::thread::current().id()));
    let mut command = Command::new(&compiler);
    // The shim's own flag first, so that a build may say otherwise.
    command.args(FLAGS).arg("-ffp-contract=off").args(flags);
    command.args([main, "host/engine.cpp"].map(|file| sources_folder.join(file)));
    command.args([OsString::from("-o"), unfinished.clone().into()]).stdin(Stdio::null());
    let output = command.output().map_err(|e| format!("{}: {e}", compiler.to_string_lossy()))?;
    if !output.status.success() {
        return Err(format!("{command:?}:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    std::fs::rename(&unfinished, &path).expect("a program can be renamed");
    Ok(path)
}

/// Removes what was compiled from other sources.
fn forget(folder: &Path, name: &str, keep: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let hash = entry.file_name().to_string_lossy().strip_prefix(name).map(str::len);
        if hash == Some("-0123456789abcdef".len()) && entry.path() != keep {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
