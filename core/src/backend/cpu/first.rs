//! The first tokens of a row, where its chain looks at no others one by one.
//!
//! ```text
//! list(row):
//!     top-k, top-n-sigma or min-p come first: the tokens that they keep
//!     the first stage has a bound:            the tokens within it, and the sums over all
//!         top-a, epsilon, eta, mirostat:      W (eta: and E) tell the least mass, or the greatest surprisal
//!         top-p:                              tokens with its share of W
//!         typical:                            tokens with its share of W, and those up to twice the mean surprisal
//!     too many tie with top-k's last:         those of the least ids, or where the profile keeps all, those before, and how many tie
//! ```
//!
//! 1. What a first stage asks of the whole row are two sums. W is a pass that weighs. E takes one of twice the instructions
//!    ([`interval`]), but is needed for the mean surprisal only: that is known well by the tokens that have nearly all the mass, and
//!    by bounds of what the others add ([`Tail`]). What it decides (typical, eta) is decided by both bounds; where they differ,
//!    the pass is made ([`exact_sums`]). Later stages see what the first has left.
//! 2. Typical's tokens are those within `delta` of the mean A. With all up to a surprisal of `g`, at least `2 * A`, the list has all
//!    within `g - A`: if it has the share, `delta` is no greater, and the tokens are in the list.

use super::chain::{
    Start, dynamic_temperature, is_dynamic, mirostat_most, nucleus_is_of_row, stages,
};
use super::cut::{Cut, above};
use super::element::Element;
use super::groups::{Others, Sums, Tied};
use super::intervals::{SumList, interval};
use super::list::{List, Lists, bisect, lowest};
use super::mass::Weights;
use super::nucleus;
use super::passes::{LIST_MAX, ScannedRow};
use super::search::{list_first, list_top_k, locate_top_k};
use super::simd::Simd;
use super::spread::spread;
use crate::arithmetic::cut::min_p_distance;
use crate::arithmetic::fraction::{q64, share};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::stages::{Profile, Stage};
use crate::arithmetic::surprisal::surprisal;
use crate::arithmetic::{cutoffs, head};
use crate::params::SamplingParams;

/// 2^22: the units of a surprisal in a bit.
const BIT: u64 = 1 << 22;
/// Surprisals, in bits, up to which tokens are listed at first where a share of the mass is looked for, and how many more each time
/// that is too little. A pass that lists takes a tenth of one that weighs.
const FIRST_BITS: u64 = 6;
/// Surprisals, in bits, up to which terms are summed one by one. On real rows at temperature 0.8 those are some hundred to five thousand
/// tokens of 128,256, and the mean surprisal is known to a few thousandths of a bit.
const LISTED_BITS: u64 = 20;
const MORE_BITS: u64 = 3;

/// First tokens of a row, all that its chain may keep.
pub struct First<'b> {
    pub list: &'b List,
    /// What comes after these and ties, where that is too much for a list.
    pub tied: Option<Tied>,
    /// What the row has beside, where the chain asks for sums over all.
    pub others: Option<Others>,
}

/// What the chain of a row starts with.
pub fn start<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, params: &SamplingParams) -> Start {
    let s = params.all_cuts().top_n_sigma;
    let distance = (s > 0.0).then(|| spread(row).distance(s));
    let mut temperature = params.temperature();
    if is_dynamic(params, false) {
        let all = interval(&at(row, 1.0), None);
        temperature = dynamic_temperature(params, row.candidates(), all.entropy());
    }
    Start { distance, temperature }
}

/// The row at a temperature.
pub fn at<'a, S: Simd, E: Element>(
    row: &ScannedRow<'a, S, E>,
    temperature: f32,
) -> ScannedRow<'a, S, E> {
    ScannedRow { weights: Weights { scale: Scale::new(temperature), ..row.weights }, ..*row }
}

/// Lists first tokens of which the chain looks at no others, if it can be told that these are few.
pub fn first_tokens<'b, S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    start: Start,
    search: &'b mut nucleus::Buffers,
) -> Option<First<'b>> {
    if let Some(Listed { tied }) = list_by_logits(row, params, start, search) {
        return Some(First { list: &search.lists.list, tied, others: None });
    }
    let row = at(row, start.of_chain(params));
    let (Listed { tied }, all) = list_by_sums(&row, params, start, search)?;
    let list = &search.lists.list;
    let listed = list.len() as u64 + tied.map_or(0, |tied| tied.tokens.into());
    let tokens = row.candidates() - listed;
    let others = (tokens > 0).then_some(Others { tokens: tokens as u32, all });
    Some(First { list, tied, others })
}

/// First tokens are listed.
struct Listed {
    /// But for these, which come next.
    tied: Option<Tied>,
}

impl Listed {
    /// All of them.
    const ALL: Self = Self { tied: None };
}

/// Lists what a cut by logits keeps, if one comes first.
fn list_by_logits<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    start: Start,
    search: &mut nucleus::Buffers,
) -> Option<Listed> {
    let cuts = params.all_cuts();
    if cuts.profile == Profile::Llamacpp && cuts.mirostat.tau > 0.0 {
        return None;
    }
    if first_stage(row, params, start.distance) == Some(Stage::TopH) {
        list_first(row, head::TOKENS as u64, search);
        return Some(Listed::ALL);
    }
    let k = params.top_k().filter(|&k| k < row.vocab_size && !nucleus_is_of_row(params));
    if let Some(k) = k
        && list_top_k(row, k.into(), search)
    {
        return Some(Listed::ALL);
    }
    // Stages that look at logits alone may come in any order.
    let by_logits = |stage: &Stage| matches!(stage, Stage::TopNSigma | Stage::TopK | Stage::MinP);
    let mut first_stages = stages(params, start.distance).take_while(by_logits);
    let min_p = params.min_p().filter(|_| first_stages.any(|stage| stage == Stage::MinP));
    let min_p = min_p.map(|p| min_p_distance(p, start.of_chain(params)));
    if let Some(distance) = start.distance.into_iter().chain(min_p).reduce(f32::max)
        && is_listed(row, row.min_p_cut(distance).least, &mut search.lists)
    {
        return Some(Listed::ALL);
    }
    k.and_then(|k| list_ties(row, params, k, search))
}

/// Lists the first `k` tokens, if these are few, where too many tie with the last of them: where the profile keeps all of these, they are
/// counted instead.
fn list_ties<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    k: u32,
    search: &mut nucleus::Buffers,
) -> Option<Listed> {
    if k as usize > LIST_MAX {
        return None;
    }
    let keeps_ties = params.all_cuts().profile.keeps_ties(Stage::TopK);
    let last = if keeps_ties { locate_top_k(row, k.into(), search) } else { None };
    let Some(Cut { least: x, .. }) = last else {
        list_first(row, k.into(), search);
        return Some(Listed::ALL);
    };
    let lists = &mut search.lists;
    if is_listed(row, x, lists) {
        return Some(Listed::ALL);
    }
    let before = Cut::ties(above::<E>(x).unwrap_or(f32::INFINITY));
    let before = row.collect(before, usize::MAX, lists).len() as u64;
    let tokens = (row.count_from(x) - before) as u32;
    Some(Listed { tied: Some(Tied { x, tokens }) })
}

/// Lists what the first stage may keep, whose bound depends on sums over all tokens, and returns these.
fn list_by_sums<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    start: Start,
    search: &mut nucleus::Buffers,
) -> Option<(Listed, Sums)> {
    let cuts = params.all_cuts();
    let first = first_stage(row, params, start.distance)?;
    let all = match first {
        Stage::Eta | Stage::Typical => sums(row, search),
        Stage::TopP | Stage::TopA | Stage::Epsilon | Stage::Mirostat => masses(row, search),
        Stage::TopK if nucleus_is_of_row(params) => {
            let k = params.top_k().expect("it is on");
            let listed = match list_top_k(row, k.into(), search) {
                true => Listed::ALL,
                false => list_ties(row, params, k, search)?,
            };
            return Some((listed, masses(row, search)));
        }
        _ => return None,
    };
    let mass = all.least.mass;
    let lists = &mut search.lists;
    let heavier = |least| least_with(row, |x| f64::from(surprisal_of(row, x)) <= most(least));
    let listed = match first {
        Stage::TopA => is_listed(row, heavier(cutoffs::top_a(cuts.top_a, mass)), lists),
        Stage::Epsilon => is_listed(row, heavier(share(q64(cuts.epsilon_cutoff), mass)), lists),
        Stage::Eta => is_listed(row, heavier(cutoffs::eta(cuts.eta_cutoff, all.most())), lists),
        Stage::Mirostat => {
            let most = mirostat_most(cuts, mass);
            is_listed(row, least_with(row, |x| i64::from(surprisal_of(row, x)) <= most), lists)
        }
        Stage::TopP => {
            let p = params.top_p().expect("it is on");
            list_mass(row, share(q64(p), mass), 0, lists)
        }
        _ => list_mass(row, share(q64(cuts.typical_p), mass), 2 * all.most().mean(), lists),
    };
    listed.then_some((Listed::ALL, all))
}

/// A little more than the surprisal of any token with that mass: surprisals rise along the order, where masses fall but for their last bits.
fn most(mass: u64) -> f64 {
    /// In bits.
    const MARGIN: f64 = 1.0 / 1024.0;
    match mass {
        0 => f64::INFINITY,
        _ => ((UNIT as f64 / mass as f64).log2() + MARGIN) * BIT as f64,
    }
}

/// The first stage that cuts the row.
fn first_stage<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    distance: Option<f32>,
) -> Option<Stage> {
    let has_all = |stage: &Stage| *stage == Stage::TopK && params.top_k() >= Some(row.vocab_size);
    stages(params, distance).find(|stage| !has_all(stage))
}

/// The sum of all masses.
pub fn masses<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    search: &mut nucleus::Buffers,
) -> Sums {
    let mass = row.block_masses(&mut search.masses).iter().sum();
    Sums::exactly(Interval { mass, term: 0 })
}

/// The sums of a row: of few tokens that have nearly all the mass as they are, and bounds of those of the others.
fn sums<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, search: &mut nucleus::Buffers) -> Sums {
    let least = least_with(row, |x| u64::from(surprisal_of(row, x)) <= LISTED_BITS * BIT);
    if !is_listed(row, least, &mut search.lists) {
        return Sums::exactly(interval(row, None));
    }
    let mass = masses(row, search).least.mass;
    let list = &search.lists.list;
    let listed = row.s.run(SumList { list, weights: row.weights });
    let others = Tail {
        tokens: u64::from(row.vocab_size) - list.len() as u64,
        mass: mass - listed.mass,
        least: LISTED_BITS,
    };
    let [least, most] = others.terms();
    Sums { least: Interval { mass, term: listed.term + least }, slack: most - least }
}

/// The sums over all, where bounds do not tell.
pub fn exact_sums<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    start: Start,
) -> Sums {
    Sums::exactly(interval(&at(row, start.of_chain(params)), None))
}

/// Tokens of small masses.
struct Tail {
    /// How many they are at most: as many as this may have no mass.
    tokens: u64,
    mass: u64,
    /// Their surprisals are above this, in bits.
    least: u64,
}

impl Tail {
    /// The least and the most that their terms can add up to.
    ///
    /// A term is `p * g`, truncated, where the mass is `p`, truncated. It is least where all surprisals are, and most where all tokens have
    /// the same mass, since `-p * log2(p)` is concave, and rises below 1/e: a token has less than `2^-least`.
    fn terms(&self) -> [u64; 2] {
        /// More than what surprisals, powers and doubles are off by, by orders of magnitude: these are off by 2^-20 of themselves.
        const MARGIN: f64 = 1.0 / 4096.0;
        if self.tokens == 0 {
            return [0, 0];
        }
        let (tokens, mass) = (self.tokens as f64, self.mass as f64);
        // From masses times bits to units of a term.
        let of = |mass: f64, bits: f64| mass * bits * 16.0;
        let least = of(mass, self.least as f64) * (1.0 - MARGIN) - tokens;
        let most = mass + tokens;
        let most = of(most, (tokens * UNIT as f64 / most).log2()) * (1.0 + MARGIN) + tokens;
        [least.max(0.0) as u64, most as u64]
    }
}

fn surprisal_of<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, x: f32) -> u32 {
    surprisal(x, row.weights.max, row.weights.scale).g
}

/// The least logit for which something is so that is so for all greater ones; the greatest, if it is so for none.
fn least_with<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, is_so: impl Fn(f32) -> bool) -> f32 {
    let max = row.weights.max;
    match bisect::<E>(lowest::<E>(), max, |x| !is_so(x)) {
        None => lowest::<E>(),
        Some(below) => above::<E>(below).map_or(max, |x| x.min(max)),
    }
}

/// Lists the tokens from a logit on; false if they are many.
pub fn is_listed<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    least: f32,
    lists: &mut Lists,
) -> bool {
    row.collect(Cut::ties(least), LIST_MAX, lists).len() <= LIST_MAX
}

/// Lists all tokens up to some surprisal, at least `g`, that have so much mass together; false if they are many.
fn list_mass<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    mass: u64,
    g: u64,
    lists: &mut Lists,
) -> bool {
    let mut most = g.max(FIRST_BITS * BIT);
    loop {
        let least = least_with(row, |x| u64::from(surprisal_of(row, x)) <= most);
        if !is_listed(row, least, lists) {
            return false;
        }
        if row.weigh(&mut lists.list) >= mass {
            return true;
        }
        most += MORE_BITS * BIT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terms_of_a_tail_are_between_its_bounds() {
        for temperature in [0.05, 0.8, 3.0] {
            let scale = Scale::new(temperature);
            // Spread, equal, just beyond the least surprisal, and without mass.
            let spreads: [&dyn Fn(u32) -> f32; 4] =
                [&|i| i as f32 / 2000.0, &|_| 7.0, &|i| (i % 2) as f32 / 1e5, &|_| 25.0];
            for spread in spreads {
                for count in [1, 2, 1000, 100_000] {
                    let bits = |i| LISTED_BITS as f32 + 1e-4 + spread(i);
                    let tokens = (0..count).map(|i| surprisal(-bits(i) / scale.c, 0.0, scale));
                    let sums = tokens.fold(Interval::default(), Interval::with);
                    for more in [0, 1, 5000] {
                        let tokens = u64::from(count + more);
                        let tail = Tail { tokens, mass: sums.mass, least: LISTED_BITS };
                        let [least, most] = tail.terms();
                        assert!((least..=most).contains(&sums.term), "{temperature} {count}");
                    }
                }
            }
        }
    }
}
