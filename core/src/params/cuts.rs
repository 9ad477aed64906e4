//! The profile of a row, and its cuts beyond top_k, top_p and min_p.

pub use crate::arithmetic::stages::Profile;

use super::{Field, ParamsError, ParamsSpec, Value};

/// Whether a profile has a parameter: those that none of them lacks are not listed.
fn has(profile: Profile, name: &str) -> bool {
    match name {
        "top_a" | "eta_cutoff" | "epsilon_cutoff" | "top_h" | "adaptive_target" => {
            profile == Profile::Logitd
                || profile == Profile::Hf && !matches!(name, "top_a" | "adaptive_target")
        }
        "typical_p" => matches!(profile, Profile::Logitd | Profile::Hf | Profile::Llamacpp),
        "top_n_sigma" | "mirostat_tau" | "xtc_probability" | "dynatemp_range"
        | "dry_multiplier" => matches!(profile, Profile::Logitd | Profile::Llamacpp),
        "frequency_penalty" | "presence_penalty" => profile != Profile::Hf,
        _ => true,
    }
}

/// A row's profile and its cuts beyond top_k, top_p and min_p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cuts {
    /// Whose order it is.
    pub profile: Profile,
    /// How many standard deviations below the first logit are kept; 0 is off.
    pub top_n_sigma: f32,
    /// The share of the entropy of the first tokens; 0 is off.
    pub top_h: f32,
    /// The factor of the square of the largest probability; 0 is off.
    pub top_a: f32,
    /// The least probability; 0 is off.
    pub epsilon_cutoff: f32,
    /// The least probability, where the entropy is low; 0 is off.
    pub eta_cutoff: f32,
    /// The share of the mass around the mean surprisal; 1 is off.
    pub typical_p: f32,
    /// Off where tau is 0.
    pub mirostat: Mirostat,
    /// Off where the probability is 0.
    pub xtc: Xtc,
    /// Off where there is no target.
    pub adaptive: Adaptive,
    /// Off where the range is 0.
    pub dynatemp: Dynatemp,
}

/// Mirostat 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// The surprisal to aim at, in bits.
    pub tau: f32,
    /// How fast the state follows.
    pub eta: f32,
    /// The state, where one came with the request.
    pub mu: Option<f32>,
}

/// XTC: likely tokens go, now and then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xtc {
    /// How likely it is to act.
    pub probability: f32,
    /// Of tokens at least this likely, the least likely stays.
    pub threshold: f32,
}

/// Adaptive-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// The probability to aim at.
    pub target: Option<f32>,
    /// How much earlier tokens count.
    pub decay: f32,
    /// The state, where one came with the request.
    pub sum: Option<f32>,
    /// The rest of the state.
    pub weight: Option<f32>,
}

/// Dynamic temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dynatemp {
    /// How far the temperature goes down and up.
    pub range: f32,
    /// The power of the normalised entropy.
    pub exponent: f32,
}

impl Cuts {
    /// Those of valid parameters.
    pub(super) fn of(spec: &ParamsSpec) -> Self {
        // Adding +0.0 turns -0.0 into it, so that one value has one pattern.
        let unsigned = |x: Option<f32>| x.map(|x| x + 0.0);
        Self {
            profile: spec.profile,
            top_n_sigma: spec.top_n_sigma + 0.0,
            top_h: spec.top_h + 0.0,
            top_a: spec.top_a + 0.0,
            epsilon_cutoff: spec.epsilon_cutoff + 0.0,
            eta_cutoff: spec.eta_cutoff + 0.0,
            typical_p: spec.typical_p,
            mirostat: Mirostat {
                tau: spec.mirostat_tau + 0.0,
                eta: spec.mirostat_eta + 0.0,
                mu: unsigned(spec.mirostat_mu),
            },
            xtc: Xtc { probability: spec.xtc_probability + 0.0, threshold: spec.xtc_threshold },
            adaptive: Adaptive {
                target: unsigned(spec.adaptive_target),
                decay: spec.adaptive_decay + 0.0,
                sum: unsigned(spec.adaptive_sum),
                weight: unsigned(spec.adaptive_weight),
            },
            dynatemp: Dynatemp {
                range: spec.dynatemp_range + 0.0,
                exponent: spec.dynatemp_exponent,
            },
        }
    }

    /// Whether any of them is on, or the profile another than this sampler's own.
    #[inline]
    pub fn are_on(&self) -> bool {
        self.profile != Profile::Logitd
            || self.top_n_sigma > 0.0
            || self.top_h > 0.0
            || self.top_a > 0.0
            || self.epsilon_cutoff > 0.0
            || self.eta_cutoff > 0.0
            || self.typical_p < 1.0
            || self.mirostat.tau > 0.0
            || self.xtc.probability > 0.0
            || self.adaptive.target.is_some()
            || self.dynatemp.range > 0.0
    }

    /// Whether an answer carries a state back.
    pub fn have_state(&self) -> bool {
        self.mirostat.tau > 0.0 || self.adaptive.target.is_some()
    }
}

impl From<Cuts> for ParamsSpec {
    fn from(cuts: Cuts) -> Self {
        let Cuts { mirostat, xtc, adaptive, dynatemp, .. } = cuts;
        Self {
            profile: cuts.profile,
            top_n_sigma: cuts.top_n_sigma,
            top_h: cuts.top_h,
            top_a: cuts.top_a,
            epsilon_cutoff: cuts.epsilon_cutoff,
            eta_cutoff: cuts.eta_cutoff,
            typical_p: cuts.typical_p,
            mirostat_tau: mirostat.tau,
            mirostat_eta: mirostat.eta,
            mirostat_mu: mirostat.mu,
            xtc_probability: xtc.probability,
            xtc_threshold: xtc.threshold,
            adaptive_target: adaptive.target,
            adaptive_decay: adaptive.decay,
            adaptive_sum: adaptive.sum,
            adaptive_weight: adaptive.weight,
            dynatemp_range: dynatemp.range,
            dynatemp_exponent: dynatemp.exponent,
            ..Self::DEFAULT
        }
    }
}

/// What makes each of the further cuts act, by the names of the API.
pub const SWITCHES: [&str; 10] = [
    "top_n_sigma",
    "top_h",
    "top_a",
    "epsilon_cutoff",
    "eta_cutoff",
    "typical_p",
    "mirostat_tau",
    "xtc_probability",
    "adaptive_target",
    "dynatemp_range",
];

/// The other controls of which a profile may have none.
const PENALTIES: [&str; 3] = ["dry_multiplier", "frequency_penalty", "presence_penalty"];

/// Refuses what does not go together.
pub(super) fn check(spec: &ParamsSpec) -> Result<(), ParamsError> {
    let field = |name: &str| Field::named(name).expect("a parameter");
    for name in SWITCHES.into_iter().chain(PENALTIES) {
        let value = field(name).get(*spec);
        let is_on = value != field(name).get(ParamsSpec::DEFAULT);
        if is_on && !has(spec.profile, name) {
            let default = field(name).get(ParamsSpec::DEFAULT);
            return refuse(
                name,
                value,
                match default {
                    Value::Unset => "nothing under this profile, which does not have it",
                    Value::Real(1.0) => "1 (off) under this profile, which does not have it",
                    _ => "0 (off) under this profile, which does not have it",
                },
            );
        }
    }
    let has_mirostat = spec.mirostat_tau > 0.0;
    let has_adaptive = spec.adaptive_target.is_some();
    if has_mirostat && has_adaptive {
        let target = field("adaptive_target").get(*spec);
        return refuse("adaptive_target", target, "nothing beside mirostat_tau");
    }
    if (has_mirostat || has_adaptive) && spec.draws != 1 {
        let draws = Value::Whole(spec.draws.into());
        return refuse("draws", draws, "1 with mirostat_tau or adaptive_target");
    }
    Ok(())
}

fn refuse(field: &'static str, value: Value, allowed: &'static str) -> Result<(), ParamsError> {
    Err(ParamsError { field, value: value.to_string(), allowed })
}
