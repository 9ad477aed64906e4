//! What computes: devices by their names, how they are opened, and what is used where one cannot be had.

mod choice;
mod name;
mod open;

pub use choice::DeviceChoice;
pub use name::{BackendName, describe};
pub use open::{KernelTier, OpenError, Opened};
