//! Finds the sampler's source in the package `mistralrs-core`.
//!
//! That package keeps its sampler to itself (`mod sampler` is private, in 0.7.0 too), and a model
//! would have to be loaded to have it called. So its file is compiled where it lies, unchanged, with what it uses. The package
//! is not a dependency, since hundreds of crates would be compiled with it; cargo fetches it when it is asked about:
//!
//!     cargo info mistralrs-core@0.8.1

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The package's version, which is that of `mistralrs-quant` in Cargo.toml.
const VERSION: &str = "0.8.1";

fn main() {
    println!("cargo::rerun-if-env-changed=MISTRALRS_CORE");
    println!("cargo::rerun-if-changed=build.rs");
    let source = package().join("src/sampler.rs");
    assert!(
        source.is_file(),
        "there is no {}: `cargo info mistralrs-core@{VERSION}` fetches the package, and MISTRALRS_CORE=FOLDER names it where it lies elsewhere",
        source.display()
    );
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rustc-env=MISTRALRS_CORE_VERSION={VERSION}");
    // Much of the file is for others of its package.
    let module = format!("#[allow(warnings)]\n#[path = {:?}]\npub mod sampler;\n", source);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("sampler.rs");
    fs::write(out, module).expect("the folder is there to be written to");
}

/// Where the package lies: where it is said to, or where cargo unpacks what it fetches.
fn package() -> PathBuf {
    if let Some(folder) = env::var_os("MISTRALRS_CORE") {
        return folder.into();
    }
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    let sources = home.unwrap_or_default().join("registry/src");
    let name = format!("mistralrs-core-{VERSION}");
    let registries = fs::read_dir(&sources).into_iter().flatten().flatten();
    let mut packages = registries.map(|registry| registry.path().join(&name));
    packages.find(|package| package.is_dir()).unwrap_or(sources.join(name))
}
