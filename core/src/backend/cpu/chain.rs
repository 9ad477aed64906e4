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
}

/// Cuts a row with the groups of its first tokens, as many as matter. `distance` is top-n-sigma's, where it is on.
pub fn cut<S: Simd>(
    s: S,
    groups: &mut Groups,
    params: &SamplingParams,
    distance: Option<f32>,
) -> Left {
    let (cuts, max) = (params.all_cuts(), groups.x()[0]);
    let mut temperature = params.temperature();
    let of_llamacpp = cuts.profile == Profile::Llamacpp;
    let dynamic = cuts.dynatemp.range > 0.0 && !params.is_greedy();
    if dynamic && !of_llamacpp {
        groups.weigh(s, max, Scale::new(1.0));
        temperature = dynamic_temperature(groups, 0..groups.tokens(), temperature, cuts.dynatemp);
    }
    let has_mirostat = cuts.mirostat.tau > 0.0;
    let of_chain = match of_llamacpp && (params.is_greedy() || !has_mirostat) {
        true => 1.0,
        false => temperature,
    };
    groups.weigh(s, max, Scale::new(of_chain));
    let range = 0..groups.tokens();
    let mut chain = Chain { groups, params, cuts, temperature: of_chain, distance, range };
    match cuts.profile {
        Profile::Llamacpp if has_mirostat && params.is_greedy() => {}
        Profile::Llamacpp if has_mirostat => chain.apply(Stage::Mirostat),
        profile => profile.stages().iter().for_each(|stage| chain.apply(*stage)),
    }
    let range = chain.range;
    // With mirostat, that is all there is; else the groups were weighed at 1 for the chain.
    if dynamic && of_llamacpp && !has_mirostat {
        temperature = dynamic_temperature(groups, range.clone(), temperature, cuts.dynatemp);
    }
    Left { range, temperature }
}

/// Of groups that were weighed at temperature 1.
fn dynamic_temperature(
    groups: &Groups,
    range: Range<u32>,
    temperature: f32,
    Dynatemp { range: width, exponent }: Dynatemp,
) -> f32 {
    let (count, sums) = (range.len() as u64, groups.sums(range));
    // Of a lone token the temperature stays, and its mass need not be there.
    let entropy = if count < 2 { 0 } else { sums.entropy() };
    dynatemp::temperature(temperature, width, exponent, count, entropy)
}

struct Chain<'a> {
    groups: &'a Groups,
    params: &'a SamplingParams,
    cuts: &'a Cuts,
    temperature: f32,
    distance: Option<f32>,
    range: Range<u32>,
}

impl Chain<'_> {
    fn apply(&mut self, stage: Stage) {
        let (params, cuts, groups) = (self.params, self.cuts, self.groups);
        match stage {
            Stage::TopNSigma => {
                if let Some(distance) = self.distance {
                    let max = groups.x()[0];
                    self.end(self.while_x(|x| x - max >= distance));
                }
            }
            Stage::TopK => {
                if let Some(k) = params.top_k() {
                    self.end(self.with_ties(stage, self.range.start.saturating_add(k)));
                }
            }
            Stage::TopP => {
                if let Some(p) = params.top_p() {
                    self.end(self.with_ties(stage, self.nucleus(p)));
                }
            }
            Stage::MinP => {
                if let Some(p) = params.min_p() {
                    let first = groups.x()[groups.group(self.range.start)];
                    let distance = min_p_distance(p, self.temperature);
                    self.end(self.while_x(|x| x - first >= distance));
                }
            }
            Stage::TopH if cuts.top_h > 0.0 => self.end(self.range.start + self.head()),
            Stage::TopA if cuts.top_a > 0.0 => {
                self.end(self.heavier(cutoffs::top_a(cuts.top_a, self.sums().mass)));
            }
            Stage::Epsilon if cuts.epsilon_cutoff > 0.0 => {
                let least = share(q64(cuts.epsilon_cutoff), self.sums().mass);
                self.end(self.with_first(stage, self.heavier(least)));
            }
            Stage::Eta if cuts.eta_cutoff > 0.0 => {
                let least = cutoffs::eta(cuts.eta_cutoff, self.sums());
                self.end(self.with_first(stage, self.heavier(least)));
            }
            Stage::Typical if cuts.typical_p < 1.0 => self.range = self.typical(cuts.typical_p),
            Stage::Mirostat if cuts.mirostat.tau > 0.0 => {
                let tau = cuts.mirostat.tau;
                let mu = cuts.mirostat.mu.unwrap_or(mirostat::beginning(tau));
                let most = mirostat::most(mu, self.sums().mass);
                self.end(self.until(|group| i64::from(groups.surprisals()[group]) > most));
            }
            Stage::Xtc if xtc::acts(cuts.xtc.probability, params.seed(), params.position()) => {
                let likely = self.heavier(share(q64(cuts.xtc.threshold), self.sums().mass));
                self.range.start = self.range.start.max(likely.saturating_sub(1));
            }
            _ => {}
        }
    }

    /// Ends the range there, but not before its first token and no later than it ends.
    fn end(&mut self, end: u32) {
        self.range.end = self.range.end.min(end.max(self.range.start + 1));
    }

    fn sums(&self) -> Interval {
        self.groups.sums(self.range.clone())
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

    /// After the last token with that mass or more, within the range.
    fn heavier(&self, least: u64) -> u32 {
        self.until(|group| self.groups.masses()[group] < least).min(self.range.end)
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
        let of_row = self.cuts.profile == Profile::Sglang && self.params.min_p().is_none();
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

    /// The tokens as near to the mean surprisal as it takes to have that share of the mass.
    fn typical(&self, p: f32) -> Range<u32> {
        let all = self.sums();
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
