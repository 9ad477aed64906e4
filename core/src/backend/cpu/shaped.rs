//! Rows with cuts beyond top-k, top-p and min-p, or with the order of another profile.
//!
//! ```text
//! sample(row):
//!     if no cut acts, or XTC alone on few likely tokens, without adaptive-p: draw from the row by blocks, as if what XTC takes out were not there
//!     groups = those of the first tokens, if a cut tells that no others matter one by one and they are few; else of all
//!     range  = what the chain leaves of the order, and the temperature of the draw
//!     if that has many that tie with top-k's last: draw from the row by blocks
//!     list   = the tokens of that range, ids ascending, weighed anew from its first one
//!     adaptive-p: the list gets other logits
//!     draw or race from the list, or decide about a draft; the state of the sequence; what is asked about the row
//! ```
//!
//! Where the first cut leaves a short list, a row needs no more than the scan and the sums that this cut is made by
//! ([`first`](super::first)). Where all tokens of a row matter, patterns of 16 bits are counted, the masses of some ten
//! thousand groups are summed, and one pass lists what is kept; the keys of an f32 row are sorted. `cargo bench --bench cost` says what that
//! takes of flat rows, `logitd bench` of real ones.

use super::blocks::{BLOCK, Blocks, Filler};
use super::chain::{self, Left, Start};
use super::cut::Cut;
use super::draft::Known;
use super::element::{Element, F32};
use super::first::{First, at, exact_sums, first_tokens, start as chain_start};
use super::groups::{self, Groups};
use super::inspect::{self, Sampled, inspect, inspect_list};
use super::list::{List, Lists, Weigh, lowest};
use super::mass::Weights;
use super::nucleus;
use super::passes::ScannedRow;
use super::proposal::{Proposed, UpTo};
use super::scan::Scanned;
use super::search::{Kept, locate_top_k};
use super::simd::Simd;
use super::team::Team;
use super::tokens::{self, Places, say_first, take};
use super::whole::{self, Whole, weigh_left, whole};
use super::without::Copies;
use crate::arithmetic::adaptive::{Drawn, logit, probability};
use crate::arithmetic::key::{key32, value32};
use crate::arithmetic::mass::Scale;
use crate::arithmetic::mirostat;
use crate::arithmetic::stages::Profile;
use crate::arithmetic::surprisal::surprisal;
use crate::batch::{Draw, Outcome, Row, RowStatus, Slot, State};
use crate::inspection::{Distribution, Inspect, Inspection};
use crate::params::{Cuts, SamplingParams};
use std::ops::Range;

/// Memory for such rows.
#[derive(Default)]
pub struct Buffers {
    groups: Groups,
    of_row: groups::Buffers,
    /// Keys of listed tokens in their order.
    keys: Vec<u32>,
    /// The kept tokens.
    kept: List,
    none: List,
    lists: Lists,
    /// The kept tokens' probabilities before adaptive-p changed them.
    before: Vec<f32>,
    whole: whole::Buffers,
    copies: Copies,
    /// The masses of the blocks of a row that is drawn from by these.
    block_masses: Vec<u64>,
}

/// What the stages beside the cuts use.
pub struct Stages<'b> {
    pub search: &'b mut nucleus::Buffers,
    pub tokens: &'b mut tokens::Buffers,
    pub inspect: &'b mut inspect::Buffers,
    /// What the row's draft was drawn from.
    pub proposed: Known<'b>,
}

/// How kept tokens came to be what they are: their weights and their mass, and what these were before adaptive-p.
pub struct Weighed {
    weights: Weights,
    mass: u64,
    first: f32,
    temperature: f32,
    mass_before: u64,
}

/// Samples a row that was scanned and has a candidate. Its weights are those of any temperature.
pub fn sample<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    row: &Row<'_>,
    buffers: &mut Buffers,
    stages: Stages<'_>,
    slot: Slot<'_>,
) {
    let params = row.params();
    let weighed = match find(scanned, params, buffers, stages.search) {
        Found::Whole(kept) => return sample_whole(scanned, row, kept, buffers, stages, slot),
        Found::Listed(weighed) => weighed,
    };
    let Slot { outcome, draws, inspection, state, accepted } = slot;
    let Stages { tokens, inspect: inspecting, proposed, .. } = stages;
    let Weighed { weights, first, temperature, mass_before, .. } = weighed;
    let Buffers { kept, none, before, .. } = buffers;
    let mut no_tail = [0; BLOCK * 4];
    let list_row = ScannedRow::<S, F32> {
        s: scanned.s,
        team: &Team::ALONE,
        blocks: Blocks::new(&[], &mut no_tail, Filler::NegativeInfinity),
        maxima: none,
        scanned: Scanned::NOTHING,
        weights,
        vocab_size: row.vocab_size(),
        next: &[],
    };
    let places = Places { draws: &mut *draws, accepted };
    let said = match params.is_greedy() {
        true => say_first(row, kept.ids()[0], proposed, places),
        false => take(&list_row, row, Kept::List(kept), proposed, tokens, places).map(|_| ()),
    };
    let scale = Scale::new(temperature);
    let scanned = ScannedRow { weights: Weights { scale, ..scanned.weights }, ..*scanned };
    let count = kept.len() as u32;
    *outcome = said.map_or_else(Outcome::failed, |()| Outcome {
        status: RowStatus::Ok,
        kept: count,
        kept_mass: weighed.mass,
    });
    if let Some(state) = state
        && outcome.status == RowStatus::Ok
    {
        let i = kept.ids().binary_search(&draws[0].token).expect("a kept token");
        let surprisal = |x| surprisal(x, first, Scale::new(temperature)).g;
        let p = || before[i];
        *state = next(params, || (surprisal(kept.x()[i]), mass_before), p);
    }
    if let Some((asked, inspection)) = row.inspect().zip(inspection) {
        let n = row.vocab_size();
        let of_list = |asked: &Inspect, buffers: &mut _| {
            inspect_list(scanned.s, kept, weights, n, asked, draws, buffers)
        };
        *inspection = say(&scanned, asked, outcome.status, draws, inspecting, of_list);
    }
}

/// Samples a row of which all tokens up to a cut are kept but those that are left out.
fn sample_whole<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    row: &Row<'_>,
    mut kept: Whole,
    buffers: &mut Buffers,
    stages: Stages<'_>,
    slot: Slot<'_>,
) {
    let all = at(scanned, kept.temperature);
    let WeighedBlocks { row: drawn_from, masses, is_all } =
        weigh_whole(all, &mut kept, buffers, stages.search);
    let Slot { outcome, draws, inspection, accepted, .. } = slot;
    let Stages { tokens, inspect: inspecting, proposed, .. } = stages;
    let Whole { count, cut, .. } = kept;
    let kept = Kept::Blocks { cut, count, masses };
    let places = Places { draws: &mut *draws, accepted };
    let found = take(&drawn_from, row, kept, proposed, tokens, places);
    *outcome = found.map_or_else(Outcome::failed, |kept_mass| Outcome {
        status: RowStatus::Ok,
        kept: count as u32,
        kept_mass,
    });
    if let Some((asked, inspection)) = row.inspect().zip(inspection) {
        *inspection = match (outcome.status, is_all) {
            (RowStatus::Ok, true) => inspect(&all, asked, Sampled::Kept(kept), draws, inspecting),
            (status, _) => say(&all, asked, status, draws, inspecting, |asked, buffers| {
                inspect(&drawn_from, asked, Sampled::Kept(kept), draws, buffers)
            }),
        };
    }
}

/// What is said of a row whose kept tokens are not the first of its order: of these by themselves, and of all tokens.
fn say<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    asked: &Inspect,
    status: RowStatus,
    draws: &[Draw],
    buffers: &mut inspect::Buffers,
    of_kept: impl FnOnce(&Inspect, &mut inspect::Buffers) -> Inspection,
) -> Inspection {
    if status != RowStatus::Ok {
        return inspect::undrafted(scanned, asked, status, buffers);
    }
    let mut rest = asked.clone();
    rest.of[Distribution::Sampled as usize] = false;
    rest.kept_ids_max = None;
    let mut sampled = asked.clone();
    sampled.of = [false, false, asked.of[Distribution::Sampled as usize]];
    sampled.continuations = None;
    let unused = Sampled::First(draws[0].token);
    let mut found = inspect(scanned, &rest, unused, draws, buffers);
    let of_kept = of_kept(&sampled, buffers);
    found.logprobs.extend(of_kept.logprobs);
    Inspection { kept: of_kept.kept, ..found }
}

/// What a row is drawn from.
enum Found<L> {
    /// Tokens of the row by blocks, without those that the buffers have as left out.
    Whole(Whole),
    /// The list that the buffers have.
    Listed(L),
}

/// What a proposal's row is drawn from.
pub fn propose<'a, S: Simd, E: Element>(
    scanned: ScannedRow<'a, S, E>,
    params: &SamplingParams,
    buffers: &'a mut Buffers,
    search: &mut nucleus::Buffers,
    few: &'a mut Vec<(u32, u64)>,
) -> Proposed<'a> {
    let mut kept = match find(&scanned, params, buffers, search) {
        Found::Whole(kept) => kept,
        Found::Listed(_) => return Proposed::list(&buffers.kept, few),
    };
    let row = at(&scanned, kept.temperature);
    let WeighedBlocks { row, masses, .. } = weigh_whole(row, &mut kept, buffers, search);
    Proposed::row(masses.iter().sum(), UpTo { row, cut: kept.cut })
}

/// What is left of a row without the tokens that are left out.
struct WeighedBlocks<'a, S, E> {
    row: ScannedRow<'a, S, E>,
    /// What is kept in every block.
    masses: &'a [u64],
    /// Whether nothing is left out.
    is_all: bool,
}

/// Weighs what is kept of a row, block by block, and again, where a guess of what is left out is wrong.
fn weigh_whole<'a, S: Simd, E: Element>(
    row: ScannedRow<'a, S, E>,
    kept: &mut Whole,
    buffers: &'a mut Buffers,
    search: &mut nucleus::Buffers,
) -> WeighedBlocks<'a, S, E> {
    let Buffers { whole, copies, block_masses, .. } = buffers;
    let is_all = loop {
        let is_all = whole.left_out.is_empty();
        if !is_all {
            copies.leave_out(&row, &whole.left_out);
        }
        let left = if is_all { row } else { copies.row(row, kept.first) };
        if weigh_left(&row, &left, kept, block_masses, search, whole) {
            break is_all;
        }
    };
    let row = if is_all { row } else { copies.row(row, kept.first) };
    WeighedBlocks { row, masses: block_masses, is_all }
}

/// Finds what a row is drawn from: the first of the kept tokens, where the row is greedy.
fn find<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    buffers: &mut Buffers,
    search: &mut nucleus::Buffers,
) -> Found<Weighed> {
    let start = match whole(scanned, params, search, &mut buffers.whole) {
        Ok(kept) => return Found::Whole(kept),
        Err(start) => start,
    };
    let temperature = match params.is_greedy() {
        true if params.all_cuts().profile != Profile::Llamacpp => {
            list_first_token(scanned, &mut buffers.kept);
            1.0
        }
        is_greedy => {
            let start = start.unwrap_or_else(|| chain_start(scanned, params));
            match find_by_chain(scanned, params, start, buffers, search) {
                Found::Whole(kept) => return Found::Whole(kept),
                Found::Listed(_) if is_greedy => 1.0,
                Found::Listed(temperature) => temperature,
            }
        }
    };
    Found::Listed(weigh(scanned, params, temperature, buffers))
}

/// Weighs the kept tokens that are listed, to be drawn from at a temperature.
fn weigh<S: Simd, E: Element>(
    scanned: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    temperature: f32,
    buffers: &mut Buffers,
) -> Weighed {
    let Buffers { kept, before, .. } = buffers;
    let first = greatest(kept);
    if params.is_greedy() {
        let token = kept.ids()[kept.x().iter().position(|&x| x == first).expect("the first")];
        kept.reset(1);
        kept.push_one(token, first);
        kept.seal();
    }
    let s = scanned.s;
    let mut weights = weights_of(kept, Scale::new(temperature));
    let mut mass = s.run(Weigh { list: kept, weights });
    let mass_before = mass;
    if params.all_cuts().adaptive.target.is_some() && !params.is_greedy() {
        reshape(kept, mass, params.all_cuts(), before);
        weights = weights_of(kept, Scale::new(1.0));
        mass = s.run(Weigh { list: kept, weights });
    }
    Weighed { weights, mass, first, temperature, mass_before }
}

/// What a list's tokens are weighed with.
fn weights_of(list: &List, scale: Scale) -> Weights {
    let max = greatest(list);
    Weights { max, min: list.x().iter().copied().fold(max, f32::min), scale }
}

/// What the sequence is given back: as it was, of a greedy row.
fn next(
    params: &SamplingParams,
    drawn: impl FnOnce() -> (u32, u64),
    p: impl FnOnce() -> f32,
) -> Option<State> {
    let Cuts { mirostat, adaptive, .. } = *params.all_cuts();
    if mirostat.tau > 0.0 {
        let mu = mirostat.mu.unwrap_or(mirostat::beginning(mirostat.tau));
        if params.is_greedy() {
            return Some(State::Mirostat { mu });
        }
        let (g, mass) = drawn();
        let mu = mirostat::next(mu, mirostat.eta, mirostat.tau, g, mass);
        return Some(State::Mirostat { mu });
    }
    adaptive.target?;
    let mut state = drawn_before(params.all_cuts());
    if !params.is_greedy() {
        state = state.next(p(), adaptive.decay);
    }
    Some(State::Adaptive { sum: state.sum, weight: state.weight })
}

/// Adaptive-p's state before the draw.
fn drawn_before(cuts: &Cuts) -> Drawn {
    let adaptive = cuts.adaptive;
    let beginning = Drawn::beginning(adaptive.target.expect("it is on"), adaptive.decay);
    Drawn {
        sum: adaptive.sum.unwrap_or(beginning.sum),
        weight: adaptive.weight.unwrap_or(beginning.weight),
    }
}

/// Gives the kept tokens adaptive-p's logits.
fn reshape(kept: &mut List, mass: u64, cuts: &Cuts, before: &mut Vec<f32>) {
    let target = cuts.adaptive.target.expect("it is on");
    let aim = drawn_before(cuts).aim(target);
    before.clear();
    before.extend((0..kept.len()).map(|i| probability(kept.mass(i), mass)));
    kept.set_x(before.iter().map(|&p| logit(p, aim)));
    kept.seal();
}

fn greatest(list: &List) -> f32 {
    list.x().iter().copied().fold(f32::NEG_INFINITY, f32::max) + 0.0
}

/// Lists the first token of the order.
fn list_first_token<S: Simd, E: Element>(row: &ScannedRow<'_, S, E>, kept: &mut List) {
    let (maxima, max) = (row.maxima.x(), row.weights.max);
    let block = maxima.iter().position(|&x| x == max).expect("the maximum is some block's");
    row.collect_block(block, Cut::ties(max), kept);
    let token = kept.ids()[0];
    kept.reset(1);
    kept.push_one(token, max);
    kept.seal();
}

/// Finds what the chain keeps, and the temperature of a list.
fn find_by_chain<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    params: &SamplingParams,
    start: Start,
    buffers: &mut Buffers,
    search: &mut nucleus::Buffers,
) -> Found<f32> {
    let Buffers { groups, of_row, keys, kept, lists, whole, .. } = buffers;
    if chain::stages(params, start.distance).next().is_none() && !chain::is_dynamic(params, true) {
        let all = row.collect(Cut::ties(lowest::<E>()), usize::MAX, lists);
        kept.reset(all.len());
        kept.append(all);
        kept.seal();
        return Found::Listed(start.temperature);
    }
    if let Some(First { list, tied, others }) = first_tokens(row, params, start, search) {
        keys.clear();
        keys.extend(list.x().iter().map(|&x| !key32(x)));
        keys.sort_unstable();
        groups.of_sorted(keys.iter().map(|&key| value32(!key)));
        if let Some(tied) = tied {
            groups.add_tied(tied);
        }
        if let Some(others) = others {
            groups.add_others(others);
        }
        let mut left = chain::cut(row.s, groups, params, start);
        if !left.is_settled {
            groups.set_sums(exact_sums(row, params, start));
            left = chain::cut(row.s, groups, params, start);
        }
        let Left { range, temperature, .. } = left;
        let Some(tied) = tied.filter(|_| range.end as usize > list.len()) else {
            keep(list, groups, range, kept);
            return Found::Listed(temperature);
        };
        // The first of these are not kept or all: what takes first tokens away takes equal ones together.
        whole.left_out.clear();
        if range.start > 0 {
            keep(list, groups, 0..range.start, kept);
            whole.left_out.extend(kept.ids());
        }
        let end = list.len() as u32 + tied.tokens;
        let cut = match range.end < end {
            true => locate_top_k(row, range.end.into(), search).expect("there are more"),
            false => Cut::ties(tied.x),
        };
        let (count, first) = (range.len() as u64, groups.x()[groups.group(range.start)]);
        return Found::Whole(Whole { count, cut, first, temperature, guess: None });
    }
    groups.of_row(row, of_row);
    let left = chain::cut(row.s, groups, params, start);
    let least = groups.x()[groups.group(left.range.end - 1)];
    keep(row.collect(Cut::ties(least), usize::MAX, lists), groups, left.range, kept);
    Found::Listed(left.temperature)
}

/// Lists a range of the order, of a list that has all its tokens.
fn keep(list: &List, groups: &Groups, range: Range<u32>, kept: &mut List) {
    let Range { start, end } = range;
    let (first, last) = (groups.group(start), groups.group(end - 1));
    let (most, least) = (groups.x()[first], groups.x()[last]);
    // Of tokens equal to the first or the last, those within the range.
    let dropped = start - groups.of_group(first).start;
    let ends = end - groups.of_group(last).start;
    let (mut of_most, mut of_least) = (0, 0);
    kept.reset(range.len());
    for (&id, &x) in list.ids().iter().zip(list.x()) {
        if x > most || x < least {
            continue;
        }
        let (mut after, mut before) = (true, true);
        if x == most {
            after = of_most >= dropped;
            of_most += 1;
        }
        if x == least {
            before = of_least < ends;
            of_least += 1;
        }
        if after && before {
            kept.push_one(id, x);
        }
    }
    kept.seal();
}

#[cfg(test)]
mod tests {
    use super::super::element::{Bf16, F16};
    use super::super::groups::Tied;
    use super::super::portable::Portable;
    use super::super::prepare::{self, prepare};
    use super::*;
    use crate::batch::Dtype;
    use crate::params::ParamsSpec;

    const TOKENS: usize = 20_000;

    /// How many tokens of a row are put in order, and which tie with the last of them beside, where those are the first ones.
    fn first_of<E: Element>(
        dtype: Dtype,
        x: impl Fn(usize) -> f32,
        spec: ParamsSpec,
    ) -> Option<(usize, Option<Tied>)> {
        let mut logits = vec![0; TOKENS * E::SIZE];
        for (i, to) in logits.chunks_exact_mut(E::SIZE).enumerate() {
            E::write(E::key(x(i)), to);
        }
        let params = spec.parse(|| 0).expect("valid");
        let row = Row::new(dtype, &logits, params).expect("a row");
        let (mut memory, mut search) = (prepare::Buffers::default(), nucleus::Buffers::default());
        let prepared = prepare::<_, E>(Portable, &Team::ALONE, &row, None, &mut memory);
        let row = prepared.scanned_row(Portable, &Team::ALONE, Scale::new(1.0), TOKENS as u32, &[]);
        let first = first_tokens(&row, &params, chain_start(&row, &params), &mut search)?;
        Some((first.list.len(), first.tied))
    }

    /// Whether a row of no peak, the worst there is for a cut that depends on masses, has its first tokens looked at and no others.
    fn looks_at_first(spec: ParamsSpec) -> bool {
        let spread = |i: usize| ((i * 7919) % TOKENS) as f32 / 1e6;
        first_of::<F32>(Dtype::F32, spread, spec).is_some()
    }

    #[test]
    fn of_many_tokens_that_tie_as_many_are_put_in_order_as_matter() {
        // Equal to the others, zeros of both signs among them, or seven before these.
        type Ties<'a> = (usize, f32, &'a dyn Fn(usize) -> f32);
        let rows: [Ties<'_>; 4] = [
            (0, 0.5, &|_| 0.5),
            (0, 0.0, &|i| if i % 2 == 0 { 0.0 } else { -0.0 }),
            (7, -0.25, &|i| if i < 1400 && i % 200 == 3 { 2.0 } else { -0.25 }),
            (7, 0.0, &|i| if i < 1400 && i % 200 == 3 { 1.5 } else { -0.0 }),
        ];
        let of = |dtype, x, spec| match dtype {
            Dtype::F16 => first_of::<F16>(dtype, x, spec),
            Dtype::Bf16 => first_of::<Bf16>(dtype, x, spec),
            Dtype::F32 => first_of::<F32>(dtype, x, spec),
        };
        let off = ParamsSpec::DEFAULT;
        let few = |top_k| {
            [
                ParamsSpec { top_k, typical_p: 0.9, ..off },
                ParamsSpec { top_k, xtc_probability: 1.0, min_p: 0.1, ..off },
                ParamsSpec { top_k, top_n_sigma: 1.0, ..off },
                ParamsSpec { top_k, top_p: 0.9, profile: Profile::Llamacpp, ..off },
            ]
        };
        let ties = |top_k| {
            [
                ParamsSpec { top_k, top_p: 0.9, profile: Profile::Vllm, ..off },
                ParamsSpec { top_k, min_p: 0.9, profile: Profile::Vllm, ..off },
                ParamsSpec { top_k, top_p: 0.9, profile: Profile::Sglang, ..off },
                ParamsSpec { top_k, min_p: 0.1, profile: Profile::Sglang, ..off },
                ParamsSpec { top_k, typical_p: 0.9, profile: Profile::Hf, ..off },
            ]
        };
        for dtype in Dtype::ALL {
            for (before, x, row) in rows {
                for k in [8, 50, 300, 2048] {
                    for spec in few(k) {
                        // What keeps no more than the seven may tell that no others matter.
                        let (listed, tied) = of(dtype, row, spec).expect("few matter");
                        assert!([before, k as usize].contains(&listed), "{k} {spec:?}: {listed}");
                        assert_eq!(tied, None, "{spec:?}");
                    }
                    for spec in ties(k) {
                        let (listed, tied) = of(dtype, row, spec).expect("few matter");
                        let tokens = (TOKENS - before) as u32;
                        let others =
                            Some(Tied { x, tokens }).filter(|_| spec.min_p < 0.5 || before == 0);
                        assert_eq!((listed, tied), (before, others), "{spec:?}");
                    }
                }
                for spec in [
                    ParamsSpec { top_h: 0.4, ..off },
                    ParamsSpec { top_h: 0.4, profile: Profile::Hf, top_k: 2000, ..off },
                ] {
                    assert_eq!(of(dtype, row, spec), Some((100, None)), "{spec:?}");
                }
            }
        }
    }

    #[test]
    fn the_parameters_say_whether_first_tokens_are_enough() {
        let cuts = [
            |spec| ParamsSpec { top_h: 0.5, ..spec },
            |spec| ParamsSpec { typical_p: 0.95, ..spec },
            |spec| ParamsSpec { top_n_sigma: 100.0, ..spec },
            |spec| ParamsSpec { top_p: 0.95, ..spec },
            |spec| ParamsSpec { min_p: 0.05, ..spec },
            |spec| ParamsSpec { dynatemp_range: 0.2, ..spec },
            |spec| ParamsSpec { mirostat_tau: 20.0, ..spec },
            |spec| ParamsSpec { xtc_probability: 1.0, ..spec },
            |spec| ParamsSpec { eta_cutoff: 1e-6, ..spec },
            |spec| ParamsSpec { top_k: 50, ..spec },
        ];
        let mut counts = [0; 2];
        for profile in Profile::ALL {
            for chosen in 0..1 << cuts.len() {
                let mut spec = ParamsSpec { profile, ..ParamsSpec::DEFAULT };
                for (i, cut) in cuts.iter().enumerate() {
                    spec = if chosen >> i & 1 == 1 { cut(spec) } else { spec };
                }
                // Not all profiles have all of them.
                let Ok(params) = spec.parse(|| 0) else { continue };
                if params.orders_tokens() {
                    let is_said = params.ordered_first().is_some();
                    assert_eq!(looks_at_first(spec), is_said, "{spec:?}");
                    counts[usize::from(is_said)] += 1;
                }
            }
        }
        assert!(counts.iter().all(|&count| count > 100), "{counts:?}");
    }
}
