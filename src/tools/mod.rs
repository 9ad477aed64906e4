//! What the commands do, without the printing.

pub mod generate;
pub mod load;
