//! What crosses between the host and the kernels. `kernels/abi.cuh` holds the other copy; both assert
//! sizes and offsets, so that neither can change alone.

use crate::arithmetic::draw::DrawRule;
use crate::arithmetic::plan::{Chain, Plan, Step};
use crate::batch::{Row, RowStatus};
use std::mem::{offset_of, size_of};

/// Bits of [`RowDescriptor::flags`].
pub mod flags {
    /// The first token of the order, whatever else is asked.
    pub const GREEDY: u32 = 1;
    /// `top_p_fraction` counts.
    pub const TOP_P: u32 = 2;
    /// `min_p_distance` counts.
    pub const MIN_P: u32 = 4;
    /// Draws are races.
    pub const RACE: u32 = 8;
}

/// What the kernels read as bytes.
///
/// # Safety
/// `repr(C)` without padding, so that every byte is initialized.
pub(super) unsafe trait Plain: Copy {
    /// Its bytes, as the kernels read them.
    fn bytes(&self) -> &[u8] {
        // SAFETY: as many bytes as the value has, all initialized; bytes have no alignment to keep.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// The bytes of a list, as the kernels read them.
pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: as in `Plain::bytes`; a slice has no padding between values.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: the fields' sizes add up to the 80 bytes that are asserted below.
unsafe impl Plain for RowDescriptor {}

/// One row of a launch: where its logits lie and what to do with it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct RowDescriptor {
    /// Device address of token 0, aligned to the dtype.
    pub logits: u64,
    /// Key of the random stream.
    pub seed: u64,
    /// The token's index in its sequence.
    pub position: u64,
    /// The nucleus in units of 2^-64; meaningless without [`flags::TOP_P`].
    pub top_p_fraction: u64,
    /// Device address of a u32 a logit that a race's noise belongs to, or 0: 0, 1, 2, ..
    pub ids: u64,
    /// 1 to 2^20.
    pub vocab_size: u32,
    /// [`Dtype`](crate::batch::Dtype).
    pub dtype: u32,
    /// 0 disables.
    pub top_k: u32,
    /// [`flags`].
    pub flags: u32,
    /// [`Scale::c`](crate::arithmetic::mass::Scale::c).
    pub c: f32,
    /// [`Scale::dmin`](crate::arithmetic::mass::Scale::dmin).
    pub dmin: f32,
    /// The least `x - M` kept; meaningless without [`flags::MIN_P`].
    pub min_p_distance: f32,
    /// 1 to 1024.
    pub draws: u32,
    /// Where this row's draws stand among those of the launch.
    pub first_draw: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<RowDescriptor>() == 80);
const _: () = assert!(offset_of!(RowDescriptor, top_p_fraction) == 24);
const _: () = assert!(offset_of!(RowDescriptor, ids) == 32);
const _: () = assert!(offset_of!(RowDescriptor, vocab_size) == 40);
const _: () = assert!(offset_of!(RowDescriptor, flags) == 52);
const _: () = assert!(offset_of!(RowDescriptor, min_p_distance) == 64);
const _: () = assert!(offset_of!(RowDescriptor, first_draw) == 72);

impl RowDescriptor {
    /// Describes a row whose logits lie at a device address, and its ids at another, or at 0 where nobody asks for them.
    pub fn new(row: &Row<'_>, plan: &Plan, logits: u64, ids: u64, first_draw: u32) -> Self {
        let params = row.params();
        let mut descriptor = Self {
            logits,
            seed: params.seed(),
            position: params.position(),
            top_p_fraction: 0,
            ids,
            vocab_size: row.vocab_size(),
            dtype: row.dtype() as u32,
            top_k: 0,
            flags: 0,
            c: 0.0,
            dmin: 0.0,
            min_p_distance: 0.0,
            draws: params.draws(),
            first_draw,
            reserved: 0,
        };
        match plan {
            Plan::Greedy => descriptor.flags = flags::GREEDY,
            Plan::Draw(chain) => descriptor.set_chain(chain),
        }
        descriptor
    }

    /// The kernels apply the cuts in the one order that chains have: top-k, top-p, min-p.
    fn set_chain(&mut self, chain: &Chain) {
        (self.c, self.dmin) = (chain.scale.c, chain.scale.dmin);
        if chain.rule == DrawRule::Race {
            self.flags |= flags::RACE;
        }
        for step in chain.steps() {
            match *step {
                Step::TopK(k) => self.top_k = k,
                Step::TopP(fraction) => {
                    self.flags |= flags::TOP_P;
                    self.top_p_fraction = fraction;
                }
                Step::MinP(distance) => {
                    self.flags |= flags::MIN_P;
                    self.min_p_distance = distance;
                }
            }
        }
    }
}

/// What the kernels say once about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RowOutcome {
    /// Mass of the kept tokens.
    pub kept_mass: u64,
    /// [`RowStatus`].
    pub status: u32,
    /// How many tokens the cuts left.
    pub kept: u32,
    /// Bits of the row's maximum; either zero is +0.0.
    pub max: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<RowOutcome>() == 24);
const _: () = assert!(offset_of!(RowOutcome, status) == 8);
const _: () = assert!(offset_of!(RowOutcome, max) == 16);

impl RowOutcome {
    /// Reads one.
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        // SAFETY: as many bytes as the type has, read without a demand on their alignment; every
        // pattern of bits is a value of these integers.
        unsafe { std::ptr::from_ref(bytes).cast::<Self>().read_unaligned() }
    }

    /// The status, if it is one.
    pub fn row_status(&self) -> Option<RowStatus> {
        use RowStatus::{Nan, NoCandidate, Ok, PositiveInfinity};
        [Ok, Nan, PositiveInfinity, NoCandidate].into_iter().find(|&s| s as u32 == self.status)
    }
}

/// One draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RowDraw {
    /// The token's id.
    pub token: u32,
    /// Bits of its logit; either zero is +0.0.
    pub logit: u32,
}

const _: () = assert!(size_of::<RowDraw>() == 8);

impl RowDraw {
    /// Reads one.
    pub fn from_bytes(bytes: &[u8; size_of::<Self>()]) -> Self {
        // SAFETY: as in `RowOutcome::from_bytes`.
        unsafe { std::ptr::from_ref(bytes).cast::<Self>().read_unaligned() }
    }
}

/// The one argument of a launch. All addresses are the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Batch {
    /// `RowDescriptor[row_count]`.
    pub rows: u64,
    /// `RowOutcome[row_count]`.
    pub outcomes: u64,
    /// `RowDraw[all draws]`.
    pub draws: u64,
    /// Tickets, zero between launches.
    pub control: u64,
    /// `row_count` regions of [`Geometry::scratch_bytes`](super::plan::Geometry::scratch_bytes), zero
    /// before the first launch.
    pub scratch: u64,
    /// Two u64 for each tile that a row can have, for each row.
    pub tiles: u64,
    /// Rows of the launch.
    pub row_count: u32,
    /// Blocks that share a row.
    pub team_blocks: u32,
    /// The most tiles of any row.
    pub tile_capacity: u32,
    /// Shared memory for a block's slice of its row; 0: the slice is read again.
    pub stage_bytes: u32,
}

const _: () = assert!(size_of::<Batch>() == 64);
const _: () = assert!(offset_of!(Batch, row_count) == 48);
const _: () = assert!(offset_of!(Batch, stage_bytes) == 60);

/// What `logitd_probe` is given and what it answers: whether the compiler kept to the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Probe {
    /// In: a factor.
    pub a: f32,
    /// In: a factor.
    pub b: f32,
    /// In: what is added.
    pub c: f32,
    /// In: a subnormal.
    pub tiny: f32,
    /// Out: `a * b + c`, rounded twice.
    pub sum: f32,
    /// Out: `a * b + c`, rounded once.
    pub fused: f32,
    /// Out: `tiny / 2`, a subnormal too.
    pub half_tiny: f32,
    /// Out: `a / b`, correctly rounded.
    pub quotient: f32,
}

const _: () = assert!(size_of::<Probe>() == 32);

impl Probe {
    /// The question: operands for which every liberty of a compiler shows.
    pub fn question() -> Self {
        Self {
            // The product is 1 + 2^-11 + 2^-24: a tie that rounds down, and is lost unless fused.
            a: 1.0 + 1.0 / 4096.0,
            b: 1.0 + 1.0 / 4096.0,
            c: -1.0,
            tiny: f32::from_bits(0x0000_0500),
            sum: 0.0,
            fused: 0.0,
            half_tiny: 0.0,
            quotient: 0.0,
        }
    }

    /// What is wrong with an answer, if anything.
    pub fn verdict(&self) -> Result<(), String> {
        let (a, b, c) = (self.a, self.b, self.c);
        let checks = [
            ("contracts a * b + c into one operation", self.sum, a * b + c),
            ("does not fuse where told to", self.fused, a.mul_add(b, c)),
            ("flushes subnormals to zero", self.half_tiny, self.tiny * 0.5),
            ("does not divide exactly", self.quotient, a / b),
        ];
        match checks.iter().find(|(_, got, expected)| got.to_bits() != expected.to_bits()) {
            None => Ok(()),
            Some((liberty, got, expected)) => Err(format!(
                "the kernels' compiler {liberty}: {got:e} instead of {expected:e}; \
                 they need -fmad=false -ftz=false -prec-div=true -prec-sqrt=true"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_tells_apart_what_it_asks_about() {
        let question = Probe::question();
        let (a, b, c) = (question.a, question.b, question.c);
        assert_ne!((a * b + c).to_bits(), a.mul_add(b, c).to_bits());
        assert_ne!(question.tiny * 0.5, 0.0);
        let right = Probe {
            sum: a * b + c,
            fused: a.mul_add(b, c),
            half_tiny: question.tiny * 0.5,
            quotient: a / b,
            ..question
        };
        assert_eq!(right.verdict(), Ok(()));
        let contracted = Probe { sum: right.fused, ..right };
        assert!(contracted.verdict().unwrap_err().contains("contracts"));
        assert!(Probe { half_tiny: 0.0, ..right }.verdict().unwrap_err().contains("flushes"));
    }
}
