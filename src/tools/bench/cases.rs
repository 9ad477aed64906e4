//! What is timed.

use logitd_core::adjustments::{Adjustments, AdjustmentsSpec, Limits};
use logitd_core::inspection::{Continue, Inspect, Normaliser};
use logitd_core::params::{DrawRule, ParamsSpec};

/// Parameters, and the rows that they are timed on.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The name used by flags and reports.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// What its rows are made of.
    pub values: Values,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    draws: u32,
    draw_rule: DrawRule,
    /// Whether half of the tokens are banned.
    mask: bool,
    /// Tokens that have a bias.
    biases: u32,
    top_n_sigma: f32,
    typical_p: f32,
    eta_cutoff: f32,
    epsilon_cutoff: f32,
    xtc_threshold: Option<f32>,
    /// What decides about drafts, in sequences of [`SEQUENCE_ROWS`] rows.
    pub drafts: Option<Drafts>,
    /// First tokens of which the logprobs are asked for, beside those that are drawn.
    top_logprobs: u32,
    /// First tokens that are asked for as continuations of a beam.
    continuations: u32,
}

/// What rows are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Logits of a language model.
    Real,
    /// One value.
    Constant,
    /// N(0, 1).
    Normal,
}

impl Values {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Real, Self::Constant, Self::Normal];
}

/// Rows of a sequence with drafts: one for each draft, and one more.
pub const SEQUENCE_ROWS: usize = 5;

/// How drafts are decided about by rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drafts {
    /// They were certain.
    Point,
    /// They were drawn from rows of their own.
    Rows,
    /// The same, but for the drafts themselves: tokens that their rows hardly have, so that all are refused.
    Refused,
}

/// Biases of a case that has some.
const BIASES: u32 = 64;

/// Temperature 0.8, and nothing else.
const PLAIN: Case = Case {
    name: "temperature",
    about: "No cut",
    values: Values::Real,
    temperature: 0.8,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    draws: 1,
    draw_rule: DrawRule::Cumulative,
    mask: false,
    biases: 0,
    top_n_sigma: 0.0,
    typical_p: 1.0,
    eta_cutoff: 0.0,
    epsilon_cutoff: 0.0,
    xtc_threshold: None,
    drafts: None,
    top_logprobs: 0,
    continuations: 0,
};
const TOP_P: Case = Case { name: "top_p", about: "top_p 0.95", top_p: 0.95, ..PLAIN };
const TOP_K_TOP_P: Case =
    Case { name: "top_k_top_p", about: "top_k 50, top_p 0.95", top_k: 50, ..TOP_P };
const RACE: Case = Case { draw_rule: DrawRule::Race, ..PLAIN };
const CONSTANT: Values = Values::Constant;
const NORMAL: Values = Values::Normal;

/// Every case, in the order of the report.
pub const CASES: &[Case] = &[
    Case { name: "greedy", about: "Temperature 0", temperature: 0.0, ..PLAIN },
    TOP_K_TOP_P,
    TOP_P,
    PLAIN,
    Case { name: "min_p", about: "min_p 0.05", min_p: 0.05, ..PLAIN },
    Case { name: "top_k_1000", about: "top_k 1000", top_k: 1000, ..PLAIN },
    Case { name: "top_k_20000_top_p", about: "top_k 20000, top_p 0.95", top_k: 20_000, ..TOP_P },
    Case {
        name: "top_p_t1.5",
        about: "top_p 0.95 at temperature 1.5: nuclei of a few thousand tokens",
        temperature: 1.5,
        ..TOP_P
    },
    Case {
        name: "top_p_t3",
        about: "top_p 0.95 at temperature 3: nuclei of a third of the row",
        temperature: 3.0,
        ..TOP_P
    },
    Case { name: "draws_1024", about: "No cut, 1,024 draws a row", draws: 1024, ..PLAIN },
    Case {
        name: "race_top_k",
        about: "top_k 50, top_p 0.95, draws by race",
        top_k: 50,
        top_p: 0.95,
        ..RACE
    },
    Case { name: "race", about: "No cut, draws by race", ..RACE },
    Case {
        name: "race_t10",
        about: "No cut at temperature 10, flat, draws by race",
        temperature: 10.0,
        ..RACE
    },
    Case {
        name: "top_p_t10",
        about: "top_p 0.95 at temperature 10, flat",
        temperature: 10.0,
        ..TOP_P
    },
    Case {
        name: "temperature_t10",
        about: "No cut at temperature 10, flat",
        temperature: 10.0,
        ..PLAIN
    },
    Case {
        name: "constant_top_k_top_p",
        about: "top_k 50, top_p 0.95 over rows of one value",
        values: CONSTANT,
        ..TOP_K_TOP_P
    },
    Case {
        name: "constant_top_p",
        about: "top_p 0.95 over rows of one value",
        values: CONSTANT,
        ..TOP_P
    },
    Case {
        name: "constant_temperature",
        about: "No cut over rows of one value",
        values: CONSTANT,
        ..PLAIN
    },
    Case {
        name: "normal_top_k_top_p",
        about: "top_k 50, top_p 0.95 over rows from a normal distribution, at temperature 1",
        values: NORMAL,
        temperature: 1.0,
        ..TOP_K_TOP_P
    },
    Case {
        name: "normal_top_p",
        about: "top_p 0.95 over rows from a normal distribution, at temperature 1",
        values: NORMAL,
        temperature: 1.0,
        ..TOP_P
    },
    Case {
        name: "normal_temperature",
        about: "No cut over rows from a normal distribution, at temperature 1",
        values: NORMAL,
        temperature: 1.0,
        ..PLAIN
    },
    Case {
        name: "bitmask",
        about: "top_k 50, top_p 0.95 under a bitmask that half of the tokens are in",
        mask: true,
        ..TOP_K_TOP_P
    },
    Case {
        name: "adjusted",
        about: "top_k 50, top_p 0.95 under the same bitmask, with 64 biases",
        mask: true,
        biases: BIASES,
        ..TOP_K_TOP_P
    },
    Case {
        name: "adjusted_temperature",
        about: "No cut, under the same bitmask, with 64 biases",
        mask: true,
        biases: BIASES,
        ..PLAIN
    },
    Case {
        name: "logprobs_top20",
        about: "top_p 0.95, with raw logprob, rank and entropy, and the first 20 tokens",
        top_logprobs: 20,
        ..TOP_P
    },
    Case {
        name: "beam_step",
        about: "A step of 64 beams: the first 128 continuations of each row",
        temperature: 0.0,
        continuations: 128,
        ..PLAIN
    },
    Case {
        name: "beam_step_2112",
        about: "A step of 64 beams with 32 tokens that end a text: the first 2,112 continuations of each row",
        temperature: 0.0,
        continuations: 2112,
        ..PLAIN
    },
    Case { name: "top_n_sigma", about: "top_n_sigma 1", top_n_sigma: 1.0, ..PLAIN },
    Case { name: "typical_p", about: "typical_p 0.95", typical_p: 0.95, ..PLAIN },
    Case { name: "eta_cutoff", about: "eta_cutoff 0.001", eta_cutoff: 0.001, ..PLAIN },
    Case { name: "epsilon_cutoff", about: "epsilon_cutoff 0.001", epsilon_cutoff: 0.001, ..PLAIN },
    Case {
        name: "normal_typical_p",
        about: "typical_p 0.95 over rows from a normal distribution, at temperature 1",
        values: NORMAL,
        temperature: 1.0,
        typical_p: 0.95,
        ..PLAIN
    },
    Case {
        name: "xtc",
        about: "min_p 0.02, XTC that always acts, from 0.1 on",
        min_p: 0.02,
        xtc_threshold: Some(0.1),
        ..PLAIN
    },
    Case {
        name: "xtc_temperature",
        about: "No other cut than XTC, which always acts, from 0.1 on",
        xtc_threshold: Some(0.1),
        ..PLAIN
    },
    Case {
        name: "verify_rejection",
        about: "top_p 0.95, 4 of 5 rows with a draft that was certain, by rejection",
        drafts: Some(Drafts::Point),
        ..TOP_P
    },
    Case {
        name: "verify_rejection_rows",
        about: "The same with drafts from rows of their own",
        drafts: Some(Drafts::Rows),
        ..TOP_P
    },
    Case {
        name: "verify_temperature",
        about: "No cut, 4 of 5 rows with a draft that was certain, by rejection",
        drafts: Some(Drafts::Point),
        ..PLAIN
    },
    Case {
        name: "verify_temperature_rows",
        about: "The same with drafts from rows of their own",
        drafts: Some(Drafts::Rows),
        ..PLAIN
    },
    Case {
        name: "refused_temperature_rows",
        about: "The same with drafts that are refused",
        drafts: Some(Drafts::Refused),
        ..PLAIN
    },
];

impl Case {
    /// Its parameters.
    pub fn params(&self) -> ParamsSpec {
        let &Self { temperature, top_k, top_p, min_p, draws, draw_rule, .. } = self;
        let usual = ParamsSpec::default();
        ParamsSpec {
            temperature,
            top_k,
            top_p,
            min_p,
            draws,
            draw_rule,
            top_n_sigma: self.top_n_sigma,
            typical_p: self.typical_p,
            eta_cutoff: self.eta_cutoff,
            epsilon_cutoff: self.epsilon_cutoff,
            xtc_probability: if self.xtc_threshold.is_some() { 1.0 } else { 0.0 },
            xtc_threshold: self.xtc_threshold.unwrap_or(usual.xtc_threshold),
            ..usual
        }
    }

    /// What is asked of each row beside its tokens.
    pub fn inspect(&self) -> Option<Inspect> {
        let (top, count) = (self.top_logprobs, self.continuations);
        let going_on = Continue { count, temperature: 1.0, normaliser: Normaliser::Adjusted };
        (top > 0 || count > 0).then(|| Inspect {
            of: [top > 0, false, false],
            top,
            continuations: (count > 0).then_some(going_on),
            ..Inspect::default()
        })
    }

    /// What is done to single logits of its rows, which have so many tokens.
    pub fn adjustments(&self, vocab_size: u32) -> Option<Adjustments> {
        let biases = self.biases.min(vocab_size);
        if !self.mask && biases == 0 {
            return None;
        }
        // Bits and tokens that are spread like those of nobody in particular.
        let mixed =
            |i: u32| i.wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b).rotate_left(13);
        let words = if self.mask { vocab_size.div_ceil(32) } else { 0 };
        let bias = |i: u32| (i * (vocab_size / biases), (i % 9) as f32 * 0.5 - 2.0);
        let spec = AdjustmentsSpec {
            allowed_bitmask: (0..words).map(mixed).collect(),
            logit_bias: (0..biases).map(bias).collect(),
            ..Default::default()
        };
        Some(spec.parse(vocab_size, Limits::default()).expect("tokens of the row"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own_and_is_valid() {
        for (i, case) in CASES.iter().enumerate() {
            assert!(CASES[..i].iter().all(|other| other.name != case.name), "{}", case.name);
            assert!(case.params().parse(|| 0).is_ok(), "{}", case.name);
        }
    }
}
