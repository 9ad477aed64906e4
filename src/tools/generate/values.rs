//! What the logits of a generated row look like.

use super::random::Random;
use half::{bf16, f16};
use logitd_core::batch::Dtype;

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
    /// +0.0 and -0.0, which tie, alone or with tokens below.
    Zeros,
    /// Nothing but subnormals and zeros, both signs.
    Subnormal,
    /// Four neighbouring bit patterns.
    Neighbours,
    /// One token far above the rest.
    Peaked,
    /// Rising from token to token, so that every token is a new maximum.
    Ascending,
    /// Falling from token to token.
    Descending,
    /// Runs of one value, about as long as a block of a vectorised pass.
    Runs,
    /// A flat crowd with clumps of neighbours far above or below it: a sample of the row misleads.
    Clumps,
    /// At distances below the maximum where a mass is 0, 1 or a few units.
    Cliff,
    /// The ends of the dtype's range, so that distances overflow, its least magnitudes, and -inf.
    Extreme,
    /// -inf but for some tokens, as a grammar leaves it.
    Masked,
    /// -inf but for one token.
    OneCandidate,
    /// Any bit pattern that is a finite number or -inf.
    AnyFinite,
    /// Any bit pattern.
    AnyBits,
    /// Only -inf.
    NoCandidate,
    /// A model's values and a NaN of any sign and payload.
    OneNan,
    /// A model's values and a +inf.
    OneInfinity,
    /// A model's values, a +inf and a NaN.
    NanAndInfinity,
}

impl Values {
    /// Every kind.
    pub const ALL: [Self; 22] = [
        Self::Model,
        Self::Coarse,
        Self::FewLevels,
        Self::Constant,
        Self::Zeros,
        Self::Subnormal,
        Self::Neighbours,
        Self::Peaked,
        Self::Ascending,
        Self::Descending,
        Self::Runs,
        Self::Clumps,
        Self::Cliff,
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

    /// `vocab_size` (1 or more) logits as little-endian bytes. The temperature places a [`Cliff`](Self::Cliff).
    pub fn logits(
        self,
        random: &mut Random,
        dtype: Dtype,
        vocab_size: u32,
        temperature: f32,
    ) -> Vec<u8> {
        let format = Format(dtype);
        let patterns = self.patterns(random, format, vocab_size as usize, temperature);
        let size = dtype.size_bytes();
        patterns.iter().flat_map(|p| p.to_le_bytes().into_iter().take(size)).collect()
    }

    fn patterns(self, random: &mut Random, format: Format, n: usize, temperature: f32) -> Vec<u32> {
        let infinity = format.infinity();
        let minus_infinity = format.sign() | infinity;
        let sign = |random: &mut Random| random.below(2) as u32 * format.sign();
        let mut x = match self {
            Self::Model | Self::OneNan | Self::OneInfinity | Self::NanAndInfinity => {
                format.encode(model(random, n))
            }
            Self::Coarse => {
                let step = random.pick(&[0.0625, 0.25, 1.0, 4.0]);
                format.encode(model(random, n).into_iter().map(|x| (x / step).round() * step))
            }
            Self::FewLevels => {
                let count = 2 + random.below(7) as usize;
                let levels = format.encode(model(random, count));
                repeat(n, || random.pick(&levels))
            }
            Self::Constant => vec![some_value(random, format); n],
            Self::Zeros => {
                let below = format.encode_one(random.pick(&[0.0, -1.0]));
                repeat(n, || random.pick(&[0, format.sign(), below]))
            }
            Self::Subnormal => {
                let normal = u64::from(format.least_normal());
                repeat(n, || sign(random) | random.below(normal) as u32)
            }
            Self::Neighbours => {
                let base = some_value(random, format).saturating_sub(3);
                repeat(n, || base + random.below(4) as u32)
            }
            Self::Peaked => {
                let mut x = format.encode(model(random, n));
                put(&mut x, random, format.encode_one(60.0));
                x
            }
            Self::Ascending => format.encode(ramp(random, n)),
            Self::Descending => format.encode(ramp(random, n).rev()),
            Self::Runs => {
                let run = random.pick(&[16, 64, 100, 256, 1000]);
                let levels = format.encode(model(random, n.div_ceil(run)));
                (0..n).map(|i| levels[i / run]).collect()
            }
            Self::Clumps => format.encode(clumps(random, n)),
            Self::Cliff => {
                // ln(2^40) = 27.7: the masses around this distance are the last units.
                let mut distance = || -temperature * (24.0 + 6.0 * random.unit());
                let mut x = format.encode((0..n).map(|_| distance()));
                put(&mut x, random, 0);
                x
            }
            Self::Extreme => {
                let ends = [0, 1, format.least_normal(), infinity - 1, infinity - 1];
                repeat(n, || match random.below(8) {
                    0 => minus_infinity,
                    _ => sign(random) | random.pick(&ends),
                })
            }
            Self::Masked => {
                let share = random.pick(&[2, 3, 10, 1000]);
                let mut x = format.encode(model(random, n));
                x.iter_mut().for_each(|x| {
                    if random.below(share) > 0 {
                        *x = minus_infinity;
                    }
                });
                put(&mut x, random, format.encode_one(0.5));
                x
            }
            Self::OneCandidate => {
                let mut x = vec![minus_infinity; n];
                let value = some_value(random, format);
                put(&mut x, random, value);
                x
            }
            Self::AnyFinite => repeat(n, || {
                let pattern = random.bits() as u32 & format.all();
                if pattern & !format.sign() > infinity || pattern == infinity {
                    pattern & format.sign()
                } else {
                    pattern
                }
            }),
            Self::AnyBits => repeat(n, || random.bits() as u32 & format.all()),
            Self::NoCandidate => vec![minus_infinity; n],
        };
        if matches!(self, Self::OneInfinity | Self::NanAndInfinity) {
            put(&mut x, random, infinity);
        }
        if matches!(self, Self::OneNan | Self::NanAndInfinity) {
            let payloads = u64::from(format.sign() - 1 - infinity);
            let nan = sign(random) | (infinity + 1 + random.below(payloads) as u32);
            put(&mut x, random, nan);
        }
        x
    }
}

fn repeat(n: usize, mut token: impl FnMut() -> u32) -> Vec<u32> {
    (0..n).map(|_| token()).collect()
}

fn model(random: &mut Random, n: usize) -> Vec<f32> {
    let width = random.pick(&[0.1, 0.5, 2.0, 3.0, 6.0]);
    let centre = random.pick(&[0.0, -8.0, 12.0]);
    let mut x: Vec<f32> = (0..n).map(|_| centre + width * random.bell()).collect();
    for _ in 0..random.below(8) {
        let likely = centre + width * (4.0 + 2.0 * random.unit());
        put(&mut x, random, likely);
    }
    x
}

fn clumps(random: &mut Random, n: usize) -> Vec<f32> {
    let width = random.pick(&[0.0, 0.01, 1.0]);
    let mut x: Vec<f32> = (0..n).map(|_| width * random.bell()).collect();
    for _ in 0..1 + random.below(12) {
        let size = random.pick(&[1, 8, 16, 32, 100]);
        let start = random.below(n as u64) as usize;
        let offset = random.pick(&[-8.0, 2.0, 5.0, 8.0]);
        x[start..n.min(start + size)].iter_mut().for_each(|x| *x += offset);
    }
    x
}

fn ramp(random: &mut Random, n: usize) -> impl DoubleEndedIterator<Item = f32> + use<> {
    let span = random.pick(&[1.0, 30.0, 200.0]);
    (0..n).map(move |i| span * (i as f32 / n as f32 - 0.5))
}

/// A finite value, at an edge of the format now and then.
fn some_value(random: &mut Random, format: Format) -> u32 {
    let edges =
        [0, format.sign(), 1, format.infinity() - 1, format.sign() | (format.infinity() - 1)];
    let any = format.encode_one(random.bell() * 10.0);
    if random.below(4) == 0 { random.pick(&edges) } else { any }
}

/// Writes one value: at an end half of the time, where vector loops have their remainders.
fn put<T>(x: &mut [T], random: &mut Random, value: T) {
    let place = match random.below(4) {
        0 => 0,
        1 => x.len() - 1,
        _ => random.below(x.len() as u64) as usize,
    };
    x[place] = value;
}

/// A dtype as bit patterns, in the low bits of a `u32`.
#[derive(Clone, Copy)]
struct Format(Dtype);

impl Format {
    fn encode(self, x: impl IntoIterator<Item = f32>) -> Vec<u32> {
        x.into_iter().map(|x| self.encode_one(x)).collect()
    }

    /// The nearest pattern; what is finite stays finite.
    fn encode_one(self, x: f32) -> u32 {
        let pattern = match self.0 {
            Dtype::F16 => u32::from(f16::from_f32(x).to_bits()),
            Dtype::Bf16 => u32::from(bf16::from_f32(x).to_bits()),
            Dtype::F32 => x.to_bits(),
        };
        let magnitude = (pattern & !self.sign()).min(self.infinity() - 1);
        if x.is_finite() { pattern & self.sign() | magnitude } else { pattern }
    }

    /// The sign bit. One less is the last positive pattern, a NaN.
    fn sign(self) -> u32 {
        1 << (self.0.size_bytes() * 8 - 1)
    }

    fn all(self) -> u32 {
        self.sign() | (self.sign() - 1)
    }

    /// +inf. One less is the greatest finite value; magnitudes above are NaN.
    fn infinity(self) -> u32 {
        match self.0 {
            Dtype::F16 => 0x7c00,
            Dtype::Bf16 => 0x7f80,
            Dtype::F32 => 0x7f80_0000,
        }
    }

    /// The least normal magnitude; all below are subnormal or 0.
    fn least_normal(self) -> u32 {
        match self.0 {
            Dtype::F16 => 0x0400,
            Dtype::Bf16 => 0x0080,
            Dtype::F32 => 0x0080_0000,
        }
    }
}
