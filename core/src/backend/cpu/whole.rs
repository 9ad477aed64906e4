//! Rows of which all tokens are kept, or all but a few likely ones: they are drawn from block by block, as rows without a cut are. So are those of
//! which more is kept than a list has, because it ties with the last of a few ([`shaped`](super::shaped)).
//!
//! ```text
//! whole(row):
//!     no stage acts:           all tokens
//!     XTC acts, and no other:  all but the likely ones, of which the least likely stays
//! likely(row):
//!     found = the mass of the tokens with the threshold's share of the unit, and of the first tokens of other blocks; W is no less
//!     none, if fewer than two have their share of that
//!     W is guessed: a part more than is found; if that is too rough, more tokens are listed
//!     the tokens with their share of the guess
//! is_confirmed(row, blocks without these):
//!     bounds of W, by the mass of these blocks and the exact masses of what was left out
//!     if both tell the same tokens: the guess was right, or is put right; else W is weighed
//! ```
//!
//! 1. XTC looks at W only to tell which tokens have their share of it: the first of the row, up to one that has less. On real rows that is decided
//!    by W to some hundredths, and the first tokens of the blocks tell as much.
//! 2. The row is weighed once, from the first token that is kept, like any other: these masses are what is drawn from. They tell W again, but for
//!    roundings ([`mass_bounds`]). So no answer rests on a guess: of one in a hundred real rows it is wrong, and they are weighed once more.
//! 3. Where the chain has another temperature than the draw (llama.cpp's profile), the masses of the draw tell nothing of W. Then W is between
//!    what the tokens within 20 bits have, and that and the most that the others can have; if these bounds tell different tokens, it is weighed.
//! 4. Dynamic temperature after the chain is that of the tokens that are left: sums over all, less those that go.
//!
//! Floor of a row of 128,256 f16: the row without a cut, from the first kept token on. Up to 3 octaves more tokens have a mass from there (3 in
//! 100 more time on real rows at temperature 0.8). What is added: a few blocks are listed, 16 vectors of maxima are weighed, and 8 KiB are
//! written for the copies and the places of blocks.

use super::blocks::BLOCK;
use super::chain::{Start, dynamic_temperature, is_dynamic, stages};
use super::cut::Cut;
use super::element::Element;
use super::first::{at, is_listed, masses, start};
use super::intervals::interval;
use super::list::{By, TotalMass, lowest};
use super::mass::Weights;
use super::nucleus;
use super::passes::ScannedRow;
use super::simd::Simd;
use crate::arithmetic::cutoffs::rise;
use crate::arithmetic::fraction::{q64, share};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::stages::Stage;
use crate::arithmetic::surprisal::surprisal;
use crate::params::SamplingParams;

/// Surprisals, in bits, up to which tokens are listed where that is too rough: so many, or so many more than a likely token has.
const GUESS_BITS: f32 = 8.0;
const MORE_BITS: f32 = 5.0;
/// What is listed within so many bits before tells what there is beyond.
const LAST_BITS: f32 = 4.0;
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
    /// XTC's threshold, where which tokens are left out is a guess: see [`is_confirmed`].
    pub guessed: Option<f32>,
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
    let mut guessed = None;
    if has_xtc {
        let (of_chain, threshold) = (start.of_chain(params), cuts.xtc.threshold);
        let row = at(row, of_chain);
        let may_guess = of_chain == temperature && !is_dynamic(params, true);
        let mass = list_likely(&row, threshold, may_guess, search, &mut buffers.likely);
        let Mass { mass, is_guess } = mass.ok_or(Some(start))?;
        buffers.leave_out(threshold, mass);
        guessed = is_guess.then_some(threshold);
    }
    let count = row.candidates() - buffers.left_out.len() as u64;
    if is_dynamic(params, true) {
        let others = &buffers.likely[..buffers.left_out.len()];
        temperature = temperature_of_others(row, params, count, others);
    }
    let first = buffers.first().unwrap_or(row.weights.max);
    Ok(Whole { count, cut: Cut::ties(lowest::<E>()), first, temperature, guessed })
}

/// Whether the tokens that were left out are those that XTC takes, by a row's masses without these, `left` together. If not, `kept` and the
/// buffers say what XTC leaves.
pub fn is_confirmed<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    left: u64,
    kept: &mut Whole,
    search: &mut nucleus::Buffers,
    buffers: &mut Buffers,
) -> bool {
    let Some(threshold) = kept.guessed.take() else { return true };
    let taken = buffers.left_out.len();
    let of_taken: u64 = buffers.likely[..taken].iter().map(|token| token.mass).sum();
    let tokens = u64::from(row.vocab_size);
    let [least, most] = mass_bounds(row.weights, kept.first, left, tokens).map(|m| of_taken + m);
    let mut mass = least;
    if heavier(&buffers.likely, threshold, least) != heavier(&buffers.likely, threshold, most) {
        mass = masses(row, search).least.mass;
    }
    buffers.leave_out(threshold, mass);
    let is_right = buffers.left_out.len() == taken;
    kept.count = kept.count + taken as u64 - buffers.left_out.len() as u64;
    kept.first = buffers.first().unwrap_or(row.weights.max);
    is_right
}

impl Buffers {
    /// Leaves out what XTC takes of a row with that mass.
    fn leave_out(&mut self, threshold: f32, mass: u64) {
        let taken = heavier(&self.likely, threshold, mass).saturating_sub(1);
        self.left_out.clear();
        self.left_out.extend(self.likely[..taken].iter().map(|token| token.id));
        self.left_out.sort_unstable();
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
struct Mass {
    mass: u64,
    /// Whether it may tell others.
    is_guess: bool,
}

/// Lists the tokens that may be likely, in their order, and finds the mass that tells which are. `None` where they are many.
fn list_likely<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    threshold: f32,
    may_guess: bool,
    search: &mut nucleus::Buffers,
    likely: &mut Vec<Token>,
) -> Option<Mass> {
    let certainly = |mass| Some(Mass { mass, is_guess: false });
    if !is_listed(row, below(row, -threshold.log2() + MARGIN_BITS), &mut search.lists) {
        return None;
    }
    let list = &mut search.lists.list;
    let listed = row.weigh(list);
    let tokens = list.ids().iter().zip(list.x()).enumerate();
    likely.extend(tokens.map(|(i, (&id, &x))| Token { id, x, mass: list.mass(i) }));
    let beyond = mass_of_maxima(row, likely);
    let found = listed + beyond;
    // In the order: +0.0, so that zeros of both signs are equal.
    likely.sort_unstable_by(|a, b| (b.x + 0.0).total_cmp(&(a.x + 0.0)).then(a.id.cmp(&b.id)));
    let heavier = |mass| heavier(likely, threshold, mass);
    if heavier(found) < 2 {
        return certainly(found);
    }
    if may_guess {
        return match guess_mass(row, threshold, found, beyond, heavier, search) {
            Some(mass) => Some(Mass { mass, is_guess: true }),
            None => certainly(masses(row, search).least.mass),
        };
    }
    certainly(match bounds_of_listed(row, search) {
        [least, most] if heavier(least) == heavier(most) => least,
        _ => masses(row, search).least.mass,
    })
}

/// The mass of the first tokens of all blocks but those that have a listed token. These are given by ascending ids.
fn mass_of_maxima<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, listed: &[Token]) -> u64 {
    let ScannedRow { maxima: list, weights, .. } = *row;
    let by_block = listed.chunk_by(|a, b| a.id / BLOCK as u32 == b.id / BLOCK as u32);
    let first = |tokens: &[Token]| tokens.iter().max_by(|a, b| a.x.total_cmp(&b.x)).copied();
    let of_listed: u64 = by_block.filter_map(first).map(|token| token.mass).sum();
    row.s.run(TotalMass { list, weights }) - of_listed
}

/// The mass of a row, nearly enough to tell the likely tokens most often, of which some tokens have `found`, and those among them that are first in
/// blocks without a likely one have `beyond`. `None` where too many would be listed.
///
/// On real rows the others have a quarter of `beyond` to one and a half of it most often. Where that is too rough, tokens are listed: those further
/// down have a part of what is listed last, a quarter to a half most often. Of 64 real rows at temperature 0.8 and a threshold of 0.1 ten are
/// listed, and a guess is wrong of one in a hundred. To list more takes as long as to weigh the row again.
fn guess_mass<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    threshold: f32,
    found: u64,
    beyond: u64,
    heavier: impl Fn(u64) -> usize,
    search: &mut nucleus::Buffers,
) -> Option<u64> {
    if heavier(found + beyond / 4) == heavier(found + beyond / 2 * 3) {
        return Some(found + beyond / 2);
    }
    let bits = GUESS_BITS.max(MORE_BITS - threshold.log2());
    if !is_listed(row, below(row, bits), &mut search.lists) {
        return None;
    }
    let list = &mut search.lists.list;
    let listed = row.weigh(list);
    let last = listed - list.measure(row.s, By::Mass, below(row, bits - LAST_BITS));
    Some(listed + last * 3 / 8)
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
        let is_guess = kept.guessed.is_some();
        let read = logits.chunks_exact(E::SIZE).map(E::read);
        let mut sorted: Vec<(f32, u32)> = read.zip(0..).collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let of = |x, first| mass(x, first, scale);
        let left = sorted.iter().filter(|(_, id)| !buffers.left_out.contains(id));
        let left = left.map(|&(x, _)| of(x, kept.first)).sum();
        let is_right = is_confirmed(&row, left, &mut kept, &mut search, &mut buffers);

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
