//! The function that a row of logits is put through, to the bit.
//!
//! Everything whose order could matter is an integer. A token's weight is a 64-bit fixed-point
//! *mass*, so sums are associative, and no thread count, SIMD width, batch or chip can change a
//! result. Floating point appears only element by element, in a fixed sequence of correctly rounded
//! IEEE binary32 operations.
//!
//! A row passes through the files of this folder in this order: [`key`] (the total order of tokens),
//! [`mass`] (temperature, and the weight of each token), [`cut`] (how many tokens top-k, top-p and
//! min-p keep), [`philox`] and [`draw`] or [`race`] (which of the kept tokens is drawn), [`logprob`]. What its
//! parameters come to, in constants and steps, is its [`plan`].
//!
//! Controls beyond those, and what is said of a whole row, stand on integers as well: [`fraction`] (a parameter
//! of [0, 1] and its share of a mass), [`surprisal`] (the logarithm of a mass), [`power`] (its inverse), [`mod@log2`] (that
//! of a sum), [`interval`] (mean surprisal and entropy), [`score`] (a log-probability whose sums have no order). The cuts that
//! use them: [`deviation`] (top-n-sigma), [`head`] (top-h), [`cutoffs`] (top-a, eta), [`mirostat`], [`xtc`], [`adaptive`],
//! [`dynatemp`]; in which order, by profile: [`stages`]. For tokens that were drafted for a row there is [`accept`].
//!
//! These are the scalar definitions; `docs/arithmetic.md` states them in prose, for implementations in other languages.
//! Backends compute the same bits in whatever way is fast.
//! Nothing here knows anything but `core`, `half` (widening) and `libm` (the logarithm of
//! [`logprob`] and of one host constant).

pub mod accept;
pub mod adaptive;
pub mod cut;
pub mod cutoffs;
pub mod deviation;
pub mod draw;
pub mod dynatemp;
pub mod fraction;
pub mod head;
pub mod interval;
pub mod key;
pub mod log2;
pub mod logprob;
pub mod mass;
pub mod mirostat;
pub mod philox;
pub mod plan;
pub mod power;
pub mod race;
pub mod score;
pub mod stages;
pub mod surprisal;
pub mod xtc;

/// Version of the function. A result can be replayed by any build that [`replays`] its number.
pub const VERSION: u32 = 2;

/// Whether what was sampled under that version comes out the same here. Version 2 adds to version 1 and changes nothing:
/// a request that version 1 knows has its bits.
pub const fn replays(version: u32) -> bool {
    matches!(version, 1 | VERSION)
}
