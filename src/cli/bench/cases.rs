//! What is timed.

use clap::ValueEnum;
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec, Limits};
use logitd_core::inspection::Inspect;
use logitd_core::params::{DrawRule, ParamsSpec};

/// A set of parameters over rows of some values. The temperature is 0.8 where it is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Case {
    /// Temperature 0
    Greedy,
    /// top_k 50, top_p 0.95
    TopKTopP,
    /// top_p 0.95
    TopP,
    /// No cut
    Temperature,
    /// min_p 0.05
    MinP,
    /// top_k 1000
    #[value(name = "top_k_1000")]
    TopK1000,
    /// top_k 20000, top_p 0.95
    #[value(name = "top_k_20000_top_p")]
    TopK20000TopP,
    /// top_p 0.95 at temperature 1.5: nuclei of a few thousand tokens
    #[value(name = "top_p_t1.5")]
    TopPWarm,
    /// top_p 0.95 at temperature 3: nuclei of a third of the row
    #[value(name = "top_p_t3")]
    TopPHot,
    /// No cut, 1,024 draws a row
    #[value(name = "draws_1024")]
    Draws,
    /// top_k 50, top_p 0.95, draws by race
    RaceTopK,
    /// No cut, draws by race
    Race,
    /// No cut at temperature 10, flat, draws by race
    #[value(name = "race_t10")]
    RaceFlat,
    /// top_p 0.95 at temperature 10, flat
    #[value(name = "top_p_t10")]
    TopPFlat,
    /// No cut at temperature 10, flat
    #[value(name = "temperature_t10")]
    TemperatureFlat,
    /// top_k 50, top_p 0.95 over rows of one value
    ConstantTopKTopP,
    /// top_p 0.95 over rows of one value
    ConstantTopP,
    /// No cut over rows of one value
    ConstantTemperature,
    /// top_k 50, top_p 0.95 over rows from a normal distribution, at temperature 1
    NormalTopKTopP,
    /// top_p 0.95 over rows from a normal distribution, at temperature 1
    NormalTopP,
    /// No cut over rows from a normal distribution, at temperature 1
    NormalTemperature,
    /// top_k 50, top_p 0.95 under a bitmask that half of the tokens are in
    Bitmask,
    /// top_k 50, top_p 0.95 under the same bitmask, with 64 biases
    Adjusted,
    /// No cut, under the same bitmask, with 64 biases
    AdjustedTemperature,
    /// top_p 0.95, with raw logprob, rank and entropy, and the first 20 tokens
    #[value(name = "logprobs_top20")]
    LogprobsTop20,
}

/// Biases of a case that has some.
const BIASES: u32 = 64;

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

impl Case {
    /// Every case, in the order of the report.
    pub const ALL: &[Self] = &[
        Self::Greedy,
        Self::TopKTopP,
        Self::TopP,
        Self::Temperature,
        Self::MinP,
        Self::TopK1000,
        Self::TopK20000TopP,
        Self::TopPWarm,
        Self::TopPHot,
        Self::Draws,
        Self::RaceTopK,
        Self::Race,
        Self::RaceFlat,
        Self::TopPFlat,
        Self::TemperatureFlat,
        Self::ConstantTopKTopP,
        Self::ConstantTopP,
        Self::ConstantTemperature,
        Self::NormalTopKTopP,
        Self::NormalTopP,
        Self::NormalTemperature,
        Self::Bitmask,
        Self::Adjusted,
        Self::AdjustedTemperature,
        Self::LogprobsTop20,
    ];

    /// The name used by flags and reports.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no case is hidden").get_name().to_owned()
    }

    /// What its rows are made of.
    pub fn values(self) -> Values {
        match self {
            Self::ConstantTopKTopP | Self::ConstantTopP | Self::ConstantTemperature => {
                Values::Constant
            }
            Self::NormalTopKTopP | Self::NormalTopP | Self::NormalTemperature => Values::Normal,
            _ => Values::Real,
        }
    }

    /// Its parameters.
    pub fn params(self) -> ParamsSpec {
        let at = |temperature| ParamsSpec { temperature, ..ParamsSpec::default() };
        let top_p = |temperature| ParamsSpec { top_p: 0.95, ..at(temperature) };
        let top_k = |top_k, temperature| ParamsSpec { top_k, ..top_p(temperature) };
        let race = |spec| ParamsSpec { draw_rule: DrawRule::Race, ..spec };
        match self {
            Self::Greedy => at(0.0),
            Self::TopKTopP | Self::ConstantTopKTopP | Self::Bitmask | Self::Adjusted => {
                top_k(50, 0.8)
            }
            Self::TopP | Self::ConstantTopP | Self::LogprobsTop20 => top_p(0.8),
            Self::Temperature | Self::ConstantTemperature | Self::AdjustedTemperature => at(0.8),
            Self::MinP => ParamsSpec { min_p: 0.05, ..at(0.8) },
            Self::TopK1000 => ParamsSpec { top_k: 1000, ..at(0.8) },
            Self::TopK20000TopP => top_k(20_000, 0.8),
            Self::TopPWarm => top_p(1.5),
            Self::TopPHot => top_p(3.0),
            Self::Draws => ParamsSpec { draws: 1024, ..at(0.8) },
            Self::RaceTopK => race(top_k(50, 0.8)),
            Self::Race => race(at(0.8)),
            Self::RaceFlat => race(at(10.0)),
            Self::TopPFlat => top_p(10.0),
            Self::TemperatureFlat => at(10.0),
            Self::NormalTopKTopP => top_k(50, 1.0),
            Self::NormalTopP => top_p(1.0),
            Self::NormalTemperature => at(1.0),
        }
    }

    /// What is asked of each row beside its tokens.
    pub fn inspect(self) -> Option<Inspect> {
        let raw = [true, false, false];
        let top20 = Inspect { of: raw, top: 20, ..Inspect::default() };
        (self == Self::LogprobsTop20).then_some(top20)
    }

    /// What is done to single logits of its rows, which have so many tokens.
    pub fn adjustments(self, vocab_size: u32) -> Option<Adjustments> {
        let biases = match self {
            Self::Bitmask => 0,
            Self::Adjusted | Self::AdjustedTemperature => BIASES.min(vocab_size),
            _ => return None,
        };
        // Bits and tokens that are spread like those of nobody in particular.
        let mixed =
            |i: u32| i.wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b).rotate_left(13);
        let bias = |i: u32| (i * (vocab_size / biases), (i % 9) as f32 * 0.5 - 2.0);
        let spec = AdjustmentsSpec {
            allowed_bitmask: (0..vocab_size.div_ceil(32)).map(mixed).collect(),
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
    fn every_case_is_listed_once_and_valid() {
        assert_eq!(Case::ALL, Case::value_variants());
        for case in Case::ALL {
            assert!(case.params().parse(|| 0).is_ok(), "{}", case.name());
        }
    }
}
