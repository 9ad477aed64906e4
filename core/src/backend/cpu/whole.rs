//! Rows of which all tokens are kept, or all but a few likely ones: they are drawn from block by block, as rows without a cut are.
//!
//! ```text
//! whole(row):
//!     no stage acts:           all tokens
//!     XTC acts, and no other:  all but the likely ones, of which the least likely stays
//! likely(row):
//!     likely = tokens with the threshold's share of the unit, the least mass that a row can have
//!     none, if fewer than two have its share of what these have together
//!     W is between what the tokens up to some surprisal have, and that and the most that the others can have
//!     if the bounds tell different: W is weighed
//! ```
//!
//! 1. XTC looks at W only to tell which tokens have their share of it: the first of the row, up to one that has less. Most often a bound of W
//!    decides about all of them. Where it does, the row is weighed once, from the first token that is kept, like any other.
//! 2. Dynamic temperature after the chain is that of the tokens that are left: sums over all, less those that go.

use super::chain::{dynamic_temperature, is_dynamic, stages};
use super::element::Element;
use super::first::{at, is_listed, masses, start};
use super::intervals::interval;
use super::list::lowest;
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
    /// The first one's logit. Not -0.0.
    pub first: f32,
    /// The temperature that is drawn at.
    pub temperature: f32,
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
    likely: Vec<Token>,
    /// The tokens that are left out, ids ascending.
    pub left_out: Vec<u32>,
}

/// What is kept of a row that is not greedy, if that is all but the few tokens that are left out.
pub fn whole<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    search: &mut nucleus::Buffers,
    buffers: &mut Buffers,
) -> Option<Whole> {
    let cuts = params.all_cuts();
    if params.is_greedy() || cuts.adaptive.target.is_some() {
        return None;
    }
    // Whether it is on is all that matters here.
    let distance = (cuts.top_n_sigma > 0.0).then_some(0.0);
    let mut acting = stages(params, distance);
    let has_xtc = match [acting.next(), acting.next()] {
        [None, _] => false,
        [Some(Stage::Xtc), None] => true,
        _ => return None,
    };
    let start = start(row, params);
    let Buffers { likely, left_out } = buffers;
    left_out.clear();
    let mut first = row.weights.max;
    if has_xtc {
        let row = at(row, start.of_chain(params));
        list_likely(&row, cuts.xtc.threshold, search, likely)?;
        if let [others @ .., last] = &likely[..] {
            first = last.x + 0.0;
            left_out.extend(others.iter().map(|token| token.id));
            left_out.sort_unstable();
        }
    }
    let count = row.candidates() - left_out.len() as u64;
    let mut temperature = start.temperature;
    if is_dynamic(params, true) {
        let others = &likely[..left_out.len()];
        temperature = temperature_of_others(row, params, count, others);
    }
    Some(Whole { count, first, temperature })
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

/// Lists the tokens that XTC takes out, in their order, and the one that stays of the likely ones; nothing, where these are
/// fewer than two. `None` where they are many.
fn list_likely<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    threshold: f32,
    search: &mut nucleus::Buffers,
    likely: &mut Vec<Token>,
) -> Option<()> {
    let share_of = |mass| share(q64(threshold), mass);
    likely.clear();
    if !is_listed(row, below(row, -threshold.log2() + MARGIN_BITS), &mut search.lists) {
        return None;
    }
    let list = &mut search.lists.list;
    let listed = row.weigh(list);
    let tokens = list.ids().iter().zip(list.x()).enumerate();
    likely.extend(tokens.map(|(i, (&id, &x))| Token { id, x, mass: list.mass(i) }));
    // In the order: +0.0, so that zeros of both signs are equal.
    likely.sort_unstable_by(|a, b| (b.x + 0.0).total_cmp(&(a.x + 0.0)).then(a.id.cmp(&b.id)));
    // The first ones: by its last bit the mass of a token can be above that of one before it.
    let heavier = |likely: &[Token], mass| {
        let least = share_of(mass);
        likely.iter().take_while(|token| token.mass >= least).count()
    };
    let mut mass = listed;
    if heavier(likely, mass) > 1 {
        mass = match mass_bounds(row, search) {
            [least, most] if heavier(likely, least) == heavier(likely, most) => least,
            _ => masses(row, search).least.mass,
        };
    }
    let count = heavier(likely, mass);
    likely.truncate(if count < 2 { 0 } else { count });
    Some(())
}

/// The least and the most that the mass of a row can be.
fn mass_bounds<S: Simd, E: Element>(
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
