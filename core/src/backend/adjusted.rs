//! Rows with adjustments, made rows without on the host: a copy that any backend samples as it is.
//!
//! Where tokens are banned and nothing else is asked for, the copy has the row's own dtype, with -inf in place of what
//! is banned. Where a logit gets another value, which is an f32, the copy is f32: every dtype is widened exactly, so the
//! bits of the answer are the same. What is lent is copied, never changed. The CPU has shorter ways
//! (`cpu/touched.rs`), and devices make the copy themselves (`cuda/adjust.rs`).

use crate::adjustments::changes::{self, Changes, changes};
use crate::batch::{Dtype, Row};
use half::{bf16, f16};

/// Makes the copies. Keeps its memory from row to row.
#[derive(Debug, Default)]
pub struct Adjuster {
    buffers: changes::Buffers,
    /// A lent row as it was lent.
    stored: Vec<u8>,
}

impl Adjuster {
    /// The row as it is stored, where it can be read, and what is done to it; `None` where nothing is.
    pub fn changes<'b, 'a: 'b>(&'b mut self, row: &Row<'a>) -> Option<(Row<'b>, Changes<'b>)> {
        let adjustments = row.adjustments()?;
        let stored = row.here(&mut self.stored);
        let logit = |token| stored.logit(token);
        let (params, vocab_size) = (row.params(), row.vocab_size());
        let changes = changes(adjustments, params, vocab_size, logit, &mut self.buffers);
        Some((stored, changes))
    }

    /// The row as it is sampled: itself where nothing is changed, else in `copy`.
    pub fn apply<'b, 'a: 'b>(&mut self, row: &Row<'a>, copy: &'b mut Vec<u8>) -> Row<'b> {
        let Some((stored, changes)) = self.changes(row) else { return *row };
        let dtype = match changes.touched() {
            [] => row.dtype(),
            _ => Dtype::F32,
        };
        if dtype == row.dtype() {
            copy.clear();
            copy.extend_from_slice(stored.logits());
        } else {
            widen(&stored, copy);
        }
        if let Some(mask) = changes.mask() {
            ban(dtype, copy, mask);
        }
        patch(&stored, &changes, copy);
        row.with_copy(dtype, copy)
    }
}

/// Writes the new logits into a copy that is f32.
pub fn patch(stored: &Row<'_>, changes: &Changes<'_>, copy: &mut [u8]) {
    for touch in changes.touched() {
        let x = changes.apply(touch, stored.logit(touch.token));
        copy[touch.token as usize * 4..][..4].copy_from_slice(&x.to_le_bytes());
    }
}

/// Writes -inf where a mask has a 0.
fn ban(dtype: Dtype, logits: &mut [u8], mask: &[u32]) {
    match dtype {
        Dtype::F16 => ban_as(f16::NEG_INFINITY.to_le_bytes(), logits, mask),
        Dtype::Bf16 => ban_as(bf16::NEG_INFINITY.to_le_bytes(), logits, mask),
        Dtype::F32 => ban_as(f32::NEG_INFINITY.to_le_bytes(), logits, mask),
    }
}

fn ban_as<const SIZE: usize>(lowest: [u8; SIZE], logits: &mut [u8], mask: &[u32]) {
    let (logits, _) = logits.as_chunks_mut::<SIZE>();
    for (logits, &word) in logits.chunks_mut(32).zip(mask) {
        match word {
            u32::MAX => {}
            0 => logits.fill(lowest),
            _ => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = lowest;
                    }
                }
            }
        }
    }
}

/// The logits as f32.
fn widen(row: &Row<'_>, copy: &mut Vec<u8>) {
    copy.clear();
    match row.dtype() {
        Dtype::F16 => widen_as(row.logits(), copy, |x| f16::from_le_bytes(x).to_f32()),
        Dtype::Bf16 => widen_as(row.logits(), copy, |x| bf16::from_le_bytes(x).to_f32()),
        Dtype::F32 => copy.extend_from_slice(row.logits()),
    }
}

fn widen_as(logits: &[u8], copy: &mut Vec<u8>, value: fn([u8; 2]) -> f32) {
    let (logits, _) = logits.as_chunks::<2>();
    copy.resize(logits.len() * 4, 0);
    for (logit, copy) in logits.iter().zip(copy.as_chunks_mut::<4>().0) {
        *copy = value(*logit).to_le_bytes();
    }
}
