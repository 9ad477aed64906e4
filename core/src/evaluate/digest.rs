//! A row without its token ids: its distinct logits, how often each occurs, and where the reference token stands.
//!
//! Equal logits have equal masses, and cuts keep prefixes of the total order, so whatever the sampler computes but the
//! ids themselves is a function of this. A real f16 row of 262,144 logits has some 13,000 distinct values.
//!
//! Logits of 16 bits are counted in a table of as many counters as there are patterns, those of 32 bits are sorted by
//! their keys (least significant digits first) and counted in runs.

use crate::arithmetic::key::{bits16, key16, key32, value32};
use crate::batch::{Dtype, Row, VOCAB_SIZE_MAX};
use crate::status::RowStatus;
use half::{bf16, f16};

/// What remains of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Digest {
    vocab_size: u32,
    rank: u32,
    values: Box<[f32]>,
    counts: Box<[u32]>,
}

impl Digest {
    /// A digest of these parts: values fall, all are finite, none is absent, and there are no more tokens than a row can
    /// have ([`VOCAB_SIZE_MAX`]), beyond which sums would not fit their integers. `None` where they are not such.
    pub fn new(vocab_size: u32, rank: u32, values: Box<[f32]>, counts: Box<[u32]>) -> Option<Self> {
        let falls = values.windows(2).all(|pair| pair[0] > pair[1]);
        let finite = values.iter().all(|x| x.is_finite());
        let tokens: u64 = counts.iter().copied().map(u64::from).sum();
        let whole = !values.is_empty()
            && values.len() == counts.len()
            && !counts.contains(&0)
            && vocab_size <= VOCAB_SIZE_MAX
            && tokens <= u64::from(vocab_size)
            && rank < vocab_size;
        (falls && finite && whole).then_some(Self { vocab_size, rank, values, counts })
    }

    /// Tokens of the row.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// How many tokens come before the reference token in the total order; those at -inf are last, by id.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// The distinct logits above -inf, falling. There is one.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// How often each of [`values`](Self::values) occurs.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// A row with this digest: its tokens in the total order, so that the reference token's id is its rank.
    pub fn expand(&self) -> Vec<f32> {
        let mut row = Vec::with_capacity(self.vocab_size as usize);
        for (&value, &count) in self.values.iter().zip(&self.counts) {
            row.resize(row.len() + count as usize, value);
        }
        row.resize(self.vocab_size as usize, f32::NEG_INFINITY);
        row
    }
}

/// Makes digests, in memory that it keeps.
#[derive(Debug, Default)]
pub struct Digester {
    /// Two tables of counters, so that neighbours that are equal do not wait for each other.
    counters: [Vec<u32>; 2],
    keys: Vec<u32>,
    other_keys: Vec<u32>,
}

/// Patterns of 16 bits.
const PATTERNS: usize = 1 << 16;
/// Bits that one round of the radix sort orders by.
const DIGIT_BITS: u32 = 11;
/// Rounds that order 32 bits.
const DIGITS: u32 = 3;

impl Digester {
    /// The digest of a row whose reference token is `reference`; a row without a token says why it has none.
    ///
    /// # Panics
    /// If the row has no such token, or its logits are lent.
    pub fn digest(&mut self, row: &Row<'_>, reference: u32) -> Result<Digest, RowStatus> {
        assert!(reference < row.vocab_size(), "a token of the row");
        match row.dtype() {
            Dtype::F16 => self.of_16_bits(row, reference, |bits| f16::from_bits(bits).to_f32()),
            Dtype::Bf16 => self.of_16_bits(row, reference, |bits| bf16::from_bits(bits).to_f32()),
            Dtype::F32 => self.of_32_bits(row, reference),
        }
    }

    fn of_16_bits(
        &mut self,
        row: &Row<'_>,
        reference: u32,
        widen: impl Fn(u16) -> f32,
    ) -> Result<Digest, RowStatus> {
        let bytes = row.logits();
        let [even, odd] = &mut self.counters;
        even.resize(PATTERNS, 0);
        odd.resize(PATTERNS, 0);
        let mut pairs = bytes.chunks_exact(4);
        for pair in &mut pairs {
            even[usize::from(u16::from_le_bytes([pair[0], pair[1]]))] += 1;
            odd[usize::from(u16::from_le_bytes([pair[2], pair[3]]))] += 1;
        }
        if let [low, high] = *pairs.remainder() {
            even[usize::from(u16::from_le_bytes([low, high]))] += 1;
        }
        let mut take = |bits: u16| {
            let place = usize::from(bits);
            std::mem::take(&mut even[place]) + std::mem::take(&mut odd[place])
        };
        let mut runs = Runs::new(row.vocab_size(), row.logit(reference));
        for key in (0..=u16::MAX).rev() {
            let bits = bits16(key);
            // Of the two zeros, only +0.0 comes back from its key; -0.0's own place is that of no other value.
            let count = match bits {
                0 => take(0) + take(0x8000),
                0x8000 => 0,
                bits => take(bits),
            };
            runs.push(widen(bits), count);
        }
        runs.end(row, reference, |x: &[u8]| u32::from(key16(u16::from_le_bytes([x[0], x[1]]))))
    }

    fn of_32_bits(&mut self, row: &Row<'_>, reference: u32) -> Result<Digest, RowStatus> {
        let key = |x: &[u8]| key32(f32::from_le_bytes([x[0], x[1], x[2], x[3]]));
        let mut runs = Runs::new(row.vocab_size(), row.logit(reference));
        // Keys say nothing of NaN: looked for before.
        if row.logits().chunks_exact(4).any(|x| is_nan32([x[0], x[1], x[2], x[3]])) {
            return Err(RowStatus::Nan);
        }
        self.keys.clear();
        self.keys.extend(row.logits().chunks_exact(4).map(key));
        self.sort_keys();
        for run in self.keys.chunk_by(|a, b| a == b).rev() {
            runs.push(value32(run[0]), run.len() as u32);
        }
        runs.end(row, reference, key)
    }

    /// Sorts the keys: a stable round for each digit, the least significant first.
    fn sort_keys(&mut self) {
        self.other_keys.resize(self.keys.len(), 0);
        for round in 0..DIGITS {
            let digit = |key: u32| (key >> (round * DIGIT_BITS)) as usize % (1 << DIGIT_BITS);
            let mut places = [0u32; 1 << DIGIT_BITS];
            self.keys.iter().for_each(|&key| places[digit(key)] += 1);
            let mut sum = 0;
            for place in &mut places {
                sum += std::mem::replace(place, sum);
            }
            for &key in &self.keys {
                let place = &mut places[digit(key)];
                self.other_keys[*place as usize] = key;
                *place += 1;
            }
            std::mem::swap(&mut self.keys, &mut self.other_keys);
        }
    }
}

fn is_nan32(bytes: [u8; 4]) -> bool {
    f32::from_le_bytes(bytes).is_nan()
}

/// Distinct values as they are found, falling.
struct Runs {
    vocab_size: u32,
    /// The reference token's logit, and the tokens above it so far.
    reference: f32,
    above: u32,
    /// Tokens that equal it.
    equal: u32,
    nans: u32,
    infinities: u32,
    values: Vec<f32>,
    counts: Vec<u32>,
}

impl Runs {
    fn new(vocab_size: u32, reference: f32) -> Self {
        let (values, counts) = (Vec::new(), Vec::new());
        Self { vocab_size, reference, above: 0, equal: 0, nans: 0, infinities: 0, values, counts }
    }

    #[inline]
    fn push(&mut self, value: f32, count: u32) {
        if count == 0 {
            return;
        }
        if value > self.reference {
            self.above += count;
        }
        if value == self.reference {
            self.equal += count;
        }
        if value.is_nan() {
            self.nans += count;
        } else if value == f32::INFINITY {
            self.infinities += count;
        } else if value > f32::NEG_INFINITY {
            self.values.push(value);
            self.counts.push(count);
        }
    }

    fn end(
        self,
        row: &Row<'_>,
        reference: u32,
        key: impl Fn(&[u8]) -> u32,
    ) -> Result<Digest, RowStatus> {
        if self.nans > 0 {
            return Err(RowStatus::Nan);
        }
        if self.infinities > 0 {
            return Err(RowStatus::PositiveInfinity);
        }
        if self.values.is_empty() {
            return Err(RowStatus::NoCandidate);
        }
        // Among equals, the lower id comes first.
        let size = row.dtype().size_bytes();
        let own = &row.logits()[reference as usize * size..][..size];
        let before = &row.logits()[..reference as usize * size];
        let equal_before = match self.equal {
            1 => 0,
            _ => before.chunks_exact(size).filter(|x| key(x) == key(own)).count(),
        };
        Ok(Digest {
            vocab_size: self.vocab_size,
            rank: self.above + equal_before as u32,
            values: self.values.into(),
            counts: self.counts.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamsSpec;

    fn digest(dtype: Dtype, x: &[f32], reference: u32) -> Result<Digest, RowStatus> {
        let bytes: Vec<u8> = match dtype {
            Dtype::F16 => x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::Bf16 => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F32 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let params = ParamsSpec::DEFAULT.parse(|| 0).unwrap();
        let row = Row::new(dtype, &bytes, params).unwrap();
        // What was left in the counters by another row must not show.
        let mut digester = Digester::default();
        let first = digester.digest(&row, reference);
        assert_eq!(digester.digest(&row, reference), first);
        first
    }

    #[test]
    fn ranks_and_counts_are_those_of_the_total_order() {
        let x = [1.0, -0.0, 2.5, 0.0, f32::NEG_INFINITY, 1.0, -3.0, 0.0, f32::NEG_INFINITY];
        for dtype in Dtype::ALL {
            let found: Vec<_> =
                (0..9).map(|reference| digest(dtype, &x, reference).unwrap()).collect();
            for digest in &found {
                assert_eq!(digest.values(), [2.5, 1.0, 0.0, -3.0], "{dtype}");
                assert_eq!(digest.counts(), [1, 2, 3, 1], "{dtype}");
                assert_eq!(digest.vocab_size(), 9);
            }
            let ranks: Vec<_> = found.iter().map(Digest::rank).collect();
            assert_eq!(ranks, [1, 3, 0, 4, 7, 2, 6, 5, 8], "{dtype}");
        }
    }

    #[test]
    fn an_expanded_digest_is_a_row_with_that_digest() {
        let x = [0.5, 0.5, -0.0, 7.0, f32::NEG_INFINITY, 0.5];
        for dtype in Dtype::ALL {
            for reference in 0..6 {
                let own = digest(dtype, &x, reference).unwrap();
                let again = digest(dtype, &own.expand(), own.rank()).unwrap();
                assert_eq!(again, own, "{dtype} {reference}");
            }
        }
    }

    #[test]
    fn a_row_without_a_token_says_why() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for dtype in Dtype::ALL {
            for (x, status) in [
                ([1.0, nan, inf], RowStatus::Nan),
                ([1.0, -nan, 2.0], RowStatus::Nan),
                ([1.0, inf, 2.0], RowStatus::PositiveInfinity),
                ([-inf, -inf, -inf], RowStatus::NoCandidate),
            ] {
                assert_eq!(digest(dtype, &x, 0), Err(status), "{dtype} {x:?}");
            }
        }
    }

    #[test]
    fn parts_that_are_no_digest_are_refused() {
        let make = |vocab_size, rank, values: &[f32], counts: &[u32]| {
            Digest::new(vocab_size, rank, values.into(), counts.into())
        };
        assert!(make(5, 4, &[1.0, 0.0], &[2, 2]).is_some());
        assert!(make(5, 5, &[1.0, 0.0], &[2, 2]).is_none(), "a rank beyond the row");
        assert!(make(3, 0, &[1.0, 0.0], &[2, 2]).is_none(), "more tokens than the row has");
        assert!(make(5, 0, &[0.0, 1.0], &[2, 2]).is_none(), "rising values");
        assert!(make(5, 0, &[1.0, 1.0], &[2, 2]).is_none(), "a value twice");
        assert!(make(5, 0, &[f32::INFINITY, 0.0], &[2, 2]).is_none());
        assert!(make(5, 0, &[f32::NAN], &[2]).is_none());
        assert!(make(5, 0, &[1.0, 0.0], &[2, 0]).is_none());
        assert!(make(5, 0, &[1.0], &[2, 1]).is_none());
        assert!(make(5, 0, &[], &[]).is_none());
        assert!(make(VOCAB_SIZE_MAX, 0, &[1.0], &[VOCAB_SIZE_MAX]).is_some());
        assert!(make(VOCAB_SIZE_MAX + 1, 0, &[1.0], &[1]).is_none(), "more than a row can have");
    }
}
