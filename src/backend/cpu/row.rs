//! One row, without sorting it.

use crate::arithmetic::cut::{min_p_distance, top_p_fraction, top_p_target};
use crate::arithmetic::draw::target;
use crate::arithmetic::key::key32;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::{Scale, UNIT, mass};
use crate::arithmetic::philox::token_bits;
use crate::batch::{Draw, Outcome, Row, RowStatus, Slot};

/// Memory that outlives a row.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Key and inverted id: greater comes first.
    ranks: Vec<u64>,
    kept: Vec<(u32, u64)>,
}

/// Samples one row.
pub fn sample(row: &Row<'_>, scratch: &mut Scratch, slot: Slot<'_>) {
    let ranks = &mut scratch.ranks;
    ranks.clear();
    let (mut nan, mut infinite) = (false, false);
    for token in 0..row.vocab_size() {
        let x = row.logit(token);
        nan |= x.is_nan();
        infinite |= x == f32::INFINITY;
        if x > f32::NEG_INFINITY {
            ranks.push(u64::from(key32(x)) << 32 | u64::from(!token));
        }
    }
    let status = match () {
        () if nan => RowStatus::Nan,
        () if infinite => RowStatus::PositiveInfinity,
        () if ranks.is_empty() => RowStatus::NoCandidate,
        () => RowStatus::Ok,
    };
    if status != RowStatus::Ok {
        *slot.outcome = Outcome::failed(status);
        return;
    }
    let first = id(*ranks.iter().max().expect("there is a candidate"));
    let max = row.logit(first);
    let params = row.params();
    if params.is_greedy() {
        *slot.outcome = Outcome { status, kept: 1, kept_mass: UNIT };
        slot.draws.fill(Draw { token: first, logprob: 0.0 });
        return;
    }
    let scale = Scale::new(params.temperature());
    let weigh = |rank: u64| mass(row.logit(id(rank)), max, scale);

    let mut kept = ranks.as_mut_slice();
    if let Some(k) = params.top_k()
        && (k as usize) < kept.len()
    {
        kept.select_nth_unstable_by(k as usize - 1, |a, b| b.cmp(a));
        kept = &mut kept[..k as usize];
    }
    let n_p = params.top_p().map_or(kept.len(), |p| {
        let total = kept.iter().map(|&rank| weigh(rank)).sum();
        nucleus(kept, top_p_target(top_p_fraction(p), total), weigh)
    });
    kept = &mut kept[..n_p];
    scratch.kept.clear();
    let least =
        params.min_p().map_or(f32::NEG_INFINITY, |p| min_p_distance(p, params.temperature()));
    scratch.kept.extend(
        kept.iter()
            .filter(|&&rank| row.logit(id(rank)) - max >= least)
            .map(|&rank| (id(rank), weigh(rank))),
    );
    scratch.kept.sort_unstable();
    let mut kept_mass = 0;
    for (_, mass) in &mut scratch.kept {
        kept_mass += *mass;
        *mass = kept_mass;
    }
    for (draw, place) in slot.draws.iter_mut().enumerate() {
        let target = target(token_bits(params.seed(), params.position(), draw as u32), kept_mass);
        let at = scratch.kept.partition_point(|&(_, cumulative)| cumulative <= target);
        let token = scratch.kept[at].0;
        *place = Draw { token, logprob: logprob(row.logit(token), max, scale, kept_mass) };
    }
    *slot.outcome = Outcome { status, kept: scratch.kept.len() as u32, kept_mass };
}

fn id(rank: u64) -> u32 {
    !(rank as u32)
}

/// Moves the shortest prefix (in the total order) with at least `target` mass to the front.
fn nucleus(mut ranks: &mut [u64], mut target: u64, weigh: impl Fn(u64) -> u64) -> usize {
    let mut kept = 0;
    while ranks.len() > 1 {
        let half = ranks.len() / 2;
        ranks.select_nth_unstable_by(half - 1, |a, b| b.cmp(a));
        let (above, below) = ranks.split_at_mut(half);
        let mass: u64 = above.iter().map(|&rank| weigh(rank)).sum();
        if mass >= target {
            ranks = above;
        } else {
            target -= mass;
            kept += half;
            ranks = below;
        }
    }
    kept + 1
}
