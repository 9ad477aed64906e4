//! What the commands do, without the printing.

pub mod drift;
pub mod generate;
pub mod load;
