//! Backends by the names that `verify` compares, and as people read them.

use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::cuda::{Cuda, CudaOptions};
use logitd_core::backend::{Backend, reference::Reference};
use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// A backend by name: `reference`, `cpu`, `cpu:portable`, `cpu:avx2`, `cpu:avx512`, `cuda`, `cuda:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendName {
    /// The oracle.
    Reference,
    /// The processor, with these instructions or the best ones.
    Cpu(Option<Isa>),
    /// The CUDA device with this number.
    Cuda(u32),
}

impl BackendName {
    /// The backend, ready to work. `threads` is for the processor; 0 is one for each core.
    pub fn open(
        self,
        threads: usize,
        cuda: &CudaOptions,
    ) -> Result<Box<dyn Backend>, Box<dyn Error>> {
        Ok(match self {
            Self::Reference => Box::<Reference>::default(),
            Self::Cpu(isa) => Box::new(Cpu::new(CpuOptions { isa, threads })?),
            Self::Cuda(ordinal) => Box::new(Cuda::open(ordinal, cuda)?),
        })
    }
}

impl BackendName {
    /// Whether both are the same code on the same device.
    pub fn is_same(self, other: Self) -> bool {
        let named = |name| match name {
            Self::Cpu(None) => Self::Cpu(Some(Isa::detect())),
            name => name,
        };
        named(self) == named(other)
    }
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (device, variant) = match name.split_once(':') {
            Some((device, variant)) => (device, Some(variant)),
            None => (name, None),
        };
        match (device, variant) {
            ("reference", None) => Ok(Self::Reference),
            ("cpu", None) => Ok(Self::Cpu(None)),
            ("cpu", Some(isa)) => Ok(Self::Cpu(Some(isa.parse().map_err(|_| wrong())?))),
            ("cuda", None) => Ok(Self::Cuda(0)),
            ("cuda", Some(ordinal)) => Ok(Self::Cuda(ordinal.parse().map_err(|_| wrong())?)),
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
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

fn wrong() -> String {
    "there are: reference, cpu, cpu:portable, cpu:avx2, cpu:avx512, cuda:0 (and so on)".into()
}

/// What a backend is and runs on, for people: `cpu (avx512, 8 threads)`.
pub fn describe(backend: &dyn Backend) -> String {
    let device = backend.device();
    if device.id.starts_with("cuda") {
        return format!("{} ({}, {})", device.id, device.name, device.isa);
    }
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
    fn the_best_instructions_are_the_same_by_either_name() {
        let name = |name: &str| name.parse::<BackendName>().unwrap();
        let best = name(&format!("cpu:{}", Isa::detect()));
        assert!(name("cpu").is_same(best) && best.is_same(name("cpu")));
        assert!(name("cuda").is_same(name("cuda:0")));
        assert!(!name("cuda:0").is_same(name("cuda:1")) && !name("cpu").is_same(name("reference")));
    }

    #[test]
    fn names_are_read_as_they_are_shown() {
        for name in
            ["reference", "cpu", "cpu:portable", "cpu:avx2", "cpu:avx512", "cuda:0", "cuda:7"]
        {
            assert_eq!(name.parse::<BackendName>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "cpu:", "cpu:neon", "reference:avx2", "cuda:", "cpu:0"] {
            assert!(name.parse::<BackendName>().unwrap_err().contains("cpu:avx2"), "{name}");
        }
    }
}
