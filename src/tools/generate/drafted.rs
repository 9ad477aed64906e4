//! Drafts of a generated row: of every rule and from every kind of proposal, some of them at the borders of that very row.

use super::adjusted::adjusted;
use super::cuts::params;
use super::random::Random;
use super::shaped::shaped;
use super::values::Values;
use crate::tools::drafter::Drafter;
use logitd_core::adjustments::Adjustments;
use logitd_core::backend::reference::kept_masses;
use logitd_core::batch::{Dtype, Row};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::{Draft, Proposal, Rule, Typical, WEIGHTS_END};
use std::sync::Arc;

/// One row in so many has a draft.
const ROWS: u64 = 5;

/// The parameters of a row with a draft, which has one draw, and whose history goes on with earlier drafts; most rows
/// keep what they have.
pub fn drafted(
    random: &mut Random,
    dtype: Dtype,
    logits: &[u8],
    params: SamplingParams,
    adjustments: Option<Adjustments>,
) -> (SamplingParams, Option<Adjustments>, Option<Draft>) {
    if random.below(ROWS) > 0 {
        return (params, adjustments, None);
    }
    let params = ParamsSpec { draws: 1, ..params.into() }.parse(|| 0).expect("every range is kept");
    let vocab_size = (logits.len() / dtype.size_bytes()) as u32;
    let earlier: Arc<[u32]> =
        (0..random.below(6)).map(|_| random.below(vocab_size.into()) as u32).collect();
    let adjustments = adjustments.map(|own| own.with_drafts(&earlier, earlier.len()));
    let row = Row::new(dtype, logits, params).expect("1 to 2^20 whole logits");
    let row = row.with_adjustments(adjustments.as_ref());
    let kept = kept_masses(&row).unwrap_or_default();
    let rule = match random.below(4) {
        0 => Rule::Typical(typical(random, &kept)),
        _ => Rule::Rejection(proposal(random, &row, &kept)),
    };
    let token = token(random, vocab_size, &rule, &kept);
    (params, adjustments, Some(Draft { token, rule }))
}

/// One that is kept, one that was proposed, or any.
fn token(random: &mut Random, vocab_size: u32, rule: &Rule, kept: &[(u32, u64)]) -> u32 {
    let heaviest = kept.iter().max_by_key(|(_, mass)| *mass).map(|(id, _)| *id);
    let some = (!kept.is_empty()).then(|| random.pick(kept).0);
    let proposed = match rule {
        Rule::Rejection(Proposal::Sparse(weights)) => Some(random.pick(weights).0),
        Rule::Rejection(Proposal::Row(source)) => match &kept_masses(&source.row()) {
            Ok(masses) => Some(random.pick(masses).0),
            Err(_) => None,
        },
        _ => None,
    };
    let any = Some(random.below(vocab_size.into()) as u32);
    let chosen = random.pick(&[heaviest, some, some, proposed, proposed, any]);
    chosen.or(any).expect("one of the vocabulary")
}

fn typical(random: &mut Random, kept: &[(u32, u64)]) -> Typical {
    let all: u64 = kept.iter().map(|(_, mass)| mass).sum();
    let share = match kept {
        [] => 0.5,
        kept => random.pick(kept).1 as f32 / all as f32,
    };
    let mut one = || {
        let any = random.unit();
        let x = random.pick(&[0.09, 0.3, share, share.next_up(), any, 1.0, 1e-30, 1e-6]);
        if x > 0.0 && x <= 1.0 { x } else { f32::from_bits(1) }
    };
    Typical { epsilon: one(), delta: one() }
}

fn proposal(random: &mut Random, row: &Row<'_>, kept: &[(u32, u64)]) -> Proposal {
    let vocab_size = row.vocab_size();
    match random.below(8) {
        0 => Proposal::Point,
        1 => Proposal::Sparse(weights(random, vocab_size)),
        // Just what the row is drawn from, or that of its neighbours.
        2 if !kept.is_empty() => {
            let shift = random.pick(&[0, 0, 1]);
            let moved = |i: usize| kept[(i + shift) % kept.len()].1;
            let all = kept.iter().enumerate().map(|(i, &(id, _))| (id, moved(i)));
            Proposal::Sparse(all.collect())
        }
        2 | 3 => Proposal::Dense(probabilities(random, vocab_size)),
        4 => {
            let own = row.logits().into();
            let own = Drafter { dtype: row.dtype(), logits: own, ..drafter(random, row) };
            Proposal::Row(Arc::new(own))
        }
        5 => {
            let (dtype, logits) = (row.dtype(), row.logits().into());
            let (params, adjustments) = (*row.params(), row.adjustments().cloned());
            Proposal::Row(Arc::new(Drafter { dtype, logits, params, adjustments }))
        }
        _ => Proposal::Row(Arc::new(drafter(random, row))),
    }
}

/// Any row of as many tokens.
fn drafter(random: &mut Random, row: &Row<'_>) -> Drafter {
    let (dtype, values) = (random.pick(&[row.dtype(), Dtype::F16]), random.pick(&Values::ALL));
    let temperature = random.pick(&[row.params().temperature(), 1.0, 0.7, 2.0, 0.0]);
    let logits = values.logits(random, dtype, row.vocab_size(), temperature);
    let params = params(random, dtype, &logits, temperature);
    let (params, adjustments) = adjusted(random, row.vocab_size(), params);
    let params = shaped(random, dtype, &logits, params);
    Drafter { dtype, logits: logits.into(), params, adjustments }
}

/// From one weight of 1 to a sum just below the limit.
fn weights(random: &mut Random, vocab_size: u32) -> Vec<(u32, u64)> {
    let count = random.pick(&[1, 1, 2, 8, 60]).min(u64::from(vocab_size));
    let mut ids: Vec<u32> = (0..count).map(|_| random.below(vocab_size.into()) as u32).collect();
    ids.sort_unstable();
    ids.dedup();
    let most = (WEIGHTS_END - 1) / count;
    let mut weight = || {
        let any = random.below(most) + 1;
        random.pick(&[1, 1, 5, most, any, 1 << 40])
    };
    let mut weights: Vec<(u32, u64)> = ids.into_iter().map(|id| (id, weight())).collect();
    // Listed, and without a weight all the same.
    if weights.len() > 1 && random.below(4) == 0 {
        weights[0].1 = 0;
    }
    weights
}

/// Probabilities that need not add up to 1.
fn probabilities(random: &mut Random, vocab_size: u32) -> Vec<f32> {
    let n = vocab_size as usize;
    let mut p = match random.below(4) {
        0 => vec![1.0; n],
        1 => (0..n).map(|_| random.unit()).collect(),
        2 => (0..n).map(|_| libm::powf(10.0, -40.0 * random.unit())).collect(),
        _ => vec![0.0; n],
    };
    p[random.below(vocab_size.into()) as usize] = random.pick(&[1.0, 0.5, 1e-12, 1e-30]);
    p
}
