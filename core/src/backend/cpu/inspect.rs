//! What is said of a row beside its tokens, where that is asked for.
//!
//! ```text
//! inspect(row):
//!     top    = the first tokens of the order, as for top-k, sorted
//!     places = the rank of each drawn or named token: from `top`, else counted
//!     for each distribution: W and E, from the kept list or by one pass over the row; then every logprob
//!     continuations: the first tokens of the order, and W by a pass that weighs
//! ```
//!
//! 1. Where no logit is changed, the distributions differ in temperature, and in how much of the order they have: kept
//!    tokens are its first ones. So the order is looked at once, and the scan and the block maxima that were made for
//!    sampling serve all three.
//! 2. Sums over the whole row at one temperature are made once, whichever distributions share them.
//! 3. Where logits are changed, this is done for the row as it is sampled, and once more, for `raw`, for the row as
//!    it is stored ([`raw`]). A row that was sampled from a list (`touched.rs`) is inspected by that list. Continuations
//!    whose probabilities add up to 1 over the stored logits are scored by these ([`normal`]), which are looked at before.

use super::blocks::BLOCK;
use super::collect::KeptBits;
use super::cut::Cut;
use super::element::Element;
use super::intervals::{SumList, interval};
use super::list::{By, List, lowest};
use super::mass::Weights;
use super::nucleus;
use super::passes::ScannedRow;
use super::prepare::Prepared;
use super::ranks::{self, Place};
use super::search::{Kept, list_first};
use super::simd::Simd;
use super::team::{Team, parts};
use crate::arithmetic::interval::{Interval, nats};
use crate::arithmetic::key::{key32, value32};
use crate::arithmetic::logprob;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::score::Scores;
use crate::batch::{Draw, RowStatus};
use crate::inspection::{
    Continuation, Continuations, Continue, Distribution, Entropy, Inspect, Inspection, KeptIds,
    Logprobs, TokenLogprob,
};

/// Tokens of a word of a bitmask.
const WORD_TOKENS: usize = 32;

/// Memory for inspections.
#[derive(Default)]
pub struct Buffers {
    search: nucleus::Buffers,
    /// Tokens of a list after their keys, as numbers that sort by the order.
    keys: Vec<u64>,
    top: Vec<Place>,
    named: Vec<Place>,
    /// What the continuations of the next row are scored by, where that is not the row as it is sampled.
    pub normal: Option<Result<Normal, RowStatus>>,
}

/// What the scores of continuations count from.
#[derive(Clone, Copy)]
pub struct Normal {
    max: f32,
    mass: u64,
}

/// What a row's tokens were drawn from.
#[derive(Clone, Copy)]
pub enum Sampled<'b> {
    /// One token: nothing was drawn.
    First(u32),
    /// What a search left.
    Kept(Kept<'b>),
}

/// What is said of a row without a token.
pub fn failed(asked: &Inspect, status: RowStatus) -> Inspection {
    let logprobs = asked.distributions().map(|of| nothing(of, status));
    let continuations = asked.continuations.map(|_| Continuations { status, tokens: vec![] });
    Inspection { logprobs: logprobs.collect(), kept: None, continuations }
}

fn nothing(of: Distribution, status: RowStatus) -> Logprobs {
    let entropy = Entropy::default();
    Logprobs { of, status, entropy, drawn: vec![], top: vec![], ids: vec![] }
}

/// What is said of a row that was sampled as it is. Its weights are those of its temperature, or of 1 where it is greedy.
pub fn inspect<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    asked: &Inspect,
    sampled: Sampled<'_>,
    draws: &[Draw],
    buffers: &mut Buffers,
) -> Inspection {
    let kept = asked.kept_ids_max.map(|most| match sampled {
        Sampled::First(token) => listed_ids(&[token], row.vocab_size, most),
        Sampled::Kept(kept) => kept_ids(row, kept, most, buffers),
    });
    let continuations = asked.continuations.map(|asked| go_on(row, asked, buffers));
    if asked.distributions().next().is_none() {
        return Inspection { kept, continuations, ..Inspection::default() };
    }
    let places = Places::find(row, asked, draws, buffers);
    let mut wholes = Wholes::default();
    let logprobs = asked.distributions().map(|of| {
        let scale = if of == Distribution::Raw { Scale::new(1.0) } else { row.weights.scale };
        let (kept, sums) = match (of, sampled) {
            (Distribution::Sampled, Sampled::First(_)) => (1, Interval { mass: UNIT, term: 0 }),
            (Distribution::Sampled, Sampled::Kept(kept)) => {
                (kept.count() as u32, kept_sums(row, kept, &mut wholes))
            }
            _ => (u32::MAX, wholes.of(row, scale)),
        };
        places.say(of, asked, kept, scale, sums)
    });
    Inspection { logprobs: logprobs.collect(), kept, continuations }
}

/// How a row that was sampled as it is can go on.
fn go_on<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    asked: Continue,
    buffers: &mut Buffers,
) -> Continuations {
    let Continue { count, temperature, .. } = asked;
    let Buffers { search, keys, top, normal, .. } = buffers;
    let normal = normal.take().unwrap_or_else(|| Ok(Normal::of(row, temperature, search)));
    let Normal { max, mass } = match normal {
        Ok(normal) => normal,
        Err(status) => return Continuations { status, tokens: vec![] },
    };
    sort(first_tokens(row, count, search), keys, top);
    let scores = Scores::new(temperature, mass);
    let scored =
        |&Place { token, x, .. }: &Place| Continuation { token, score: scores.of(x - max) };
    Continuations { status: RowStatus::Ok, tokens: top.iter().map(scored).collect() }
}

impl Normal {
    fn of<S: Simd, E: Element>(
        row: &ScannedRow<'_, S, E>,
        temperature: f32,
        search: &mut nucleus::Buffers,
    ) -> Self {
        let weights = Weights { scale: Scale::new(temperature), ..row.weights };
        let masses = ScannedRow { weights, ..*row }.block_masses(&mut search.masses);
        Self { max: weights.max, mass: masses.iter().sum() }
    }
}

/// What the continuations of a row that is sampled with others than its stored logits are scored by, if by these.
pub fn normal<S: Simd, E: Element>(
    s: S,
    team: &Team,
    prepared: &Prepared<'_, E>,
    vocab_size: u32,
    asked: Continue,
    buffers: &mut Buffers,
) -> Result<Normal, RowStatus> {
    match prepared.status {
        RowStatus::Ok => {
            let row = stored(s, team, prepared, vocab_size);
            Ok(Normal::of(&row, asked.temperature, &mut buffers.search))
        }
        status => Err(status),
    }
}

/// The stored logits, at temperature 1.
fn stored<'a, S: Simd, E: Element>(
    s: S,
    team: &'a Team,
    prepared: &Prepared<'a, E>,
    vocab_size: u32,
) -> ScannedRow<'a, S, E> {
    prepared.scanned_row(s, team, Scale::new(1.0), vocab_size, &[])
}

/// What is said of a row that was sampled as it is, whose draft was drawn from a row without a token: what the stored
/// logits come to, and the status.
pub fn undrafted<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    asked: &Inspect,
    status: RowStatus,
    buffers: &mut Buffers,
) -> Inspection {
    let mut of_stored = asked.clone();
    of_stored.of[Distribution::Adjusted as usize] = false;
    of_stored.of[Distribution::Sampled as usize] = false;
    of_stored.kept_ids_max = None;
    of_stored.continuations = None;
    let mut inspection = inspect(row, &of_stored, Sampled::First(0), &[], buffers);
    let others = asked.distributions().filter(|of| *of != Distribution::Raw);
    inspection.logprobs.extend(others.map(|of| nothing(of, status)));
    Inspection { continuations: failed(asked, status).continuations, ..inspection }
}

/// What is said of the stored logits of a row that was sampled with others.
pub fn raw<S: Simd, E: Element>(
    s: S,
    team: &Team,
    prepared: &Prepared<'_, E>,
    vocab_size: u32,
    asked: &Inspect,
    draws: &[Draw],
    buffers: &mut Buffers,
) -> Logprobs {
    if prepared.status != RowStatus::Ok {
        return nothing(Distribution::Raw, prepared.status);
    }
    let row = stored(s, team, prepared, vocab_size);
    let places = Places::find(&row, asked, draws, buffers);
    places.say(Distribution::Raw, asked, u32::MAX, row.weights.scale, interval(&row, None))
}

/// What is said of kept tokens that are a list, where nothing is asked about others.
pub fn inspect_list<S: Simd>(
    s: S,
    list: &List,
    weights: Weights,
    vocab_size: u32,
    asked: &Inspect,
    draws: &[Draw],
    buffers: &mut Buffers,
) -> Inspection {
    debug_assert!(asked.distributions().all(|of| of == Distribution::Sampled));
    debug_assert!(asked.continuations.is_none());
    let kept = asked.kept_ids_max.map(|most| listed_ids(list.ids(), vocab_size, most));
    let say = |of| {
        let Buffers { keys, top, named, .. } = &mut *buffers;
        sort(list, keys, top);
        name(asked, draws, vocab_size, named, |_| f32::NEG_INFINITY);
        for place in &mut *top {
            if let Ok(i) = named.binary_search_by_key(&place.token, |named| named.token) {
                named[i] = *place;
            }
        }
        let places = Places { top, named, max: weights.max, asked_draws: draws };
        places.say(of, asked, u32::MAX, weights.scale, s.run(SumList { list, weights }))
    };
    Inspection { logprobs: asked.distributions().map(say).collect(), kept, continuations: None }
}

/// Sums over the whole row, by temperature.
#[derive(Default)]
struct Wholes {
    found: Vec<(Scale, Interval)>,
}

impl Wholes {
    fn of<S: Simd, E: Element>(&mut self, row: &ScannedRow<'_, S, E>, scale: Scale) -> Interval {
        if let Some((_, sums)) = self.found.iter().find(|(found, _)| *found == scale) {
            return *sums;
        }
        let sums =
            interval(&ScannedRow { weights: Weights { scale, ..row.weights }, ..*row }, None);
        self.found.push((scale, sums));
        sums
    }
}

/// The sums over kept tokens.
fn kept_sums<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    kept: Kept<'_>,
    wholes: &mut Wholes,
) -> Interval {
    let all = Cut::ties(lowest::<E>());
    match kept {
        Kept::List(list) => row.s.run(SumList { list, weights: row.weights }),
        Kept::Blocks { cut, .. } if cut != all => interval(row, Some(cut)),
        Kept::Blocks { .. } => wholes.of(row, row.weights.scale),
    }
}

/// The tokens that are spoken of.
struct Places<'b> {
    /// The first of the order.
    top: &'b [Place],
    /// Every one that was drawn or is asked for by its id, ids ascending.
    named: &'b [Place],
    max: f32,
    asked_draws: &'b [Draw],
}

impl<'b> Places<'b> {
    fn find<S: Simd, E: Element>(
        row: &ScannedRow<'_, S, E>,
        asked: &Inspect,
        draws: &'b [Draw],
        buffers: &'b mut Buffers,
    ) -> Self {
        let Buffers { search, keys, top, named, .. } = buffers;
        top.clear();
        if asked.top > 0 {
            sort(first_tokens(row, asked.top, search), keys, top);
        }
        let logit = |token: u32| {
            let token = token as usize;
            E::read(&row.blocks.get(token / BLOCK)[token % BLOCK * E::SIZE..]) + 0.0
        };
        name(asked, draws, row.vocab_size, named, logit);
        // Last in the memory are those whose ranks are not known from `top`, ids ascending.
        named.sort_by_key(|place| must_count(place, top));
        let counted = named.partition_point(|place| !must_count(place, top));
        let (known, unknown) = named.split_at_mut(counted);
        for place in known.iter_mut().filter(|place| place.x > f32::NEG_INFINITY) {
            let before = top.partition_point(|other| order(other) < order(place));
            place.rank = before as u32 + 1;
        }
        ranks::fill(row, unknown);
        named.sort_unstable_by_key(|place| place.token);
        Self { top, named, max: row.weights.max, asked_draws: draws }
    }

    /// What is said of a distribution of the first `kept` tokens, or of all, with these sums.
    fn say(
        &self,
        of: Distribution,
        asked: &Inspect,
        kept: u32,
        scale: Scale,
        sums: Interval,
    ) -> Logprobs {
        let logprobs = logprob::Logprobs::new(self.max, scale, sums.mass);
        let absent = |token| TokenLogprob { token, rank: 0, logprob: f32::NEG_INFINITY };
        let say = |place: &Place| match place.rank {
            rank if (1..=kept).contains(&rank) => {
                TokenLogprob { token: place.token, rank, logprob: logprobs.of(place.x) }
            }
            _ => absent(place.token),
        };
        let named = |token| match self.named.binary_search_by_key(&token, |place| place.token) {
            Ok(i) => say(&self.named[i]),
            Err(_) => absent(token),
        };
        let top = self.top.iter().take((asked.top.min(kept)) as usize);
        Logprobs {
            of,
            status: RowStatus::Ok,
            entropy: Entropy(nats(sums.entropy())),
            drawn: self.asked_draws.iter().map(|draw| named(draw.token)).collect(),
            top: top.map(say).collect(),
            ids: asked.ids.iter().map(|&token| named(token)).collect(),
        }
    }
}

/// Orders places as their tokens are ordered.
fn order(place: &Place) -> (u32, u32) {
    (!key32(place.x), place.token)
}

/// Whether a candidate is beyond the first tokens.
fn must_count(place: &Place, top: &[Place]) -> bool {
    let beyond = top.last().is_none_or(|last| order(place) > order(last));
    place.x > f32::NEG_INFINITY && beyond
}

/// All tokens of a list, by the order.
fn sort(list: &List, keys: &mut Vec<u64>, sorted: &mut Vec<Place>) {
    let places = list.ids().iter().zip(list.x());
    keys.clear();
    keys.extend(places.map(|(&token, &x)| u64::from(!key32(x)) << 32 | u64::from(token)));
    keys.sort_unstable();
    let place = |(&key, rank): (&u64, u32)| Place {
        token: key as u32,
        x: value32(!((key >> 32) as u32)),
        rank,
    };
    sorted.clear();
    sorted.extend(keys.iter().zip(1..).map(place));
}

/// The different tokens that were drawn or are asked for, without ranks, ids ascending.
fn name(
    asked: &Inspect,
    draws: &[Draw],
    vocab_size: u32,
    named: &mut Vec<Place>,
    logit: impl Fn(u32) -> f32,
) {
    let ids = asked.ids.iter().copied().filter(|&id| id < vocab_size);
    let tokens = draws.iter().map(|draw| draw.token).chain(ids);
    named.clear();
    named.extend(tokens.map(|token| Place { token, x: 0.0, rank: 0 }));
    named.sort_unstable_by_key(|place| place.token);
    named.dedup_by_key(|place| place.token);
    named.iter_mut().for_each(|place| place.x = logit(place.token));
}

/// The first `n` tokens of the order, or all; not sorted.
fn first_tokens<'b, S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    n: u32,
    search: &'b mut nucleus::Buffers,
) -> &'b List {
    let list = list_first(row, n.into(), search);
    row.keep_prefix(By::Count, n.into(), list);
    list
}

/// The kept tokens of a row.
fn kept_ids<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    kept: Kept<'_>,
    most: u32,
    buffers: &mut Buffers,
) -> KeptIds {
    let cut = match kept {
        Kept::List(list) => return listed_ids(list.ids(), row.vocab_size, most),
        Kept::Blocks { cut, .. } => cut,
    };
    if kept.count() <= u64::from(most) {
        return KeptIds::Ids(
            row.collect(cut, usize::MAX, &mut buffers.search.lists).ids().to_vec(),
        );
    }
    let ScannedRow { s, blocks, .. } = *row;
    let maxima = row.maxima.x();
    let mut words = vec![0; blocks.len() * (BLOCK / WORD_TOKENS)];
    let runs = parts(row.light_runs(), BLOCK / WORD_TOKENS, &mut words);
    row.team.each(runs, |(range, words)| s.run(KeptBits { blocks, range, maxima, cut, words }));
    words.truncate((row.vocab_size as usize).div_ceil(WORD_TOKENS));
    KeptIds::Bitmask(words)
}

fn listed_ids(ids: &[u32], vocab_size: u32, most: u32) -> KeptIds {
    if ids.len() <= most as usize {
        return KeptIds::Ids(ids.to_vec());
    }
    let mut words = vec![0; (vocab_size as usize).div_ceil(WORD_TOKENS)];
    for &id in ids {
        words[id as usize / WORD_TOKENS] |= 1 << (id as usize % WORD_TOKENS);
    }
    KeptIds::Bitmask(words)
}
