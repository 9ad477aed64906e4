//! The kernels as the binary carries them, and the tiers of getting them onto a device.
//!
//! A build that found nvcc carries their code for every chip (build.rs has the list). Every build carries
//! the sources, which NVRTC compiles at start where the first does not work. Where neither does there is
//! no device.

use super::context::Context;
use super::nvrtc;
use cudarc::driver::sys::CUmodule;
use std::ffi::CString;
use std::fmt;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Aligned as the driver reads it.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

/// Where a device's code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Compiled when logitd was built.
    Fatbin,
    /// Compiled on this machine at start.
    Nvrtc,
}

impl Tier {
    /// The name used by reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fatbin => "fatbin",
            Self::Nvrtc => "nvrtc",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether this build carries compiled kernels.
pub fn has_fatbin() -> bool {
    FATBIN.is_some()
}

/// Loads the kernels for a chip of compute capability `chip` (90 for 9.0). The error says why each tier
/// failed.
pub(super) fn load(context: &mut Context, chip: u32) -> Result<(CUmodule, Tier), String> {
    let mut reasons = Vec::new();
    match FATBIN {
        None => reasons.push("no kernels are built in (build with nvcc for that)".to_owned()),
        Some(Aligned(image)) => match context.load(image) {
            Ok(module) => return Ok((module, Tier::Fatbin)),
            Err(reason) => reasons.push(format!("the kernels built in do not load: {reason}")),
        },
    }
    match compile(chip).and_then(|image| context.load(&image)) {
        Ok(module) => Ok((module, Tier::Nvrtc)),
        Err(reason) => {
            reasons.push(reason);
            Err(reasons.join("; "))
        }
    }
}

/// Has NVRTC compile the sources.
pub fn compile(chip: u32) -> Result<Vec<u8>, String> {
    let text = |text: &str| CString::new(text).expect("sources have no zero bytes");
    let headers = HEADERS.iter().map(|(name, source)| (text(name), text(source))).collect();
    nvrtc::compile(&nvrtc::Program { source: text(SOURCE), headers }, chip)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same compiler that compiles at start, where it is installed; it needs no device. It is not nvcc:
    /// it knows no offsetof, for one.
    #[test]
    fn nvrtc_compiles_what_is_carried() {
        for chip in [75, 90, 121] {
            match compile(chip) {
                Ok(image) => assert!(image.len() > 1000, "sm_{chip}: {} bytes", image.len()),
                Err(reason) if reason.contains("not here") => {
                    let required = std::env::var_os("LOGITD_REQUIRE_NVRTC").is_some();
                    assert!(!required, "LOGITD_REQUIRE_NVRTC is set, but: {reason}");
                    return eprintln!("SKIPPED nvrtc_compiles_what_is_carried: {reason}");
                }
                Err(reason) => panic!("sm_{chip}: {reason}"),
            }
        }
    }

    #[test]
    fn every_header_is_carried() {
        let names: Vec<&str> = HEADERS.iter().map(|(name, _)| *name).collect();
        for text in HEADERS.iter().map(|(_, text)| text).chain([&SOURCE]) {
            for line in text.lines().filter_map(|line| line.strip_prefix("#include \"")) {
                let name = line.trim_end_matches('"');
                assert!(names.contains(&name) || name.starts_with("host/"), "{name}");
            }
        }
    }
}
