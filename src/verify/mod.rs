//! What parity is checked with: rows that are hard to get right, made from a seed.

pub mod generate;
