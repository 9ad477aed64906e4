//! What each stage of a chain leaves of a digest's groups: an interval of the order.
//!
//! Groups without mass or term are not weighed. No stage that looks at masses would keep one of them unless it keeps all:
//! a share is 1 or more, and typical reaches as far beyond the mean as one that has mass, or as the first token is before
//! it, and the mean of tokens that begin with the first is below 16 bits.

use super::chains::Step;
use super::masses::{Masses, RowSums};
use crate::arithmetic::cut::min_p_distance;
use crate::arithmetic::deviation::Deviation;
use crate::arithmetic::fraction::{q64, share};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::stages::Profile;
use crate::arithmetic::{cutoffs, head};
use std::ops::Range;

/// A row that a chain cuts.
pub(super) struct Cutting<'a> {
    pub values: &'a [f32],
    pub row: &'a RowSums,
    /// At the temperature of the chain, from the first group, with terms.
    pub masses: &'a Masses,
    pub temperature: f32,
    pub profile: Profile,
    /// Of the row's logits, where a stage asks for it.
    pub deviation: Option<Deviation>,
}

impl Cutting<'_> {
    /// What a stage leaves of an interval: never nothing.
    pub fn cut(&self, step: Step, left: Range<u32>) -> Range<u32> {
        let Range { start, end } = left.clone();
        let mass = || self.sums(left.clone()).mass;
        let ended = match step {
            Step::TopNSigma(s) => {
                let deviation = self.deviation.expect("a stage asks for it");
                let (max, distance) = (self.values[0], deviation.distance(s));
                self.while_x(|x| x - max >= distance)
            }
            Step::TopK(k) => self.with_ties(step, start.saturating_add(k).min(end)),
            Step::TopP(p, of_row) => {
                let base = if of_row { 0..self.row.tokens() } else { left.clone() };
                let target = share(q64(p), self.sums(base).mass);
                let until = self.tokens_until(self.sums(0..start).mass + target);
                self.with_ties(step, until.min(end))
            }
            Step::MinP(p, distance) => {
                let first = self.values[self.row.group(start)];
                let distance = distance.unwrap_or_else(|| min_p_distance(p, self.temperature));
                self.while_x(|x| x - first >= distance)
            }
            Step::TopH(h) => start + self.head(h, left.clone()),
            Step::TopA(v) => self.heavier(cutoffs::top_a(v, mass()), &left),
            Step::Epsilon(v) => {
                self.with_first(step, start, self.heavier(share(q64(v), mass()), &left))
            }
            Step::Eta(v) => {
                let least = cutoffs::eta(v, self.sums(left.clone()));
                self.with_first(step, start, self.heavier(least, &left))
            }
            Step::Typical(p) => return self.typical(p, left),
            Step::Xtc(threshold) => {
                let likely = self.heavier(share(q64(threshold), mass()), &left);
                return start.max(likely.saturating_sub(1))..end;
            }
        };
        start..end.min(ended.max(start + 1))
    }

    /// The sums over some tokens.
    pub fn sums(&self, tokens: Range<u32>) -> Interval {
        let (from, to) = (self.sums_before(tokens.start), self.sums_before(tokens.end));
        Interval { mass: to.mass - from.mass, term: to.term - from.term }
    }

    fn sums_before(&self, token: u32) -> Interval {
        let Masses { own, before, terms_before, .. } = self.masses;
        // Of the token after the last, the group after the last.
        let group = self.row.group(token).min(own.mass.len());
        let more = match own.mass.get(group) {
            Some(_) => u64::from(token - self.row.first[group]),
            None => 0,
        };
        let each = |of: &[u64]| of.get(group).map_or(0, |each| each * more);
        Interval {
            mass: before[group] + each(&own.mass),
            term: terms_before[group] + each(&own.term),
        }
    }

    /// How many first tokens have logits that are kept, which fall.
    fn while_x(&self, is_kept: impl Fn(f32) -> bool) -> u32 {
        self.row.first[self.values.partition_point(|&x| is_kept(x))]
    }

    /// After the first tokens of a range that have that mass or more.
    fn heavier(&self, least: u64, range: &Range<u32>) -> u32 {
        if least == 0 {
            return range.end;
        }
        let group = cutoffs::heavier(&self.masses.own.mass, self.row.group(range.start), least);
        self.row.first[group].min(range.end)
    }

    /// How many first tokens it takes until their mass is `target` or more; all, if it never is.
    fn tokens_until(&self, target: u64) -> u32 {
        let Masses { own, before, .. } = self.masses;
        let group = before[1..].partition_point(|&mass| mass < target);
        match own.mass.get(group) {
            Some(mass) => self.row.first[group] + (target - before[group]).div_ceil(*mass) as u32,
            None => self.row.tokens(),
        }
    }

    /// An end, and where the profile keeps ties, after the last token equal to that before it.
    fn with_ties(&self, step: Step, end: u32) -> u32 {
        match self.profile.keeps_ties(step.stage()) {
            true => self.row.first[self.row.group(end - 1) + 1],
            false => end,
        }
    }

    /// An end, and where the profile keeps ties, not before the last token equal to the first.
    fn with_first(&self, step: Step, start: u32, end: u32) -> u32 {
        match self.profile.keeps_ties(step.stage()) {
            true => end.max(self.row.first[self.row.group(start) + 1]),
            false => end,
        }
    }

    /// How many tokens top-h keeps.
    fn head(&self, h: f32, left: Range<u32>) -> u32 {
        let own = &self.masses.own;
        let mut tokens = [(0, 0); head::TOKENS];
        let count = left.len().min(head::TOKENS);
        let mut group = self.row.group(left.start);
        for (token, place) in left.zip(&mut tokens[..count]) {
            while self.row.first[group + 1] <= token {
                group += 1;
            }
            if let Some(mass) = own.mass.get(group) {
                *place = (*mass, own.g[group]);
            }
        }
        head::top_h(h, tokens[..count].iter().copied()) as u32
    }

    /// The tokens as near to the mean surprisal as it takes to have that share of the mass.
    fn typical(&self, p: f32, left: Range<u32>) -> Range<u32> {
        let all = self.sums(left.clone());
        let (mean, target) = (all.mean(), share(q64(p), all.mass));
        let g = &self.masses.own.g;
        let within = |delta: u64| {
            let start = g.partition_point(|&g| u64::from(g) < mean.saturating_sub(delta));
            let end = g.partition_point(|&g| u64::from(g) <= mean + delta);
            let first = |group: usize| self.row.first[group];
            first(start).max(left.start)..first(end).min(left.end)
        };
        let mass = |tokens: Range<u32>| if tokens.is_empty() { 0 } else { self.sums(tokens).mass };
        // Surprisals are below 2^28, and so are distances from their mean.
        let (mut low, mut high) = (0u64, 1 << 28);
        while low < high {
            let middle = low.midpoint(high);
            if mass(within(middle)) >= target {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        within(low)
    }
}
