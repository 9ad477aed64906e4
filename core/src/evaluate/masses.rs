//! A digest's groups, weighed: masses and surprisals at a temperature, and sums over some of the tokens.

use super::digest::Digest;
use super::sums::{LOGPROB_Q32_MIN, SetSums, collision};
use super::{Evaluation, TailShare};
use crate::arithmetic::deviation::Deviation;
use crate::arithmetic::fraction::{q64, share};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::log2::log2_mass;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::score::score;
use crate::arithmetic::surprisal::surprisal;
use crate::backend::cpu::{Isa, SurprisalSlices, surprisals};
use std::ops::Range;

/// Groups from this surprisal on have neither mass nor term (units of 2^-22 bit): see
/// [`surprisal`](crate::arithmetic::surprisal), whose mantissa times surprisal is below 2^53 here.
const NOTHING_FROM: u32 = 54 << 22;

/// What is said of a row at temperature 1.
#[derive(Debug, Default)]
pub(super) struct RowSums {
    /// Tokens before each group, and all.
    pub first: Vec<u32>,
    /// Mass, surprisal and term of each group.
    pub raw: Surprisals,
    pub whole: Interval,
    /// The first group of the tail.
    pub tail_from: usize,
    /// The reference's group and logit; `None` where it is -inf.
    pub reference: Option<(usize, f32)>,
}

/// The groups of a row at a temperature, from one up to the last that has mass or term.
#[derive(Debug, Default)]
pub(super) struct Masses {
    /// The first group that was weighed: its tokens have the unit.
    pub from: usize,
    pub own: Surprisals,
    /// The mass before each group, and all.
    pub before: Vec<u64>,
    /// The terms before each group, and all, where somebody asked for them.
    pub terms_before: Vec<u64>,
    /// How often groups were weighed.
    #[cfg(test)]
    pub weighings: usize,
}

/// A [`Surprisal`](crate::arithmetic::surprisal::Surprisal) a group, field by field.
#[derive(Debug, Default)]
pub(super) struct Surprisals {
    pub mass: Vec<u64>,
    pub g: Vec<u32>,
    pub term: Vec<u64>,
}

/// So many first tokens: all of the groups before one, and a part of that.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    pub kept: u32,
    pub group: usize,
    pub part: u32,
}

/// What kept tokens come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub sums: SetSums,
    pub kept_mass: u64,
    /// The reference's logit, and the first kept one.
    reference: f32,
    max: f32,
    /// What is drawn at; 0 is greedy.
    temperature: f32,
}

impl Found {
    /// The same as an answer.
    pub fn evaluation(&self) -> Evaluation {
        let Self { sums, kept_mass, reference, max, temperature } = *self;
        let logprob = (sums.hits > 0).then(|| match temperature {
            0.0 => 0.0,
            _ => logprob(reference, max, Scale::new(temperature), kept_mass),
        });
        Evaluation { kept: sums.kept as u32, kept_mass, logprob }
    }
}

impl RowSums {
    pub fn take(&mut self, isa: Isa, digest: &Digest, tail: TailShare) {
        let (values, counts) = (digest.values(), digest.counts());
        self.first.clear();
        let mut tokens = 0;
        for &count in counts {
            self.first.push(tokens);
            tokens += count;
        }
        self.first.push(tokens);

        let scale = Scale::new(1.0);
        let Surprisals { mass, g, term } = &mut self.raw;
        weigh(isa, values, values[0], scale, mass, g, term);
        self.whole = Interval::default();
        for ((&mass, &term), &count) in mass.iter().zip(&*term).zip(counts) {
            self.whole.mass += mass * u64::from(count);
            self.whole.term += term * u64::from(count);
        }
        let least = share(q64(tail.get()), self.whole.mass);
        self.tail_from = mass.partition_point(|&mass| mass >= least);
        self.reference = reference_of(digest);
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> u32 {
        self.first[self.first.len() - 1]
    }

    /// So many first tokens, 1 or more and not more than there are.
    pub fn at(&self, kept: u32) -> Cut {
        let group = self.group(kept - 1);
        Cut { kept, group, part: kept - self.first[group] }
    }

    /// The group of a token, by its place in the order.
    pub fn group(&self, token: u32) -> usize {
        self.first.partition_point(|&first| first <= token) - 1
    }

    /// Whatever the sets are, and whatever comes before it, one token: the first of a group.
    pub fn greedy(&self, digest: &Digest, token: u32) -> Found {
        let group = self.group(token);
        let hit = u64::from(digest.rank() == token);
        let surprise = log2_mass(self.whole.mass) + (i64::from(self.raw.g[group]) << 10);
        let sums = SetSums {
            hits: hit,
            kept: 1,
            logprob_q32: 0,
            probability_q32: hit << 32,
            entropy_q32: 0,
            surprise_q32: surprise as u64,
            collision_q32: 1 << 32,
            tail_q32: if group >= self.tail_from { 1 << 32 } else { 0 },
        };
        let x = digest.values()[group];
        Found { sums, kept_mass: UNIT, reference: x, max: x, temperature: 0.0 }
    }
}

/// The group of the reference, and its logit; `None` where it is at -inf.
fn reference_of(digest: &Digest) -> Option<(usize, f32)> {
    let mut before = 0;
    let group = digest.counts().iter().position(|&count| {
        before += count;
        digest.rank() < before
    })?;
    Some((group, digest.values()[group]))
}

/// How far the logits of a row lie apart.
pub(super) fn deviation(digest: &Digest) -> Deviation {
    let groups = digest.values().iter().zip(digest.counts());
    groups.fold(Deviation::default(), |sums, (&x, &count)| sums.with(x, count))
}

fn weigh(
    isa: Isa,
    x: &[f32],
    max: f32,
    scale: Scale,
    mass: &mut Vec<u64>,
    g: &mut Vec<u32>,
    term: &mut Vec<u64>,
) {
    mass.resize(x.len(), 0);
    g.resize(x.len(), 0);
    term.resize(x.len(), 0);
    surprisals(isa, x, max, scale, SurprisalSlices { mass, g, term });
}

impl Masses {
    /// Weighs the groups of a range relative to its first.
    pub fn weigh(&mut self, isa: Isa, digest: &Digest, groups: Range<usize>, scale: Scale) {
        #[cfg(test)]
        {
            self.weighings += 1;
        }
        let values = &digest.values()[groups.clone()];
        let max = values[0];
        let live = values.partition_point(|&x| surprisal(x, max, scale).g < NOTHING_FROM);
        self.from = groups.start;
        let Surprisals { mass, g, term } = &mut self.own;
        weigh(isa, &values[..live], max, scale, mass, g, term);
        self.before.clear();
        self.before.push(0);
        let mut before = 0;
        for (&mass, &count) in mass.iter().zip(&digest.counts()[groups]) {
            before += mass * u64::from(count);
            self.before.push(before);
        }
        self.terms_before.clear();
    }

    /// Sums up the terms as well, of groups that were weighed from the first.
    pub fn sum_terms(&mut self, digest: &Digest) {
        self.terms_before.clear();
        self.terms_before.push(0);
        let mut before = 0;
        for (&term, &count) in self.own.term.iter().zip(digest.counts()) {
            before += term * u64::from(count);
            self.terms_before.push(before);
        }
    }

    /// The mass up to a cut, of groups that were weighed from the first.
    pub fn up_to(&self, cut: Cut) -> u64 {
        match self.own.mass.get(cut.group) {
            Some(mass) => self.before[cut.group] + mass * u64::from(cut.part),
            None => self.before[self.own.mass.len()],
        }
    }
}

/// The sums over some neighbouring tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    /// The token that was begun with, and that after the last.
    start: u32,
    end: u32,
    interval: Interval,
    /// Mass times the surprisal at temperature 1.
    surprise: u128,
    /// The squares of the masses.
    squares: u128,
    /// The mass of the tail.
    tail: u64,
}

impl Walk {
    /// Begins before a token.
    pub fn from(start: u32) -> Self {
        Self { start, end: start, ..Self::default() }
    }

    /// Goes on over whole groups, from one on that is moved, and says what it is with a part of the next, up to an end.
    #[inline]
    pub fn over(&mut self, end: u32, row: &RowSums, masses: &Masses, group: &mut usize) -> Self {
        let live = masses.from + masses.own.mass.len();
        while *group < live && row.first[*group + 1] <= end {
            self.to(row.first[*group + 1], row, masses, *group);
            *group += 1;
        }
        let mut sums = *self;
        if sums.end < end {
            sums.to(end, row, masses, *group);
        }
        sums
    }

    /// Goes on to the end of a group, which was not reached, or within it.
    #[inline]
    fn to(&mut self, end: u32, row: &RowSums, masses: &Masses, group: usize) {
        let count = end - self.end;
        self.end = end;
        let Some(&mass) = masses.own.mass.get(group - masses.from) else { return };
        let all = mass * u64::from(count);
        self.interval.mass += all;
        self.interval.term += masses.own.term[group - masses.from] * u64::from(count);
        self.surprise += u128::from(all) * u128::from(row.raw.g[group]);
        self.squares += u128::from(all) * u128::from(mass);
        if group >= row.tail_from {
            self.tail += all;
        }
    }

    /// What the tokens come to that it went over: one at least.
    pub fn found(
        &self,
        digest: &Digest,
        row: &RowSums,
        masses: &Masses,
        temperature: f32,
    ) -> Found {
        let whole = self.interval.mass;
        let share = |mass: u64| ((u128::from(mass) << 32) / u128::from(whole)) as u64;
        let max = digest.values()[masses.from];
        let mut sums = SetSums {
            kept: (self.end - self.start).into(),
            entropy_q32: self.interval.entropy(),
            surprise_q32: log2_mass(row.whole.mass) as u64
                + ((self.surprise << 10) / u128::from(whole)) as u64,
            collision_q32: collision(self.squares, whole),
            tail_q32: share(self.tail),
            ..Default::default()
        };
        let is_kept = (self.start..self.end).contains(&digest.rank());
        if let Some((group, x)) = row.reference.filter(|_| is_kept) {
            sums.hits = 1;
            sums.logprob_q32 = score(x - max, temperature, whole).max(LOGPROB_Q32_MIN);
            let mass = masses.own.mass.get(group - masses.from).copied();
            sums.probability_q32 = share(mass.unwrap_or(0));
        }
        let reference = row.reference.map_or(f32::NEG_INFINITY, |(_, x)| x);
        Found { sums, kept_mass: whole, reference, max, temperature }
    }
}
