//! What the commands do, without the printing.

pub mod bench;
mod drafter;
pub mod drift;
pub mod fleet;
pub mod generate;
pub mod load;
pub mod positions;
