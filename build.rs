//! What a build is, for `logitd --version`: its compiler, target and profile, and its commit where that is known.
//!
//! The commit is that of the published package, or `SOURCE_COMMIT` in the environment, as builders of images set it.
//! A working tree is not asked: what is compiled there need not be committed.

use std::error::Error;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    let rustc = Command::new(std::env::var("RUSTC")?).arg("--version").output()?.stdout;
    let compiler = String::from_utf8(rustc)?;
    let (target, profile) = (std::env::var("TARGET")?, std::env::var("PROFILE")?);
    let commit = commit()?.unwrap_or("unknown".into());
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=BUILD_FACTS={profile}, {target}, {}", compiler.trim());
    Ok(())
}

fn commit() -> Result<Option<String>, Box<dyn Error>> {
    if let Ok(commit) = std::env::var("SOURCE_COMMIT") {
        return Ok(Some(commit));
    }
    // cargo package writes it: {"git": {"sha1": "..."}}.
    let path = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join(".cargo_vcs_info.json");
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
    let after = text.split_once("\"sha1\"").and_then(|(_, after)| after.split('"').nth(1));
    Ok(after.map(str::to_owned))
}
