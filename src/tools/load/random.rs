//! Random numbers that can be asked for in any order: the counter-based generator once more.
//!
//! What a request is made of is a function of `(seed, index of the request)` alone, so that any request
//! of a run can be made again without those before it.

use logitd_core::arithmetic::philox::philox4x32_10;

/// A purpose that no draw of a token has.
const PURPOSE: u32 = u32::from_be_bytes(*b"load");

/// 64 random bits: number `n` of request (or gap, or row) `index` of a run with this seed.
pub(super) fn bits(seed: u64, index: u64, n: u32) -> u64 {
    let counter = [index as u32, (index >> 32) as u32, n, PURPOSE];
    let out = philox4x32_10(counter, [seed as u32, (seed >> 32) as u32]);
    u64::from(out[0]) | u64::from(out[1]) << 32
}

/// 0 to `n - 1`.
pub(super) fn below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// Above 0, up to 1: safe to take a logarithm of.
pub(super) fn unit(bits: u64) -> f64 {
    ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64
}
