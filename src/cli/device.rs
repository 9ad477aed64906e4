//! Which device computes, as flags.

use crate::backend::{Backend, reference::Reference};
use clap::ValueEnum;
use std::error::Error;

/// What computes, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// What computes, where no --target does
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The best that this machine has
    Auto,
    /// The processor
    Cpu,
    /// The slow, sort-based oracle that everything else is checked against
    Reference,
}

impl DeviceArgs {
    /// The chosen device, ready to work.
    pub fn open(&self) -> Result<Box<dyn Backend>, Box<dyn Error>> {
        Ok(Box::new(Reference::default()))
    }
}
