//! A cut whose place was guessed: one pass measures what is above the guess and lists what is
//! within, and says whether the guess was right. A wrong one says on which side the cut is, and the
//! next pass lists that side.
//!
//! Many equal logits never make a list long: those at the ends of a guess are counted, not listed.

use super::around::{Around, CountAround, Ends, Side, WeighAround, WeighSide};
use super::blocks::BLOCK;
use super::collect::Ties;
use super::cut::{Cut, above};
use super::element::Element;
use super::estimate::{Certainty, Span};
use super::list::{By, List, Weigh, lowest};
use super::row::Found;
use super::search::{Kept, Search};
use super::simd::Simd;
use super::team::parts;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// Among the tokens equal to the high end; so many of them are dropped.
    High { dropped: u64 },
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

impl<S: Simd, E: Element> Search<'_, S, E> {
    /// Finds the `k`th token of the total order. `None` if there are fewer candidates.
    pub fn locate_count(&self, k: u64, mut span: Span, found: &mut Found) -> Option<Cut> {
        let mut guesses = 1;
        loop {
            let above = self.count_around(span.between::<E>(), found);
            let listed = found.lists.list.len() as u64;
            match self.locate(Measured { by: By::Count, want: k, above, listed }, span, found) {
                Located::At(cut, _) => return Some(cut),
                Located::Elsewhere(other) if guesses == 1 => {
                    span = other.within(self.guess_count(k, Certainty::AlmostCertain, found));
                }
                Located::Elsewhere(other) => span = other,
                Located::Nowhere => return None,
            }
            guesses += 1;
        }
    }

    /// Finds the last token of a nucleus, and weighs what it keeps. `want` is the nucleus' mass,
    /// given that of all tokens. `guess` is for when `span` is wrong.
    pub fn locate_mass(
        &self,
        want: impl Fn(u64) -> u64,
        span: Span,
        guess: impl Fn(&Found) -> Span,
        found: &mut Found,
    ) -> (Cut, Kept) {
        self.locate_mass_by(span, guess, f32::NEG_INFINITY, found, |ends, found| {
            let around = self.weigh_around(ends, found);
            (want(around.mass), around.count_above)
        })
    }

    /// The same where the blocks are weighed already, as far as `top_k` keeps them.
    pub fn locate_mass_of(
        &self,
        want: u64,
        top_k: Option<Cut>,
        span: Span,
        guess: impl Fn(&Found) -> Span,
        found: &mut Found,
    ) -> (Cut, Kept) {
        std::mem::swap(&mut found.masses, &mut found.weighed);
        let least = top_k.map_or(f32::NEG_INFINITY, |cut| cut.least);
        self.locate_mass_by(span, guess, least, found, |ends, found| {
            (want, self.weigh_side(top_k, ends, found))
        })
    }

    /// The same by a pass that, given the ends of a span, lists what is within, weighs what is
    /// above, and returns the nucleus' mass and the count above. The border is `least` or above.
    fn locate_mass_by(
        &self,
        mut span: Span,
        guess: impl Fn(&Found) -> Span,
        least: f32,
        found: &mut Found,
        pass: impl Fn(Ends, &mut Found) -> (u64, u64),
    ) -> (Cut, Kept) {
        let mut guesses = 1;
        loop {
            // Ties with `least` are not all kept: they are at the low end, if at any.
            let above_least = above::<E>(least).unwrap_or(f32::INFINITY);
            let high = span.high.map(|high| high.max(above_least));
            span = Span { low: span.low.max(least), high };
            let (want, count_above) = pass(span.between::<E>(), found);
            let list = &mut found.lists.list;
            let listed = self.s.run(Weigh { list, weights: self.weights });
            let above = found.masses.iter().sum();
            match self.locate(Measured { by: By::Mass, want, above, listed }, span, found) {
                Located::At(cut, place) => {
                    let more = self.keep_until(cut, place, found);
                    let count = count_above.wrapping_add(more);
                    return (cut, Kept::Blocks { cut, count: Some(count) });
                }
                Located::Elsewhere(other) if guesses == 1 => span = other.within(guess(found)),
                Located::Elsewhere(other) => span = other,
                Located::Nowhere => unreachable!("the target is a part of the candidates' mass"),
            }
            guesses += 1;
        }
    }

    /// Lists the tokens within some ends, and counts those above.
    fn count_around(&self, ends: Ends, found: &mut Found) -> u64 {
        let Self { s, blocks, .. } = *self;
        let Found { maxima, lists, counts, .. } = found;
        let maxima = maxima.x();
        let count = AtomicU64::new(0);
        counts.resize(blocks.len(), 0);
        let runs = self.light_runs();
        let lists_of_runs = lists.split_raw::<E>(runs.clone(), blocks.len());
        let outputs = parts(runs, 1, counts).zip(lists_of_runs);
        self.team.each(outputs, |((range, listed), (_, list))| {
            let above = s.run(CountAround { blocks, range, maxima, ends, list, listed });
            count.fetch_add(above, Relaxed);
        });
        lists.join(List::append_raw);
        lists.list.widen::<S, E>(s, counts);
        count.into_inner()
    }

    /// Lists the tokens within some ends, and weighs those above, block by block, and all.
    pub fn weigh_around(&self, ends: Ends, found: &mut Found) -> Around {
        let Self { s, blocks, weights, next, .. } = *self;
        let Found { lists, counts, masses, .. } = found;
        let sum = Mutex::new(Around::default());
        counts.resize(blocks.len(), 0);
        masses.resize(blocks.len(), 0);
        let runs = self.heavy_runs();
        let lists_of_runs = lists.split_raw::<E>(runs.clone(), blocks.len());
        let outputs = parts(runs.clone(), 1, masses).zip(parts(runs, 1, counts)).zip(lists_of_runs);
        self.team.each(outputs, |(((range, above), (_, listed)), (_, list))| {
            let around =
                s.run(WeighAround { blocks, range, weights, ends, next, list, listed, above });
            let mut sum = sum.lock().expect("no other thread panicked");
            sum.mass += around.mass;
            sum.count_above += around.count_above;
        });
        lists.join(List::append_raw);
        lists.list.widen::<S, E>(s, counts);
        sum.into_inner().expect("no other thread panicked")
    }

    /// Lists the tokens within some ends, and makes masses of those above of the masses of all blocks
    /// (as far as `top_k` keeps them). Returns the count above.
    fn weigh_side(&self, top_k: Option<Cut>, ends: Ends, found: &mut Found) -> u64 {
        let Self { s, blocks, weights, next, .. } = *self;
        let Found { lists, counts, masses, weighed, estimate, .. } = found;
        let kept = top_k.unwrap_or(Cut::ties(lowest::<E>()));
        let share_above = estimate.share(s, ends.end);
        let side = if 2.0 * share_above < estimate.share(s, kept.least) {
            Side::Above
        } else {
            Side::Below(kept)
        };
        let count = AtomicU64::new(0);
        counts.resize(blocks.len(), 0);
        masses.resize(blocks.len(), 0);
        masses.copy_from_slice(weighed);
        let runs = self.light_runs();
        let lists_of_runs = lists.split_raw::<E>(runs.clone(), blocks.len());
        let outputs = parts(runs.clone(), 1, masses).zip(parts(runs, 1, counts)).zip(lists_of_runs);
        self.team.each(outputs, |(((range, masses), (_, listed)), (_, list))| {
            let above =
                s.run(WeighSide { blocks, range, weights, side, ends, next, list, listed, masses });
            count.fetch_add(above, Relaxed);
        });
        lists.join(List::append_raw);
        lists.list.widen::<S, E>(s, counts);
        count.into_inner()
    }

    /// Says where the cut is, after a pass around a span.
    fn locate(&self, measured: Measured, span: Span, found: &mut Found) -> Located {
        let Measured { by, want, above, listed } = measured;
        if above >= want {
            let x = span.high.expect("nothing is above an open end");
            let ties = self.count_ties(x, found);
            let beyond = above - ties * self.each(by, x);
            if beyond >= want {
                return Located::Elsewhere(Span { low: x, high: None });
            }
            let kept = (want - beyond).div_ceil(self.each(by, x));
            let cut = self.nth_tie_of_row(x, kept, found);
            return Located::At(cut, Place::High { dropped: ties - kept });
        }
        let want = want - above;
        if listed >= want {
            return self.locate_between(by, want, span, found);
        }
        let want = want - listed;
        if span.low == f32::NEG_INFINITY {
            return Located::Nowhere;
        }
        let ties = self.count_ties(span.low, found);
        if ties * self.each(by, span.low) < want {
            return Located::Elsewhere(Span { low: f32::NEG_INFINITY, high: Some(span.low) });
        }
        let kept = want.div_ceil(self.each(by, span.low));
        Located::At(self.nth_tie_of_row(span.low, kept, found), Place::Low { kept })
    }

    /// Finds the cut in the list.
    fn locate_between(&self, by: By, want: u64, span: Span, found: &Found) -> Located {
        let list = &found.lists.list;
        let (low, high) = (span.low.max(lowest::<E>()), span.high.unwrap_or(self.weights.max));
        let border = list.border::<S, E>(self.s, by, want, low, high);
        let x = border.expect("the list measures enough");
        let i = self.nth_of_border(by, want, x, list);
        // The list only knows the block; and how many such tokens it has of that block before.
        let first_id = list.ids()[i];
        let from = list.ids().partition_point(|&id| id < first_id);
        let before = list.x()[from..i].iter().filter(|&&y| y == x).count();
        let cut = self.nth_tie_of_block(x, before, first_id as usize / BLOCK);
        Located::At(cut, Place::Between { ties_end: i + 1 })
    }

    /// How many of the ties of a cut it drops.
    pub fn count_dropped_ties(&self, cut: Cut, found: &mut Found) -> u64 {
        self.count_ties(cut.least, found);
        let block = cut.last_id as usize / BLOCK;
        let later = found.ties.get(block + 1..).unwrap_or_default();
        let here = self.blocks.get(block);
        cut.dropped_ties::<E>(block, here) + later.iter().map(|&n| u64::from(n)).sum::<u64>()
    }

    /// Counts the tokens equal to `x` in every block.
    fn count_ties(&self, x: f32, found: &mut Found) -> u64 {
        let Self { s, blocks, .. } = *self;
        let counts = &mut found.ties;
        counts.resize(blocks.len(), 0);
        self.team.each(parts(self.light_runs(), 1, counts), |(range, counts)| {
            s.run(Ties { blocks, range, x, counts });
        });
        counts.iter().map(|&n| u64::from(n)).sum()
    }

    /// The cut at the `nth` token (from 1) that equals `x`; these have been counted.
    fn nth_tie_of_row(&self, x: f32, mut nth: u64, found: &Found) -> Cut {
        let block = found.ties.iter().position(|&ties| {
            let here = u64::from(ties) >= nth;
            nth -= if here { 0 } else { u64::from(ties) };
            here
        });
        self.nth_tie_of_block(x, nth as usize - 1, block.expect("there are as many"))
    }

    /// The cut at the token of a block that equals `x` and has `before` such tokens before it.
    fn nth_tie_of_block(&self, x: f32, before: usize, block: usize) -> Cut {
        let logits = self.blocks.get(block).chunks_exact(E::SIZE).enumerate();
        let mut ties = logits.filter(|(_, logit)| E::read(logit) == x);
        let (i, _) = ties.nth(before).expect("the block has as many");
        Cut { least: x, last_id: (block * BLOCK + i) as u32 }
    }

    /// Turns the masses above a span into those that the cut keeps, and returns how many tokens
    /// it keeps besides (less than none, wrapping, where it drops some).
    fn keep_until(&self, cut: Cut, place: Place, found: &mut Found) -> u64 {
        let Found { lists, masses, counts, ties, .. } = found;
        let list = &lists.list;
        let each = self.weights.mass(cut.least);
        match place {
            Place::High { dropped } => {
                let mut kept = ties.iter().map(|&n| u64::from(n)).sum::<u64>() - dropped;
                for (block, &ties) in masses.iter_mut().zip(ties.iter()) {
                    let here = kept.min(u64::from(ties));
                    kept -= here;
                    *block -= (u64::from(ties) - here) * each;
                }
                dropped.wrapping_neg()
            }
            Place::Between { ties_end } => {
                list.add_to_blocks::<S, E>(self.s, cut.least, ties_end, counts, masses)
            }
            Place::Low { kept } => {
                list.add_to_blocks::<S, E>(self.s, lowest::<E>(), list.len(), counts, masses);
                let mut rest = kept;
                for (block, &ties) in masses.iter_mut().zip(ties.iter()) {
                    let here = rest.min(u64::from(ties));
                    rest -= here;
                    *block += here * each;
                }
                list.len() as u64 + kept
            }
        }
    }
}
