//! Sampling parameters, parsed: a [`SamplingParams`] that exists is valid.
//!
//! Outside (a message, a flag, a file) parameters are a [`ParamsSpec`]: what somebody asked for. Its
//! [`parse`](ParamsSpec::parse) is the only way to a [`SamplingParams`], and the place where ranges are
//! checked; numbers that come as text or in double precision are compared with the same ranges before they are
//! rounded, in [`written`] and [`numbers`]. What is said of a parameter wherever parameters are read, shown or listed stands in [`FIELDS`].

pub mod cuts;
pub mod numbers;
pub mod written;

pub use crate::arithmetic::draw::DrawRule;
use crate::arithmetic::head;
use crate::arithmetic::plan::Plan;
use crate::arithmetic::stages::Stage;
pub use cuts::{Adaptive, Cuts, Dynatemp, Mirostat, Profile, Xtc};
use std::fmt;
use written::Decimal;

/// Temperatures that are not greedy, both ends included.
pub const TEMPERATURE_RANGE: (f32, f32) = (1e-30, 1e4);
/// The most draws one row can be asked for.
pub const DRAWS_MAX: u32 = 1024;
/// The longest n-gram that [`no_repeat_ngram`](ParamsSpec::no_repeat_ngram) can ban.
pub const NGRAM_MAX: u32 = 64;

/// The parameters that adjust single logits, by their names in [`FIELDS`].
pub const COEFFICIENTS: [&str; 9] = [
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "no_repeat_ngram",
    "min_tokens",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_last_n",
];

/// Every parameter, in the API's order.
pub static FIELDS: [Field; 36] = [
    Field {
        name: "temperature",
        symbol: "T",
        about: "0 is greedy: the most likely token. Otherwise 1e-30 to 10000",
        allowed: "0 (greedy), or 1e-30 to 10000",
        kind: Kind::Real {
            contains: |x| x == 0.0 || (TEMPERATURE_RANGE.0..=TEMPERATURE_RANGE.1).contains(&x),
            contains_written: |x| x.is_zero() || (x.is_at_least(-30) && !x.is_above(4)),
        },
        place: |spec| Place::Real(&mut spec.temperature),
    },
    Field {
        name: "top_k",
        symbol: "K",
        about: "Keep the first K tokens, exactly K: 0 to 4294967295. 0 is off",
        allowed: "whole numbers, 0 (off) to 4294967295",
        kind: Kind::Whole { least: 0, most: u32::MAX as u64 },
        place: |spec| Place::Count(&mut spec.top_k),
    },
    Field {
        name: "top_p",
        symbol: "P",
        about: "Keep the shortest prefix with this share of what top-k left: above 0, up to 1. 1 is off. An f32: \
                0.1 is 0.100000001, so of ten equal logits it keeps two",
        allowed: "above 0, up to 1 (1 disables it)",
        kind: Kind::Real {
            contains: |x| x > 0.0 && x <= 1.0,
            contains_written: |x| !x.is_zero() && !x.is_above(0),
        },
        place: |spec| Place::Real(&mut spec.top_p),
    },
    Field {
        name: "min_p",
        symbol: "P",
        about: "Keep tokens at least this likely relative to the first: 0 to 1. 0 is off",
        allowed: "0 to 1 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=1.0).contains(&x),
            contains_written: |x| !x.is_above(0),
        },
        place: |spec| Place::Real(&mut spec.min_p),
    },
    Field {
        name: "seed",
        symbol: "N",
        about: "Key of the random stream, for every row the same: 0 to 2^64 - 1 [default: one a row below 2^53, \
                taken from the system and shown]",
        allowed: "whole numbers, 0 to 18446744073709551615",
        kind: Kind::Whole { least: 0, most: u64::MAX },
        place: |spec| Place::Seed(&mut spec.seed),
    },
    Field {
        name: "position",
        symbol: "N",
        about: "The token's index in its sequence: 0 to 2^64 - 1",
        allowed: "whole numbers, 0 to 18446744073709551615",
        kind: Kind::Whole { least: 0, most: u64::MAX },
        place: |spec| Place::Index(&mut spec.position),
    },
    Field {
        name: "draws",
        symbol: "N",
        about: "Independent draws from each row: 1 to 1024",
        allowed: "whole numbers, 1 to 1024",
        kind: Kind::Whole { least: 1, most: DRAWS_MAX as u64 },
        place: |spec| Place::Count(&mut spec.draws),
    },
    Field {
        name: "draw_rule",
        symbol: "RULE",
        about: "How draws follow from random bits: cumulative, or race, under which the token changes less where \
                logits change a little",
        allowed: "cumulative, race",
        kind: Kind::Name { names: &["cumulative", "race"], prefix: "DRAW_RULE_" },
        place: |spec| Place::Rule(&mut spec.draw_rule),
    },
    Field {
        name: "draft",
        symbol: "BOOL",
        about: "Draw a draft for verification: with random bits of its own, independent of those of the token at the \
                same position: true or false",
        allowed: "true, false",
        kind: Kind::Flag,
        place: |spec| Place::Flag(&mut spec.draft),
    },
    Field {
        name: "repetition_penalty",
        symbol: "R",
        about: "Divide the logits above 0 of tokens that the history holds by this, and multiply the others: 0.01 to \
                100. 1 is off",
        allowed: "0.01 to 100 (1 disables it)",
        kind: Kind::Real {
            contains: |x| (0.01..=100.0).contains(&x),
            contains_written: |x| x.is_at_least(-2) && !x.is_above(2),
        },
        place: |spec| Place::Real(&mut spec.repetition_penalty),
    },
    Field {
        name: "frequency_penalty",
        symbol: "F",
        about: "Take this off the logit of a token for each time that the output holds it: -100 to 100. 0 is off",
        allowed: "-100 to 100 (0 disables it)",
        kind: Kind::Signed { power_max: 2 },
        place: |spec| Place::Real(&mut spec.frequency_penalty),
    },
    Field {
        name: "presence_penalty",
        symbol: "P",
        about: "Take this off the logit of a token that the output holds: -100 to 100. 0 is off",
        allowed: "-100 to 100 (0 disables it)",
        kind: Kind::Signed { power_max: 2 },
        place: |spec| Place::Real(&mut spec.presence_penalty),
    },
    Field {
        name: "no_repeat_ngram",
        symbol: "N",
        about: "Ban tokens that would end N tokens which the history holds already: 1 to 64. 0 is off",
        allowed: "whole numbers, 0 (off) to 64",
        kind: Kind::Whole { least: 0, most: NGRAM_MAX as u64 },
        place: |spec| Place::Count(&mut spec.no_repeat_ngram),
    },
    Field {
        name: "min_tokens",
        symbol: "N",
        about: "Ban the row's stop_ids until the output has N tokens: 0 to 4294967295. 0 is off",
        allowed: "whole numbers, 0 (off) to 4294967295",
        kind: Kind::Whole { least: 0, most: u32::MAX as u64 },
        place: |spec| Place::Count(&mut spec.min_tokens),
    },
    Field {
        name: "dry_multiplier",
        symbol: "M",
        about: "DRY: take M * dry_base^(length - dry_allowed_length) off the logit of a token that would go on with a \
                repetition of that length: 0 to 100. 0 is off",
        allowed: "0 to 100 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=100.0).contains(&x),
            contains_written: |x| !x.is_above(2),
        },
        place: |spec| Place::Real(&mut spec.dry_multiplier),
    },
    Field {
        name: "dry_base",
        symbol: "B",
        about: "DRY's factor for each token of the repetition: 1 to 16",
        allowed: "1 to 16",
        kind: Kind::Real {
            contains: |x| (1.0..=16.0).contains(&x),
            contains_written: |x| x.is_at_least(0) && !x.is_above_digits("16", 1),
        },
        place: |spec| Place::Real(&mut spec.dry_base),
    },
    Field {
        name: "dry_allowed_length",
        symbol: "N",
        about: "DRY leaves shorter repetitions alone: 0 to 1024",
        allowed: "whole numbers, 0 to 1024",
        kind: Kind::Whole { least: 0, most: 1024 },
        place: |spec| Place::Count(&mut spec.dry_allowed_length),
    },
    Field {
        name: "dry_last_n",
        symbol: "N",
        about: "DRY looks at the last N tokens of the history: 0 to 1048576. 0 is all",
        allowed: "whole numbers, 0 (all) to 1048576",
        kind: Kind::Whole { least: 0, most: 1 << 20 },
        place: |spec| Place::Count(&mut spec.dry_last_n),
    },
    Field {
        name: "profile",
        symbol: "NAME",
        about: "Whose order of cuts, and rules for equal logits: logitd, hf, vllm, sglang, llamacpp",
        allowed: "logitd, hf, vllm, sglang, llamacpp",
        kind: Kind::Name {
            names: &["logitd", "hf", "vllm", "sglang", "llamacpp"],
            prefix: "PROFILE_",
        },
        place: |spec| Place::Profile(&mut spec.profile),
    },
    Field {
        name: "top_n_sigma",
        symbol: "S",
        about: "Keep tokens whose logit is within S standard deviations of the largest: 0 to 100. 0 is off",
        allowed: "0 to 100 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=100.0).contains(&x),
            contains_written: |x| !x.is_above(2),
        },
        place: |spec| Place::Real(&mut spec.top_n_sigma),
    },
    Field {
        name: "top_h",
        symbol: "H",
        about: "Keep the first tokens with this share of the entropy of the first 100: 0 to 1. 0 is off",
        allowed: "0 to 1 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=1.0).contains(&x),
            contains_written: |x| !x.is_above(0),
        },
        place: |spec| Place::Real(&mut spec.top_h),
    },
    Field {
        name: "top_a",
        symbol: "A",
        about: "Keep tokens at least as likely as A times the square of the largest probability: 0 to 1. 0 is off",
        allowed: "0 to 1 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=1.0).contains(&x),
            contains_written: |x| !x.is_above(0),
        },
        place: |spec| Place::Real(&mut spec.top_a),
    },
    Field {
        name: "epsilon_cutoff",
        symbol: "E",
        about: "Keep tokens at least this likely: 0 to below 1. 0 is off",
        allowed: "0 to below 1 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..1.0).contains(&x),
            contains_written: |x| !x.is_at_least(0),
        },
        place: |spec| Place::Real(&mut spec.epsilon_cutoff),
    },
    Field {
        name: "eta_cutoff",
        symbol: "E",
        about: "Keep tokens at least this likely, or less where the entropy is high: 0 to below 1. 0 is off",
        allowed: "0 to below 1 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..1.0).contains(&x),
            contains_written: |x| !x.is_at_least(0),
        },
        place: |spec| Place::Real(&mut spec.eta_cutoff),
    },
    Field {
        name: "typical_p",
        symbol: "P",
        about: "Keep the tokens nearest to the mean surprisal that have this share of the mass: above 0, up to 1. 1 is off",
        allowed: "above 0, up to 1 (1 disables it)",
        kind: Kind::Real {
            contains: |x| x > 0.0 && x <= 1.0,
            contains_written: |x| !x.is_zero() && !x.is_above(0),
        },
        place: |spec| Place::Real(&mut spec.typical_p),
    },
    Field {
        name: "mirostat_tau",
        symbol: "T",
        about: "Mirostat 2: the surprisal to aim at, in bits: 0 to 100. 0 is off",
        allowed: "0 to 100 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=100.0).contains(&x),
            contains_written: |x| !x.is_above(2),
        },
        place: |spec| Place::Real(&mut spec.mirostat_tau),
    },
    Field {
        name: "mirostat_eta",
        symbol: "E",
        about: "Mirostat 2: how fast its state follows: 0 to 10",
        allowed: "0 to 10",
        kind: Kind::Real {
            contains: |x| (0.0..=10.0).contains(&x),
            contains_written: |x| !x.is_above(1),
        },
        place: |spec| Place::Real(&mut spec.mirostat_eta),
    },
    Field {
        name: "mirostat_mu",
        symbol: "M",
        about: "Mirostat 2: its state, as the answer before gave it back [default: twice mirostat_tau]",
        allowed: "finite numbers",
        kind: Kind::Finite,
        place: |spec| Place::Optional(&mut spec.mirostat_mu),
    },
    Field {
        name: "xtc_probability",
        symbol: "P",
        about: "XTC: how likely it is to act on a row, dropping likely tokens: 0 to 1. 0 is off",
        allowed: "0 to 1 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=1.0).contains(&x),
            contains_written: |x| !x.is_above(0),
        },
        place: |spec| Place::Real(&mut spec.xtc_probability),
    },
    Field {
        name: "xtc_threshold",
        symbol: "P",
        about: "XTC: of the tokens at least this likely, only the least likely stays: above 0, up to 1",
        allowed: "above 0, up to 1",
        kind: Kind::Real {
            contains: |x| x > 0.0 && x <= 1.0,
            contains_written: |x| !x.is_zero() && !x.is_above(0),
        },
        place: |spec| Place::Real(&mut spec.xtc_threshold),
    },
    Field {
        name: "adaptive_target",
        symbol: "P",
        about: "Adaptive-p: the probability of drawn tokens to aim at: 0 to 1 [default: off]",
        allowed: "0 to 1",
        kind: Kind::Real {
            contains: |x| (0.0..=1.0).contains(&x),
            contains_written: |x| !x.is_above(0),
        },
        place: |spec| Place::Optional(&mut spec.adaptive_target),
    },
    Field {
        name: "adaptive_decay",
        symbol: "D",
        about: "Adaptive-p: how much earlier tokens count: 0 to 0.99",
        allowed: "0 to 0.99",
        kind: Kind::Real {
            contains: |x| (0.0..=0.99).contains(&x),
            contains_written: |x| !x.is_above_digits("99", -1),
        },
        place: |spec| Place::Real(&mut spec.adaptive_decay),
    },
    Field {
        name: "adaptive_sum",
        symbol: "S",
        about: "Adaptive-p: its state, as the answer before gave it back [default: adaptive_target / (1 - adaptive_decay)]",
        allowed: "finite numbers",
        kind: Kind::Finite,
        place: |spec| Place::Optional(&mut spec.adaptive_sum),
    },
    Field {
        name: "adaptive_weight",
        symbol: "W",
        about: "Adaptive-p: its state, as the answer before gave it back [default: 1 / (1 - adaptive_decay)]",
        allowed: "finite numbers, 0 or more",
        kind: Kind::Real {
            contains: |x| x >= 0.0 && x.is_finite(),
            contains_written: |x| x.is_finite_f32(),
        },
        place: |spec| Place::Optional(&mut spec.adaptive_weight),
    },
    Field {
        name: "dynatemp_range",
        symbol: "R",
        about: "Dynamic temperature: how far the temperature goes down and up with the entropy: 0 to 100. 0 is off",
        allowed: "0 to 100 (0 disables it)",
        kind: Kind::Real {
            contains: |x| (0.0..=100.0).contains(&x),
            contains_written: |x| !x.is_above(2),
        },
        place: |spec| Place::Real(&mut spec.dynatemp_range),
    },
    Field {
        name: "dynatemp_exponent",
        symbol: "X",
        about: "Dynamic temperature: the power of the normalised entropy: 0.01 to 100",
        allowed: "0.01 to 100",
        kind: Kind::Real {
            contains: |x| (0.01..=100.0).contains(&x),
            contains_written: |x| x.is_at_least(-2) && !x.is_above(2),
        },
        place: |spec| Place::Real(&mut spec.dynatemp_exponent),
    },
];

/// A parameter: its name, what it may be, and where it stands in a [`ParamsSpec`].
#[derive(Debug)]
pub struct Field {
    /// Its name in the API.
    pub name: &'static str,
    /// What stands for its value in a usage.
    pub symbol: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// What it may be, in words.
    pub allowed: &'static str,
    kind: Kind,
    place: fn(&mut ParamsSpec) -> Place<'_>,
}

/// What a parameter may be.
#[derive(Debug)]
enum Kind {
    /// An f32, as a value and as it is written.
    Real { contains: fn(f32) -> bool, contains_written: fn(&Decimal) -> bool },
    /// An f32 of either sign, up to `10^power_max` away from 0.
    Signed { power_max: u8 },
    /// Any f32 but infinities and NaN.
    Finite,
    /// A whole number, both ends included.
    Whole { least: u64, most: u64 },
    /// One of some names, in letters of either case; the API's enum has the prefix before each.
    Name { names: &'static [&'static str], prefix: &'static str },
    /// True or false.
    Flag,
}

impl Kind {
    /// Whether a parameter of this kind may have the value.
    fn contains(&self, value: Value) -> bool {
        match (self, value) {
            (Self::Real { contains, .. }, Value::Real(x)) => contains(x),
            (Self::Signed { power_max }, Value::Real(x)) => {
                x.abs() <= 10f32.powi(i32::from(*power_max))
            }
            (Self::Finite, Value::Real(x)) => x.is_finite(),
            (Self::Whole { least, most }, Value::Whole(n)) => (*least..=*most).contains(&n),
            (Self::Name { names, .. }, Value::Name(name)) => names.contains(&name),
            (Self::Flag, Value::Flag(_)) => true,
            (_, value) => value == Value::Unset,
        }
    }
}

/// Where a parameter stands.
enum Place<'a> {
    Real(&'a mut f32),
    Count(&'a mut u32),
    Index(&'a mut u64),
    Seed(&'a mut Option<u64>),
    Optional(&'a mut Option<f32>),
    Rule(&'a mut DrawRule),
    Profile(&'a mut Profile),
    Flag(&'a mut bool),
}

/// What a parameter is set to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A number that need not be whole.
    Real(f32),
    /// A whole number.
    Whole(u64),
    /// One of the names that the parameter may have.
    Name(&'static str),
    /// True or false.
    Flag(bool),
    /// Nothing: a seed that is left to whoever samples, or a control that is off or at its beginning.
    Unset,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real(x) => f.write_str(&shortest(*x)),
            Self::Whole(n) => n.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Flag(is_set) => is_set.fmt(f),
            Self::Unset => f.write_str("none"),
        }
    }
}

impl Field {
    /// The parameter of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FIELDS.iter().find(|field| field.name == name)
    }

    /// The parameters that belong together, by what their names begin with: `dry` of `dry_base`.
    pub fn of_group(group: &str) -> impl Iterator<Item = &'static Self> {
        FIELDS.iter().filter(move |field| {
            field.name.strip_prefix(group).is_some_and(|rest| rest.starts_with('_'))
        })
    }

    /// Whether it is true or false.
    pub fn is_flag(&self) -> bool {
        matches!(self.kind, Kind::Flag)
    }

    /// The names that it can be set to; none where it is a number.
    pub fn names(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Name { names, .. } => names,
            _ => &[],
        }
    }

    /// The name of the API's enum that stands for one of [`names`](Self::names): `DRAW_RULE_RACE` of `race`.
    pub fn enum_name(&self, name: &str) -> Option<String> {
        match self.kind {
            Kind::Name { prefix, .. } => Some(format!("{prefix}{}", name.to_uppercase())),
            _ => None,
        }
    }

    /// What it is set to.
    pub fn get(&self, mut spec: ParamsSpec) -> Value {
        match (self.place)(&mut spec) {
            Place::Real(x) => Value::Real(*x),
            Place::Count(n) => Value::Whole(u64::from(*n)),
            Place::Index(n) => Value::Whole(*n),
            Place::Seed(n) => n.map_or(Value::Unset, Value::Whole),
            Place::Optional(x) => x.map_or(Value::Unset, Value::Real),
            Place::Rule(rule) => Value::Name(rule.name()),
            Place::Profile(profile) => Value::Name(profile.name()),
            Place::Flag(is_set) => Value::Flag(*is_set),
        }
    }

    /// Sets it.
    ///
    /// # Panics
    /// If the value is none of this parameter: a fraction for a count, another name, or nothing for what cannot be
    /// left out.
    pub fn set(&self, spec: &mut ParamsSpec, value: Value) {
        match ((self.place)(spec), value) {
            (Place::Real(x), Value::Real(value)) => *x = value,
            (Place::Count(n), Value::Whole(value)) => *n = value.try_into().expect("32 bits"),
            (Place::Index(n), Value::Whole(value)) => *n = value,
            (Place::Seed(n), Value::Whole(value)) => *n = Some(value),
            (Place::Seed(n), Value::Unset) => *n = None,
            (Place::Optional(x), Value::Real(value)) => *x = Some(value),
            (Place::Optional(x), Value::Unset) => *x = None,
            (Place::Rule(rule), Value::Name(name)) => {
                *rule = DrawRule::named(name).expect("one of the names");
            }
            (Place::Profile(profile), Value::Name(name)) => {
                *profile = Profile::named(name).expect("one of the names");
            }
            (Place::Flag(is_set), Value::Flag(value)) => *is_set = value,
            (_, value) => panic!("{} is set to {value:?}", self.name),
        }
    }

    /// Sets it to what it is where nobody says anything.
    pub fn reset(&self, spec: &mut ParamsSpec) {
        self.set(spec, self.get(ParamsSpec::default()));
    }

    fn check(&'static self, spec: ParamsSpec) -> Result<(), ParamsError> {
        let value = self.get(spec);
        if self.kind.contains(value) { Ok(()) } else { Err(self.refuse(value.to_string())) }
    }

    /// The error of a value that the parameter cannot have.
    pub fn refuse(&'static self, value: String) -> ParamsError {
        ParamsError { field: self.name, value, allowed: self.allowed }
    }
}

/// Parameters as somebody asked for them, with the defaults of everything left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamsSpec {
    /// 0 is greedy: the first token of the total order. Otherwise 1e-30 to 1e4. Default 1.
    pub temperature: f32,
    /// Keep the first k tokens. 0 disables; above the vocabulary it is the vocabulary. Default 0.
    pub top_k: u32,
    /// Keep the shortest prefix with this share of the mass that top_k left: (0, 1]. Default 1, off. An f32:
    /// 0.1 is 0.100000001, so of ten equal logits it keeps two.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the first: [0, 1]. Default 0, off.
    pub min_p: f32,
    /// Key of the random stream. Left out, the server draws one and returns it.
    pub seed: Option<u64>,
    /// The token's index in its sequence; with the seed it identifies the draw. Default 0.
    pub position: u64,
    /// How many independent draws to take from the row: 1 to 1024. Default 1.
    pub draws: u32,
    /// How they follow from random bits. Default cumulative.
    pub draw_rule: DrawRule,
    /// Whether a draft is drawn, with random bits of its own. Default false.
    pub draft: bool,
    /// Divides the logits above 0 of tokens in the history, multiplies the others: [0.01, 100]. Default 1, off.
    pub repetition_penalty: f32,
    /// Taken off a token's logit for each time the output holds it: [-100, 100]. Default 0, off.
    pub frequency_penalty: f32,
    /// Taken off the logit of a token that the output holds: [-100, 100]. Default 0, off.
    pub presence_penalty: f32,
    /// No n-gram of this length occurs twice: up to [`NGRAM_MAX`]. Default 0, off.
    pub no_repeat_ngram: u32,
    /// No stop token before the output has so many. Default 0, off.
    pub min_tokens: u32,
    /// DRY's penalty of a repetition of the allowed length: [0, 100]. Default 0, off.
    pub dry_multiplier: f32,
    /// DRY's factor for each further token: [1, 16]. Default 1.75.
    pub dry_base: f32,
    /// Shorter repetitions are nothing to DRY: up to 1024. Default 2.
    pub dry_allowed_length: u32,
    /// How many of the history's last tokens DRY looks at; 0 is all. Up to 2^20. Default 0.
    pub dry_last_n: u32,
    /// Whose order of cuts it is, and whose rules for equal logits. Default logitd.
    pub profile: Profile,
    /// Keep tokens whose logit is within so many standard deviations of the largest: [0, 100]. Default 0, off.
    pub top_n_sigma: f32,
    /// Keep the first tokens with this share of the entropy of the first 100: [0, 1]. Default 0, off.
    pub top_h: f32,
    /// Keep tokens at least as likely as this times the square of the largest probability: [0, 1]. Default 0, off.
    pub top_a: f32,
    /// Keep tokens at least this likely: [0, 1). Default 0, off.
    pub epsilon_cutoff: f32,
    /// Keep tokens at least this likely, or less where the entropy is high: [0, 1). Default 0, off.
    pub eta_cutoff: f32,
    /// Keep the tokens nearest to the mean surprisal that have this share of the mass: (0, 1]. Default 1, off.
    pub typical_p: f32,
    /// Mirostat 2's surprisal to aim at, in bits: [0, 100]. Default 0, off.
    pub mirostat_tau: f32,
    /// How fast mirostat's state follows: [0, 10]. Default 0.1.
    pub mirostat_eta: f32,
    /// Mirostat's state, finite. Left out, it is twice tau.
    pub mirostat_mu: Option<f32>,
    /// How likely XTC is to act on a row: [0, 1]. Default 0, off.
    pub xtc_probability: f32,
    /// Of tokens at least this likely, XTC leaves the least likely: (0, 1]. Default 0.1.
    pub xtc_threshold: f32,
    /// Adaptive-p's probability to aim at: [0, 1]. Left out, it is off.
    pub adaptive_target: Option<f32>,
    /// How much earlier tokens count for adaptive-p: [0, 0.99]. Default 0.9.
    pub adaptive_decay: f32,
    /// Adaptive-p's state, finite. Left out, it is `target / (1 - decay)`.
    pub adaptive_sum: Option<f32>,
    /// Adaptive-p's state, finite and not below 0. Left out, it is `1 / (1 - decay)`.
    pub adaptive_weight: Option<f32>,
    /// How far the temperature goes down and up with the entropy: [0, 100]. Default 0, off.
    pub dynatemp_range: f32,
    /// The power of the normalised entropy: [0.01, 100]. Default 1.
    pub dynatemp_exponent: f32,
}

impl Default for ParamsSpec {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl ParamsSpec {
    /// What a parameter is that nobody names.
    pub const DEFAULT: Self = Self {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: None,
        position: 0,
        draws: 1,
        draw_rule: DrawRule::Cumulative,
        draft: false,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        no_repeat_ngram: 0,
        min_tokens: 0,
        dry_multiplier: 0.0,
        dry_base: 1.75,
        dry_allowed_length: 2,
        dry_last_n: 0,
        profile: Profile::Logitd,
        top_n_sigma: 0.0,
        top_h: 0.0,
        top_a: 0.0,
        epsilon_cutoff: 0.0,
        eta_cutoff: 0.0,
        typical_p: 1.0,
        mirostat_tau: 0.0,
        mirostat_eta: 0.1,
        mirostat_mu: None,
        xtc_probability: 0.0,
        xtc_threshold: 0.1,
        adaptive_target: None,
        adaptive_decay: 0.9,
        adaptive_sum: None,
        adaptive_weight: None,
        dynatemp_range: 0.0,
        dynatemp_exponent: 1.0,
    };

    /// Checks every range. `fresh_seed` is asked for a seed where none was given.
    pub fn parse(self, fresh_seed: impl FnOnce() -> u64) -> Result<SamplingParams, ParamsError> {
        FIELDS.iter().try_for_each(|field| field.check(self))?;
        cuts::check(&self)?;
        Ok(SamplingParams {
            // Adding +0.0 turns -0.0 into it, so that one value has one pattern.
            temperature: self.temperature + 0.0,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p + 0.0,
            seed: self.seed.unwrap_or_else(fresh_seed),
            position: self.position,
            draws: self.draws as u16,
            draw_rule: self.draw_rule,
            is_draft: self.draft,
            penalties: Penalties {
                repetition: self.repetition_penalty,
                frequency: self.frequency_penalty + 0.0,
                presence: self.presence_penalty + 0.0,
            },
            no_repeat_ngram: self.no_repeat_ngram as u8,
            min_tokens: self.min_tokens,
            dry: Dry {
                multiplier: self.dry_multiplier + 0.0,
                base: self.dry_base,
                allowed_length: self.dry_allowed_length as u16,
                last_n: self.dry_last_n,
            },
            cuts: Cuts::of(&self),
        })
    }
}

/// The shortest text that reads back to the same f32: `0.7`, `1e-31`.
pub fn shortest(x: f32) -> String {
    let text = format!("{x:?}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// Valid parameters of one row. Made by [`ParamsSpec::parse`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    seed: u64,
    position: u64,
    draws: u16,
    draw_rule: DrawRule,
    is_draft: bool,
    penalties: Penalties,
    no_repeat_ngram: u8,
    min_tokens: u32,
    dry: Dry,
    cuts: Cuts,
}

/// What is done to the logits of tokens that the history holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Divides logits above 0, multiplies the others; 1 is off.
    pub repetition: f32,
    /// Taken off for each time that the output holds the token; 0 is off.
    pub frequency: f32,
    /// Taken off if the output holds the token; 0 is off.
    pub presence: f32,
}

/// The penalty of tokens that would go on with a repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dry {
    /// The penalty of a repetition of the allowed length; above 0.
    pub multiplier: f32,
    /// The factor for each further token.
    pub base: f32,
    /// Shorter repetitions are left alone.
    pub allowed_length: u16,
    /// How many of the history's last tokens are looked at; 0 is all.
    pub last_n: u32,
}

impl SamplingParams {
    /// 0, or 1e-30 to 1e4.
    pub fn temperature(&self) -> f32 {
        self.temperature
    }

    /// Whether the answer is the first token of the order, whatever the other parameters say.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// The number of tokens top-k keeps, or `None` where it is off.
    pub fn top_k(&self) -> Option<u32> {
        (self.top_k > 0).then_some(self.top_k)
    }

    /// The nucleus, in (0, 1), or `None` where it is off.
    pub fn top_p(&self) -> Option<f32> {
        (self.top_p < 1.0).then_some(self.top_p)
    }

    /// The least relative probability kept, in (0, 1], or `None` where it is off.
    pub fn min_p(&self) -> Option<f32> {
        (self.min_p > 0.0).then_some(self.min_p)
    }

    /// What is done with a row that has these parameters. Worked out where a backend takes the row up, not once a
    /// request: it costs a division and at most one logarithm, less than looking up by what rows share it.
    #[inline]
    pub fn plan(&self) -> Plan {
        Plan::new(self.temperature, self.top_k(), self.top_p(), self.min_p(), self.draw_rule)
    }

    /// Key of the random stream.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The same with another seed.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same for another token of the sequence.
    pub fn with_position(self, position: u64) -> Self {
        Self { position, ..self }
    }

    /// The token's index in its sequence.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// 1 to [`DRAWS_MAX`].
    pub fn draws(&self) -> u32 {
        u32::from(self.draws)
    }

    /// How draws follow from random bits.
    pub fn draw_rule(&self) -> DrawRule {
        self.draw_rule
    }

    /// Whether what is drawn is a draft: from random bits of its own, so that it is independent of the token that the
    /// same seed and position have, and of whether that row takes the draft.
    pub fn is_draft(&self) -> bool {
        self.is_draft
    }

    /// The tokens that may run in this row's races, draw by draw: 0 where there are none. No more are kept than this
    /// bound says, which is known before the row is sampled.
    pub fn race_tokens_max(&self, vocab_size: u32) -> u64 {
        if self.is_greedy() || self.draw_rule != DrawRule::Race {
            return 0;
        }
        u64::from(self.kept_max(vocab_size)) * u64::from(self.draws)
    }

    /// The most tokens that the cuts can leave of a row of so many, which is known before the row is sampled.
    pub fn kept_max(&self, vocab_size: u32) -> u32 {
        if self.is_greedy() {
            return 1;
        }
        let Cuts { profile, mirostat, .. } = self.cuts;
        // Tokens that equal the last of top_k are kept too, or mirostat is the only cut.
        let is_more =
            profile.keeps_ties(Stage::TopK) || profile == Profile::Llamacpp && mirostat.tau > 0.0;
        self.top_k().filter(|_| !is_more).map_or(vocab_size, |k| k.min(vocab_size))
    }

    /// The penalties, or `None` where all are off.
    pub fn penalties(&self) -> Option<Penalties> {
        let off = Penalties { repetition: 1.0, frequency: 0.0, presence: 0.0 };
        (self.penalties != off).then_some(self.penalties)
    }

    /// Whether a history changes what the row's tokens are, by itself.
    pub fn reads_history(&self) -> bool {
        self.penalties().is_some() || self.no_repeat_ngram().is_some() || self.dry().is_some()
    }

    /// The length of n-grams that must not occur twice, 1 to [`NGRAM_MAX`], or `None` where any may.
    pub fn no_repeat_ngram(&self) -> Option<usize> {
        (self.no_repeat_ngram > 0).then_some(self.no_repeat_ngram.into())
    }

    /// How many tokens the output has before a stop token may be drawn.
    pub fn min_tokens(&self) -> u32 {
        self.min_tokens
    }

    /// The profile, and the cuts beyond top_k, top_p and min_p: `None` where none of them is on.
    #[inline]
    pub fn cuts(&self) -> Option<&Cuts> {
        self.cuts.are_on().then_some(&self.cuts)
    }

    /// The same, whether or not any is on.
    #[inline]
    pub fn all_cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// Whether a row's tokens are put in their order for its further cuts: all of them, or the first.
    #[inline]
    pub fn orders_tokens(&self) -> bool {
        self.cuts.are_on() && (!self.is_greedy() || self.cuts.profile == Profile::Llamacpp)
    }

    /// How many first tokens the further cuts look at, and no others, where the parameters say so: those of top_k, or of
    /// top_h where nothing cuts before it.
    #[inline]
    pub fn ordered_first(&self) -> Option<u32> {
        let Cuts { profile, top_h, top_n_sigma, mirostat, .. } = self.cuts;
        if profile == Profile::Llamacpp && mirostat.tau > 0.0 {
            return None;
        }
        let are_cut_before = match profile {
            Profile::Logitd => {
                let cuts_of_plan = [self.top_p().is_some(), self.min_p().is_some()];
                self.top_k().is_some() || cuts_of_plan.contains(&true) || top_n_sigma > 0.0
            }
            _ => false,
        };
        let is_head = top_h > 0.0 && !are_cut_before;
        if is_head { Some(head::TOKENS as u32) } else { self.top_k() }
    }

    /// Whether all tokens follow those that tie with the last of [`ordered_first`](Self::ordered_first), because the profile keeps them.
    pub fn keeps_ties_of_first(&self) -> bool {
        let Cuts { profile, top_h, .. } = self.cuts;
        self.top_k().is_some() && profile.keeps_ties(Stage::TopK) && top_h == 0.0
    }

    /// Whether nothing cuts, whatever the logits are.
    pub fn keeps_all(&self) -> bool {
        self.nothing_ends() && self.cuts.xtc.probability == 0.0
    }

    /// Whether nothing cuts but XTC, and what it may take is looked for among so few tokens that these are a list, whatever the logits are.
    pub fn keeps_all_but_few(&self) -> bool {
        /// Of blocks of 512 tokens the first ones have a 512th of the mass at least: 7,315 tokens can have that share of what these have.
        const THRESHOLD: f32 = 0.07;
        let xtc = self.cuts.xtc;
        self.nothing_ends() && xtc.probability > 0.0 && xtc.threshold >= THRESHOLD
    }

    /// Whether the last tokens of the order are kept, and drawn with their own masses, whatever the logits are.
    fn nothing_ends(&self) -> bool {
        let Cuts { top_n_sigma, top_h, top_a, epsilon_cutoff, eta_cutoff, .. } = self.cuts;
        let Cuts { typical_p, mirostat, adaptive, .. } = self.cuts;
        let off_at_0 = [top_n_sigma, top_h, top_a, epsilon_cutoff, eta_cutoff];
        let of_plan = [self.top_p().is_some(), self.min_p().is_some(), self.top_k().is_some()];
        !of_plan.contains(&true)
            && off_at_0.iter().chain(&[mirostat.tau]).all(|&cut| cut == 0.0)
            && typical_p == 1.0
            && adaptive.target.is_none()
            && !self.is_greedy()
    }

    /// How many sums over all tokens the further cuts ask for, if nothing cuts or they look at first tokens only: the deviation that top_n_sigma
    /// is a multiple of, the entropy that a dynamic temperature goes by, the mass that SGLang's top_p is a share of.
    #[inline]
    pub fn sums_of_cuts(&self) -> u32 {
        let Cuts { profile, top_n_sigma, dynatemp, .. } = self.cuts;
        let is_of_row =
            profile == Profile::Sglang && self.min_p().is_none() && self.top_p().is_some();
        // llama.cpp's is that of the tokens which are left.
        let is_of_all = profile != Profile::Llamacpp || self.keeps_all();
        let is_dynamic = dynatemp.range > 0.0 && is_of_all;
        let sums = [top_n_sigma > 0.0, is_dynamic, is_of_row];
        sums.into_iter().map(u32::from).sum()
    }

    /// Whether an answer carries a state back to its sequence.
    #[inline]
    pub fn has_state(&self) -> bool {
        self.cuts.have_state()
    }

    /// DRY's coefficients, or `None` where it is off.
    pub fn dry(&self) -> Option<Dry> {
        (self.dry.multiplier > 0.0).then_some(self.dry)
    }
}

impl From<SamplingParams> for ParamsSpec {
    fn from(params: SamplingParams) -> Self {
        let SamplingParams { temperature, top_k, top_p, min_p, seed, position, .. } = params;
        let SamplingParams { penalties, dry, .. } = params;
        Self {
            temperature,
            top_k,
            top_p,
            min_p,
            seed: Some(seed),
            position,
            draws: params.draws.into(),
            draw_rule: params.draw_rule,
            draft: params.is_draft,
            repetition_penalty: penalties.repetition,
            frequency_penalty: penalties.frequency,
            presence_penalty: penalties.presence,
            no_repeat_ngram: params.no_repeat_ngram.into(),
            min_tokens: params.min_tokens,
            dry_multiplier: dry.multiplier,
            dry_base: dry.base,
            dry_allowed_length: dry.allowed_length.into(),
            dry_last_n: dry.last_n,
            ..params.cuts.into()
        }
    }
}

/// Every parameter with its value: `temperature 0.7, top_k 0, ...`.
impl fmt::Display for SamplingParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, field) in FIELDS.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{} {}", field.name, field.get((*self).into()))?;
        }
        Ok(())
    }
}

/// A parameter outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}; allowed: {allowed}")]
pub struct ParamsError {
    /// The parameter, by its name in the API.
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// What would have been accepted.
    pub allowed: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut ParamsSpec)) -> Result<SamplingParams, ParamsError> {
        let mut spec = ParamsSpec::default();
        change(&mut spec);
        spec.parse(|| 7)
    }

    #[test]
    fn no_more_tokens_are_kept_than_is_said_before() {
        let kept_max = |spec: ParamsSpec| spec.parse(|| 0).unwrap().kept_max(100);
        let base = ParamsSpec { top_k: 5, ..Default::default() };
        let of = |profile| ParamsSpec { profile, ..base };
        assert_eq!([base, ParamsSpec { top_k: 0, ..base }].map(kept_max), [5, 100]);
        assert_eq!(kept_max(ParamsSpec { temperature: 0.0, ..base }), 1);
        assert_eq!(Profile::ALL.map(|profile| kept_max(of(profile))), [5, 100, 100, 100, 5]);
        // There mirostat is the only cut.
        assert_eq!(kept_max(ParamsSpec { mirostat_tau: 5.0, ..of(Profile::Llamacpp) }), 100);
        assert_eq!(kept_max(ParamsSpec { mirostat_tau: 5.0, ..base }), 5);
    }

    #[test]
    fn the_edges_of_every_range_are_accepted() {
        for t in [0.0, -0.0, 1e-30, 1e-4, 1.0, 1e4] {
            assert!(parse(|s| s.temperature = t).is_ok(), "{t}");
        }
        assert!(parse(|s| s.top_p = f32::from_bits(1)).is_ok());
        assert!(parse(|s| s.min_p = 1.0).is_ok());
        assert!(parse(|s| s.draws = DRAWS_MAX).is_ok());
        assert!(parse(|s| (s.top_h, s.top_a, s.xtc_threshold) = (1.0, 1.0, 1.0)).is_ok());
        assert!(parse(|s| s.mirostat_mu = Some(f32::MIN)).is_ok());
        assert!(parse(|s| (s.profile, s.typical_p) = (Profile::Llamacpp, 0.5)).is_ok());
        assert_eq!(parse(|_| ()).unwrap().seed(), 7);
        // A state or a threshold of what is off changes nothing.
        let off = parse(|s| {
            (s.mirostat_mu, s.xtc_threshold, s.adaptive_sum) = (Some(1.0), 0.5, Some(1.0))
        });
        assert_eq!(off.unwrap().cuts(), None);
        assert_eq!(parse(|s| s.seed = Some(9)).unwrap().seed(), 9);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let nan = f32::NAN;
        for (field, result) in [
            ("temperature", parse(|s| s.temperature = nan)),
            ("temperature", parse(|s| s.temperature = -1.0)),
            ("temperature", parse(|s| s.temperature = 1e-30f32.next_down())),
            ("temperature", parse(|s| s.temperature = f32::from_bits(1))),
            ("temperature", parse(|s| s.temperature = f32::INFINITY)),
            ("top_p", parse(|s| s.top_p = 0.0)),
            ("top_p", parse(|s| s.top_p = nan)),
            ("top_p", parse(|s| s.top_p = 1.000_001)),
            ("min_p", parse(|s| s.min_p = -0.1)),
            ("min_p", parse(|s| s.min_p = nan)),
            ("draws", parse(|s| s.draws = 0)),
            ("draws", parse(|s| s.draws = 1025)),
            ("repetition_penalty", parse(|s| s.repetition_penalty = 0.0)),
            ("repetition_penalty", parse(|s| s.repetition_penalty = nan)),
            ("frequency_penalty", parse(|s| s.frequency_penalty = 100.0f32.next_up())),
            ("frequency_penalty", parse(|s| s.frequency_penalty = nan)),
            ("presence_penalty", parse(|s| s.presence_penalty = f32::NEG_INFINITY)),
            ("no_repeat_ngram", parse(|s| s.no_repeat_ngram = 65)),
            ("dry_multiplier", parse(|s| s.dry_multiplier = -0.1)),
            ("dry_base", parse(|s| s.dry_base = 0.5)),
            ("dry_base", parse(|s| s.dry_base = 16.0f32.next_up())),
            ("dry_allowed_length", parse(|s| s.dry_allowed_length = 1025)),
            ("dry_last_n", parse(|s| s.dry_last_n = (1 << 20) + 1)),
            ("top_n_sigma", parse(|s| s.top_n_sigma = 100.0f32.next_up())),
            ("top_h", parse(|s| s.top_h = 1.0f32.next_up())),
            ("top_a", parse(|s| s.top_a = -0.1)),
            ("epsilon_cutoff", parse(|s| s.epsilon_cutoff = 1.0)),
            ("eta_cutoff", parse(|s| s.eta_cutoff = nan)),
            ("typical_p", parse(|s| s.typical_p = 0.0)),
            ("mirostat_tau", parse(|s| s.mirostat_tau = f32::INFINITY)),
            ("mirostat_eta", parse(|s| s.mirostat_eta = 10.5)),
            ("mirostat_mu", parse(|s| s.mirostat_mu = Some(nan))),
            ("xtc_probability", parse(|s| s.xtc_probability = 1.5)),
            ("xtc_threshold", parse(|s| s.xtc_threshold = 0.0)),
            ("adaptive_target", parse(|s| s.adaptive_target = Some(1.5))),
            ("adaptive_decay", parse(|s| s.adaptive_decay = 0.99f32.next_up())),
            ("adaptive_sum", parse(|s| s.adaptive_sum = Some(f32::INFINITY))),
            ("adaptive_weight", parse(|s| s.adaptive_weight = Some(-1.0))),
            ("dynatemp_range", parse(|s| s.dynatemp_range = -1.0)),
            ("dynatemp_exponent", parse(|s| s.dynatemp_exponent = 0.0)),
            ("draws", parse(|s| (s.mirostat_tau, s.draws) = (5.0, 2))),
            ("draws", parse(|s| (s.adaptive_target, s.draws) = (Some(0.5), 2))),
            ("adaptive_target", parse(|s| (s.mirostat_tau, s.adaptive_target) = (5.0, Some(0.5)))),
            ("top_n_sigma", parse(|s| (s.profile, s.top_n_sigma) = (Profile::Vllm, 1.0))),
            ("typical_p", parse(|s| (s.profile, s.typical_p) = (Profile::Sglang, 0.9))),
            ("top_a", parse(|s| (s.profile, s.top_a) = (Profile::Hf, 0.1))),
            ("dry_multiplier", parse(|s| (s.profile, s.dry_multiplier) = (Profile::Hf, 0.8))),
            ("presence_penalty", parse(|s| (s.profile, s.presence_penalty) = (Profile::Hf, 0.8))),
            ("top_h", parse(|s| (s.profile, s.top_h) = (Profile::Llamacpp, 0.8))),
        ] {
            assert_eq!(result.unwrap_err().field, field);
        }
        let error = parse(|s| s.temperature = 1e-31).unwrap_err();
        assert_eq!(
            error.to_string(),
            "temperature is 1e-31; allowed: 0 (greedy), or 1e-30 to 10000"
        );
        assert_eq!([1.0, 0.7, 12345.0].map(shortest), ["1", "0.7", "12345"]);
    }
}
