//! Rows of which all tokens are kept, or all but a few likely ones: they are drawn from block by block, as rows without a cut are. So are those of
//! which more is kept than a list has, because it ties with the last of a few ([`shaped`](super::shaped)).
//!
//! ```text
//! whole(row):
//!     no stage acts:           all tokens
//!     XTC acts, and no other:  all but the likely ones, of which the least likely stays
//! likely(row):
//!     least = the threshold's share of the first tokens of all blocks; W is no less than these have
//!     none, if the first token has less
//!     found = the mass of the tokens with `least`, and of the first tokens of other blocks; W is no less
//!     none, if fewer than two have their share of that
//!     W is guessed: a part more than is found
//!     the tokens with their share of the guess
//! weigh_left(row, blocks without these):
//!     if the guess is rough: weigh the blocks with the greatest tokens; W is guessed again, by these
//!         the guess was wrong, if that tells other tokens
//!     weigh the others
//!     bounds of W, by the mass of these blocks and the exact masses of what was left out
//!     if both tell the same tokens: the guess was right, or is put right; else W is weighed
//! ```
//!
//! 1. XTC looks at W only to tell which tokens have their share of it: the first of the row, up to one that has less. The first tokens of the
//!    blocks have half of W or more on peaked rows, and where a row is so flat that no token has its share of that, nothing else is looked at.
//! 2. The row is weighed once, from the first token that is kept, like any other: these masses are what is drawn from. They tell W again, but for
//!    roundings ([`mass_bounds`]). So no answer rests on a guess.
//! 3. A guess is rough where W may be what is found or, on top, twice what the first tokens of other blocks have, and these tell different tokens.
//!    Then the blocks with the greatest first tokens, a tenth of the row, are weighed first: if they show that the guess is wrong, no more
//!    than these is weighed again. To list these blocks' tokens instead takes as long as to weigh a tenth of the row, and serves nothing else.
//!    Of the carried rows at temperatures 0.6 to 1.2 and thresholds 0.05 to 0.2 a third is rough, one in twelve is guessed wrong, and one in a
//!    hundred is found wrong only when all of it is weighed.
//! 4. Where the chain has another temperature than the draw (llama.cpp's profile), the masses of the draw tell nothing of W. Then W is between
//!    what the tokens within 20 bits have, and that and the most that the others can have; if these bounds tell different tokens, it is weighed.
//! 5. Dynamic temperature after the chain is that of the tokens that are left: sums over all, less those that go.
//!
//! Floor of a row of 131,072 f16: the row without a cut, from the first kept token on. Up to 3 octaves more tokens have a mass from there, which
//! nothing spares, since all masses are in units of 2^-40 of that token's: on the eight carried rows at temperature 0.8 and a threshold of 0.1 none
//! to 13 in 100 more time. What is added: a few blocks are listed, 16 vectors of maxima are weighed, once or twice, and 4 KiB are written
//! for the copies and the places of blocks. Measured beside a plain row, on average over these rows: 1.08 in AVX-512, of which the floor is 1.06.

use super::block_masses::Part;
use super::blocks::BLOCK;
use super::chain::{Start, dynamic_temperature, is_dynamic, stages};
use super::cut::Cut;
use super::element::Element;
use super::first::{at, is_listed, masses, start};
use super::intervals::interval;
use super::list::{TotalMass, lowest};
use super::mass::Weights;
use super::nucleus;
use super::passes::ScannedRow;
use super::simd::Simd;
use crate::arithmetic::cutoffs::rise;
use crate::arithmetic::fraction::{q64, share};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::mass::UNIT;
use crate::arithmetic::stages::Stage;
use crate::arithmetic::surprisal::surprisal;
use crate::params::SamplingParams;

/// Where a guess is rough, the blocks are weighed first whose greatest token has a surprisal of at most so many bits, or so many more than a
/// likely token has.
const FIRST_BITS: f32 = 5.0;
const MORE_BITS: f32 = 2.0;
/// Surprisals, in bits, up to about which tokens are listed for bounds of the mass: 2^17 others at that surprisal have an eighth of
/// the first one's mass together.
const LISTED_BITS: f32 = 20.0;
/// More than what masses and logarithms are off by, in bits: what is listed beyond the likely tokens is weighed, and found not likely.
const MARGIN_BITS: f32 = 0.01;
/// No row has more mass.
const MOST: u64 = 1 << 60;

/// What is kept of a row.
pub struct Whole {
    /// How many tokens.
    pub count: u64,
    /// Where they end.
    pub cut: Cut,
    /// The first one's logit. Not -0.0.
    pub first: f32,
    /// The temperature that is drawn at.
    pub temperature: f32,
    /// Where which tokens are left out is a guess: see [`weigh_left`].
    pub guess: Option<Guess>,
}

/// A guess of which tokens XTC takes.
#[derive(Clone, Copy)]
pub struct Guess {
    threshold: f32,
    /// The mass of the first tokens of all blocks, where another guess is nearly as good.
    rough: Option<u64>,
}

/// A token that may be likely.
#[derive(Clone, Copy)]
struct Token {
    id: u32,
    x: f32,
    mass: u64,
}

/// Memory for that.
#[derive(Default)]
pub struct Buffers {
    /// Tokens that may be likely, in their order, of which the first ones are taken to be.
    likely: Vec<Token>,
    /// The tokens that are left out, ids ascending.
    pub left_out: Vec<u32>,
}

/// What is kept of a row that is not greedy, if that is all but the few tokens that are left out. Else what its chain starts with, if
/// that was looked at.
pub fn whole<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    search: &mut nucleus::Buffers,
    buffers: &mut Buffers,
) -> Result<Whole, Option<Start>> {
    let cuts = params.all_cuts();
    if params.is_greedy() || cuts.adaptive.target.is_some() {
        return Err(None);
    }
    // Whether it is on is all that matters here.
    let distance = (cuts.top_n_sigma > 0.0).then_some(0.0);
    let mut acting = stages(params, distance);
    let has_xtc = match [acting.next(), acting.next()] {
        [None, _] => false,
        [Some(Stage::Xtc), None] => true,
        _ => return Err(None),
    };
    let start = start(row, params);
    let Start { mut temperature, .. } = start;
    buffers.likely.clear();
    buffers.left_out.clear();
    let mut guess = None;
    if has_xtc {
        let (of_chain, threshold) = (start.of_chain(params), cuts.xtc.threshold);
        let row = at(row, of_chain);
        let may_guess = of_chain == temperature && !is_dynamic(params, true);
        let mass = list_likely(&row, threshold, may_guess, search, &mut buffers.likely);
        let mass = mass.ok_or(Some(start))?;
        buffers.leave_out(threshold, mass.get());
        guess = mass.guess(threshold);
    }
    let count = row.candidates() - buffers.left_out.len() as u64;
    if is_dynamic(params, true) {
        let others = &buffers.likely[..buffers.left_out.len()];
        temperature = temperature_of_others(row, params, count, others);
    }
    let first = buffers.first().unwrap_or(row.weights.max);
    Ok(Whole { count, cut: Cut::ties(lowest::<E>()), first, temperature, guess })
}

/// Weighs what is kept of a row, block by block: `left` is the row without the tokens that are left out. False, if XTC takes others than these:
/// then `kept` and the buffers say which, and the masses mean nothing. That is so twice at the most.
pub fn weigh_left<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    left: &ScannedRow<'_, S, E>,
    kept: &mut Whole,
    masses: &mut Vec<u64>,
    search: &mut nucleus::Buffers,
    buffers: &mut Buffers,
) -> bool {
    let masses = match kept.guess {
        Some(Guess { threshold, rough: Some(of_maxima) }) => {
            kept.guess = Some(Guess { threshold, rough: None });
            let least = below(row, FIRST_BITS.max(MORE_BITS - threshold.log2()));
            let first = left.block_masses_of(Part::From(least), masses).iter().sum();
            let mass = guess_mass(row, first, least, of_maxima, kept.first, buffers);
            if !buffers.settle(threshold, mass, kept, row.weights) {
                return false;
            }
            left.block_masses_of(Part::Below(least), masses)
        }
        _ => left.masses_up_to(kept.cut, masses),
    };
    is_confirmed(row, masses.iter().sum(), kept, search, buffers)
}

/// The mass of a row, nearly: `weighed` is that of the blocks whose first tokens are at least `least`, without what is left out and relative to
/// `first`, and `of_maxima` that of the first tokens of all blocks.
///
/// On real rows the blocks that are not weighed have one to two times the mass of their first tokens: 1.4 is taken.
fn guess_mass<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    weighed: u64,
    least: f32,
    of_maxima: u64,
    first: f32,
    buffers: &Buffers,
) -> u64 {
    let [weighed, _] = mass_bounds(row.weights, first, weighed, row.vocab_size.into());
    let others = of_maxima - mass_of_maxima(row, least);
    buffers.of_left_out() + weighed + others / 5 * 7
}

/// Whether the tokens that were left out are those that XTC takes, by a row's masses without these, `left` together. If not, `kept` and the
/// buffers say what XTC leaves.
fn is_confirmed<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    left: u64,
    kept: &mut Whole,
    search: &mut nucleus::Buffers,
    buffers: &mut Buffers,
) -> bool {
    let Some(Guess { threshold, .. }) = kept.guess.take() else { return true };
    let (of_taken, tokens) = (buffers.of_left_out(), u64::from(row.vocab_size));
    let [least, most] = mass_bounds(row.weights, kept.first, left, tokens).map(|m| of_taken + m);
    let mut mass = least;
    if heavier(&buffers.likely, threshold, least) != heavier(&buffers.likely, threshold, most) {
        mass = masses(row, search).least.mass;
    }
    buffers.settle(threshold, mass, kept, row.weights)
}

impl Buffers {
    /// Leaves out what XTC takes of a row with that mass.
    fn leave_out(&mut self, threshold: f32, mass: u64) {
        let taken = heavier(&self.likely, threshold, mass).saturating_sub(1);
        self.left_out.clear();
        self.left_out.extend(self.likely[..taken].iter().map(|token| token.id));
        self.left_out.sort_unstable();
    }

    /// Leaves out what XTC takes of a row with that mass, and says so in `kept`; returns whether that was left out before.
    fn settle(&mut self, threshold: f32, mass: u64, kept: &mut Whole, weights: Weights) -> bool {
        let before = self.left_out.len();
        self.leave_out(threshold, mass);
        kept.count = kept.count + before as u64 - self.left_out.len() as u64;
        kept.first = self.first().unwrap_or(weights.max);
        self.left_out.len() == before
    }

    /// The mass of the tokens that are left out.
    fn of_left_out(&self) -> u64 {
        self.likely[..self.left_out.len()].iter().map(|token| token.mass).sum()
    }

    /// The logit of the likely token that stays, where others are left out.
    fn first(&self) -> Option<f32> {
        (!self.left_out.is_empty()).then(|| self.likely[self.left_out.len()].x + 0.0)
    }
}

/// How many first tokens have their share of a mass. By its last bit the mass of a token can be above that of one before it.
fn heavier(likely: &[Token], threshold: f32, mass: u64) -> usize {
    let least = share(q64(threshold), mass);
    likely.iter().take_while(|token| token.mass >= least).count()
}

/// The least and the most mass, relative to the row's maximum, of tokens that have `left` relative to `first`.
///
/// ```text
/// real(x)   = 2^40 * 2^(c * (x - max))              ; the same relative to `first`, times 2^(c * (first - max))
/// |p / real(x) - 1| <= ERROR                        ; what mass(x) truncates, of any token that has a mass
/// ```
///
/// `c` is the same in both. Down to 2^-41 of the first, a power is off by the polynomial (1e-7), by the fraction's rounding (2^-26), and by that
/// of `x - max`, which is 41 bits at the most and has 24: 41 * 2^-24 * ln 2, or 1.7e-6. A mass is truncated by less than one unit, relative to
/// `first` as well, where units are smaller. So both sums differ by 4e-6 of themselves and a unit a token; `MARGIN` is four times that.
fn mass_bounds(weights: Weights, first: f32, left: u64, tokens: u64) -> [u64; 2] {
    const MARGIN: f64 = 1.0 / 65_536.0;
    let Weights { max, scale, .. } = weights;
    if first == max {
        return [left; 2];
    }
    let bits = (f64::from(first) - f64::from(max)) * f64::from(scale.c);
    let (scaled, tokens) = (left as f64 * bits.exp2(), tokens as f64);
    let margin = (scaled + tokens) * MARGIN + tokens + 1.0;
    // Below 0 it is 0.
    [(scaled - margin) as u64, (scaled + margin) as u64]
}

/// The dynamic temperature of a row without some of its tokens.
fn temperature_of_others<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    count: u64,
    without: &[Token],
) -> f32 {
    let row = at(row, 1.0);
    let of_token = |token: &Token| surprisal(token.x, row.weights.max, row.weights.scale);
    let without = without.iter().map(of_token).fold(Interval::default(), Interval::with);
    let all = interval(&row, None);
    let left = Interval { mass: all.mass - without.mass, term: all.term - without.term };
    // Of a lone token the temperature stays, and its mass need not be there.
    let entropy = if count < 2 { 0 } else { left.entropy() };
    dynamic_temperature(params, count, entropy)
}

/// A row's mass, or one that tells the same likely tokens.
enum Mass {
    Certain(u64),
    /// It may tell others.
    Guess {
        mass: u64,
        rough: Option<u64>,
    },
}

impl Mass {
    fn get(&self) -> u64 {
        match *self {
            Self::Certain(mass) | Self::Guess { mass, .. } => mass,
        }
    }

    fn guess(&self, threshold: f32) -> Option<Guess> {
        match *self {
            Self::Certain(_) => None,
            Self::Guess { rough, .. } => Some(Guess { threshold, rough }),
        }
    }
}

/// Lists the tokens that may be likely, in their order, and finds the mass that tells which are. `None` where they are many.
fn list_likely<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    threshold: f32,
    may_guess: bool,
    search: &mut nucleus::Buffers,
    likely: &mut Vec<Token>,
) -> Option<Mass> {
    let of_maxima = mass_of_maxima(row, lowest::<E>());
    let least = share(q64(threshold), of_maxima);
    if least > UNIT {
        return Some(Mass::Certain(of_maxima));
    }
    let bits = (UNIT as f32 / least as f32).log2() + MARGIN_BITS;
    if !is_listed(row, below(row, bits), &mut search.lists) {
        return None;
    }
    let list = &mut search.lists.list;
    let listed = row.weigh(list);
    let tokens = list.ids().iter().zip(list.x()).enumerate();
    likely.extend(tokens.map(|(i, (&id, &x))| Token { id, x, mass: list.mass(i) }));
    let beyond = of_maxima - mass_of_first(likely);
    let found = listed + beyond;
    // In the order: +0.0, so that zeros of both signs are equal.
    likely.sort_unstable_by(|a, b| (b.x + 0.0).total_cmp(&(a.x + 0.0)).then(a.id.cmp(&b.id)));
    let heavier = |mass| heavier(likely, threshold, mass);
    if heavier(found) < 2 {
        return Some(Mass::Certain(found));
    }
    if may_guess {
        // On real rows the others have a tenth of `beyond` to once as much most often.
        let is_rough = heavier(found) != heavier(found + found / 64 + beyond * 2);
        let (mass, rough) = (found + beyond / 8 * 3, is_rough.then_some(of_maxima));
        return Some(Mass::Guess { mass, rough });
    }
    Some(Mass::Certain(match bounds_of_listed(row, search) {
        [least, most] if heavier(least) == heavier(most) => least,
        _ => masses(row, search).least.mass,
    }))
}

/// The mass of the first tokens of the blocks, of those that are at least `least`.
fn mass_of_maxima<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, least: f32) -> u64 {
    let ScannedRow { maxima: list, weights, .. } = *row;
    row.s.run(TotalMass { list, weights, least })
}

/// The mass of the first of some tokens in each block. These are given by ascending ids.
fn mass_of_first(tokens: &[Token]) -> u64 {
    let by_block = tokens.chunk_by(|a, b| a.id / BLOCK as u32 == b.id / BLOCK as u32);
    let first = |tokens: &[Token]| tokens.iter().max_by(|a, b| a.x.total_cmp(&b.x)).copied();
    by_block.filter_map(first).map(|token| token.mass).sum()
}

/// The least and the most that the mass of a row can be, by tokens of which most have been listed.
fn bounds_of_listed<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    search: &mut nucleus::Buffers,
) -> [u64; 2] {
    let least = below(row, LISTED_BITS);
    if !is_listed(row, least, &mut search.lists) {
        return [0, MOST];
    }
    let list = &mut search.lists.list;
    let listed = row.weigh(list);
    let others = u64::from(row.vocab_size) - list.len() as u64;
    let each = row.weights.mass(least);
    [listed, listed + others * (each + rise(each))]
}

/// A logit so many bits of surprisal below the first.
fn below<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, bits: f32) -> f32 {
    let Weights { max, scale, .. } = row.weights;
    let x = max - bits / scale.c;
    if x > lowest::<E>() { E::value(E::key(x)) + 0.0 } else { lowest::<E>() }
}

#[cfg(test)]
mod tests {
    use super::super::element::{F16, F32};
    use super::super::portable::Portable;
    use super::super::prepare::{self, prepare};
    use super::super::team::Team;
    use super::super::without::Copies;
    use super::*;
    use crate::arithmetic::mass::{Scale, mass};
    use crate::batch::{Dtype, Row};
    use crate::params::ParamsSpec;

    #[test]
    fn the_masses_of_what_is_left_bound_those_of_the_row() {
        // Greatest logits of all sizes, so that differences are rounded; from equal tokens to what has no mass any more.
        for max in [0.0f32, -3.1, 777.7, 65_504.0, 1e6] {
            for (temperature, step) in [(1.0, 1e-3), (0.7, 4e-3), (30.0, 0.3), (1e-3, 1e-6)] {
                let scale = Scale::new(temperature);
                let x: Vec<f32> =
                    (0..9000).map(|i| max - (i * 7919 % 9000) as f32 * step).collect();
                let weights = Weights { max, min: f32::NEG_INFINITY, scale };
                let tokens = x.len() as u64;
                for first in [0, 1, 10, 600, 3000].map(|i| max - i as f32 * step) {
                    let left = x.iter().filter(|&&x| x <= first);
                    let of = |max| left.clone().map(|&x| mass(x, max, scale)).sum::<u64>();
                    let [least, most] = mass_bounds(weights, first, of(first), tokens);
                    let is = of(max);
                    assert!((least..=most).contains(&is), "{temperature}, {max} to {first}");
                    assert!(most - least <= is / 30_000 + 3 * tokens + 3, "far apart");
                }
            }
        }
    }

    /// Whether a guess was right; `None` where there is none. What is left out is held to the definition, unless too many tokens are likely.
    fn is_right<E: Element>(
        dtype: Dtype,
        x: &[f32],
        threshold: f32,
        temperature: f32,
    ) -> Option<bool> {
        let mut logits = vec![0; x.len() * E::SIZE];
        for (x, to) in x.iter().zip(logits.chunks_exact_mut(E::SIZE)) {
            E::write(E::key(*x), to);
        }
        let spec = ParamsSpec {
            xtc_probability: 1.0,
            xtc_threshold: threshold,
            temperature,
            ..Default::default()
        };
        let params = spec.parse(|| 0).expect("valid");
        let row = Row::new(dtype, &logits, params).expect("a row");
        let (mut memory, mut search) = (prepare::Buffers::default(), nucleus::Buffers::default());
        let prepared = prepare::<_, E>(Portable, &Team::ALONE, &row, None, &mut memory);
        let (scale, tokens) = (Scale::new(temperature), x.len() as u32);
        let row = prepared.scanned_row(Portable, &Team::ALONE, scale, tokens, &[]);
        let mut buffers = Buffers::default();
        let Ok(mut kept) = whole(&row, &params, &mut search, &mut buffers) else { return None };
        let is_guess = kept.guess.is_some();
        let read = logits.chunks_exact(E::SIZE).map(E::read);
        let mut sorted: Vec<(f32, u32)> = read.zip(0..).collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let of = |x, first| mass(x, first, scale);
        let (mut copies, mut masses, mut wrong) = (Copies::default(), Vec::new(), 0);
        loop {
            copies.leave_out(&row, &buffers.left_out);
            let left = copies.row(row, kept.first);
            if weigh_left(&row, &left, &mut kept, &mut masses, &mut search, &mut buffers) {
                break;
            }
            wrong += 1;
        }
        assert!(wrong <= 2, "a guess is put right once by the first blocks, and once by all");
        let left = sorted.iter().filter(|(_, id)| !buffers.left_out.contains(id));
        let left: u64 = left.map(|&(x, _)| of(x, kept.first)).sum();
        assert_eq!(masses.iter().sum::<u64>(), left);
        let is_right = wrong == 0;

        let max = sorted[0].0;
        let all: u64 = sorted.iter().map(|&(x, _)| of(x, max)).sum();
        let least = share(q64(threshold), all);
        let likely = sorted.iter().take_while(|&&(x, _)| of(x, max) >= least).count();
        let taken = likely.saturating_sub(1);
        let mut ids: Vec<u32> = sorted[..taken].iter().map(|&(_, id)| id).collect();
        ids.sort_unstable();
        assert_eq!(buffers.left_out, ids, "threshold {threshold}, {temperature}");
        assert_eq!(kept.first, sorted[taken].0);
        assert_eq!(kept.count, u64::from(tokens) - taken as u64);
        is_guess.then_some(is_right)
    }

    #[test]
    fn what_may_be_likely_is_a_list_from_some_threshold_on() {
        for threshold in [0.07f32, 0.1, 0.3] {
            let spec =
                ParamsSpec { xtc_probability: 1.0, xtc_threshold: threshold, ..Default::default() };
            assert!(spec.parse(|| 0).expect("valid").keeps_all_but_few(), "{threshold}");
            for blocks in 1..=17 {
                // Whole blocks of equal tokens, and then others without mass; or all of the row is equal.
                for n in [blocks * BLOCK, 40 * BLOCK] {
                    let x: Vec<f32> =
                        (0..n).map(|i| if i < blocks * BLOCK { 1.5 } else { -99.0 }).collect();
                    let params = spec.parse(|| 0).expect("valid");
                    let mut logits = vec![0; n * 4];
                    for (x, to) in x.iter().zip(logits.chunks_exact_mut(4)) {
                        F32::write(F32::key(*x), to);
                    }
                    let row = Row::new(Dtype::F32, &logits, params).expect("a row");
                    let mut memory = prepare::Buffers::default();
                    let prepared =
                        prepare::<_, F32>(Portable, &Team::ALONE, &row, None, &mut memory);
                    let (scale, tokens) = (Scale::new(1.0), n as u32);
                    let row = prepared.scanned_row(Portable, &Team::ALONE, scale, tokens, &[]);
                    let mut search = nucleus::Buffers::default();
                    let kept = whole(&row, &params, &mut search, &mut Buffers::default());
                    assert_eq!(
                        kept.map(|kept| kept.count).ok(),
                        Some(n as u64),
                        "{threshold} {blocks}"
                    );
                }
            }
        }
    }

    #[test]
    fn guesses_are_put_right() {
        let first = [0.0, -0.01, -0.25, -0.5, -1.0, -1.5, -1.75, -2.5];
        // What follows: nearly nothing; more than blocks show; no more than they show; the same logit everywhere.
        let tails: [&dyn Fn(usize) -> f32; 4] = [
            &|i| -9.0 - (i % 97) as f32 / 8.0,
            &|i| -7.0 - (i % 3) as f32 / 64.0,
            &|i| if i % 512 == 99 { -5.0 } else { -90.0 },
            &|_| -6.5,
        ];
        let mut counts = [0; 3];
        for (salt, tail) in tails.into_iter().enumerate() {
            for n in [9, 700, 5000, 20_001] {
                let mut x: Vec<f32> = (0..n).map(tail).collect();
                (0..).zip(first).for_each(|(i, first)| x[(i * 631 + salt) % n] = first);
                for temperature in [1.0, 0.8, 2.5] {
                    let scale = Scale::new(temperature);
                    let all: u64 = x.iter().map(|&x| mass(x, 0.0, scale)).sum();
                    // Between tokens, and as near to one as an f32 can be.
                    let borders = first.map(|x| (mass(x, 0.0, scale) as f64 / all as f64) as f32);
                    let near =
                        borders.into_iter().flat_map(|p| [p.next_down(), p, p.next_up(), p * 0.9]);
                    for threshold in near.filter(|p| *p > 0.001) {
                        for is_right in [
                            is_right::<F32>(Dtype::F32, &x, threshold, temperature),
                            is_right::<F16>(Dtype::F16, &x, threshold, temperature),
                        ] {
                            counts[is_right.map_or(2, usize::from)] += 1;
                        }
                    }
                }
            }
        }
        // Wrong, right, and no guesses.
        assert!(counts.iter().all(|&count| count > 50), "{counts:?}");
    }
}
