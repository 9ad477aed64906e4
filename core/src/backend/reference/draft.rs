//! Whether a row takes its draft, and what it says instead: every mass listed, every product taken whole.

use super::{Kept, kept_masses};
use crate::arithmetic::fraction::q64;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::philox::{PURPOSE_ACCEPTANCE, PURPOSE_RESIDUAL, bits};
use crate::arithmetic::power::pow2;
use crate::arithmetic::surprisal::surprisal;
use crate::batch::{Row, RowStatus};
use crate::row::{Draft, Proposal, Rule, Typical};
use std::cmp::Ordering;

/// What became of a draft.
pub enum Decision {
    /// The row takes it.
    Taken,
    /// The row says this token instead.
    Instead(usize),
    /// The row draws as it would without a draft.
    Draw,
}

/// Decides about the draft of a row. An error is the status of the proposal's row.
pub fn decide(row: &Row<'_>, kept: &Kept, draft: &Draft) -> Result<Decision, RowStatus> {
    let p: Vec<u64> = dense(row.vocab_size(), kept.by_id.iter().map(|&(id, m)| (id as u32, m)));
    match &draft.rule {
        Rule::Typical(typical) => Ok(match is_typical(row, kept, &p, draft.token, *typical) {
            true => Decision::Taken,
            false => Decision::Draw,
        }),
        Rule::Rejection(proposal) => {
            let q = proposed(proposal, row.vocab_size(), draft.token)?;
            Ok(reject(row, &p, &q, draft.token as usize))
        }
    }
}

fn is_typical(row: &Row<'_>, kept: &Kept, p: &[u64], token: u32, typical: Typical) -> bool {
    if row.params().is_greedy() {
        return p[token as usize] > 0;
    }
    let scale = Scale::new(kept.temperature);
    let surprisals = kept.by_id.iter().map(|&(id, _)| surprisal(kept.y[id], kept.max, scale));
    let (masses, terms): (Vec<u64>, Vec<u64>) = surprisals.map(|one| (one.mass, one.term)).unzip();
    let [mass, term] = [masses, terms].map(|all| all.into_iter().map(wide).sum::<u128>());
    // In units of 2^-22 bit, of terms of 2^-44 and masses of 2^-40.
    let mean = u64::try_from((term << 18) / mass).unwrap_or(u64::MAX);
    let own = wide(p[token as usize]);
    // Products, which nothing is rounded in: at least this part of the whole.
    let is_at_least = |part: f32, whole: u128| own << 64 >= q64(part) * whole;
    own > 0 && (is_at_least(typical.epsilon, mass) || is_at_least(typical.delta, wide(pow2(mean))))
}

/// The masses of the draft's distribution.
fn proposed(proposal: &Proposal, vocab_size: u32, token: u32) -> Result<Vec<u64>, RowStatus> {
    Ok(match proposal {
        Proposal::Point => dense(vocab_size, [(token, 1)].into_iter()),
        Proposal::Sparse(weights) => dense(vocab_size, weights.iter().copied()),
        Proposal::Dense(p) => p.iter().map(|&p| (f64::from(p) * UNIT as f64) as u64).collect(),
        Proposal::Row(source) => {
            dense(vocab_size, kept_masses(&source.row().here(&mut Vec::new()))?.into_iter())
        }
    })
}

fn reject(row: &Row<'_>, p: &[u64], q: &[u64], token: usize) -> Decision {
    let (seed, position) = (row.params().seed(), row.params().position());
    let (all_p, all_q) = (p.iter().sum::<u64>(), q.iter().sum::<u64>());
    let chance = bits(seed, position, 0, PURPOSE_ACCEPTANCE);
    let ours = product(&[chance, all_p, q[token]]);
    // 2^64 times the product of the two.
    let theirs = shifted(product(&[p[token], all_q]));
    if q[token] > 0 && compare(&ours, &theirs) == Ordering::Less {
        return Decision::Taken;
    }
    let left = |i: usize| {
        let (own, covered) = (wide(p[i]) * wide(all_q), wide(q[i]) * wide(all_p));
        own.saturating_sub(covered)
    };
    let mut rest: Vec<u128> = (0..p.len()).map(left).collect();
    if rest.iter().all(|&rest| rest == 0) {
        rest = p.iter().map(|&mass| wide(mass)).collect();
    }
    let total: u128 = rest.iter().sum();
    let chance = bits(seed, position, 0, PURPOSE_RESIDUAL);
    // A token's sum exceeds the target if it exceeds the whole product over 2^64, of which the target is the whole part.
    let scaled = product(&[chance, total as u64, 1]);
    let high = shifted(product(&[chance, (total >> 64) as u64]));
    let target = added(scaled, high);
    let target = wide(target[1]) | wide(target[2]) << 64;
    let mut sum = 0;
    let exceeds = |rest: &u128| {
        sum += rest;
        sum > target
    };
    Decision::Instead(rest.iter().position(exceeds).expect("the target is below the sum"))
}

fn dense(vocab_size: u32, masses: impl Iterator<Item = (u32, u64)>) -> Vec<u64> {
    let mut all = vec![0; vocab_size as usize];
    masses.for_each(|(id, mass)| all[id as usize] = mass);
    all
}

/// An integer of 256 bits, the lowest first.
type Big = [u64; 4];

fn wide(x: u64) -> u128 {
    u128::from(x)
}

fn product(factors: &[u64]) -> Big {
    factors.iter().fold([1, 0, 0, 0], |big, &factor| {
        let mut carry = 0;
        big.map(|limb| {
            let sum = wide(limb) * wide(factor) + carry;
            carry = sum >> 64;
            sum as u64
        })
    })
}

fn shifted(big: Big) -> Big {
    [0, big[0], big[1], big[2]]
}

fn added(a: Big, b: Big) -> Big {
    let mut carry = 0;
    [0, 1, 2, 3].map(|i| {
        let sum = wide(a[i]) + wide(b[i]) + carry;
        carry = sum >> 64;
        sum as u64
    })
}

fn compare(a: &Big, b: &Big) -> Ordering {
    a.iter().rev().cmp(b.iter().rev())
}
