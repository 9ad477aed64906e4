//! Rows made from a seed: every family of values that has bitten a sampler, and parameters whose
//! cuts fall on the borders of that very row.
//!
//! [`row`] is a pure function of `(seed, index)`, so a failure is replayed from two numbers, on any
//! machine. First the shape and the temperature are chosen, then the logits (some families are laid
//! out around the temperature), then the cuts (aimed at the logits: a `top_k` that splits a tie, a
//! `min_p` that is one unit in the last place away from a token).

use crate::arithmetic::mass::{Scale, mass};
use crate::arithmetic::philox::philox4x32_10;
use crate::batch::{Dtype, Row, VOCAB_SIZE_MAX};
use crate::params::{DRAWS_MAX, ParamsSpec, SamplingParams, TEMPERATURE_RANGE};
use half::{bf16, f16};
use std::fmt;

/// A row that owns its bytes, with what it was made of. Printed, it says how to make it again.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The family of its values.
    pub family: Family,
    /// How the logits are stored.
    pub dtype: Dtype,
    /// Little-endian values; `dtype.size_bytes()` each.
    pub logits: Vec<u8>,
    /// What to do with them.
    pub params: SamplingParams,
}

impl Generated {
    /// The row as the backends take it.
    pub fn row(&self) -> Row<'_> {
        Row::new(self.dtype, &self.logits, self.params).expect("made with a vocab_size in range")
    }
}

impl fmt::Display for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vocab_size = self.logits.len() / self.dtype.size_bytes();
        write!(f, "{:?} row, {} x {vocab_size}, {:?}", self.family, self.dtype, self.params)
    }
}

/// Row number `index` of the endless table that `seed` names. `vocab_size_max` bounds its width: 1
/// to [`VOCAB_SIZE_MAX`].
pub fn row(seed: u64, index: u64, vocab_size_max: u32) -> Generated {
    let mut stream = Stream::new(seed, index);
    let dtype = *stream.pick(&Dtype::ALL);
    let family = *stream.pick(&Family::ALL);
    let vocab_size = vocab_size(&mut stream, vocab_size_max.clamp(1, VOCAB_SIZE_MAX));
    let temperature = temperature(&mut stream);
    let logits = logits(family, dtype, vocab_size, temperature, &mut stream);
    let params = params(dtype, &logits, temperature, &mut stream);
    Generated { family, dtype, logits, params }
}

/// What the values of a row look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Normal, as flat or as peaked as the stream says.
    Normal,
    /// One token far above a normal crowd.
    Spike,
    /// A few distinct values, so that every cut meets ties.
    Ties,
    /// -0.0 and +0.0, above, among and below other values.
    SignedZeros,
    /// Normal, with a share of -inf.
    SomeMinusInfinity,
    /// One finite token, all others -inf.
    LoneCandidate,
    /// Nothing but -inf.
    NoCandidate,
    /// Subnormals of the dtype, both signs.
    Subnormal,
    /// One value.
    Constant,
    /// Neighbouring bit patterns.
    Neighbours,
    /// Two values.
    TwoValued,
    /// Rising with the id.
    Ascending,
    /// Falling with the id.
    Descending,
    /// The ends of the dtype's range, the least magnitudes, zeros and -inf.
    Extremes,
    /// Any bit pattern but NaN and +inf.
    Patterns,
    /// Distances below the maximum at which a mass is 0, 1 or a few units.
    Cliff,
    /// Runs of like values, as long as a block of a vectorised pass.
    Runs,
    /// Normal, with a NaN of any payload and sign somewhere.
    Nan,
    /// Normal, with a +inf somewhere.
    PositiveInfinity,
    /// NaN and +inf in one row.
    NanAndInfinity,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 20] = [
        Self::Normal,
        Self::Spike,
        Self::Ties,
        Self::SignedZeros,
        Self::SomeMinusInfinity,
        Self::LoneCandidate,
        Self::NoCandidate,
        Self::Subnormal,
        Self::Constant,
        Self::Neighbours,
        Self::TwoValued,
        Self::Ascending,
        Self::Descending,
        Self::Extremes,
        Self::Patterns,
        Self::Cliff,
        Self::Runs,
        Self::Nan,
        Self::PositiveInfinity,
        Self::NanAndInfinity,
    ];
}

/// The logits of a row, as little-endian bytes.
pub fn logits(
    family: Family,
    dtype: Dtype,
    vocab_size: u32,
    temperature: f32,
    stream: &mut Stream,
) -> Vec<u8> {
    let format = Format(dtype);
    let mut patterns = finite_patterns(family, format, vocab_size as usize, temperature, stream);
    let mut put = |pattern: u32| {
        let place = stream.below(u64::from(vocab_size)) as usize;
        patterns[place] = pattern;
    };
    match family {
        Family::LoneCandidate => put(format.encode(-1.5)),
        Family::PositiveInfinity | Family::NanAndInfinity => put(format.infinity()),
        _ => (),
    }
    if matches!(family, Family::Nan | Family::NanAndInfinity) {
        let payload = 1 + stream.below(u64::from(format.quiet_nan() - format.infinity())) as u32;
        let sign = stream.below(2) as u32 * format.sign();
        let place = stream.below(u64::from(vocab_size)) as usize;
        patterns[place] = sign | (format.infinity() + payload);
    }
    let size = dtype.size_bytes();
    patterns.iter().flat_map(|p| p.to_le_bytes().into_iter().take(size)).collect()
}

/// Parameters at that temperature, whose cuts fall on or beside the borders of these logits.
pub fn params(
    dtype: Dtype,
    logits: &[u8],
    temperature: f32,
    stream: &mut Stream,
) -> SamplingParams {
    let format = Format(dtype);
    let x: Vec<f32> = logits.chunks_exact(dtype.size_bytes()).map(|b| format.decode(b)).collect();
    // Draws cost the oracle a pass each.
    let draws_max = (4_000_000 / x.len() as u64).clamp(1, u64::from(DRAWS_MAX));
    let draws = match stream.below(8) {
        0 => draws_max,
        1 => 1 + stream.below(draws_max),
        _ => 1 + stream.below(draws_max.min(4)),
    };
    let spec = ParamsSpec {
        temperature,
        top_k: top_k(&x, stream),
        top_p: top_p(&x, temperature, stream),
        min_p: min_p(&x, temperature, stream),
        seed: Some(stream.bits()),
        position: if stream.below(2) == 0 { stream.below(4096) } else { stream.bits() },
        draws: draws as u32,
    };
    spec.parse(|| 0).expect("every choice is in range")
}

/// A vocabulary: the edges of vectors, blocks and powers of two, or anything.
fn vocab_size(stream: &mut Stream, max: u32) -> u32 {
    let powers = max.ilog2() + 1;
    let power = 1u64 << stream.below(u64::from(powers));
    let size = match stream.below(3) {
        0 => (power + stream.below(3)).saturating_sub(1),
        1 => power + stream.below(power),
        _ => 1 + stream.below(u64::from(max.min(600))),
    };
    size.clamp(1, u64::from(max)) as u32
}

fn temperature(stream: &mut Stream) -> f32 {
    let (low, high) = TEMPERATURE_RANGE;
    match stream.below(8) {
        0 => 0.0,
        1 => *stream.pick(&[low, low.next_up(), high.next_down(), high]),
        2 => 10f64.powf(stream.unit() * 8.0 - 4.0).clamp(f64::from(low), f64::from(high)) as f32,
        3 => 1.0,
        _ => (0.05 + 2.0 * stream.unit()) as f32,
    }
}

/// Off, trivial, more than there is, or such that a tie is split (or just not).
fn top_k(x: &[f32], stream: &mut Stream) -> u32 {
    let n = x.len() as u64;
    match stream.below(8) {
        0..=2 => 0,
        3 => *stream.pick(&[1, 2, 50, u32::MAX]),
        4 => (n + stream.below(3)).saturating_sub(1) as u32,
        5 => 1 + stream.below(n) as u32,
        _ => {
            let border = *stream.pick(x);
            let above = x.iter().filter(|&&x| x > border).count() as u64;
            (above + stream.below(4)).saturating_sub(1) as u32
        }
    }
}

/// Off, the ends of the range, or the share of a prefix of the order, give or take the last place.
fn top_p(x: &[f32], temperature: f32, stream: &mut Stream) -> f32 {
    let p = match stream.below(8) {
        0..=2 => 1.0,
        3 => *stream.pick(&[f32::from_bits(1), f32::MIN_POSITIVE, 1e-6, 1f32.next_down()]),
        4 => 0.5 + 0.499 * stream.unit() as f32,
        5 => stream.unit() as f32,
        _ => nudge(share_above(x, *stream.pick(x), temperature), stream),
    };
    if p > 0.0 && p <= 1.0 { p } else { 0.9 }
}

/// Off, the ends of the range, or one token's own relative probability, give or take.
fn min_p(x: &[f32], temperature: f32, stream: &mut Stream) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let p = match stream.below(8) {
        0..=3 => 0.0,
        4 => *stream.pick(&[f32::from_bits(1), 1.0, 1f32.next_down()]),
        5 => stream.unit() as f32,
        _ => {
            let distance = f64::from(*stream.pick(x) - max);
            nudge(libm::exp(distance / f64::from(temperature)) as f32, stream)
        }
    };
    if (0.0..=1.0).contains(&p) { p } else { 0.05 }
}

/// The value, or one of its neighbours.
fn nudge(value: f32, stream: &mut Stream) -> f32 {
    *stream.pick(&[value.next_down(), value, value.next_up()])
}

/// The share of the row's mass that is strictly above `border`.
fn share_above(x: &[f32], border: f32, temperature: f32) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if temperature == 0.0 || !max.is_finite() || x.iter().any(|x| x.is_nan()) {
        return 0.5;
    }
    let scale = Scale::new(temperature);
    let sum = |least: f32| -> u64 {
        x.iter().filter(|&&x| x > least).map(|&x| mass(x, max, scale)).sum()
    };
    (sum(border) as f64 / sum(f32::NEG_INFINITY) as f64) as f32
}

/// A row without NaN or +inf (and, for [`Family::LoneCandidate`], without its candidate).
fn finite_patterns(
    family: Family,
    format: Format,
    vocab_size: usize,
    temperature: f32,
    stream: &mut Stream,
) -> Vec<u32> {
    let steps: Vec<f32> =
        (0..2 + stream.below(6)).map(|_| (stream.normal() * 3.0) as f32).collect();
    let scale = *stream.pick(&[0.1, 1.0, 3.0, 12.0]);
    let offset = *stream.pick(&[0.0, -20.0, 15.0]);
    let base = format.encode((stream.normal() * 4.0) as f32);
    let run = *stream.pick(&[16, 64, 100, 256, 1000]);
    let holes = *stream.pick(&[2, 3, 16, 1000]);
    let spike = stream.below(vocab_size as u64) as usize;
    let minus_infinity = format.sign() | format.infinity();
    let (greatest, least) = (format.infinity() - 1, 1);
    let mut last = 0;
    let mut token = |i: usize| {
        let normal = (stream.normal() * scale + offset) as f32;
        match family {
            Family::Ties => format.encode(*stream.pick(&steps)),
            Family::TwoValued => format.encode(steps[stream.below(2) as usize]),
            Family::Constant => base,
            Family::Neighbours => base + stream.below(4) as u32,
            Family::Spike if i == spike => format.encode(offset as f32 + 30.0),
            Family::SomeMinusInfinity if stream.below(holes) > 0 => format.encode(normal),
            Family::SomeMinusInfinity | Family::LoneCandidate | Family::NoCandidate => {
                minus_infinity
            }
            Family::SignedZeros => match stream.below(4) {
                0 => format.encode((steps[0] - 1.0).min(-0.5)),
                n => (n as u32 & 1) * format.sign(),
            },
            Family::Subnormal => {
                let sign = stream.below(2) as u32 * format.sign();
                sign | stream.below(u64::from(format.least_normal())) as u32
            }
            Family::Ascending => format.encode(i as f32 / vocab_size as f32 * 20.0 - 5.0),
            Family::Descending => format.encode(15.0 - i as f32 / vocab_size as f32 * 20.0),
            Family::Extremes => {
                let magnitude = *stream.pick(&[0, least, format.least_normal(), greatest]);
                match stream.below(9) {
                    0 => minus_infinity,
                    n => ((n as u32 & 1) * format.sign()) | magnitude,
                }
            }
            Family::Patterns => {
                let magnitude = stream.below(u64::from(format.infinity())) as u32;
                (stream.below(2) as u32 * format.sign()) | magnitude
            }
            Family::Cliff if i == spike => format.encode(0.0),
            Family::Cliff => {
                // ln(2^40) = 27.7: the masses below this distance are the last units.
                format.encode(-(temperature * (24.0 + 6.0 * stream.unit() as f32)))
            }
            Family::Runs => {
                if i.is_multiple_of(run) {
                    last = format.encode(normal);
                }
                last
            }
            _ => format.encode(normal),
        }
    };
    (0..vocab_size).map(&mut token).collect()
}

/// A dtype as bit patterns.
#[derive(Clone, Copy)]
struct Format(Dtype);

impl Format {
    /// The nearest pattern; finite values stay finite.
    fn encode(self, x: f32) -> u32 {
        let greatest = self.infinity() - 1;
        let pattern = match self.0 {
            Dtype::F16 => u32::from(f16::from_f32(x).to_bits()),
            Dtype::Bf16 => u32::from(bf16::from_f32(x).to_bits()),
            Dtype::F32 => x.to_bits(),
        };
        let magnitude = pattern & !self.sign();
        if x.is_finite() { pattern & self.sign() | magnitude.min(greatest) } else { pattern }
    }

    fn decode(self, bytes: &[u8]) -> f32 {
        match self.0 {
            Dtype::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Dtype::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Dtype::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }

    fn sign(self) -> u32 {
        1 << (self.0.size_bytes() * 8 - 1)
    }

    /// +inf; one less is the greatest finite value, and everything above is NaN.
    fn infinity(self) -> u32 {
        match self.0 {
            Dtype::F16 => 0x7c00,
            Dtype::Bf16 => 0x7f80,
            Dtype::F32 => 0x7f80_0000,
        }
    }

    /// The last positive pattern, a NaN of all ones.
    fn quiet_nan(self) -> u32 {
        self.sign() - 1
    }

    /// The least normal magnitude; everything below is 0 or subnormal.
    fn least_normal(self) -> u32 {
        match self.0 {
            Dtype::F16 => 0x0400,
            Dtype::Bf16 => 0x0080,
            Dtype::F32 => 0x0080_0000,
        }
    }
}

/// An endless stream of random numbers, the same on every machine.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    index: u64,
    block: u32,
    left: Option<u64>,
}

/// What generated rows use the generator for: a purpose that no draw has.
const PURPOSE_GENERATE: u32 = u32::from_be_bytes(*b"rows");

impl Stream {
    /// Stream number `index` of those that `seed` names.
    pub fn new(seed: u64, index: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], index, block: 0, left: None }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        if let Some(bits) = self.left.take() {
            return bits;
        }
        let counter = [self.index as u32, (self.index >> 32) as u32, self.block, PURPOSE_GENERATE];
        let [a, b, c, d] = philox4x32_10(counter, self.key).map(u64::from);
        self.block = self.block.wrapping_add(1);
        self.left = Some(c | d << 32);
        a | b << 32
    }

    /// An integer below `n`, which is above 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// One of them; there is at least one.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (0.5f64).powi(53)
    }

    /// Normal, with mean 0 and variance 1.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.unit())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, reference::Reference};
    use crate::batch::{Results, RowStatus};
    use std::collections::HashSet;

    #[test]
    fn a_row_is_made_again_from_its_seed_and_index() {
        for index in 0..50 {
            let (a, b) = (row(3, index, 5000), row(3, index, 5000));
            assert_eq!(a.logits, b.logits);
            assert_eq!(a.params, b.params);
        }
        assert_ne!(row(3, 0, 5000).logits, row(4, 0, 5000).logits);
    }

    #[test]
    fn every_family_does_what_it_says() {
        for family in Family::ALL {
            for dtype in Dtype::ALL {
                let mut stream = Stream::new(1, 2);
                let logits = logits(family, dtype, 999, 0.8, &mut stream);
                let params = params(dtype, &logits, 0.8, &mut stream);
                let row = Row::new(dtype, &logits, params).unwrap();
                let mut results = Results::default();
                Reference::default().sample(&[row], &mut results).unwrap();
                let expected = match family {
                    Family::Nan | Family::NanAndInfinity => RowStatus::Nan,
                    Family::PositiveInfinity => RowStatus::PositiveInfinity,
                    Family::NoCandidate => RowStatus::NoCandidate,
                    _ => RowStatus::Ok,
                };
                assert_eq!(results.row(0).outcome.status, expected, "{family:?} {dtype}");
            }
        }
    }

    #[test]
    fn the_table_covers_every_choice() {
        let rows: Vec<_> = (0..2000).map(|i| row(0, i, 3000)).collect();
        let families: HashSet<_> = rows.iter().map(|r| (r.family, r.dtype)).collect();
        assert_eq!(families.len(), Family::ALL.len() * Dtype::ALL.len());
        let sizes: HashSet<_> = rows.iter().map(|r| r.row().vocab_size()).collect();
        for edge in [1, 2, 3, 15, 16, 17, 255, 256, 257, 2047, 2048, 2049] {
            assert!(sizes.contains(&edge), "{edge}");
        }
        assert!(rows.iter().any(|r| r.params.is_greedy()));
        assert!(rows.iter().any(|r| r.params.draws() == DRAWS_MAX));
    }
}
