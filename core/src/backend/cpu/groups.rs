//! The tokens of a row in their order, equal logits as one group: what the further cuts look at.
//!
//! A group is a logit and how many tokens have it. A 16-bit row of 262,144 tokens has some ten thousand, so that masses,
//! surprisals and sums up to each group are made once, and every cut is a search among groups or a sum of two differences.

use super::element::Element;
use super::passes::ScannedRow;
use super::simd::Simd;
use super::surprisals::{SurprisalSlices, Surprisals};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::key::{key32, value32};
use crate::arithmetic::mass::Scale;
use std::ops::Range;

/// The digits of keys by which they are sorted, and how many digits a key has.
const DIGIT_BITS: u32 = 11;
const DIGITS: u32 = 3;

/// Memory for making groups of a row.
#[derive(Default)]
pub struct Buffers {
    /// How many tokens have each pattern of 16 bits. All 0 between rows.
    counts: Vec<u32>,
    keys: Vec<u32>,
    sorted: Vec<u32>,
}

/// Tokens of one logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tied {
    /// The logit. Not -0.0.
    pub x: f32,
    /// How many they are.
    pub tokens: u32,
}

/// The tokens of a row beside those in their order.
#[derive(Clone, Copy)]
pub struct Others {
    pub tokens: u32,
    pub all: Sums,
}

/// The sums over all tokens, at the temperature of the chain; only of masses where the chain asks for no more.
#[derive(Clone, Copy)]
pub struct Sums {
    /// The least that they are.
    pub least: Interval,
    /// How much more the term may be.
    pub slack: u64,
}

impl Sums {
    /// Sums that are known.
    pub fn exactly(all: Interval) -> Self {
        Self { least: all, slack: 0 }
    }

    /// The most that they are.
    pub fn most(self) -> Interval {
        Interval { term: self.least.term + self.slack, ..self.least }
    }
}

/// Groups, the greatest logit first.
#[derive(Default)]
pub struct Groups {
    x: Vec<f32>,
    /// How many tokens are in a group and those before it.
    ends: Vec<u32>,
    mass: Vec<u64>,
    g: Vec<u32>,
    term: Vec<u64>,
    /// The sums over the groups before each, and over all.
    before: Vec<Interval>,
    /// The sums over all, where the last group is what the row has beside tokens in their order.
    with_others: Option<Sums>,
}

impl Groups {
    /// Of logits in their order.
    pub fn of_sorted(&mut self, x: impl Iterator<Item = f32>) {
        self.clear();
        x.for_each(|x| self.push(x, 1));
    }

    /// Adds so many equal tokens, after those in their order.
    pub fn add_tied(&mut self, Tied { x, tokens }: Tied) {
        self.push(x, tokens);
    }

    /// Adds so many more tokens, after those in their order: a group that no cut may end in. `all` are the sums with these,
    /// at the temperature that the groups will be weighed at.
    pub fn add_others(&mut self, Others { tokens, all }: Others) {
        self.push(f32::NEG_INFINITY, tokens);
        self.with_others = Some(all);
    }

    /// Gives all tokens, others among them, other sums.
    pub fn set_sums(&mut self, all: Sums) {
        self.with_others = Some(all);
    }

    /// How much more than [`sums`](Self::sums) says the term of a range may be.
    pub fn slack(&self, range: &Range<u32>) -> u64 {
        let has_others = range.end == self.tokens();
        self.with_others.filter(|_| has_others).map_or(0, |all| all.slack)
    }

    /// Of every candidate of a row.
    ///
    /// Of 16-bit logits it is a count by pattern, one pass of about a nanosecond a token. Of f32 the keys are sorted, three
    /// passes, and nearly each token is a group of its own.
    pub fn of_row<S: Simd, E: Element>(
        &mut self,
        row: &ScannedRow<'_, S, E>,
        buffers: &mut Buffers,
    ) {
        self.clear();
        if E::SIZE == 2 {
            self.count_patterns(row, &mut buffers.counts);
        } else {
            self.sort_keys(row, buffers);
        }
    }

    fn count_patterns<S: Simd, E: Element>(
        &mut self,
        row: &ScannedRow<'_, S, E>,
        counts: &mut Vec<u32>,
    ) {
        counts.resize(1 << 16, 0);
        let counts: &mut [u32; 1 << 16] =
            counts.as_mut_slice().try_into().expect("a count a pattern");
        for block in 0..row.blocks.len() {
            for bits in row.blocks.get(block).as_chunks::<2>().0 {
                counts[usize::from(u16::from_le_bytes(*bits))] += 1;
            }
        }
        // Positive patterns fall with their logits, negative ones rise.
        let positive = (1..0x8000u16).rev();
        let negative = 0x8001..=u16::MAX;
        let mut take = |bits: u16| std::mem::take(&mut counts[usize::from(bits)]);
        let mut push = |bits: u16, count: u32| {
            let x = E::read(&bits.to_le_bytes());
            if count > 0 && x > f32::NEG_INFINITY {
                self.push(x + 0.0, count);
            }
        };
        positive.for_each(|bits| push(bits, take(bits)));
        push(0, take(0) + take(0x8000));
        negative.for_each(|bits| push(bits, take(bits)));
    }

    fn sort_keys<S: Simd, E: Element>(
        &mut self,
        row: &ScannedRow<'_, S, E>,
        buffers: &mut Buffers,
    ) {
        let Buffers { keys, sorted, .. } = buffers;
        keys.clear();
        for block in 0..row.blocks.len() {
            let logits = row.blocks.get(block).chunks_exact(E::SIZE).map(E::read);
            // Flipped, so that the greatest logit comes first.
            keys.extend(logits.filter(|x| *x > f32::NEG_INFINITY).map(|x| !key32(x)));
        }
        sorted.resize(keys.len(), 0);
        for digit in 0..DIGITS {
            sort_by_digit(keys, sorted, digit * DIGIT_BITS);
            std::mem::swap(keys, sorted);
        }
        keys.iter().for_each(|&key| self.push(value32(!key), 1));
    }

    fn clear(&mut self) {
        self.x.clear();
        self.ends.clear();
        self.with_others = None;
    }

    fn push(&mut self, x: f32, count: u32) {
        match self.x.last() {
            Some(&last) if last == x => *self.ends.last_mut().expect("one a group") += count,
            _ => {
                let before = self.tokens();
                self.x.push(x);
                self.ends.push(before + count);
            }
        }
    }

    /// Computes masses and surprisals at a temperature. Others count as if they had no mass and the greatest surprisal.
    pub fn weigh<S: Simd>(&mut self, s: S, max: f32, scale: Scale) {
        let Self { x, ends, mass, g, term, before, with_others } = self;
        mass.resize(x.len(), 0);
        g.resize(x.len(), 0);
        term.resize(x.len(), 0);
        s.run(Surprisals { x, max, scale, to: SurprisalSlices { mass, g, term } });
        before.clear();
        let (mut sums, mut from) = (Interval::default(), 0);
        before.push(sums);
        for ((&end, &mass), &term) in ends.iter().zip(&*mass).zip(&*term) {
            let count = u64::from(end - from);
            sums = Interval { mass: sums.mass + mass * count, term: sums.term + term * count };
            before.push(sums);
            from = end;
        }
        if let Some((last, all)) = before.last_mut().zip(*with_others) {
            *last = all.least;
        }
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> u32 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The group of a token, by its place in the order.
    pub fn group(&self, token: u32) -> usize {
        self.ends.partition_point(|&end| end <= token)
    }

    /// The tokens of a group, by their places.
    pub fn of_group(&self, group: usize) -> Range<u32> {
        self.first_of(group)..self.ends[group]
    }

    /// The place of a group's first token; of the group after the last, how many tokens there are.
    pub fn first_of(&self, group: usize) -> u32 {
        if group == 0 { 0 } else { self.ends[group - 1] }
    }

    /// The logits of the groups.
    pub fn x(&self) -> &[f32] {
        &self.x
    }

    /// The masses of their tokens.
    pub fn masses(&self) -> &[u64] {
        &self.mass
    }

    /// The surprisals of their tokens.
    pub fn surprisals(&self) -> &[u32] {
        &self.g
    }

    /// The sums over some tokens.
    pub fn sums(&self, range: Range<u32>) -> Interval {
        let (from, to) = (self.sums_before(range.start), self.sums_before(range.end));
        Interval { mass: to.mass - from.mass, term: to.term - from.term }
    }

    fn sums_before(&self, token: u32) -> Interval {
        let group = self.group(token);
        let sums = self.before[group];
        if group == self.x.len() {
            return sums;
        }
        let more = u64::from(token - self.first_of(group));
        Interval {
            mass: sums.mass + self.mass[group] * more,
            term: sums.term + self.term[group] * more,
        }
    }

    /// How many tokens it takes, counted from the first, until their mass is `target` or more; all, if it never is, or not
    /// before the others.
    pub fn tokens_until(&self, target: u64) -> u32 {
        let group = self.before[1..].partition_point(|sums| sums.mass < target);
        if group + usize::from(self.with_others.is_some()) >= self.x.len() {
            return self.tokens();
        }
        let more = (target - self.before[group].mass).div_ceil(self.mass[group]);
        self.first_of(group) + more as u32
    }
}

fn sort_by_digit(from: &[u32], to: &mut [u32], shift: u32) {
    let digit = |key: u32| (key >> shift) as usize & ((1 << DIGIT_BITS) - 1);
    let mut places = [0u32; 1 << DIGIT_BITS];
    from.iter().for_each(|&key| places[digit(key)] += 1);
    let mut sum = 0;
    for place in &mut places {
        sum += std::mem::replace(place, sum);
    }
    for &key in from {
        let place = &mut places[digit(key)];
        to[*place as usize] = key;
        *place += 1;
    }
}
