//! What a proposal leaves of a block, and the masses of a block's tokens on either side.
//!
//! ```text
//! for each token: if mass * D > part * W:  own += mass; covered += part
//! left of the block = own * D - covered * W
//! ```
//!
//! 1. The sums of masses and of parts are two of 64 bits, so that products of 128 bits are one a block.
//! 2. A mass has at most 24 bits that are not 0, so a float has it exactly, and which product is greater is told by comparing the mass with
//!    `part * (W / D)` in floats. Where the two are too near for those, integers tell, for all tokens of the block.
//! 3. Masses are written place by place, those beyond a cut as 0: tokens of two rows are beside each other by themselves, where lists
//!    would have to be merged. Where the row has few tokens with mass in a block ([`Hits`]), the places are those of these, in both
//!    rows: of others nothing is left.
//!
//! Floor of 16 tokens in AVX-512: 22 instructions to weigh them in each row, 4 to cut, 4 to store, and 24 to compare and to sum: 76, where a
//! mass alone takes 16. With two in three left out: 25, and 6 to find and bring together those that are not.
//! Measured over 128,256 f16 of real rows at temperature 0.8, in AVX-512: 47 us, where the masses of one row take 17.

use super::blocks::{BLOCK, Blocks};
use super::cut::{Cut, LeastByBlock};
use super::element::Element;
use super::mass::{Parts, Split, Weigher, Weights};
use super::simd::{Kernel, Simd};
use crate::arithmetic::accept::{Share, residual};
use crate::arithmetic::mass::UNIT;

/// Floats and their products are off by less than 2^-22 of themselves.
const NEAR: f64 = 1.0 / 1_048_576.0; // 2^-20

/// Words of a bitmask of a block.
const WORDS: usize = BLOCK / 32;
/// The share of a block's tokens from which on none are left out.
const MANY: usize = BLOCK * 2 / 3;

/// The tokens of a block that are looked at: a bit each.
pub struct Hits {
    words: [u32; WORDS],
    count: usize,
}

impl Hits {
    /// All of them.
    pub const ALL: Self = Self { words: [u32::MAX; WORDS], count: BLOCK };

    /// The place of a token among those that are looked at.
    fn place(&self, token: usize) -> Option<usize> {
        let (word, bit) = (token / 32, token % 32);
        let before = self.words[..word].iter().map(|word| word.count_ones() as usize);
        let within = self.words[word] & ((1 << bit) - 1);
        let is_hit = self.words[word] >> bit & 1 == 1;
        is_hit.then(|| before.sum::<usize>() + within.count_ones() as usize)
    }

    /// The bits of so many lanes from a place on.
    #[inline(always)]
    fn bits(&self, place: usize, lanes: usize) -> u32 {
        (self.words[place / 32] >> (place % 32)) & (u32::MAX >> (32 - lanes))
    }
}

/// Finds the tokens of a block that may have a mass.
pub struct FindHits<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub block: usize,
    pub weights: Weights,
    pub cut: Cut,
}

impl<S: Simd, E: Element> Kernel<S> for FindHits<'_, E> {
    type Output = Hits;

    #[inline(always)]
    fn call(self, s: S) -> Hits {
        let Self { blocks, block, weights, cut } = self;
        let logits = blocks.get(block);
        let least = LeastByBlock::new::<E>(cut).of(block);
        let bound =
            E::bound(s, weights.massless::<E>().map_or(least, |massless| massless.max(least)));
        let lanes = E::raw_lanes::<S>();
        let mut words = [0; WORDS];
        for i in 0..BLOCK / lanes {
            let (place, at) = (i * lanes, i * lanes * E::SIZE);
            words[place / 32] |= E::at_least(s, E::raw(s, &logits[at..]), bound) << (place % 32);
        }
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        if count > MANY { Hits::ALL } else { Hits { words, count } }
    }
}

/// The masses of a block's tokens, in the order of their ids: `high * 2^16 + low` each.
pub struct TokenMasses {
    high: [u32; BLOCK],
    low: [u32; BLOCK],
    /// How many tokens are looked at. Those that fill up the last vector have no mass.
    len: usize,
    /// Their logits as they are stored, where others are left out.
    few: [u8; BYTES],
}

impl Default for TokenMasses {
    fn default() -> Self {
        Self { high: [0; BLOCK], low: [0; BLOCK], len: 0, few: [0; BYTES] }
    }
}

impl TokenMasses {
    /// The mass of a token, by its place among those that are looked at.
    pub fn mass(&self, place: usize) -> u64 {
        (u64::from(self.high[place]) << 16) + u64::from(self.low[place])
    }

    /// The masses of those that are looked at, vector by vector.
    #[inline(always)]
    fn vectors<S: Simd>(&self, s: S) -> impl Iterator<Item = Split<S>> + '_ {
        let masses = self.high.chunks_exact(S::LANES).zip(self.low.chunks_exact(S::LANES));
        let masses = masses.take(self.len.div_ceil(S::LANES));
        masses.map(move |(high, low)| Split { high: s.load_u32(high), low: s.load_u32(low) })
    }
}

/// Writes masses, vector by vector, as many as there are places.
#[inline(always)]
fn store<'a, S: Simd>(
    s: S,
    masses: impl Iterator<Item = Split<S>>,
    high: &'a mut [u32],
    low: &'a mut [u32],
) {
    let places = high.chunks_exact_mut(S::LANES).zip(low.chunks_exact_mut(S::LANES));
    for ((high, low), mass) in places.zip(masses) {
        s.store_u32(mass.high, high);
        s.store_u32(mass.low, low);
    }
}

/// Room for the tokens of a block, and for a vector that is written beyond them.
const BYTES: usize = BLOCK * 4 + 64;

/// Weighs the tokens of a block that are looked at, those beyond a cut as nothing.
pub struct WeighBlock<'a, E> {
    pub blocks: Blocks<'a, E>,
    pub block: usize,
    pub weights: Weights,
    pub cut: Cut,
    pub hits: &'a Hits,
    pub masses: &'a mut TokenMasses,
}

impl<S: Simd, E: Element> Kernel<S> for WeighBlock<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let Self { block, cut, hits, masses, .. } = self;
        let TokenMasses { high, low, len, few } = masses;
        let logits = match hits.count {
            BLOCK => self.blocks.get(block),
            _ => bring_together::<S, E>(s, hits, self.blocks.get(block), few),
        };
        let weigher = Weigher::for_any(s, self.weights);
        let least = s.splat(LeastByBlock::new::<E>(cut).of(block));
        let weighed = logits.chunks_exact(S::LANES * E::SIZE).map(|logits| {
            let x = E::widen(s, logits);
            Split::weigh(s, &weigher, x).only(s, s.ge(x, least))
        });
        *len = hits.count;
        let end = len.next_multiple_of(S::LANES);
        store(s, weighed, &mut high[..end], &mut low[..end]);
        for token in cut.dropped_tokens::<E>(block, self.blocks.get(block)) {
            if let Some(place) = hits.place(token) {
                (high[place], low[place]) = (0, 0);
            }
        }
    }
}

/// Copies the tokens that are looked at, and fills up their last vector with tokens after all others.
#[inline(always)]
fn bring_together<'a, S: Simd, E: Element>(
    s: S,
    hits: &Hits,
    block: &[u8],
    few: &'a mut [u8; BYTES],
) -> &'a [u8] {
    let (mut end, lanes) = (0, E::raw_lanes::<S>());
    for i in 0..BLOCK / lanes {
        let bits = hits.bits(i * lanes, lanes);
        E::compress(s, bits, E::raw(s, &block[i * lanes * E::SIZE..]), &mut few[end..]);
        end += bits.count_ones() as usize * E::SIZE;
    }
    for filled in few[end..end + S::LANES * E::SIZE].chunks_exact_mut(E::SIZE) {
        E::write(-E::INFINITY - 1, filled);
    }
    few
}

/// The mass of a token with a probability.
pub fn mass_of(p: f32) -> u64 {
    (p * UNIT as f32) as u64
}

/// Weighs the tokens of a block that are looked at by their probabilities: those of the row from the block on.
pub struct WeighProbabilities<'a> {
    pub p: &'a [f32],
    pub hits: &'a Hits,
    pub masses: &'a mut TokenMasses,
}

impl<S: Simd> Kernel<S> for WeighProbabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self, s: S) {
        let Self { p, hits, masses } = self;
        let mut filled_up = [0.0; BLOCK];
        let mut p: &[f32; BLOCK] = p.first_chunk().unwrap_or_else(|| {
            filled_up[..p.len()].copy_from_slice(p);
            &filled_up
        });
        let mut few = [0.0; BLOCK + 16];
        if hits.count < BLOCK {
            let mut end = 0;
            for i in 0..BLOCK / S::LANES {
                let bits = hits.bits(i * S::LANES, S::LANES);
                s.compress(bits, s.load(&p[i * S::LANES..]), &mut few[end..]);
                end += bits.count_ones() as usize;
            }
            few[end..end + S::LANES].fill(0.0);
            p = few.first_chunk().expect("as many as a block has");
        }
        let TokenMasses { high, low, len, .. } = masses;
        *len = hits.count;
        let end = len.next_multiple_of(S::LANES);
        store(s, weighed(s, p), &mut high[..end], &mut low[..end]);
    }
}

/// The sum of the masses of tokens with probabilities.
pub struct SumProbabilities<'a>(pub &'a [f32]);

impl<S: Simd> Kernel<S> for SumProbabilities<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self, s: S) -> u64 {
        let (blocks, rest) = self.0.as_chunks();
        let mut sum = rest.iter().copied().map(mass_of).sum();
        for block in blocks {
            let masses = weighed(s, block);
            sum += masses.fold(Split::none(s), |sum, mass| sum.plus(s, mass)).total(s);
        }
        sum
    }
}

/// The masses of probabilities, vector by vector.
#[inline(always)]
fn weighed<S: Simd>(s: S, p: &[f32; BLOCK]) -> impl Iterator<Item = Split<S>> + '_ {
    let (unit, two_to_16) = (s.splat((UNIT >> 16) as f32), s.splat(65_536.0));
    p.chunks_exact(S::LANES).map(move |p| Split::of_power(s, s.mul(s.load(p), unit), two_to_16))
}

/// What a proposal leaves of a block.
pub struct Left<'a> {
    /// The masses of the row, and their sum over all blocks.
    pub own: &'a TokenMasses,
    pub total: u64,
    /// Those of the proposal.
    pub proposed: &'a TokenMasses,
    pub all: u64,
}

impl Left<'_> {
    /// What is left of one token, by its place.
    pub fn of_token(&self, place: usize) -> u128 {
        let own = Share { mass: self.own.mass(place), total: self.total };
        residual(own, Share { mass: self.proposed.mass(place), total: self.all })
    }
}

impl<S: Simd> Kernel<S> for Left<'_> {
    type Output = u128;

    #[inline(always)]
    fn call(self, s: S) -> u128 {
        let ratio = self.total as f64 / self.all as f64;
        let (most, least) = ((ratio * (1.0 + NEAR)) as f32, (ratio * (1.0 - NEAR)) as f32);
        let (most, least) = (s.splat(most), s.splat(least));
        let unit = s.splat(1.0 / 65_536.0);
        let float = |mass: Split<S>| s.fma(s.float(mass.low), unit, s.float(mass.high));
        let (mut own, mut covered) = (Split::none(s), Split::none(s));
        let mut undecided = 0;
        for (mass, part) in self.own.vectors(s).zip(self.proposed.vectors(s)) {
            let (ours, theirs) = (float(mass), float(part));
            let is_left = s.ge(ours, s.mul(theirs, most));
            undecided |= s.bits(is_left) ^ s.bits(s.ge(ours, s.mul(theirs, least)));
            own = own.plus(s, mass.only(s, is_left));
            covered = covered.plus(s, part.only(s, is_left));
        }
        if undecided != 0 {
            return (0..self.own.len).map(|place| self.of_token(place)).sum();
        }
        let (own, covered) = (u128::from(own.total(s)), u128::from(covered.total(s)));
        own * u128::from(self.all) - covered * u128::from(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::super::portable::Portable;
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::backend::skipped::skipped;

    fn of(masses: impl Fn(usize) -> u64) -> TokenMasses {
        let mut all = TokenMasses { len: BLOCK, ..TokenMasses::default() };
        for place in 0..BLOCK {
            let mass = masses(place);
            (all.high[place], all.low[place]) = ((mass >> 16) as u32, mass as u32 & 0xffff);
        }
        all
    }

    fn expect<S: Simd>(s: S) {
        // As masses are: of 24 bits, or less than that many of them.
        let mass =
            |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 | 1 << 23) << 17 >> (i % 42);
        let some = of(|i| mass(i as u64));
        let others = of(|i| mass(i as u64 * 7 + 3));
        let near = of(|i| {
            let mass = some.mass(i);
            mass + [0, (mass >> 20).max(1), 1][i % 3].min(UNIT.saturating_sub(mass))
        });
        let (nothing, units) = (of(|_| 0), of(|i| i as u64 % 3 * (UNIT / 2)));
        let each = [&some, &others, &near, &nothing, &units];
        let pairs = each.iter().flat_map(|own| each.map(|proposed| (own, proposed)));
        for (own, proposed) in pairs {
            for (total, all) in [(1 << 50, 1 << 50), (1, 1), (1 << 60, 3), (5, 1 << 59), (999, 998)]
            {
                let left = || Left { own, total, proposed, all };
                let expected: u128 = (0..BLOCK).map(|place| left().of_token(place)).sum();
                assert_eq!(s.run(left()), expected, "{total} {all}");
            }
        }
    }

    #[test]
    fn what_is_left_is_that_of_every_token() {
        expect(Portable);
        #[cfg(target_arch = "x86_64")]
        {
            let missing = |name| skipped(name, "this machine does not have it");
            match super::super::avx2::Avx2::new() {
                Some(s) => expect(s),
                None => missing("residuals of AVX2"),
            }
            match super::super::avx512::Avx512::new() {
                Some(s) => expect(s),
                None => missing("residuals of AVX-512"),
            }
        }
    }
}
