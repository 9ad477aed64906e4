//! The instruction sets that rows can be sampled with.

use std::fmt;
use std::str::FromStr;

/// A family of vector instructions that the rows are sampled with.
///
/// Every one gives the same bits. What this machine has is chosen at run time; a flag forces one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, as the target's baseline compiles it. Runs everywhere.
    Portable,
    /// x86-64 with AVX2, FMA and F16C: 256 bits.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL, VBMI2 and VNNI, and what avx2 needs: 512 bits.
    Avx512,
}

impl Isa {
    /// Every one, slowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The fastest one that this machine has.
    pub fn detect() -> Self {
        Self::supported().last().expect("portable code runs everywhere")
    }

    /// Those that this machine has, slowest first.
    pub fn supported() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_supported())
    }

    /// Whether this machine has it.
    pub fn is_supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The name used by flags and reports: `portable`, `avx2` or `avx512`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// What it needs of a machine, for people.
    pub const fn needs(self) -> &'static str {
        match self {
            Self::Portable => "plain Rust, as the target's baseline compiles it: runs everywhere",
            Self::Avx2 => "x86-64 with AVX2, FMA and F16C: 256 bits",
            Self::Avx512 => {
                "x86-64 with AVX-512 F, BW, DQ, VL, VBMI2 and VNNI, and what avx2 needs: 512 bits"
            }
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Self::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.into()))
    }
}

/// A name that is no instruction set's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instruction set {0:?} is unknown; there are: portable, avx2, avx512")]
pub struct UnknownIsa(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert!("sse9".parse::<Isa>().unwrap_err().to_string().contains("\"sse9\""));
    }
}
