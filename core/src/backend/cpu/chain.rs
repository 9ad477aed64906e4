//! The further cuts of a row, one after another over its groups.
//!
//! What is kept is always a range of the order. Each stage is a search among groups, by logit, mass or surprisal, none of
//! which turns back along the order.

use super::groups::Groups;
use super::simd::Simd;
use crate::arithmetic::cut::min_p_distance;
use crate::arithmetic::fraction::{q64, share};
use crate::arithmetic::interval::Interval;
use crate::arithmetic::mass::Scale;
use crate::arithmetic::stages::{Profile, Stage};
use crate::arithmetic::{cutoffs, dynatemp, head, mirostat, xtc};
use crate::params::{Cuts, Dynatemp, SamplingParams};
use std::ops::Range;

/// What a chain leaves.
pub struct Left {
    /// The kept tokens, by their places in the order.
    pub range: Range<u32>,
    /// The temperature that is drawn at.
    pub temperature: f32,
    /// Whether that is so whatever the sums over all tokens are, of which bounds were given.
    pub is_settled: bool,
}

/// What a chain starts with beside its tokens.
#[derive(Clone, Copy)]
pub struct Start {
    /// Top-n-sigma's distance, where it is on.
    pub distance: Option<f32>,
    /// The temperature that is drawn at, as far as it is known before the chain.
    pub temperature: f32,
}

impl Start {
    /// The temperature of the chain's masses.
    pub fn of_chain(self, params: &SamplingParams) -> f32 {
        let cuts = params.all_cuts();
        let has_mirostat = cuts.mirostat.tau > 0.0 && !params.is_greedy();
        match cuts.profile == Profile::Llamacpp && !has_mirostat {
            true => 1.0,
            false => self.temperature,
        }
    }
}

/// Whether the temperature depends on the tokens that are left after the chain, or before it.
pub fn is_dynamic(params: &SamplingParams, after_chain: bool) -> bool {
    let cuts = params.all_cuts();
    let is_after = cuts.profile == Profile::Llamacpp;
    cuts.dynatemp.range > 0.0 && !params.is_greedy() && is_after == after_chain
}

/// The stages that cut rows with these parameters, in order.
pub fn stages(
    params: &SamplingParams,
    distance: Option<f32>,
) -> impl Iterator<Item = Stage> + use<'_> {
    let cuts = params.all_cuts();
    let is_on = move |stage: &Stage| match stage {
        Stage::TopNSigma => distance.is_some(),
        Stage::TopK => params.top_k().is_some(),
        Stage::TopP => params.top_p().is_some(),
        Stage::MinP => params.min_p().is_some(),
        Stage::TopH => cuts.top_h > 0.0,
        Stage::TopA => cuts.top_a > 0.0,
        Stage::Epsilon => cuts.epsilon_cutoff > 0.0,
        Stage::Eta => cuts.eta_cutoff > 0.0,
        Stage::Typical => cuts.typical_p < 1.0,
        Stage::Mirostat => cuts.mirostat.tau > 0.0,
        Stage::Xtc => xtc::acts(cuts.xtc.probability, params.seed(), params.position()),
    };
    // With mirostat, that is all there is.
    let stages = match cuts.profile {
        Profile::Llamacpp if cuts.mirostat.tau > 0.0 && params.is_greedy() => &[][..],
        Profile::Llamacpp if cuts.mirostat.tau > 0.0 => &[Stage::Mirostat],
        profile => profile.stages(),
    };
    stages.iter().copied().filter(is_on)
}

/// Cuts a row with the groups of its first tokens, as many as matter.
pub fn cut<S: Simd>(s: S, groups: &mut Groups, params: &SamplingParams, start: Start) -> Left {
    let (cuts, max) = (params.all_cuts(), groups.x()[0]);
    let Start { distance, mut temperature } = start;
    let of_chain = start.of_chain(params);
    groups.weigh(s, max, Scale::new(of_chain));
    let range = 0..groups.tokens();
    let is_settled = true;
    let mut chain =
        Chain { groups, params, cuts, temperature: of_chain, distance, range, is_settled };
    stages(params, distance).for_each(|stage| chain.apply(stage));
    let Chain { range, is_settled, .. } = chain;
    // Without mirostat the groups were weighed at 1 for the chain.
    if is_dynamic(params, true) && cuts.mirostat.tau == 0.0 {
        // Of a lone token the temperature stays, and its mass need not be there.
        let entropy = if range.len() < 2 { 0 } else { groups.sums(range.clone()).entropy() };
        temperature = dynamic_temperature(params, range.len() as u64, entropy);
    }
    Left { range, temperature, is_settled }
}

/// The temperature for so many tokens with that entropy, at temperature 1.
pub fn dynamic_temperature(params: &SamplingParams, count: u64, entropy: u64) -> f32 {
    let Dynatemp { range, exponent } = params.all_cuts().dynatemp;
    dynatemp::temperature(params.temperature(), range, exponent, count, entropy)
}

struct Chain<'a> {
    groups: &'a Groups,
    params: &'a SamplingParams,
    cuts: &'a Cuts,
    temperature: f32,
    distance: Option<f32>,
    range: Range<u32>,
    is_settled: bool,
}

impl Chain<'_> {
    fn apply(&mut self, stage: Stage) {
        let (params, cuts, groups) = (self.params, self.cuts, self.groups);
        match stage {
            Stage::TopNSigma => {
                let (max, distance) = (groups.x()[0], self.distance.expect("it is on"));
                self.end(self.while_x(|x| x - max >= distance));
            }
            Stage::TopK => {
                let k = params.top_k().expect("it is on");
                self.end(self.with_ties(stage, self.range.start.saturating_add(k)));
            }
            Stage::TopP => {
                let p = params.top_p().expect("it is on");
                self.end(self.with_ties(stage, self.nucleus(p)));
            }
            Stage::MinP => {
                let first = groups.x()[groups.group(self.range.start)];
                let p = params.min_p().expect("it is on");
                let distance = min_p_distance(p, self.temperature);
                self.end(self.while_x(|x| x - first >= distance));
            }
            Stage::TopH => self.end(self.range.start + self.head()),
            Stage::TopA => self.end(self.heavier(cutoffs::top_a(cuts.top_a, self.sums().mass))),
            Stage::Epsilon => {
                let least = share(q64(cuts.epsilon_cutoff), self.sums().mass);
                self.end(self.with_first(stage, self.heavier(least)));
            }
            Stage::Eta => {
                let end = |chain: &Self, sums| chain.heavier(cutoffs::eta(cuts.eta_cutoff, sums));
                let end = self.settle(end);
                self.end(self.with_first(stage, end));
            }
            Stage::Typical => {
                self.range = self.settle(|chain, sums| chain.typical(cuts.typical_p, sums));
            }
            Stage::Mirostat => {
                let most = mirostat_most(cuts, self.sums().mass);
                self.end(self.until(|group| i64::from(groups.surprisals()[group]) > most));
            }
            Stage::Xtc => {
                let likely = self.heavier(share(q64(cuts.xtc.threshold), self.sums().mass));
                self.range.start = self.range.start.max(likely.saturating_sub(1));
            }
        }
    }

    /// Ends the range there, but not before its first token and no later than it ends.
    fn end(&mut self, end: u32) {
        self.range.end = self.range.end.min(end.max(self.range.start + 1));
    }

    fn sums(&self) -> Interval {
        self.groups.sums(self.range.clone())
    }

    /// What follows from the sums, and whether it does from all that they may be: nothing turns back as they grow.
    fn settle<T: PartialEq>(&mut self, follows: impl Fn(&Self, Interval) -> T) -> T {
        let least = self.sums();
        let found = follows(self, least);
        let slack = self.groups.slack(&self.range);
        if slack > 0 {
            let most = Interval { term: least.term + slack, ..least };
            self.is_settled &= follows(self, most) == found;
        }
        found
    }

    /// The place of the first token of the first group that is so, of groups that are so from one on.
    fn until(&self, is: impl Fn(usize) -> bool) -> u32 {
        let (mut low, mut high) = (0, self.groups.x().len());
        while low < high {
            let middle = low.midpoint(high);
            if is(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        self.groups.first_of(low)
    }

    fn while_x(&self, is_kept: impl Fn(f32) -> bool) -> u32 {
        self.until(|group| !is_kept(self.groups.x()[group]))
    }

    /// After the first tokens of the range that have that mass or more.
    fn heavier(&self, least: u64) -> u32 {
        let from = self.groups.group(self.range.start);
        let end = cutoffs::heavier(self.groups.masses(), from, least);
        self.groups.first_of(end).min(self.range.end)
    }

    /// An end within the range, or where the profile keeps ties, after the last token equal to that before it.
    fn with_ties(&self, stage: Stage, end: u32) -> u32 {
        let end = end.min(self.range.end);
        match self.cuts.profile.keeps_ties(stage) {
            true => self.groups.of_group(self.groups.group(end - 1)).end,
            false => end,
        }
    }

    /// An end, and where the profile keeps ties, not before the last token equal to the first.
    fn with_first(&self, stage: Stage, end: u32) -> u32 {
        match self.cuts.profile.keeps_ties(stage) {
            true => end.max(self.groups.of_group(self.groups.group(self.range.start)).end),
            false => end,
        }
    }

    /// The end of the nucleus.
    fn nucleus(&self, p: f32) -> u32 {
        let of_row = nucleus_is_of_row(self.params);
        let base = if of_row { 0..self.groups.tokens() } else { self.range.clone() };
        let target = share(q64(p), self.groups.sums(base).mass);
        let before = self.groups.sums(0..self.range.start).mass;
        self.groups.tokens_until(before + target)
    }

    /// How many first tokens top-h keeps.
    fn head(&self) -> u32 {
        let groups = self.groups;
        let first = self.range.clone().take(head::TOKENS).map(|token| {
            let group = groups.group(token);
            (groups.masses()[group], groups.surprisals()[group])
        });
        head::top_h(self.cuts.top_h, first) as u32
    }

    /// The tokens as near to the mean surprisal as it takes to have that share of the mass: both ends rise with the mean.
    fn typical(&self, p: f32, all: Interval) -> Range<u32> {
        let (mean, target) = (all.mean(), share(q64(p), all.mass));
        let g = |group: usize| u64::from(self.groups.surprisals()[group]);
        let within = |delta: u64| {
            let start = self.until(|group| g(group) >= mean.saturating_sub(delta));
            let end = self.until(|group| g(group) > mean + delta);
            start.max(self.range.start)..end.min(self.range.end)
        };
        let mass =
            |range: Range<u32>| if range.is_empty() { 0 } else { self.groups.sums(range).mass };
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

/// Whether top-p is on, and a share of the mass of all tokens, also of those that were cut before.
pub fn nucleus_is_of_row(params: &SamplingParams) -> bool {
    let is_sglang = params.all_cuts().profile == Profile::Sglang;
    is_sglang && params.min_p().is_none() && params.top_p().is_some()
}

/// The greatest surprisal that mirostat keeps, of tokens with that mass together.
pub fn mirostat_most(cuts: &Cuts, mass: u64) -> i64 {
    let tau = cuts.mirostat.tau;
    mirostat::most(cuts.mirostat.mu.unwrap_or(mirostat::beginning(tau)), mass)
}
