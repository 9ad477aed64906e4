//! The kernels as the binary carries them, and the tiers of getting them onto a device.
//!
//! A build that found nvcc carries their code for every chip (build.rs of `logitd-kernels` has the list). Every build carries
//! the sources, which NVRTC compiles at start where the first does not work. Where neither does there is
//! no device.

use super::context::{Context, Version, driver_version};
use super::nvrtc;
use cudarc::driver::sys::CUmodule;
use logitd_kernels::{HEADERS, NVCC_RELEASE, SOURCE, fatbin};
use std::ffi::CString;
use std::fmt;

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
    fatbin().is_some()
}

/// The release of the nvcc that compiled them, "13.0", as it says.
pub fn compiled_by() -> Option<&'static str> {
    NVCC_RELEASE
}

/// The kernels on a device.
pub(super) struct Loaded {
    pub module: CUmodule,
    pub tier: Tier,
    /// Why the kernels built in, if there are any, are not those.
    pub note: Option<String>,
}

/// Loads the kernels for a chip of compute capability `chip` (90 for 9.0). The error says why each tier
/// failed.
pub(super) fn load(context: &mut Context, chip: u32) -> Result<Loaded, String> {
    let note = match fatbin() {
        None => None,
        Some(image) => match context.load(image) {
            Ok(module) => return Ok(Loaded { module, tier: Tier::Fatbin, note: None }),
            Err(reason) => Some(format!(
                "the kernels built in do not load: {reason}{}",
                compiled_by()
                    .and_then(|nvcc| too_new(nvcc, driver_version().ok()?))
                    .unwrap_or_default()
            )),
        },
    };
    match compile(chip).and_then(|image| context.load(&image)) {
        Ok(module) => Ok(Loaded { module, tier: Tier::Nvrtc, note }),
        Err(reason) => {
            let none = "no kernels are built in (build with nvcc for that)";
            Err(format!("{}; {reason}", note.as_deref().unwrap_or(none)))
        }
    }
}

/// What to do about code of an nvcc that is newer than the driver, by NVIDIA's rule: drivers load what any release
/// of their own major version or an older one compiled, and nothing else is promised.
fn too_new(nvcc: &str, driver: Version) -> Option<String> {
    let major: u32 = nvcc.split('.').next()?.parse().ok()?;
    (major > driver.major).then(|| {
        format!(
            " (nvcc {nvcc} compiled them, for drivers that offer CUDA {major}.0 or later, and this one offers {driver}; \
             build with nvcc {driver}, or install a newer driver)"
        )
    })
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
                    return crate::backend::skipped::skipped(
                        "nvrtc_compiles_what_is_carried",
                        reason,
                    );
                }
                Err(reason) => panic!("sm_{chip}: {reason}"),
            }
        }
    }

    #[test]
    fn code_of_a_newer_major_version_than_the_drivers_is_said_to_be_that() {
        let driver = Version { major: 12, minor: 8 };
        for nvcc in ["12.8", "12.9", "11.8", "of no known release"] {
            assert_eq!(too_new(nvcc, driver), None, "{nvcc}");
        }
        let said = too_new("13.0", driver).unwrap();
        assert!(said.contains("offer CUDA 13.0 or later, and this one offers 12.8"), "{said}");
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
