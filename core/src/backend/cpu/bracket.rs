//! A cut whose place was guessed: between two logits, or at one of them.
//!
//! ```text
//! locate(want, span):
//!     loop
//!         in one pass: measure what is from the high end on, list what is between the ends
//!         if above >= want                                  // at the high end, or above it
//!             if above - ties of the high end < want: return the tie of the high end that reaches want
//!             certain = from the high end on
//!         else if above + list >= want:               return the token of the list that reaches want
//!         else if the ends are two, and above + list + ties of the low end >= want:
//!             return the tie of the low end that reaches want
//!         else certain = below the low end
//!         span = the first time a wider guess within `certain`, then `certain` itself
//! ```
//!
//! The pass says whether the guess was right, and a wrong one on which side the cut is: so a guess decides how many
//! passes there are, never what they find. There are three at most, since a pass over all of `certain` finds the cut.
//!
//! 1. Tokens are measured by their number (top-k) or their mass (top-p).
//! 2. The ends themselves are counted, not listed: many equal logits never make a list long. Logits with many
//!    ties are where guesses end, because most tokens are there.
//! 3. The ends may be one logit: then its ties are the high end's, and nothing is between.
//! 4. Top-p needs the kept mass of every block for its draws anyway, so the pass sums what is above block by block, and
//!    what the cut keeps below that is added in the end.

use super::around::{Around, Ends, Side};
use super::blocks::BLOCK;
use super::cut::{Cut, above};
use super::element::Element;
use super::estimate::{Estimate, Span};
use super::list::{By, List, Lists, lowest};
use super::passes::{ScannedRow, Within};
use super::simd::Simd;
use crate::arithmetic::cut::top_p_target;

/// Memory for the passes around brackets.
#[derive(Default)]
pub struct Buffers {
    /// The tokens within a bracket.
    lists: Lists,
    /// How many of them came from every block.
    counts: Vec<u32>,
    /// How many tokens of every block equal one end.
    ties: Vec<u32>,
}

impl Buffers {
    /// Weighs all tokens, and in `above`, block by block, those from a logit on; counts these too.
    pub fn weigh_from<S: Simd, E: Element>(
        &mut self,
        row: &ScannedRow<'_, S, E>,
        least: f32,
        above: &mut Vec<u64>,
    ) -> Around {
        // Nothing is within ends that are equal.
        let ends = Ends { least, end: least };
        row.weigh_around(ends, above, &mut self.lists, &mut self.counts).0
    }
}

/// What is known of masses before the pass around a bracket.
#[derive(Clone, Copy)]
pub enum Known<'k> {
    /// Nothing but the nucleus' share of them, in units of 2^-64: the pass weighs every token.
    Fraction(u64),
    /// The masses of all blocks, as far as the steps before top-p keep them: the pass weighs one side.
    Blocks {
        /// Mass that the nucleus must reach.
        want: u64,
        masses: &'k [u64],
        /// Where the tokens end that were weighed; `None` is after the last candidate.
        kept: Option<Cut>,
        /// Tells which side has fewer tokens.
        estimate: &'k Estimate,
    },
}

/// What a pass around a span found.
#[derive(Clone, Copy)]
struct Measured {
    by: By,
    /// What is wanted of the row.
    want: u64,
    /// From the span's high end on.
    above: u64,
    /// Between its ends.
    listed: u64,
}

/// Where a cut is.
#[derive(Clone, Copy, Debug)]
enum Located {
    At(Cut, Place),
    /// The guess was wrong, and this is certain.
    Elsewhere(Span),
    /// The whole row measures less.
    Nowhere,
}

/// Where in a span a cut is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Among the tokens equal to the high end: these are kept, those after them dropped.
    High { kept: u64, dropped: u64 },
    /// In the list; ties are kept before this place.
    Between { ties_end: usize },
    /// Among the tokens equal to the low end; so many of them are kept.
    Low { kept: u64 },
}

impl Span {
    /// The tokens between the ends, without them.
    fn between<E: Element>(self) -> Ends {
        Ends {
            least: above::<E>(self.low).unwrap_or(f32::INFINITY),
            end: self.high.unwrap_or(f32::INFINITY),
        }
    }
}

/// Finds the `k`th token of the total order. `None` if there are fewer candidates. `wider` is another guess, for when
/// `span` is wrong.
pub fn locate_count<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    k: u64,
    mut span: Span,
    wider: impl FnOnce() -> Span,
    buffers: &mut Buffers,
) -> Option<Cut> {
    let Buffers { lists, counts, ties } = buffers;
    let mut wider = Some(wider);
    loop {
        let (above, within) = row.count_around(span.between::<E>(), lists, counts);
        let listed = within.list.len() as u64;
        let measured = Measured { by: By::Count, want: k, above, listed };
        match locate(row, measured, span, within.list, ties) {
            Located::At(cut, _) => return Some(cut),
            Located::Elsewhere(certain) => span = next_span(certain, &mut wider),
            Located::Nowhere => return None,
        }
    }
}

/// Finds the last token of a nucleus, and what it keeps: the cut, the number of tokens up to it, and in `masses` their
/// mass in every block. `wider` is another guess, for when `span` is wrong.
pub fn locate_mass<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    known: Known<'_>,
    mut span: Span,
    wider: impl FnOnce() -> Span,
    buffers: &mut Buffers,
    masses: &mut Vec<u64>,
) -> (Cut, u64) {
    let Buffers { lists, counts, ties } = buffers;
    let mut wider = Some(wider);
    loop {
        span = known.limit::<E>(span);
        let (want, count_above, within) =
            known.pass(row, span.between::<E>(), masses, lists, counts);
        let listed = row.weigh(within.list);
        let measured = Measured { by: By::Mass, want, above: masses.iter().sum(), listed };
        match locate(row, measured, span, within.list, ties) {
            Located::At(cut, place) => {
                let at = (cut, place);
                return (cut, keep(row, at, count_above, &within, ties, masses));
            }
            Located::Elsewhere(certain) => span = next_span(certain, &mut wider),
            Located::Nowhere => unreachable!("the target is a part of the candidates' mass"),
        }
    }
}

/// Where to look after a guess was wrong.
fn next_span(certain: Span, wider: &mut Option<impl FnOnce() -> Span>) -> Span {
    match wider.take() {
        Some(guess) => certain.within(guess()),
        None => certain,
    }
}

impl Known<'_> {
    /// A span without the tokens that the steps before have dropped. Of the ties of the last kept token some may be
    /// dropped, so these ties may be at the low end, where ties are counted, and nowhere else.
    fn limit<E: Element>(&self, span: Span) -> Span {
        let Self::Blocks { kept: Some(kept), .. } = self else { return span };
        let above_least = above::<E>(kept.least).unwrap_or(f32::INFINITY);
        Span { low: span.low.max(kept.least), high: span.high.map(|high| high.max(above_least)) }
    }

    /// Goes through the row: lists what is within the ends, and sums what is above block by block. Returns the mass that
    /// the nucleus must reach, and how many tokens are above.
    fn pass<'b, S: Simd, E: Element>(
        &self,
        row: &ScannedRow<'_, S, E>,
        ends: Ends,
        above: &mut Vec<u64>,
        lists: &'b mut Lists,
        counts: &'b mut Vec<u32>,
    ) -> (u64, u64, Within<'b>) {
        match *self {
            Self::Fraction(fraction) => {
                let (around, within) = row.weigh_around(ends, above, lists, counts);
                (top_p_target(fraction, around.mass), around.count_above, within)
            }
            Self::Blocks { want, masses, kept, estimate } => {
                let kept = kept.unwrap_or(Cut::ties(lowest::<E>()));
                let share_above = estimate.share(row.s, ends.end);
                let side = if 2.0 * share_above < estimate.share(row.s, kept.least) {
                    Side::Above
                } else {
                    Side::Below(kept)
                };
                let (count, within) = row.weigh_side(side, ends, masses, above, lists, counts);
                (want, count, within)
            }
        }
    }
}

/// Says where the cut is, after a pass around a span.
fn locate<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    measured: Measured,
    span: Span,
    list: &List,
    ties: &mut Vec<u32>,
) -> Located {
    let Measured { by, want, above, listed } = measured;
    if above >= want {
        let x = span.high.expect("nothing is above an open end");
        let ties = row.count_ties(x, ties);
        let here = total(ties);
        let beyond = above - here * row.each(by, x);
        if beyond >= want {
            return Located::Elsewhere(Span { low: x, high: None });
        }
        let kept = (want - beyond).div_ceil(row.each(by, x));
        let place = Place::High { kept, dropped: here - kept };
        return Located::At(nth_tie_of_row(row, x, kept, ties), place);
    }
    let want = want - above;
    if listed >= want {
        return locate_between(row, by, want, span, list);
    }
    let want = want - listed;
    if span.low == f32::NEG_INFINITY {
        return Located::Nowhere;
    }
    let elsewhere = Located::Elsewhere(Span { low: f32::NEG_INFINITY, high: Some(span.low) });
    if span.high == Some(span.low) {
        // The ties of the one logit are at the high end: they are above.
        return elsewhere;
    }
    let ties = row.count_ties(span.low, ties);
    if total(ties) * row.each(by, span.low) < want {
        return elsewhere;
    }
    let kept = want.div_ceil(row.each(by, span.low));
    Located::At(nth_tie_of_row(row, span.low, kept, ties), Place::Low { kept })
}

/// Finds the cut in the list.
fn locate_between<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    by: By,
    want: u64,
    span: Span,
    list: &List,
) -> Located {
    let (low, high) = (span.low.max(lowest::<E>()), span.high.unwrap_or(row.weights.max));
    let border = list.border::<S, E>(row.s, by, want, low, high);
    let x = border.expect("the list measures enough");
    let i = row.nth_of_border(by, want, x, list);
    // The list only knows the block; and how many such tokens it has of that block before.
    let first_id = list.ids()[i];
    let from = list.ids().partition_point(|&id| id < first_id);
    let before = list.x()[from..i].iter().filter(|&&y| y == x).count();
    let cut = nth_tie_of_block(row, x, before, first_id as usize / BLOCK);
    Located::At(cut, Place::Between { ties_end: i + 1 })
}

/// How many of the ties of a cut it drops.
pub fn count_dropped_ties<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    cut: Cut,
    buffers: &mut Buffers,
) -> u64 {
    let ties = row.count_ties(cut.least, &mut buffers.ties);
    let block = cut.last_id as usize / BLOCK;
    let later = ties.get(block + 1..).unwrap_or_default();
    cut.dropped_ties::<E>(block, row.blocks.get(block)) + total(later)
}

/// The cut at the `nth` token (from 1) that equals `x`, given how many every block has.
fn nth_tie_of_row<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    x: f32,
    mut nth: u64,
    ties: &[u32],
) -> Cut {
    let block = ties.iter().position(|&ties| {
        let here = u64::from(ties) >= nth;
        nth -= if here { 0 } else { u64::from(ties) };
        here
    });
    nth_tie_of_block(row, x, nth as usize - 1, block.expect("there are as many"))
}

/// The cut at the token of a block that equals `x` and has `before` such tokens before it.
fn nth_tie_of_block<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    x: f32,
    before: usize,
    block: usize,
) -> Cut {
    let logits = row.blocks.get(block).chunks_exact(E::SIZE).enumerate();
    let mut ties = logits.filter(|(_, logit)| E::read(logit) == x);
    let (i, _) = ties.nth(before).expect("the block has as many");
    Cut { least: x, last_id: (block * BLOCK + i) as u32 }
}

/// Turns the masses and the count of the tokens above a span into those of the tokens that a cut keeps.
fn keep<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    (cut, place): (Cut, Place),
    count_above: u64,
    within: &Within<'_>,
    ties: &[u32],
    masses: &mut [u64],
) -> u64 {
    let each = row.weights.mass(cut.least);
    let Within { list, counts } = within;
    match place {
        Place::High { kept, dropped } => {
            let blocks = masses.iter_mut().zip(ties).zip(first_ties(ties, kept));
            for ((block, &ties), here) in blocks {
                *block -= (u64::from(ties) - here) * each;
            }
            count_above - dropped
        }
        Place::Between { ties_end } => {
            count_above + list.add_to_blocks::<S, E>(row.s, cut.least, ties_end, counts, masses)
        }
        Place::Low { kept } => {
            let (all, end) = (lowest::<E>(), list.len());
            let listed = list.add_to_blocks::<S, E>(row.s, all, end, counts, masses);
            for (block, here) in masses.iter_mut().zip(first_ties(ties, kept)) {
                *block += here * each;
            }
            count_above + listed + kept
        }
    }
}

/// How many of every block's ties are among the first `kept` of the row.
fn first_ties(ties: &[u32], kept: u64) -> impl Iterator<Item = u64> {
    let mut rest = kept;
    ties.iter().map(move |&ties| {
        let here = rest.min(u64::from(ties));
        rest -= here;
        here
    })
}

/// The number of tokens in all blocks.
fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|&n| u64::from(n)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::blocks::{Blocks, Filler, Tail};
    use super::super::element::F32;
    use super::super::list::Widen;
    use super::super::mass::Weights;
    use super::super::portable::Portable;
    use super::super::scan::Scan;
    use super::super::team::Team;
    use super::*;
    use crate::arithmetic::mass::{Scale, mass};
    use std::marker::PhantomData;

    /// The logits that rows are made of, from the greatest down.
    const LEVELS: [f32; 5] = [2.0, 1.5, 0.25, -0.5, -8.0];
    /// Three blocks and some more.
    const VOCAB_SIZE: usize = BLOCK * 3 + 77;
    const TEMPERATURE: f32 = 0.9;
    /// Places of the order: beside both ends of the ties of every level, and between.
    const STEP: usize = 97;

    fn logits() -> Vec<f32> {
        (0..VOCAB_SIZE).map(|i| LEVELS[(i * 7 + i / 11) % LEVELS.len()]).collect()
    }

    /// Ends at the levels, beside them and beyond them, two alike among them.
    fn spans() -> Vec<Span> {
        let ends: Vec<f32> = LEVELS.into_iter().flat_map(|x| [x - 0.125, x, x + 0.125]).collect();
        let lows = ends.iter().copied().chain([f32::NEG_INFINITY]);
        let of_low = |low| {
            let highs = ends.iter().copied().filter(move |&high| low <= high).map(Some);
            highs.chain([None]).map(move |high| Span { low, high })
        };
        lows.flat_map(of_low).collect()
    }

    /// Gives a row of [`logits`] to `check`, and its tokens in their order.
    fn with_row(check: impl FnOnce(&ScannedRow<'_, Portable, F32>, &[u32])) {
        let x = logits();
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut order: Vec<u32> = (0..VOCAB_SIZE as u32).collect();
        order.sort_by(|&a, &b| x[b as usize].total_cmp(&x[a as usize]).then(a.cmp(&b)));
        let mut tail: Tail = [0; BLOCK * 4];
        let blocks = Blocks::<F32>::new(&bytes, &mut tail, Filler::NegativeInfinity);
        let mut raw = vec![0; blocks.len() * 4 + 64];
        let range = 0..blocks.len();
        let scanned = Portable.run(Scan { blocks, range, maxima: &mut raw[..blocks.len() * 4] });
        let mut maxima = List::default();
        maxima.reset(blocks.len());
        let (len, element) = (blocks.len(), PhantomData::<F32>);
        Portable.run(Widen { raw: &raw, len, list: &mut maxima, element });
        maxima.seal();
        let (max, min) = (LEVELS[0], LEVELS[LEVELS.len() - 1]);
        let row = ScannedRow {
            s: Portable,
            team: &Team::ALONE,
            blocks,
            maxima: &maxima,
            scanned,
            weights: Weights { max, min, scale: Scale::new(TEMPERATURE) },
            vocab_size: VOCAB_SIZE as u32,
            next: &[],
        };
        check(&row, &order);
    }

    /// The cut after a token of the row.
    fn cut_at(token: u32) -> Cut {
        Cut { least: logits()[token as usize], last_id: token }
    }

    /// Right guesses and wrong ones, of every kind, find the same token.
    #[test]
    fn any_guess_finds_the_kth_token() {
        with_row(|row, order| {
            let mut buffers = Buffers::default();
            for span in spans() {
                for wider in [Span::ANYWHERE, span, Span { low: 0.25, high: Some(0.25) }] {
                    for k in (1..=VOCAB_SIZE).step_by(STEP) {
                        let cut = locate_count(row, k as u64, span, || wider, &mut buffers);
                        assert_eq!(cut, Some(cut_at(order[k - 1])), "{span:?}, {wider:?}, k {k}");
                    }
                    let beyond = VOCAB_SIZE as u64 + 1;
                    let cut = locate_count(row, beyond, span, || wider, &mut buffers);
                    assert_eq!(cut, None, "{span:?}, {wider:?}");
                }
            }
        });
    }

    /// The same of masses: of the whole row, whose sum is not known before, and of what a cut has left.
    #[test]
    fn any_guess_finds_the_end_of_a_nucleus() {
        with_row(|row, order| {
            let x = logits();
            let each = |&token: &u32| mass(x[token as usize], LEVELS[0], row.weights.scale);
            let mut estimate = Estimate::default();
            estimate.take(row.s, row.blocks, row.weights);
            let (mut buffers, mut before, mut masses) = (Buffers::default(), vec![], vec![]);
            for end in [VOCAB_SIZE, VOCAB_SIZE - 200, VOCAB_SIZE / 2] {
                let cut = (end < VOCAB_SIZE).then(|| cut_at(order[end - 1]));
                let known_masses = match cut {
                    None => row.block_masses(&mut before),
                    Some(cut) => row.kept_masses(cut, &mut before).1,
                };
                let total: u64 = order[..end].iter().map(each).sum();
                for parts in 1..40u64 {
                    let fraction = u64::MAX / 40 * parts;
                    let want = top_p_target(fraction, total);
                    let mut reached = 0;
                    let kept = 1 + order
                        .iter()
                        .take_while(|&token| {
                            reached += each(token);
                            reached < want
                        })
                        .count();
                    let estimate = &estimate;
                    let blocks = Known::Blocks { want, masses: known_masses, kept: cut, estimate };
                    let all = cut.is_none().then_some(Known::Fraction(fraction));
                    for known in [blocks].into_iter().chain(all) {
                        for span in spans() {
                            let wider = || Span { low: -0.5, high: Some(-0.5) };
                            let found =
                                locate_mass(row, known, span, wider, &mut buffers, &mut masses);
                            let expected = (cut_at(order[kept - 1]), kept as u64);
                            assert_eq!(found, expected, "{span:?} of {end}, share {parts}");
                            assert_eq!(masses.iter().sum::<u64>(), reached, "{span:?} of {end}");
                        }
                    }
                }
            }
        });
    }
}
