//! Cuts that go before top-k, top-p and min-p, as the kernels are told: `logitd_cut` makes the row that is sampled of one that
//! has such a cut, where it lies.
//!
//! What is cut is -inf there, and -inf is no candidate: the kernels that sample need not know of the cut. The row that is left
//! takes the place of the one before, unless more is asked of that than its tokens.

use super::abi::{Batch, Plain, RowDescriptor};
use crate::batch::Row;
use crate::params::{Cuts, SamplingParams};
use std::mem::{offset_of, size_of};

/// The cuts of one row. All addresses are the device's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct CutDescriptor {
    /// The row that is cut.
    pub row: RowDescriptor,
    /// Of the row that is left.
    pub to: u64,
    /// How many standard deviations below the first logit are kept; above 0.
    pub top_n_sigma: f32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<CutDescriptor>() == 96);
const _: () = assert!(offset_of!(CutDescriptor, to) == 80);
const _: () = assert!(offset_of!(CutDescriptor, top_n_sigma) == 88);
// SAFETY: the fields' sizes add up to the 96 bytes.
unsafe impl Plain for CutDescriptor {}

/// The argument of `logitd_cut`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CutBatch {
    /// That of the launch after it, with as many rows as have such cuts.
    pub batch: Batch,
    /// Device address of `CutDescriptor[row_count]`.
    pub cuts: u64,
}

const _: () = assert!(size_of::<CutBatch>() == 72);

impl CutDescriptor {
    /// What is cut of a row that [`is_cut`], and where the row goes that is left.
    pub fn new(row: &Row<'_>, described: RowDescriptor, to: u64) -> Self {
        let top_n_sigma = row.params().all_cuts().top_n_sigma;
        Self { row: described, to, top_n_sigma, reserved: 0 }
    }
}

/// Whether kernels carry out every cut of a row.
pub fn have_kernels(params: &SamplingParams) -> bool {
    !Cuts { top_n_sigma: 0.0, ..*params.all_cuts() }.are_on()
}

/// Whether a row has a cut before top-k, top-p and min-p.
pub fn is_cut(params: &SamplingParams) -> bool {
    params.cuts().is_some() && !params.is_greedy()
}

/// Whether the row that is left stays beside the one before.
pub fn is_apart(row: &Row<'_>) -> bool {
    is_cut(row.params()) && row.inspect().is_some()
}
