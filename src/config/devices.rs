//! What the engine computes with, as configured.

use super::{Config, DeviceConfig};
use crate::devices::{DeviceChoice, OpenError, Opened};
use crate::engine::{Devices, Dump, MakeBackend, Verify};
use crate::files::difference::writer;
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::cuda::CudaOptions;
use logitd_core::backend::reference::Reference;

impl DeviceConfig {
    /// What the processor computes with.
    pub fn cpu_options(&self) -> CpuOptions {
        CpuOptions { isa: self.isa, threads: self.threads }
    }

    /// Makes the backends that were asked for.
    pub fn open(&self, cuda: &CudaOptions) -> Result<Opened, OpenError> {
        self.device.open(self.cpu_options(), cuda)
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
}
