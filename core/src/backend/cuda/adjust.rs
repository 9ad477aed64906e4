//! What is done to single logits of a row, as the kernels are told: `logitd_adjust` makes the row that is sampled of the
//! one that is stored, where it lies.
//!
//! Which tokens are banned and which are touched is worked out here; what becomes of a logit is computed there. Where
//! tokens are banned and nothing else is asked for, the adjusted row has the row's own dtype, and takes the place of the stored
//! one unless somebody asks about that too. Where a logit gets another value, which is an f32, it is an f32 row beside it.

use super::abi::Plain;
use crate::adjustments::changes::{Buffers, Touch, changes_unseen};
use crate::batch::{Dtype, Row};
use crate::inspection::Distribution;
use crate::params::Penalties;
use std::mem::{offset_of, size_of, size_of_val};

/// Tokens that a thread has in one turn.
const SHARE: u32 = 8;
/// Turns that a thread takes.
const TURNS: u32 = 2;
/// Shared memory of a block.
pub const SHARED_BYTES: u32 = 16;

/// A token that gets another logit, and what makes it from the stored one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct TouchedToken {
    /// The token.
    pub token: u32,
    /// 0 is none.
    pub bias: f32,
    /// How often the output holds it; [`NOT_SEEN`] if the history does not.
    pub count: u32,
    /// DRY's penalty; 0 is none.
    pub dry: f32,
}

/// No count.
pub const NOT_SEEN: u32 = u32::MAX;

const _: () = assert!(size_of::<TouchedToken>() == 16);
// SAFETY: four fields of 4 bytes.
unsafe impl Plain for TouchedToken {}

impl From<&Touch> for TouchedToken {
    fn from(touch: &Touch) -> Self {
        let count = touch.count().unwrap_or(NOT_SEEN);
        Self { token: touch.token, bias: touch.bias(), count, dry: touch.dry() }
    }
}

/// What is done to one row. All addresses are the device's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct AdjustDescriptor {
    /// Of the stored row's token 0.
    pub from: u64,
    /// Of the adjusted row's; the same where nothing is touched and nobody asks about the stored row.
    pub to: u64,
    /// Of a bitmask with a 1 for each token that stays as it is stored.
    pub mask: u64,
    /// Of the touched tokens, by ascending id, and of the stop tokens after them.
    pub touches: u64,
    /// 1 to 2^20.
    pub vocab_size: u32,
    /// [`Dtype`].
    pub from_dtype: u32,
    /// The same, or that of f32.
    pub to_dtype: u32,
    /// How many tokens are touched.
    pub touch_count: u32,
    /// How many more are if nothing is left without them.
    pub stop_count: u32,
    /// [`Penalties`].
    pub repetition: f32,
    /// [`Penalties`].
    pub frequency: f32,
    /// [`Penalties`].
    pub presence: f32,
    /// Zero.
    pub arrived: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<AdjustDescriptor>() == 72);
const _: () = assert!(offset_of!(AdjustDescriptor, vocab_size) == 32);
const _: () = assert!(offset_of!(AdjustDescriptor, stop_count) == 48);
const _: () = assert!(offset_of!(AdjustDescriptor, arrived) == 64);
// SAFETY: the fields' sizes add up to the 72 bytes.
unsafe impl Plain for AdjustDescriptor {}

/// The argument of `logitd_adjust`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AdjustBatch {
    /// Device address of `AdjustDescriptor[row_count]`.
    pub rows: u64,
    /// Rows.
    pub row_count: u32,
    /// Blocks of each.
    pub row_blocks: u32,
}

const _: () = assert!(size_of::<AdjustBatch>() == 16);

impl AdjustBatch {
    /// For rows of at most so many tokens.
    pub fn new(rows: u64, row_count: u32, vocab_size_max: u32, threads: u32) -> Self {
        Self { rows, row_count, row_blocks: vocab_size_max.div_ceil(threads * SHARE * TURNS) }
    }
}

/// What is done to a row, before it is known where anything lies.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// With a 1 for each token that stays as it is stored. Empty if nothing is done.
    pub mask: Vec<u32>,
    /// The touched tokens, then the stop tokens.
    pub touches: Vec<TouchedToken>,
    touch_count: u32,
    penalties: Option<Penalties>,
    /// Whether somebody asks about the stored row.
    is_asked_about: bool,
}

impl Change {
    /// Works out what is done to a row, in the memory of another change.
    pub fn set(&mut self, row: &Row<'_>, buffers: &mut Buffers) {
        self.mask.clear();
        self.touches.clear();
        self.is_asked_about =
            row.inspect().is_some_and(|asked| asked.of[Distribution::Raw as usize]);
        let Some(adjustments) = row.adjustments() else { return };
        let changes = changes_unseen(adjustments, row.params(), row.vocab_size(), buffers);
        self.mask.extend(changes.mask().unwrap_or_default());
        self.touches
            .extend(changes.touched().iter().chain(changes.stops()).map(TouchedToken::from));
        self.touch_count = changes.touched().len() as u32;
        // Each block finds its own by bisection.
        self.touches[..self.touch_count as usize].sort_unstable_by_key(|touch| touch.token);
        self.penalties = changes.penalties();
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.mask) + size_of_val(&*self.touches)
    }

    /// Whether nothing is done.
    pub fn is_nothing(&self) -> bool {
        self.mask.is_empty()
    }

    /// Whether the stored row stays beside the adjusted one.
    pub fn is_apart(&self) -> bool {
        !self.is_nothing() && (self.is_asked_about || !self.touches.is_empty())
    }

    /// The dtype of the row that is sampled.
    pub fn dtype(&self, row: &Row<'_>) -> Dtype {
        if self.touches.is_empty() { row.dtype() } else { Dtype::F32 }
    }

    /// Tells the kernels.
    pub fn descriptor(
        &self,
        row: &Row<'_>,
        [from, to, mask, touches]: [u64; 4],
    ) -> AdjustDescriptor {
        let none = Penalties { repetition: 1.0, frequency: 0.0, presence: 0.0 };
        let Penalties { repetition, frequency, presence } = self.penalties.unwrap_or(none);
        AdjustDescriptor {
            from,
            to,
            mask,
            touches,
            vocab_size: row.vocab_size(),
            from_dtype: row.dtype() as u32,
            to_dtype: self.dtype(row) as u32,
            touch_count: self.touch_count,
            stop_count: self.touches.len() as u32 - self.touch_count,
            repetition,
            frequency,
            presence,
            arrived: 0,
            reserved: 0,
        }
    }
}
