//! Seeded rows that are hard on a sampler: what `logitd verify` and the tests compare backends over.
//!
//! Row `index` of `seed` is a pure function of the two, whatever rows came before it, so a difference
//! is replayed by naming both. Rows vary in dtype, vocabulary (1 to 2^20, mostly at the edges of
//! vectors, warps and blocks), values (ties, zeros of both signs, subnormals, constant and masked
//! rows, NaN, infinities, any bit pattern) and parameters (the ends of every range and what people use).

use crate::arithmetic::philox::philox4x32_10;
use crate::batch::{Dtype, Row, VOCAB_SIZE_MAX};
use crate::params::{ParamsSpec, SamplingParams};
use half::{bf16, f16};

/// A generated row.
#[derive(Clone, Debug)]
pub struct Case {
    /// How its logits are stored.
    pub dtype: Dtype,
    /// Its logits, little-endian.
    pub logits: Vec<u8>,
    /// What to do with it.
    pub params: SamplingParams,
    /// What its values are made of, for people.
    pub values: Values,
}

impl Case {
    /// The row, as a backend takes it.
    pub fn row(&self) -> Row<'_> {
        Row::new(self.dtype, &self.logits, self.params).expect("1 to 2^20 whole logits")
    }
}

/// Row `index` of `seed`. `vocab_size_max` (1 or more) caps the vocabulary; [`VOCAB_SIZE_MAX`] is no cap.
pub fn case(seed: u64, index: u64, vocab_size_max: u32) -> Case {
    let mut random = Random::new(seed, index);
    let dtype = random.pick(&Dtype::ALL);
    let vocab_size = vocab_size(&mut random).min(vocab_size_max);
    let values = random.pick(&Values::ALL);
    let x = values.make(&mut random, dtype, vocab_size as usize);
    let params = params(&mut random, vocab_size);
    Case { dtype, logits: store(dtype, &x), params, values }
}

/// What the values of a row are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Values {
    /// A bell curve with a few likely tokens, as a model gives.
    Model,
    /// The same, rounded to few levels: ties at every border.
    Coarse,
    /// Two to eight different values.
    FewLevels,
    /// One value throughout.
    Constant,
    /// +0.0 and -0.0, which tie.
    Zeros,
    /// Close to 0, many of them subnormal.
    Subnormal,
    /// One token far above the rest.
    Peaked,
    /// Rising from token to token, so that every token is a new maximum.
    Ascending,
    /// Falling from token to token.
    Descending,
    /// Both ends of the dtype's range, so that distances overflow.
    Extreme,
    /// -inf but for a few tokens, as a grammar leaves it.
    Masked,
    /// -inf but for one token.
    OneCandidate,
    /// Any bit pattern that is a finite number or -inf.
    AnyFinite,
    /// Any bit pattern.
    AnyBits,
    /// Only -inf.
    NoCandidate,
    /// A model's values and a NaN.
    OneNan,
    /// A model's values and a +inf.
    OneInfinity,
    /// A model's values, a +inf and a NaN.
    NanAndInfinity,
}

impl Values {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::Model,
        Self::Coarse,
        Self::FewLevels,
        Self::Constant,
        Self::Zeros,
        Self::Subnormal,
        Self::Peaked,
        Self::Ascending,
        Self::Descending,
        Self::Extreme,
        Self::Masked,
        Self::OneCandidate,
        Self::AnyFinite,
        Self::AnyBits,
        Self::NoCandidate,
        Self::OneNan,
        Self::OneInfinity,
        Self::NanAndInfinity,
    ];

    fn make(self, random: &mut Random, dtype: Dtype, n: usize) -> Vec<f32> {
        let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
        match self {
            Self::Model => model(random, n),
            Self::Coarse => {
                let step = random.pick(&[0.0625, 0.25, 1.0, 4.0]);
                model(random, n).into_iter().map(|x| (x / step).round() * step).collect()
            }
            Self::FewLevels => {
                let count = 2 + random.below(7) as usize;
                let levels = model(random, count);
                (0..n).map(|_| random.pick(&levels)).collect()
            }
            Self::Constant => {
                let value = match random.below(4) {
                    0 => random.pick(&[0.0, -0.0, 1.0, max(dtype), -max(dtype), least(dtype)]),
                    _ => random.bell() * 10.0,
                };
                vec![value; n]
            }
            Self::Zeros => (0..n).map(|_| random.pick(&[0.0, -0.0])).collect(),
            Self::Subnormal => {
                (0..n).map(|_| least(dtype) * (random.below(4096) as f32 - 2048.0)).collect()
            }
            Self::Peaked => {
                let mut x = model(random, n);
                put(&mut x, random, 60.0);
                x
            }
            Self::Ascending => ramp(random, n).collect(),
            Self::Descending => ramp(random, n).rev().collect(),
            Self::Extreme => {
                let ends = [max(dtype), -max(dtype), 0.0, max(dtype) * 0.5, low];
                (0..n).map(|_| random.pick(&ends)).collect()
            }
            Self::Masked => {
                let share = random.pick(&[2, 10, 100, 1000]);
                let mut x = model(random, n);
                x.iter_mut().for_each(|x| {
                    if random.below(share) > 0 {
                        *x = low
                    }
                });
                put(&mut x, random, 0.5);
                x
            }
            Self::OneCandidate => {
                let mut x = vec![low; n];
                let value = random.bell() * 10.0;
                put(&mut x, random, value);
                x
            }
            Self::AnyFinite => (0..n)
                .map(|_| {
                    let x = any_bits(random, dtype);
                    if x.is_nan() || x == high { -1.5 } else { x }
                })
                .collect(),
            Self::AnyBits => (0..n).map(|_| any_bits(random, dtype)).collect(),
            Self::NoCandidate => vec![low; n],
            Self::OneNan => with(random, n, &[f32::NAN]),
            Self::OneInfinity => with(random, n, &[high]),
            Self::NanAndInfinity => with(random, n, &[high, f32::NAN]),
        }
    }
}

fn model(random: &mut Random, n: usize) -> Vec<f32> {
    let width = random.pick(&[0.5, 2.0, 3.0, 6.0]);
    let centre = random.pick(&[0.0, -8.0, 12.0]);
    let mut x: Vec<f32> = (0..n).map(|_| centre + width * random.bell()).collect();
    for _ in 0..random.below(8) {
        let likely = centre + width * (4.0 + 2.0 * random.unit());
        put(&mut x, random, likely);
    }
    x
}

fn ramp(random: &mut Random, n: usize) -> impl DoubleEndedIterator<Item = f32> + use<> {
    let span = random.pick(&[1.0, 30.0, 200.0]);
    (0..n).map(move |i| span * (i as f32 / n as f32 - 0.5))
}

/// A model's values with these among them, at places that may coincide; the last one stays.
fn with(random: &mut Random, n: usize, values: &[f32]) -> Vec<f32> {
    let mut x = model(random, n);
    values.iter().for_each(|&value| put(&mut x, random, value));
    x
}

/// Writes one value: at an end half of the time, where vector loops have their remainders.
fn put(x: &mut [f32], random: &mut Random, value: f32) {
    let place = match random.below(4) {
        0 => 0,
        1 => x.len() - 1,
        _ => random.below(x.len() as u64) as usize,
    };
    x[place] = value;
}

/// The largest finite value.
fn max(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => f16::MAX.to_f32(),
        Dtype::Bf16 => bf16::MAX.to_f32(),
        Dtype::F32 => f32::MAX,
    }
}

/// The least positive value, a subnormal.
fn least(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => f16::MIN_POSITIVE_SUBNORMAL.to_f32(),
        Dtype::Bf16 => bf16::MIN_POSITIVE_SUBNORMAL.to_f32(),
        Dtype::F32 => f32::from_bits(1),
    }
}

fn any_bits(random: &mut Random, dtype: Dtype) -> f32 {
    let bits = random.u32();
    match dtype {
        Dtype::F16 => f16::from_bits(bits as u16).to_f32(),
        Dtype::Bf16 => bf16::from_bits(bits as u16).to_f32(),
        Dtype::F32 => f32::from_bits(bits),
    }
}

fn store(dtype: Dtype, x: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F16 => x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::Bf16 => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::F32 => x.iter().flat_map(|&x| x.to_le_bytes()).collect(),
    }
}

/// Mostly small, as small rows are what a sort-based reference can afford many of; every power of two
/// up to the largest vocabulary, give or take one, comes up too.
fn vocab_size(random: &mut Random) -> u32 {
    let bits = match random.below(200) {
        0 => 20,
        1..=9 => 17 + random.below(2),
        10..=29 => 12 + random.below(5),
        30..=99 => 8 + random.below(4),
        _ => random.below(8),
    };
    let power = 1u32 << bits;
    let size = match random.below(6) {
        0 => power,
        1 => power - 1,
        2 => power + 1,
        3 if bits >= 17 => 128_256,
        _ => power + random.below(u64::from(power)) as u32,
    };
    size.clamp(1, VOCAB_SIZE_MAX)
}

fn params(random: &mut Random, vocab_size: u32) -> SamplingParams {
    let any_k = 1 + random.below(u64::from(vocab_size)) as u32;
    let spec = ParamsSpec {
        temperature: match random.below(3) {
            0 => libm::powf(10.0, random.unit() * 8.0 - 4.0).clamp(1e-4, 1e4),
            _ => random.pick(&[0.0, 1e-4, 0.01, 0.5, 0.7, 0.8, 1.0, 1.0, 1.3, 2.0, 10.0, 1e4]),
        },
        top_k: random.pick(&[
            0,
            0,
            0,
            0,
            1,
            2,
            5,
            50,
            any_k,
            any_k,
            vocab_size - 1,
            vocab_size,
            vocab_size + 1,
            u32::MAX,
        ]),
        top_p: match random.below(3) {
            0 => random.unit().max(f32::MIN_POSITIVE),
            _ => random.pick(&[1.0, 1.0, 1.0, 0.95, 0.9, 0.5, BELOW_ONE, f32::from_bits(1)]),
        },
        min_p: match random.below(4) {
            0 => random.unit(),
            _ => random.pick(&[
                0.0,
                0.0,
                0.0,
                0.0,
                0.05,
                0.1,
                1e-6,
                1.0,
                BELOW_ONE,
                f32::from_bits(1),
            ]),
        },
        seed: Some(random.edge_u64()),
        position: random.edge_u64(),
        draws: random.pick(&[1, 1, 1, 1, 1, 2, 3, 16, 100, 1024]),
    };
    spec.parse(|| unreachable!("a seed was given")).expect("every range is kept")
}

/// The largest f32 below 1.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

/// A stream of random bits: the counter-based generator, so that row `index` needs no row before it.
struct Random {
    key: [u32; 2],
    index: u64,
    block: u32,
    left: Vec<u32>,
}

impl Random {
    /// The generator's counter ends in what its bits are for; tokens have 0, generated rows this.
    const PURPOSE: u32 = 0x7465_7374;

    fn new(seed: u64, index: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], index, block: 0, left: Vec::new() }
    }

    fn u32(&mut self) -> u32 {
        if self.left.is_empty() {
            let counter = [self.index as u32, (self.index >> 32) as u32, self.block, Self::PURPOSE];
            self.left.extend(philox4x32_10(counter, self.key));
            self.block += 1;
        }
        self.left.pop().expect("four were put there")
    }

    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    /// 0 to `n - 1`; the bias of a multiplication is of no interest here.
    fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(n)) >> 64) as u64
    }

    /// [0, 1).
    fn unit(&mut self) -> f32 {
        (self.u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Close to a normal distribution: no logarithm, so that every machine makes the same rows.
    fn bell(&mut self) -> f32 {
        let bits = self.u64();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65536.0 - 2.0) * 1.732
    }

    fn edge_u64(&mut self) -> u64 {
        let any = self.u64();
        self.pick(&[0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32, any, any, any])
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, reference::Reference};
    use crate::batch::{Results, RowStatus};
    use std::collections::HashSet;

    #[test]
    fn a_row_is_a_function_of_seed_and_index() {
        let same = |a: &Case, b: &Case| a.logits == b.logits && a.params == b.params;
        assert!(same(&case(7, 11, 4096), &case(7, 11, 4096)));
        assert!(!same(&case(7, 11, 4096), &case(7, 12, 4096)));
        assert!(!same(&case(7, 11, 4096), &case(8, 11, 4096)));
    }

    #[test]
    fn everything_promised_comes_up() {
        let cases: Vec<Case> = (0..3000).map(|i| case(1, i, 4096)).collect();
        let rows: Vec<_> = cases.iter().map(Case::row).collect();
        let mut results = Results::default();
        Reference::default().sample(&rows, &mut results).unwrap();
        let statuses: HashSet<RowStatus> = results.iter().map(|r| r.outcome.status).collect();
        assert_eq!(statuses.len(), 4);
        let values: HashSet<Values> = cases.iter().map(|c| c.values).collect();
        assert_eq!(values.len(), Values::ALL.len());
        let sizes: HashSet<u32> = rows.iter().map(|r| r.vocab_size()).collect();
        for edge in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257] {
            assert!(sizes.contains(&edge), "no row of {edge} tokens");
        }
        // Each cut decides somewhere, and draws of one row differ somewhere.
        assert!(rows.iter().zip(results.iter()).any(|(row, result)| {
            result.outcome.kept == row.params().top_k().unwrap_or(0) && result.outcome.kept > 1
        }));
        assert!(results.iter().any(|r| r.draws.windows(2).any(|d| d[0].token != d[1].token)));
    }

    #[test]
    fn the_largest_vocabularies_come_up() {
        let mut random = Random::new(3, 0);
        let sizes: HashSet<u32> = (0..20_000).map(|_| vocab_size(&mut random)).collect();
        for edge in [65_535, 65_537, 128_256, 262_144, (1 << 20) - 1, 1 << 20] {
            assert!(sizes.contains(&edge), "no row of {edge} tokens");
        }
    }
}
