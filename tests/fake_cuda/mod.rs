//! Builds the fake driver, once for all tests, and runs the real binary with it. README.md beside this
//! file says what it does.

#![allow(dead_code)] // Each of the test binaries uses its own part.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The folder of `libcuda.so.1` and `libnvrtc.so`, for `LD_LIBRARY_PATH`.
pub fn folder() -> &'static str {
    static FOLDER: OnceLock<String> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let name = format!("fake_cuda-{:016x}", digest(root));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the fake driver");
        let engine = root.join("kernels/host/engine.cpp");
        let sources = root.join("tests/fake_cuda");
        build(&folder, "libcuda.so.1", &[sources.join("cuda.cpp"), engine]);
        build(&folder, "libnvrtc.so", &[sources.join("nvrtc.cpp")]);
        folder.into_os_string().into_string().expect("a path of text")
    })
}

/// Of everything that the libraries are made of.
fn digest(root: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    for folder in ["kernels", "kernels/host", "tests/fake_cuda"] {
        let entries = root.join(folder).read_dir().expect("a folder of sources");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.is_file());
        files.sort();
        files.iter().for_each(|path| std::fs::read(path).unwrap().hash(&mut hasher));
    }
    hasher.finish()
}

/// Compiles a library unless it is there. Whoever else does the same at the same time ends with the same.
fn build(folder: &Path, name: &str, sources: &[PathBuf]) {
    let library = folder.join(name);
    if library.exists() {
        return;
    }
    let unfinished = folder.join(format!("{name}.{}", std::process::id()));
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-std=c++17", "-O2", "-ffp-contract=off", "-fvisibility=hidden"])
        .args(["-Wno-unknown-pragmas", "-DLOGITD_SIMT", "-Wl,-Bsymbolic"])
        .arg(format!("-Wl,-soname,{name}"))
        .arg("-o")
        .arg(&unfinished)
        .args(sources)
        .arg("-pthread")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(unfinished, library).expect("in the same folder");
}

/// A command of the real binary with the fake driver, without the environment's settings.
pub fn logitd(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logitd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOGITD_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.args(args).env("LD_LIBRARY_PATH", folder()).envs(variables.iter().copied());
    command.output().expect("it runs")
}

/// The standard output of a command that succeeds.
#[track_caller]
pub fn ok(args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = logitd(args, variables);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} {variables:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Loads both libraries into this process. Whoever asks for them by name from then on gets these.
pub fn load() {
    for name in ["libcuda.so.1", "libnvrtc.so"] {
        let path = std::ffi::CString::new(format!("{}/{name}", folder())).unwrap();
        // SAFETY: the libraries' initializers do nothing but initialize.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{path:?} does not load");
    }
}
