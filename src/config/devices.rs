//! What the engine computes with, as configured.

use super::{Config, DeviceConfig};
use crate::engine::{Devices, Dump, MakeBackend, Verify};
use crate::files::difference::writer;
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuError, CpuOptions, Isa};
use logitd_core::backend::cuda::region::Regions;
use logitd_core::backend::cuda::{self, Cuda, CudaOptions, Unavailable};
use logitd_core::backend::reference::Reference;
use std::fmt;
use std::str::FromStr;

/// What computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CUDA devices if there are any that work, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The slow oracle that everything else is checked against.
    Reference,
    /// The CUDA devices with these numbers; none named: all there are.
    Cuda(Vec<u32>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "reference" => Self::Reference,
            "cuda" => Self::Cuda(Vec::new()),
            _ => Self::Cuda(cuda_devices(name)?),
        })
    }
}

/// `cuda:0,2`, or `cuda:0,cuda:2`.
fn cuda_devices(name: &str) -> Result<Vec<u32>, String> {
    let wrong =
        || "there are: auto, cpu, cuda, cuda:0 (or cuda:0,1 and so on), reference".to_owned();
    let numbers = name.strip_prefix("cuda:").ok_or_else(wrong)?;
    let mut devices = Vec::new();
    for number in numbers.split(',') {
        let number = number.strip_prefix("cuda:").unwrap_or(number);
        let device = number.parse().map_err(|_| wrong())?;
        if devices.contains(&device) {
            return Err(format!("cuda:{device} is named twice"));
        }
        devices.push(device);
    }
    Ok(devices)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Reference => f.write_str("reference"),
            Self::Cuda(devices) if devices.is_empty() => f.write_str("cuda"),
            Self::Cuda(devices) => {
                let devices: Vec<String> = devices.iter().map(u32::to_string).collect();
                write!(f, "cuda:{}", devices.join(","))
            }
        }
    }
}

/// The backends that were asked for.
#[derive(Default)]
pub struct Opened {
    /// One or more.
    pub backends: Vec<Box<dyn Backend>>,
    /// Where the kernels of each come from.
    pub tiers: Vec<KernelTier>,
    /// Memory of the devices for callers on this host, where that was asked for and can be had.
    pub regions: Vec<Regions>,
    /// For the log: what was looked for and is not used, and why; what is not as usual on what is used.
    pub notes: Vec<String>,
}

/// Where a device's kernels come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTier {
    /// The device's id.
    pub device: String,
    /// `fatbin`, `nvrtc`, or `cpu` where there are none.
    pub tier: &'static str,
}

/// Why a device cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The processor.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// There is no CUDA.
    #[error("--device {choice} cannot be had: {reason}. --device cpu gives the same bits")]
    NoCuda {
        /// What was asked for.
        choice: DeviceChoice,
        /// What is missing.
        reason: String,
    },
    /// A CUDA device.
    #[error(
        "--device {choice} cannot be had: {reason}. Name others, or --device cpu, which gives the same bits"
    )]
    Cuda {
        /// What was asked for.
        choice: DeviceChoice,
        /// The device, and what is wrong with it.
        reason: Unavailable,
    },
}

impl DeviceConfig {
    /// Makes the backends that were asked for.
    pub fn open(&self, cuda: &CudaOptions) -> Result<Opened, OpenError> {
        match &self.device {
            DeviceChoice::Auto => self.open_best(cuda),
            DeviceChoice::Cpu => self.open_cpu(Vec::new()),
            DeviceChoice::Reference => Ok(Opened::one(Box::<Reference>::default(), "cpu")),
            DeviceChoice::Cuda(devices) => self.open_cuda(devices, cuda),
        }
    }

    /// What the processor computes with.
    fn cpu_options(&self) -> CpuOptions {
        CpuOptions { isa: self.isa, threads: self.threads }
    }

    fn open_cpu(&self, notes: Vec<String>) -> Result<Opened, OpenError> {
        Ok(Opened { notes, ..Opened::one(Box::new(Cpu::new(self.cpu_options())?), "cpu") })
    }

    /// Every CUDA device that works. Whoever asks for instructions or threads wants the processor.
    fn open_best(&self, options: &CudaOptions) -> Result<Opened, OpenError> {
        if self.isa.is_some() || self.threads > 0 {
            let note = "CUDA is not looked for: --isa and --threads are for the processor";
            return self.open_cpu(vec![note.into()]);
        }
        let count = match cuda::count() {
            Ok(count) => count,
            Err(reason) => return self.open_cpu(vec![format!("CUDA is not used: {reason}")]),
        };
        let mut opened = Opened::default();
        for ordinal in 0..count {
            match Cuda::open(ordinal, options) {
                Ok(cuda) => opened.add(cuda, options),
                Err(reason) => opened.notes.push(format!("a CUDA device is not used: {reason}")),
            }
        }
        match opened.backends.is_empty() {
            true => self.open_cpu(opened.notes),
            false => Ok(opened),
        }
    }

    fn open_cuda(&self, devices: &[u32], options: &CudaOptions) -> Result<Opened, OpenError> {
        let choice = self.device.clone();
        let no_cuda = |reason| OpenError::NoCuda { choice: choice.clone(), reason };
        let count = cuda::count().map_err(no_cuda)?;
        let all: Vec<u32> = (0..count).collect();
        let mut opened = Opened::default();
        for &ordinal in if devices.is_empty() { &all } else { devices } {
            let cuda = Cuda::open(ordinal, options);
            let cuda = cuda.map_err(|reason| OpenError::Cuda { choice: choice.clone(), reason })?;
            opened.add(cuda, options);
        }
        Ok(opened)
    }
}

impl Opened {
    fn one(backend: Box<dyn Backend>, tier: &'static str) -> Self {
        let device = backend.device().id.clone();
        Self {
            backends: vec![backend],
            tiers: vec![KernelTier { device, tier }],
            ..Self::default()
        }
    }

    fn add(&mut self, cuda: Cuda, options: &CudaOptions) {
        match options.regions.then(|| cuda.driver().regions()) {
            Some(Ok(regions)) => self.regions.push(regions),
            Some(Err(reason)) => self.notes.push(format!("no memory is offered: {reason}")),
            None => {}
        }
        let (device, tier) = (cuda.device().id.clone(), cuda.driver().tier().name());
        self.notes.extend(cuda.driver().notes().iter().map(|note| format!("{device}: {note}")));
        self.backends.push(Box::new(cuda));
        self.tiers.push(KernelTier { device, tier });
    }

    /// Whether the processor's own code computes.
    fn is_on_cpu(&self) -> bool {
        self.tiers.iter().all(|tier| tier.tier == "cpu")
    }
}

impl Config {
    /// Makes the backends that were asked for.
    pub fn open(&self) -> Result<Opened, OpenError> {
        self.device.open(&self.cuda.options())
    }

    /// These backends, with what takes over from them, and what checks them.
    pub fn devices(&self, opened: Opened) -> Devices {
        let on_cpu = opened.is_on_cpu();
        Devices {
            backends: opened.backends,
            fallback: self.fallback(on_cpu),
            verify: self.verify(on_cpu),
        }
    }

    /// From CUDA, the processor takes over with what it has; from the processor, plain Rust: the same bits, from
    /// code that shares no instruction set with what failed. The oracle is not replaced: whoever serves from it
    /// wants no other.
    fn fallback(&self, on_cpu: bool) -> Option<MakeBackend> {
        let plain = CpuOptions { isa: Some(Isa::Portable), threads: self.device.threads };
        let options = if on_cpu { plain } else { self.device.cpu_options() };
        let make: MakeBackend = Box::new(move || {
            let cpu = Cpu::new(options).or_else(|_| Cpu::new(plain));
            Box::new(cpu.expect("plain Rust runs everywhere"))
        });
        (self.device.device != DeviceChoice::Reference).then_some(make)
    }

    /// The oracle checks the processor; it is the more independent opinion. It would be too slow for what CUDA
    /// gets done, and the processor shares no code with the kernels either.
    fn verify(&self, on_cpu: bool) -> Option<Verify> {
        let work = &self.work;
        let checker: MakeBackend = match on_cpu {
            true => Box::new(|| Box::<Reference>::default()),
            false => self.fallback(false).expect("CUDA is no oracle"),
        };
        (work.verify_fraction > 0.0).then(|| Verify {
            strict: work.verify_strict,
            dump: work.verify_dump_dir.clone().map(|folder| Box::new(writer(folder)) as Dump),
            dumps_max: work.verify_dumps_max as usize,
            ..Verify::new(work.verify_fraction, checker)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(args: &[&str]) -> Devices {
        let config = Config::from_args(["serve"].iter().chain(args)).unwrap();
        config.devices(config.open().unwrap())
    }

    #[test]
    fn the_processor_has_a_fallback_and_is_checked_when_asked() {
        let devices_plain = devices(&["--device=cpu"]);
        assert!(devices_plain.verify.is_none());
        let fallback = (devices_plain.fallback.unwrap())();
        assert_eq!(fallback.device().isa, "portable");
        assert!(devices(&["--device=reference"]).fallback.is_none());

        let args =
            ["--device=cpu", "--verify-fraction=0.5", "--verify-strict", "--verify-dump-dir=/d"];
        let verify = devices(&args).verify.unwrap();
        assert!(verify.strict && verify.fraction == 0.5);
        assert!(verify.dump.is_some());
        assert_eq!((verify.backend)().device().id, "reference");
    }

    #[test]
    fn the_processor_takes_over_from_the_kernels_and_checks_them() {
        let args = ["serve", "--device=cuda", "--verify-fraction=1", "--threads=1"];
        let config = Config::from_args(args).unwrap();
        let on_kernels = Opened::one(Box::<Reference>::default(), "fatbin");
        let devices = config.devices(on_kernels);
        let fallback = (devices.fallback.unwrap())();
        assert_eq!(fallback.device().id, "cpu");
        assert_eq!(fallback.device().isa, Isa::detect().name());
        assert_eq!((devices.verify.unwrap().backend)().device().id, "cpu");
    }

    #[test]
    fn devices_are_read_as_they_are_shown() {
        for name in ["auto", "cpu", "reference", "cuda", "cuda:0", "cuda:3,1"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        let both = "cuda:0,cuda:1".parse::<DeviceChoice>();
        assert_eq!(both, Ok(DeviceChoice::Cuda(vec![0, 1])));
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0,", "cuda0", "cpu:0"] {
            assert!(name.parse::<DeviceChoice>().unwrap_err().contains("cuda:0,1"), "{name}");
        }
        assert!("cuda:1,1".parse::<DeviceChoice>().unwrap_err().contains("twice"));
    }
}
