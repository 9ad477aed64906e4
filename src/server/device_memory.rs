//! Memory of CUDA devices, as the plane has it made.

use crate::engine::Engine;
use crate::plane::{DeviceMemory, Made};
use logitd_core::backend::cuda::region::RegionExporter;
use std::fmt;
use std::sync::Arc;

/// Makes memory on the devices that are up.
pub(super) struct CudaMemory {
    devices: Vec<RegionExporter>,
    engine: Engine,
}

impl CudaMemory {
    /// Makes it on these devices, if there is any.
    pub fn on(devices: Vec<RegionExporter>, engine: &Engine) -> Option<Arc<dyn DeviceMemory>> {
        let memory = Self { devices, engine: engine.clone() };
        (!memory.devices.is_empty()).then(|| Arc::new(memory) as Arc<dyn DeviceMemory>)
    }

    fn device(&self, number: u32) -> Result<&RegionExporter, String> {
        let id = format!("cuda:{number}");
        let found = self.devices.iter().find(|regions| regions.device() == id);
        found.ok_or_else(|| {
            let offered: Vec<_> = self.devices.iter().map(RegionExporter::device).collect();
            format!("there is no memory on {id} here; there is on {}", offered.join(", "))
        })
    }
}

impl DeviceMemory for CudaMemory {
    fn rounded(&self, device: u32, bytes: u64) -> Result<u64, String> {
        let rounded = self.device(device)?.rounded(bytes);
        rounded.ok_or_else(|| format!("{bytes} bytes do not fit a device"))
    }

    fn make(&self, device: u32, bytes: u64) -> Result<Made, String> {
        let regions = self.device(device)?;
        let id = regions.device();
        if !self.engine.devices().iter().any(|state| state.up && state.info.id == id) {
            return Err(format!(
                "{id} was taken out; send the logits as bytes, or register memory on a device that is up \
                 (GetInfo lists them)"
            ));
        }
        let (region, descriptor) =
            regions.make(bytes).map_err(|reason| format!("{id}: {reason}"))?;
        let bytes = region.bytes() as u64;
        Ok(Made { memory: Arc::new(region), descriptor, bytes, uuid: regions.uuid() })
    }
}

impl fmt::Debug for CudaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaMemory").field("devices", &self.devices).finish_non_exhaustive()
    }
}
