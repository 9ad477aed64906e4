//! What is known of a device besides what it computes.

use super::metrics::DeviceMetrics;
use logitd_core::backend::DeviceInfo;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A device as the engine knows it.
pub(super) struct Device {
    pub info: Arc<DeviceInfo>,
    pub metrics: DeviceMetrics,
    /// Its results were wrong: it must not run another batch.
    pub condemned: AtomicBool,
}

impl Device {
    pub fn new(info: &DeviceInfo) -> Arc<Self> {
        let metrics = DeviceMetrics::new(&info.id);
        Arc::new(Self { info: Arc::new(info.clone()), metrics, condemned: false.into() })
    }
}
