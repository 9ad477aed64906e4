//! Backends for what was asked for: one device, all of a kind, or the best there are.

use super::DeviceChoice;
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuError, CpuOptions};
use logitd_core::backend::cuda::region::RegionExporter;
use logitd_core::backend::cuda::{self, Cuda, CudaOptions, Unavailable};
use logitd_core::backend::reference::Reference;

/// The backends that were asked for.
#[derive(Default)]
pub struct Opened {
    /// One or more.
    pub backends: Vec<Box<dyn Backend>>,
    /// Where the kernels of each come from.
    pub tiers: Vec<KernelTier>,
    /// Memory of the devices for callers on this host, where that was asked for and can be had.
    pub regions: Vec<RegionExporter>,
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

impl DeviceChoice {
    /// Makes the backends that were asked for.
    pub fn open(&self, cpu: CpuOptions, cuda: &CudaOptions) -> Result<Opened, OpenError> {
        match self {
            Self::Auto => open_best(cpu, cuda),
            Self::Cpu => open_cpu(cpu, Vec::new()),
            Self::Reference => Ok(Opened::one(Box::<Reference>::default(), "cpu")),
            Self::Cuda(devices) => self.open_cuda(devices, cuda),
        }
    }

    fn open_cuda(&self, devices: &[u32], options: &CudaOptions) -> Result<Opened, OpenError> {
        let choice = self.clone();
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

fn open_cpu(cpu: CpuOptions, notes: Vec<String>) -> Result<Opened, OpenError> {
    Ok(Opened { notes, ..Opened::one(Box::new(Cpu::new(cpu)?), "cpu") })
}

/// Every CUDA device that works. Whoever asks for instructions or threads wants the processor.
fn open_best(cpu: CpuOptions, options: &CudaOptions) -> Result<Opened, OpenError> {
    if cpu != CpuOptions::default() {
        let note = "CUDA is not looked for: --isa and --threads are for the processor";
        return open_cpu(cpu, vec![note.into()]);
    }
    let count = match cuda::count() {
        Ok(count) => count,
        Err(reason) => return open_cpu(cpu, vec![format!("CUDA is not used: {reason}")]),
    };
    let mut opened = Opened::default();
    for ordinal in 0..count {
        match Cuda::open(ordinal, options) {
            Ok(cuda) => opened.add(cuda, options),
            Err(reason) => opened.notes.push(format!("a CUDA device is not used: {reason}")),
        }
    }
    match opened.backends.is_empty() {
        true => open_cpu(cpu, opened.notes),
        false => Ok(opened),
    }
}

impl Opened {
    /// One that needs nothing else.
    pub fn one(backend: Box<dyn Backend>, tier: &'static str) -> Self {
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
    pub fn is_on_cpu(&self) -> bool {
        self.tiers.iter().all(|tier| tier.tier == "cpu")
    }
}
