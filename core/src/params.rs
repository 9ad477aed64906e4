//! Sampling parameters, parsed: a [`SamplingParams`] that exists is valid.
//!
//! Outside (a message, a flag, a file) parameters are a [`ParamsSpec`]: what somebody asked for. Its
//! [`parse`](ParamsSpec::parse) is the only way to a [`SamplingParams`], and the place where ranges are
//! checked; numbers that come as text are compared with the same ranges before they are rounded, in
//! [`written`].

pub mod written;

use std::fmt;

/// Temperatures that are not greedy, both ends included.
pub const TEMPERATURE_RANGE: (f32, f32) = (1e-30, 1e4);
/// The most draws one row can be asked for.
pub const DRAWS_MAX: u32 = 1024;

/// What a parameter may be, in words.
#[derive(Debug)]
struct Allowed {
    /// Its name in the API.
    field: &'static str,
    values: &'static str,
}

const TEMPERATURE: Allowed =
    Allowed { field: "temperature", values: "0 (greedy), or 1e-30 to 10000" };
const TOP_K: Allowed = Allowed { field: "top_k", values: "whole numbers, 0 (off) to 4294967295" };
const TOP_P: Allowed = Allowed { field: "top_p", values: "above 0, up to 1 (1 disables it)" };
const MIN_P: Allowed = Allowed { field: "min_p", values: "0 to 1 (0 disables it)" };
const SEED: Allowed = Allowed { field: "seed", values: "whole numbers, 0 to 18446744073709551615" };
const POSITION: Allowed =
    Allowed { field: "position", values: "whole numbers, 0 to 18446744073709551615" };
const DRAWS: Allowed = Allowed { field: "draws", values: "whole numbers, 1 to 1024" };

impl Allowed {
    fn refuse(&self, value: String) -> ParamsError {
        ParamsError { field: self.field, value, allowed: self.values }
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
}

impl Default for ParamsSpec {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            position: 0,
            draws: 1,
        }
    }
}

impl ParamsSpec {
    /// Checks every range. `fresh_seed` is asked for a seed where none was given.
    pub fn parse(self, fresh_seed: impl FnOnce() -> u64) -> Result<SamplingParams, ParamsError> {
        let (low, high) = TEMPERATURE_RANGE;
        if self.temperature != 0.0 && !(low..=high).contains(&self.temperature) {
            return Err(TEMPERATURE.refuse(shortest(self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(TOP_P.refuse(shortest(self.top_p)));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(MIN_P.refuse(shortest(self.min_p)));
        }
        if !(1..=DRAWS_MAX).contains(&self.draws) {
            return Err(DRAWS.refuse(self.draws.to_string()));
        }
        Ok(SamplingParams {
            // Adding +0.0 turns -0.0 into it, so that one value has one pattern.
            temperature: self.temperature + 0.0,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p + 0.0,
            seed: self.seed.unwrap_or_else(fresh_seed),
            position: self.position,
            draws: self.draws as u16,
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

    /// Key of the random stream.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The token's index in its sequence.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// 1 to [`DRAWS_MAX`].
    pub fn draws(&self) -> u32 {
        u32::from(self.draws)
    }
}

impl fmt::Display for SamplingParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { temperature, top_k, top_p, min_p, seed, position, draws } = self;
        write!(f, "temperature {}, top_k {top_k}, ", shortest(*temperature))?;
        write!(f, "top_p {}, min_p {}, ", shortest(*top_p), shortest(*min_p))?;
        write!(f, "seed {seed}, position {position}, draws {draws}")
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
    fn the_edges_of_every_range_are_accepted() {
        for t in [0.0, -0.0, 1e-30, 1e-4, 1.0, 1e4] {
            assert!(parse(|s| s.temperature = t).is_ok(), "{t}");
        }
        assert!(parse(|s| s.top_p = f32::from_bits(1)).is_ok());
        assert!(parse(|s| s.min_p = 1.0).is_ok());
        assert!(parse(|s| s.draws = DRAWS_MAX).is_ok());
        assert_eq!(parse(|_| ()).unwrap().seed(), 7);
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
