//! Backends by the names that `verify` compares, and as people read them.

use crate::backend::cpu::{Cpu, CpuOptions, Isa};
use crate::backend::{Backend, reference::Reference};
use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// A backend by name: `reference`, `cpu`, `cpu:portable`, `cpu:avx2`, `cpu:avx512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendName {
    /// The oracle.
    Reference,
    /// The processor, with these instructions or the best ones.
    Cpu(Option<Isa>),
}

impl BackendName {
    /// The backend, ready to work. `threads` is for the processor; 0 is one for each core.
    pub fn open(self, threads: usize) -> Result<Box<dyn Backend>, Box<dyn Error>> {
        Ok(match self {
            Self::Reference => Box::<Reference>::default(),
            Self::Cpu(isa) => Box::new(Cpu::new(CpuOptions { isa, threads })?),
        })
    }
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (device, isa) = match name.split_once(':') {
            Some((device, isa)) => (device, Some(isa.parse().map_err(|_| wrong())?)),
            None => (name, None),
        };
        match (device, isa) {
            ("reference", None) => Ok(Self::Reference),
            ("cpu", isa) => Ok(Self::Cpu(isa)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference => f.write_str("reference"),
            Self::Cpu(None) => f.write_str("cpu"),
            Self::Cpu(Some(isa)) => write!(f, "cpu:{isa}"),
        }
    }
}

fn wrong() -> String {
    "there are: reference, cpu, cpu:portable, cpu:avx2, cpu:avx512".into()
}

/// What a backend is and runs on, for people: `cpu (avx512, 8 threads)`.
pub fn describe(backend: &dyn Backend) -> String {
    let device = backend.device();
    match (device.isa.as_str(), device.threads) {
        ("none", _) => device.id.clone(),
        (isa, 0) => format!("{} ({isa})", device.id),
        (isa, 1) => format!("{} ({isa}, 1 thread)", device.id),
        (isa, threads) => format!("{} ({isa}, {threads} threads)", device.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for name in ["reference", "cpu", "cpu:portable", "cpu:avx2", "cpu:avx512"] {
            assert_eq!(name.parse::<BackendName>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "cpu:", "cpu:neon", "reference:avx2"] {
            assert!(name.parse::<BackendName>().unwrap_err().contains("cpu:avx2"), "{name}");
        }
    }
}
