//! Cuts that go before those of the kernels that sample, as the kernels are told: `logitd_cut` makes the row that is sampled of
//! one that has such cuts, where it lies.
//!
//! What is cut is -inf there, and -inf is no candidate: the kernels that sample need not know of the cut. The row that is left
//! takes the place of the one before, unless more is asked of that than its tokens. Cuts that come after one of these
//! in the row's order are made with it, unless they are those that the sampling kernels make, in their order.

use super::abi::{Batch, Plain, RowDescriptor, flags};
use crate::arithmetic::cut::{min_p_distance, top_p_fraction};
use crate::arithmetic::mass::Scale;
use crate::arithmetic::stages::{Profile, Stage};
use crate::arithmetic::xtc;
use crate::batch::Row;
use crate::params::{Cuts, SamplingParams, Xtc};
use std::mem::{offset_of, size_of};

/// Bits of a cut in [`CutDescriptor::stages`].
const STAGE_BITS: u32 = 4;
/// XTC never acts from thresholds above this: of two tokens, one has no such share.
const XTC_THRESHOLD_MAX: f32 = 0.5;

/// The cuts of one row. All addresses are the device's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct CutDescriptor {
    /// The row that is cut, with the temperature that masses have in these cuts.
    pub row: RowDescriptor,
    /// Of the row that is left.
    pub to: u64,
    /// The share of typical-p in units of 2^-64.
    pub typical_fraction: u64,
    /// That of XTC's threshold.
    pub xtc_fraction: u64,
    /// How many standard deviations below the first logit are kept.
    pub top_n_sigma: f32,
    /// The cuts, in their order, the first in the lowest bits.
    pub stages: u32,
}

const _: () = assert!(size_of::<CutDescriptor>() == 112);
const _: () = assert!(offset_of!(CutDescriptor, to) == 80);
const _: () = assert!(offset_of!(CutDescriptor, top_n_sigma) == 104);
// SAFETY: the fields' sizes add up to the 112 bytes.
unsafe impl Plain for CutDescriptor {}

/// The argument of `logitd_cut`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CutBatch {
    /// That of the launch after it, with as many rows as have such cuts.
    pub batch: Batch,
    /// Device address of `CutDescriptor[row_count]`.
    pub cuts: u64,
}

const _: () = assert!(size_of::<CutBatch>() == 72);

/// The cuts that are made of a row before it is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutsBefore {
    /// As in [`CutDescriptor::stages`]: 0 if there are none.
    stages: u32,
    /// Whether they are all that the row has: the kernels that sample make none.
    are_all: bool,
}

impl CutsBefore {
    /// Those of valid parameters that [`have_kernels`].
    pub fn of(params: &SamplingParams) -> Self {
        let none = Self { stages: 0, are_all: false };
        let Some(cuts) = params.cuts() else { return none };
        let of_llamacpp = cuts.profile == Profile::Llamacpp;
        if params.is_greedy() && !of_llamacpp {
            return none;
        }
        let drops_first = cuts.typical_p < 1.0 || acts(params);
        let are_all = of_llamacpp || drops_first;
        let stages = cuts.profile.stages().iter().rev().fold(0, |after, &stage| {
            let number = number(stage, params).filter(|_| are_all || stage == Stage::TopNSigma);
            number.map_or(after, |number| after << STAGE_BITS | number)
        });
        Self { stages, are_all }
    }

    /// Whether there are any.
    pub fn are_some(self) -> bool {
        self.stages != 0
    }

    /// Whether more is asked of a row with these than the kernels know: what is said of a distribution that lacks the first
    /// tokens of the order.
    pub fn are_asked_too_much(self, row: &Row<'_>) -> bool {
        self.are_all && self.are_some() && row.inspect().is_some()
    }

    /// Whether the row that is left stays beside the one before.
    pub fn are_apart(self, row: &Row<'_>) -> bool {
        self.are_some() && row.inspect().is_some()
    }

    /// What is cut of a row, and where the row goes that is left.
    pub fn descriptor(self, row: &Row<'_>, described: RowDescriptor, to: u64) -> CutDescriptor {
        let params = row.params();
        let cuts = params.all_cuts();
        let temperature = match cuts.profile {
            Profile::Llamacpp => 1.0,
            _ => params.temperature(),
        };
        let scale = Scale::new(temperature);
        CutDescriptor {
            row: RowDescriptor {
                c: scale.c,
                dmin: scale.dmin,
                top_k: params.top_k().unwrap_or(0),
                top_p_fraction: params.top_p().map_or(0, top_p_fraction),
                min_p_distance: params.min_p().map_or(0.0, |p| min_p_distance(p, temperature)),
                ..described
            },
            to,
            typical_fraction: top_p_fraction(cuts.typical_p),
            xtc_fraction: top_p_fraction(cuts.xtc.threshold),
            top_n_sigma: cuts.top_n_sigma,
            stages: self.stages,
        }
    }

    /// The row that is left, as it is sampled.
    pub fn left(self, described: RowDescriptor, to: u64) -> RowDescriptor {
        let mut left = RowDescriptor { logits: to, ..described };
        if self.are_all {
            left.top_k = 0;
            left.flags &= !(flags::TOP_P | flags::MIN_P);
        }
        left
    }
}

/// Whether kernels carry out every cut of a row.
pub fn have_kernels(params: &SamplingParams) -> bool {
    let cuts = params.all_cuts();
    let none = Xtc { probability: 0.0, ..cuts.xtc };
    let others =
        Cuts { top_n_sigma: 0.0, typical_p: 1.0, xtc: none, profile: Profile::Logitd, ..*cuts };
    matches!(cuts.profile, Profile::Logitd | Profile::Llamacpp) && !others.are_on()
}

/// Whether XTC takes tokens from a row that has enough likely ones.
fn acts(params: &SamplingParams) -> bool {
    let Xtc { probability, threshold } = params.all_cuts().xtc;
    threshold <= XTC_THRESHOLD_MAX && xtc::acts(probability, params.seed(), params.position())
}

/// The number of a cut that is on: `CutStage` in `kernels/abi.cuh`.
fn number(stage: Stage, params: &SamplingParams) -> Option<u32> {
    let cuts = params.all_cuts();
    let (number, is_on) = match stage {
        Stage::TopNSigma => (1, cuts.top_n_sigma > 0.0),
        Stage::TopK => (2, params.top_k().is_some()),
        Stage::TopP => (3, params.top_p().is_some()),
        Stage::MinP => (4, params.min_p().is_some()),
        Stage::Typical => (5, cuts.typical_p < 1.0),
        Stage::Xtc => (6, acts(params)),
        _ => return None,
    };
    is_on.then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamsSpec;

    fn of(spec: ParamsSpec) -> (u32, bool) {
        let params = spec.parse(|| 0).expect("a test gives valid parameters");
        assert!(have_kernels(&params), "{params}");
        let CutsBefore { stages, are_all } = CutsBefore::of(&params);
        (stages, are_all)
    }

    #[test]
    fn cuts_come_in_the_order_of_the_profile() {
        let base = ParamsSpec { top_k: 5, top_p: 0.5, min_p: 0.1, ..Default::default() };
        assert_eq!(of(base), (0, false));
        assert_eq!(of(ParamsSpec { top_n_sigma: 1.0, ..base }), (0x1, false));
        let all = ParamsSpec { top_n_sigma: 1.0, typical_p: 0.5, xtc_probability: 1.0, ..base };
        assert_eq!(of(all), (0x65_4321, true));
        assert_eq!(of(ParamsSpec { profile: Profile::Llamacpp, ..all }), (0x64_3521, true));
        assert_eq!(of(ParamsSpec { temperature: 0.0, ..all }), (0, false));
        let greedy = ParamsSpec { temperature: 0.0, profile: Profile::Llamacpp, ..all };
        assert_eq!(of(greedy), (0x64_3521, true));
    }

    #[test]
    fn xtc_is_a_cut_where_it_acts() {
        let likely = ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.5, ..Default::default() };
        assert_eq!(of(likely), (0x6, true));
        assert_eq!(of(ParamsSpec { xtc_threshold: 0.5f32.next_up(), ..likely }), (0, false));
        assert_eq!(of(ParamsSpec { xtc_probability: 1e-9, ..likely }), (0, false));
    }

    #[test]
    fn other_cuts_have_none() {
        let base = ParamsSpec::default();
        for spec in [
            ParamsSpec { top_a: 0.2, ..base },
            ParamsSpec { mirostat_tau: 5.0, ..base },
            ParamsSpec { dynatemp_range: 0.5, top_n_sigma: 1.0, ..base },
            ParamsSpec { profile: Profile::Hf, top_k: 3, ..base },
        ] {
            assert!(!have_kernels(&spec.parse(|| 0).expect("valid parameters")), "{spec:?}");
        }
        let off = ParamsSpec { mirostat_eta: 0.3, dynatemp_exponent: 2.0, ..base };
        assert!(have_kernels(&off.parse(|| 0).expect("valid parameters")));
    }
}
