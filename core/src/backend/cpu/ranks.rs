//! The ranks of tokens that are named, wherever in the order these are.
//!
//! ```text
//! few:  for each token: count the tokens up to it in the order
//! many: xs = their logits, descending, from place 0 on
//!       for each token of the row, ids ascending
//!           slot = 2 * p + 1 where it equals xs[p], 2 * p where it is between xs[p] and the one before
//!           if the token is named: note how many that slot has
//!           slots[slot] += 1
//!       rank = all slots before its own, and what was noted, and 1
//! ```
//!
//! A rank is what a [`Cut`] after that token keeps, so that counting is a comparison for 16 or 32 tokens, and blocks whose
//! maximum does not reach the token are not read: of a likely token that is nearly all. Many unlikely tokens would be
//! as many passes; these share one. A logit of 16 bits has its slot in a table, one of 32 is searched for.

use super::blocks::{BLOCK, Blocks};
use super::collect::CountKept;
use super::cut::Cut;
use super::element::Element;
use super::passes::ScannedRow;
use super::simd::{Kernel, Simd};
use std::ops::Range;
use std::sync::Mutex;

/// Up to so many tokens are counted one by one, by the bytes of a logit. Measured over 262,144 f16: a count that leaves
/// out no block is 7 us in AVX-512 and 13 in AVX2, the one pass by table 200.
const fn few(size: usize) -> usize {
    if size == 2 { 32 } else { 96 }
}

/// A token, and where it is in the order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    pub token: u32,
    /// Its logit. Not -0.0.
    pub x: f32,
    /// 1 for the first token; 0 for one at -inf.
    pub rank: u32,
}

/// Fills in the ranks of places, which are of different candidates, ids ascending.
pub fn fill<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, places: &mut [Place]) {
    match places.len() {
        0 => {}
        n if n <= few(E::SIZE) => count(row, places),
        _ => search(row, places),
    }
}

fn count<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, places: &mut [Place]) {
    let ScannedRow { s, blocks, .. } = *row;
    let maxima = row.maxima.x();
    let ranks = Mutex::new(places);
    let cuts: Vec<Cut> = {
        let places = ranks.lock().expect("no other thread panicked");
        places.iter().map(|place| Cut { least: place.x, last_id: place.token }).collect()
    };
    row.team.each(row.light_runs(), |range| {
        let count = |&cut| s.run(CountKept { blocks, range: range.clone(), maxima, cut });
        let counts: Vec<u64> = cuts.iter().map(count).collect();
        let mut places = ranks.lock().expect("no other thread panicked");
        for (place, count) in places.iter_mut().zip(counts) {
            place.rank += count as u32;
        }
    });
}

fn search<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, places: &mut [Place]) {
    let ScannedRow { s, blocks, .. } = *row;
    let slots = Slots::new::<E>(places);
    let (slots, named) = (&slots, &*places);
    let parts = Mutex::new(Vec::new());
    row.team.each(row.heavy_runs(), |range| {
        let start = range.start;
        let tallies = s.run(Search { blocks, range, slots, named });
        parts.lock().expect("no other thread panicked").push((start, tallies));
    });
    let mut parts = parts.into_inner().expect("no other thread panicked");
    parts.sort_unstable_by_key(|(start, _)| *start);

    // Before each slot: the tokens of slots before it, and then its own of the parts so far.
    let mut sum = 0;
    let before = (0..slots.len()).map(|slot| {
        let of_slot: u32 = parts.iter().map(|(_, part)| part.slots[slot]).sum();
        sum += of_slot;
        sum - of_slot
    });
    let mut before: Vec<u32> = before.collect();
    for (_, part) in &parts {
        for &(place, slot, noted) in &part.noted {
            places[place].rank = before[slot] + noted + 1;
        }
        before.iter_mut().zip(&part.slots).for_each(|(before, tokens)| *before += tokens);
    }
}

/// Which slot a logit belongs to.
struct Slots {
    /// The named tokens' logits, descending.
    xs: Vec<f32>,
    /// Of every logit of 16 bits, by its bits; none for longer ones, or where slots do not fit 16 bits.
    by_bits: Option<Box<[u16; PATTERNS]>>,
}

/// How many there are of 16 bits.
const PATTERNS: usize = 1 << 16;

impl Slots {
    fn new<E: Element>(named: &[Place]) -> Self {
        let mut xs: Vec<f32> = named.iter().map(|place| place.x).collect();
        xs.sort_unstable_by(|a, b| b.total_cmp(a));
        xs.dedup();
        let by_bits = (E::SIZE == 2 && 2 * xs.len() < PATTERNS).then(|| {
            // By keys, from the least on, before by bits.
            let mut by_key = [0; PATTERNS];
            let mut end = PATTERNS;
            for (p, &x) in xs.iter().enumerate() {
                // -0.0 has the key before that of 0.0.
                let last = key16::<E>(x);
                let first = last - usize::from(x == 0.0);
                by_key[last + 1..end].fill(2 * p as u16);
                by_key[first..=last].fill(2 * p as u16 + 1);
                end = first;
            }
            by_key[..end].fill(2 * xs.len() as u16);
            let mut by_bits = Box::new([0; PATTERNS]);
            let (negative, positive) = by_key.split_at(PATTERNS / 2);
            by_bits[..PATTERNS / 2].copy_from_slice(positive);
            // The more of a magnitude, the less.
            let more = by_bits[PATTERNS / 2..].iter_mut().zip(negative.iter().rev());
            more.for_each(|(slot, of_key)| *slot = *of_key);
            by_bits
        });
        Self { xs, by_bits }
    }

    fn len(&self) -> usize {
        2 * self.xs.len() + 1
    }

    /// The slot of a stored logit.
    #[inline(always)]
    fn of<E: Element>(&self, bits: &[u8]) -> usize {
        if let Some(by_bits) = &self.by_bits {
            return by_bits[usize::from(u16::from_le_bytes([bits[0], bits[1]]))].into();
        }
        let x = E::read(bits);
        let p = self.xs.partition_point(|&above| above > x);
        2 * p + usize::from(self.xs.get(p) == Some(&x))
    }
}

/// A key of 16 bits, from 0 on.
fn key16<E: Element>(x: f32) -> usize {
    (E::key(x) + (1 << 15)) as usize
}

/// Goes through some blocks for [`search`].
struct Search<'a, E> {
    blocks: Blocks<'a, E>,
    range: Range<usize>,
    slots: &'a Slots,
    /// Ids ascending.
    named: &'a [Place],
}

/// What was found in these.
struct Tallies {
    /// How many tokens each slot has.
    slots: Vec<u32>,
    /// Of each named token: which it is, its slot, and how many that had before it.
    noted: Vec<(usize, usize, u32)>,
}

impl<S: Simd, E: Element> Kernel<S> for Search<'_, E> {
    type Output = Tallies;

    #[inline(always)]
    fn call(self, _: S) -> Tallies {
        let Self { slots, named, .. } = self;
        let mut tallies = Tallies { slots: vec![0; slots.len()], noted: vec![] };
        let first = (self.range.start * BLOCK) as u32;
        let mut next = named.partition_point(|place| place.token < first);
        for (i, block) in self.blocks.range(self.range) {
            let (mut start, end) = (0, (i + 1) * BLOCK);
            while let Some(place) = named.get(next)
                && (place.token as usize) < end
            {
                let at = place.token as usize % BLOCK * E::SIZE;
                tally::<E>(slots, &block[start..at], &mut tallies.slots);
                let slot = slots.of::<E>(&block[at..]);
                tallies.noted.push((next, slot, tallies.slots[slot]));
                (start, next) = (at, next + 1);
            }
            tally::<E>(slots, &block[start..], &mut tallies.slots);
        }
        tallies
    }
}

#[inline(always)]
fn tally<E: Element>(slots: &Slots, logits: &[u8], tallies: &mut [u32]) {
    for logit in logits.chunks_exact(E::SIZE) {
        tallies[slots.of::<E>(logit)] += 1;
    }
}
