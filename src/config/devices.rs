//! What the engine computes with, as configured.

use super::{Config, DeviceChoice};
use crate::backend::Backend;
use crate::backend::cpu::{Cpu, CpuError, CpuOptions, Isa};
use crate::backend::reference::Reference;
use crate::engine::{Devices, MakeBackend, Verify};

impl Config {
    /// The backends that were asked for, what takes over from them, and what checks them.
    pub fn devices(&self) -> Result<Devices, CpuError> {
        let backends = self.device.open()?;
        Ok(Devices { backends, fallback: self.fallback(), verify: self.verify() })
    }

    /// Plain Rust on the processor: the same bits, from code that shares no instruction set with what
    /// failed. The oracle is not replaced: whoever serves from it wants no other.
    fn fallback(&self) -> Option<MakeBackend> {
        let threads = self.device.threads;
        let options = CpuOptions { isa: Some(Isa::Portable), threads };
        let make: MakeBackend =
            Box::new(move || Box::new(Cpu::new(options).expect("plain Rust runs everywhere")));
        (self.device.device != DeviceChoice::Reference).then_some(make)
    }

    /// The oracle checks the processor; it is the more independent opinion.
    fn verify(&self) -> Option<Verify> {
        let work = &self.work;
        let oracle = || Box::<Reference>::default() as Box<dyn Backend>;
        (work.verify_fraction > 0.0).then(|| Verify {
            strict: work.verify_strict,
            dump_folder: work.verify_dump_dir.clone(),
            dumps_max: work.verify_dumps_max as usize,
            ..Verify::new(work.verify_fraction, Box::new(oracle))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(args: &[&str]) -> Devices {
        Config::from_args(["serve"].iter().chain(args)).unwrap().devices().unwrap()
    }

    #[test]
    fn the_processor_has_a_fallback_and_is_checked_when_asked() {
        let devices_plain = devices(&["--device=cpu"]);
        assert!(devices_plain.verify.is_none());
        let fallback = (devices_plain.fallback.unwrap())();
        assert_eq!(fallback.device().isa, "portable");
        assert!(devices(&["--device=reference"]).fallback.is_none());

        let args = ["--verify-fraction=0.5", "--verify-strict", "--verify-dump-dir=/d"];
        let verify = devices(&args).verify.unwrap();
        assert!(verify.strict && verify.fraction == 0.5);
        assert_eq!(verify.dump_folder.unwrap().to_str(), Some("/d"));
        assert_eq!((verify.backend)().device().id, "reference");
    }
}
