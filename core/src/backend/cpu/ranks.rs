//! The ranks of tokens that are named, wherever in the order these are.
//!
//! ```text
//! few:  for each token: count the tokens up to it in the order                         // from stored logits
//! many: xs = their logits, descending
//!       for each token of the row, ids ascending
//!           p = the first place of xs that is not above it
//!           ties[p] += 1 if xs[p] equals it, after noting ties[p] if the token is named; else gaps[p] += 1
//!       rank = all gaps up to its place, and all ties before it, and what was noted, and 1
//! ```
//!
//! A rank is what a [`Cut`] after that token keeps, so that counting is a comparison for 16 or 32 tokens, and blocks whose
//! maximum does not reach the token are not read: of a likely token that is nearly all. Many unlikely tokens would be
//! as many passes; these share one, with a binary search a token.

use super::blocks::{BLOCK, Blocks, widened};
use super::collect::CountKept;
use super::cut::Cut;
use super::element::Element;
use super::passes::ScannedRow;
use super::simd::{Kernel, Simd};
use std::ops::Range;
use std::sync::Mutex;

/// Up to so many tokens are counted one by one. By measurement: a search costs as much as 80 counts that leave out no
/// block.
const FEW: usize = 64;

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
    if places.len() <= FEW { count(row, places) } else { search(row, places) }
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
    let maxima = row.maxima.x();
    let mut xs: Vec<f32> = places.iter().map(|place| place.x).collect();
    xs.sort_unstable_by(|a, b| b.total_cmp(a));
    xs.dedup();
    let xs = &xs[..];
    let named = &*places;
    let parts = Mutex::new(Vec::new());
    row.team.each(row.heavy_runs(), |range| {
        let start = range.start;
        let tallies = s.run(Search { blocks, range, maxima, xs, named });
        parts.lock().expect("no other thread panicked").push((start, tallies));
    });
    let mut parts = parts.into_inner().expect("no other thread panicked");
    parts.sort_unstable_by_key(|(start, _)| *start);

    // Before each of `xs`: the tokens above it, and then its ties in the parts so far.
    let mut before = vec![0; xs.len()];
    let mut above = 0;
    for (p, before) in before.iter_mut().enumerate() {
        above += parts.iter().map(|(_, part)| part.gaps[p]).sum::<u32>();
        *before = above;
        above += parts.iter().map(|(_, part)| part.ties[p]).sum::<u32>();
    }
    for (_, part) in &parts {
        for &(place, ties) in &part.noted {
            let place = &mut places[place];
            place.rank = before[place_of(xs, place.x)] + ties + 1;
        }
        before.iter_mut().zip(&part.ties).for_each(|(before, ties)| *before += ties);
    }
}

/// The first place of descending values that is not above `x`.
#[inline(always)]
fn place_of(xs: &[f32], x: f32) -> usize {
    xs.partition_point(|&above| above > x)
}

/// Goes through some blocks for [`search`].
struct Search<'a, E> {
    blocks: Blocks<'a, E>,
    range: Range<usize>,
    /// The greatest logit of each block of the row.
    maxima: &'a [f32],
    /// Descending.
    xs: &'a [f32],
    /// Ids ascending.
    named: &'a [Place],
}

/// What was found in these.
struct Tallies {
    /// Tokens between each of the values and the one before.
    gaps: Vec<u32>,
    /// Tokens that equal each.
    ties: Vec<u32>,
    /// Which named tokens were met, and how many ties before each.
    noted: Vec<(usize, u32)>,
}

impl<S: Simd, E: Element> Kernel<S> for Search<'_, E> {
    type Output = Tallies;

    #[inline(always)]
    fn call(self, s: S) -> Tallies {
        let Self { maxima, xs, named, .. } = self;
        let least = *xs.last().expect("a token is named");
        let none = vec![0; xs.len()];
        let mut tallies = Tallies { gaps: none.clone(), ties: none, noted: vec![] };
        let first = (self.range.start * BLOCK) as u32;
        let mut next = named.partition_point(|place| place.token < first);
        let mut x = [0.0; BLOCK];
        for (i, block) in self.blocks.range(self.range) {
            // No named token is in such a block.
            if maxima[i] < least {
                continue;
            }
            for (wide, x) in widened::<S, E>(s, block).zip(x.chunks_exact_mut(S::LANES)) {
                s.store(wide, x);
            }
            for (token, &x) in (i * BLOCK..).zip(&x) {
                if x < least {
                    continue;
                }
                let p = place_of(xs, x);
                if xs[p] != x {
                    tallies.gaps[p] += 1;
                    continue;
                }
                if named.get(next).is_some_and(|place| place.token as usize == token) {
                    tallies.noted.push((next, tallies.ties[p]));
                    next += 1;
                }
                tallies.ties[p] += 1;
            }
        }
        tallies
    }
}
