//! What is drafted for the rows of a pool: one of the first tokens of the row, likelier ones more often.

use super::random::below;
use super::shape::DraftsFrom;
use half::{bf16, f16};
use logitd_core::batch::Dtype;
use logitd_core::candidates;
use logitd_proto::draft_distribution::Kind;
use logitd_proto::{DenseDraft, LogitsDraft, SparseDraft};

/// How many tokens of a row are drafted.
const TOKENS: u32 = 8;
/// The weight of the likeliest of them.
const WEIGHT_MAX: f64 = (1u64 << 32) as f64;

/// What is drafted for a row.
#[derive(Clone, Debug)]
pub(super) struct Drafter {
    vocab_size: u32,
    tokens: Vec<u32>,
    /// One a token, above 0.
    weights: Vec<u64>,
}

impl Drafter {
    /// The first tokens of a row, with weights by their logits.
    pub(super) fn of(dtype: Dtype, logits: &[u8]) -> Self {
        let vocab_size = (logits.len() / dtype.size_bytes()) as u32;
        let (tokens, logits) = candidates::top(dtype, logits, TOKENS.min(vocab_size) as usize);
        let (words, _) = tokens.as_chunks();
        let tokens = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let logits: Vec<f32> =
            logits.chunks_exact(dtype.size_bytes()).map(|bytes| widened(dtype, bytes)).collect();
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |x: &f32| (libm::exp(f64::from(x - most)) * WEIGHT_MAX) as u64;
        Self { vocab_size, tokens, weights: logits.iter().map(|x| weight(x).max(1)).collect() }
    }

    /// A draft, drawn with these random bits.
    pub(super) fn draft(&self, bits: u64) -> u32 {
        let mut left = below(bits, self.weights.iter().sum());
        let drawn = self.weights.iter().position(|&weight| match left.checked_sub(weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        });
        self.tokens[drawn.expect("it is below the sum")]
    }

    /// What the draft of the row at a place of a request was drawn from.
    pub(super) fn distribution(&self, from: DraftsFrom, place: u32) -> Option<Kind> {
        let Self { vocab_size, tokens, weights } = self;
        let sum: u64 = weights.iter().sum();
        Some(match from {
            DraftsFrom::Point => return None,
            DraftsFrom::Sparse => {
                Kind::Sparse(SparseDraft { tokens: tokens.clone(), weights: weights.clone() })
            }
            DraftsFrom::Dense => {
                let mut probabilities = vec![0.0; *vocab_size as usize];
                for (&token, &weight) in tokens.iter().zip(weights) {
                    probabilities[token as usize] = (weight as f64 / sum as f64) as f32;
                }
                Kind::Dense(DenseDraft { probabilities })
            }
            DraftsFrom::Logits => {
                Kind::Logits(Box::new(LogitsDraft { row: place, ..Default::default() }))
            }
        })
    }
}

fn widened(dtype: Dtype, bytes: &[u8]) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Dtype::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        Dtype::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelier_tokens_are_drafted_more_often_and_told_so() {
        let row: Vec<u8> = [0.0f32, 3.0, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let drafter = Drafter::of(Dtype::F32, &row);
        let mut counts = [0; 3];
        for n in 0..1000u64 {
            counts[drafter.draft(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) as usize] += 1;
        }
        assert!(counts[1] > 6 * counts[2] && counts[2] > counts[0] && counts[0] > 0, "{counts:?}");
        let Some(Kind::Sparse(sparse)) = drafter.distribution(DraftsFrom::Sparse, 0) else {
            panic!("weights")
        };
        assert_eq!((sparse.tokens, sparse.weights[1]), (vec![0, 1, 2], 1 << 32));
        let Some(Kind::Dense(dense)) = drafter.distribution(DraftsFrom::Dense, 0) else {
            panic!("probabilities")
        };
        assert!((dense.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(drafter.distribution(DraftsFrom::Point, 0), None);
    }
}
