//! Known answers, as the files in `tests/vectors/` write them.

use super::Case;
use super::case::{pack, spec};
use logitd_core::batch::{Dtype, RowResult, RowStatus};
use logitd_core::params::{DrawRule, ParamsSpec, SamplingParams};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a file of vectors lies.
pub fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file)
}

/// Reads a file of vectors.
pub fn read<T: for<'de> Deserialize<'de>>(file: &str) -> T {
    let path = path(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Parameters; what is left out has its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    temperature: f32,
    #[serde(skip_serializing_if = "is_zero")]
    top_k: u32,
    #[serde(skip_serializing_if = "is_one")]
    top_p: f32,
    #[serde(skip_serializing_if = "is_none")]
    min_p: f32,
    seed: u64,
    position: u64,
    #[serde(skip_serializing_if = "is_once")]
    draws: u32,
    #[serde(skip_serializing_if = "is_cumulative")]
    draw_rule: String,
}

fn is_zero(k: &u32) -> bool {
    *k == 0
}
fn is_one(p: &f32) -> bool {
    *p == 1.0
}
fn is_none(p: &f32) -> bool {
    *p == 0.0
}
fn is_cumulative(rule: &str) -> bool {
    rule == DrawRule::Cumulative.name()
}
fn is_once(draws: &u32) -> bool {
    *draws == 1
}

impl Default for Params {
    fn default() -> Self {
        ParamsSpec::default().parse(|| 0).map(|p| Self::from(&p)).expect("the defaults are valid")
    }
}

impl From<&SamplingParams> for Params {
    fn from(params: &SamplingParams) -> Self {
        let ParamsSpec { temperature, top_k, top_p, min_p, position, draws, .. } = spec(params);
        let (seed, draw_rule) = (params.seed(), params.draw_rule().name().into());
        Self { temperature, top_k, top_p, min_p, seed, position, draws, draw_rule }
    }
}

impl From<&Params> for ParamsSpec {
    fn from(params: &Params) -> Self {
        let Params { temperature, top_k, top_p, min_p, seed, position, draws, .. } = *params;
        let rule = params.draw_rule.to_lowercase();
        let draw_rule = DrawRule::named(&rule).expect("the name of a rule");
        Self {
            temperature,
            top_k,
            top_p,
            min_p,
            seed: Some(seed),
            position,
            draws,
            draw_rule,
            ..Self::DEFAULT
        }
    }
}

/// What a row must come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_mass: Option<u64>,
    /// Token and the bits of its logprob.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    draws: Vec<(u32, Hex)>,
}

impl From<RowResult<'_>> for Answer {
    fn from(result: RowResult<'_>) -> Self {
        let ok = result.outcome.status == RowStatus::Ok;
        let draws = result.draws.iter().map(|d| (d.token, Hex(d.logprob.to_bits())));
        Self {
            status: result.outcome.status.name().into(),
            kept: ok.then_some(result.outcome.kept),
            kept_mass: ok.then_some(result.outcome.kept_mass),
            draws: draws.collect(),
        }
    }
}

/// 32 bits, written as eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Hex(pub u32);

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        format!("{:08x}", hex.0)
    }
}

impl TryFrom<String> for Hex {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u32::from_str_radix(&text, 16).map(Self)
    }
}

/// `masses.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Mass {
    /// T.
    pub temperature_bits: Hex,
    /// x - M.
    pub distance_bits: Hex,
    /// 2^40 is that of the maximum.
    pub mass: u64,
}

/// `random_bits.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct RandomBits {
    pub seed: u64,
    pub position: u64,
    pub draw: u32,
    pub bits: u64,
}

/// A row of `rows.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct NamedRow {
    pub name: String,
    pub dtype: String,
    /// All tokens, 4 or 8 digits each.
    pub bits: String,
}

impl NamedRow {
    pub fn new(case: &Case) -> Self {
        let digits = 2 * case.dtype.size_bytes();
        let bits = case.patterns().iter().map(|p| format!("{p:0digits$x}")).collect();
        Self { name: case.name.clone(), dtype: case.dtype.name().into(), bits }
    }

    pub fn case(&self, params: &Params) -> Case {
        let dtype = dtype(&self.dtype);
        let digits = self.bits.as_bytes().chunks(2 * dtype.size_bytes());
        let text = |digits| std::str::from_utf8(digits).expect("ascii");
        let parse = |digits| u32::from_str_radix(text(digits), 16).expect("hexadecimal");
        let patterns: Vec<u32> = digits.map(parse).collect();
        Case::new(&*self.name, dtype, pack(dtype, &patterns), params.into())
    }
}

/// A case of `rows.json` or `real_rows.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RowCase {
    /// Its place in `rows`, or among the carried rows.
    pub row: usize,
    pub params: Params,
    pub result: Answer,
}

/// `rows.json` and `real_rows.json`, the latter without rows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rows {
    #[serde(default)]
    pub rows: Vec<NamedRow>,
    pub cases: Vec<RowCase>,
}

/// `masses.json` and `random_bits.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct List<T> {
    pub cases: Vec<T>,
}

/// The vectors in `independent/`, as their author wrote them.
pub mod independent {
    use super::*;

    #[derive(Debug, Deserialize)]
    pub struct File<T> {
        pub cases: Vec<T>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Mass {
        #[serde(rename = "T")]
        pub temperature: f32,
        /// A decimal, `-0.0` and `-inf` among them.
        pub x_minus_max: String,
        pub mass: u64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct EdgeRow {
        pub name: String,
        pub dtype: String,
        bits: Vec<Hex>,
        params: Params,
        seed: u64,
        position: u64,
        pub expect: Expect,
    }

    impl EdgeRow {
        pub fn case(&self) -> Case {
            let patterns: Vec<u32> = self.bits.iter().map(|hex| hex.0).collect();
            let spec = self.params.spec(self.seed, self.position);
            Case::bits(&self.name, dtype(&self.dtype), &patterns, spec)
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct RealRow {
        /// Its place in the recording.
        pub row: usize,
        params: Params,
        seed: u64,
        position: u64,
        pub expect: Expect,
    }

    impl RealRow {
        pub fn spec(&self) -> ParamsSpec {
            self.params.spec(self.seed, self.position)
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Params {
        #[serde(rename = "T")]
        temperature: f32,
        #[serde(default)]
        k: u32,
        #[serde(default = "one")]
        p: f32,
        #[serde(default)]
        minp: f32,
    }

    fn one() -> f32 {
        1.0
    }

    impl Params {
        fn spec(&self, seed: u64, position: u64) -> ParamsSpec {
            let Self { temperature, k: top_k, p: top_p, minp: min_p } = *self;
            let seed = Some(seed);
            ParamsSpec { temperature, top_k, top_p, min_p, seed, position, ..Default::default() }
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct Expect {
        status: String,
        token: Option<u32>,
        kept: Option<u32>,
        kept_mass: Option<u64>,
        logprob_bits: Option<Hex>,
        /// The tokens of every draw, where there are several.
        #[serde(default)]
        draws: Vec<u32>,
        /// For people.
        #[serde(rename = "logprob")]
        _logprob: Option<f64>,
    }

    impl Expect {
        /// What is wrong with a result, if anything is.
        pub fn objection(&self, result: RowResult<'_>) -> Option<String> {
            let answer = Answer::from(result);
            let (token, bits) = answer.draws.first().copied().unzip();
            let same = answer.status == self.status
                && token == self.token
                && (self.draws.is_empty()
                    || answer.draws.iter().map(|(token, _)| *token).eq(self.draws.iter().copied()))
                && answer.kept == self.kept
                && answer.kept_mass == self.kept_mass
                && match (bits, self.logprob_bits) {
                    (Some(Hex(a)), Some(Hex(b))) => a.abs_diff(b) <= 1,
                    (a, b) => a == b,
                };
            (!same).then(|| format!("expected {self:?}\ngot {answer:?}"))
        }
    }
}

/// `independent/race.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Races {
    rows: std::collections::HashMap<String, RaceRow>,
    /// Of those rows.
    cases: Vec<Race<String>>,
    /// Of rows of the recording.
    pub real: Vec<Race<usize>>,
}

#[derive(Debug, Deserialize)]
struct RaceRow {
    dtype: String,
    bits: String,
}

/// A row whose draws are races, and what they come to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Race<R> {
    name: String,
    pub row: R,
    params: Params,
    pub expect: RaceExpect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaceExpect {
    status: String,
    token: u32,
    kept: u32,
    kept_mass: u64,
    logprob_bits: Hex,
    draws: Vec<u32>,
}

impl Races {
    /// The small rows.
    pub fn small(self) -> impl Iterator<Item = (Case, RaceExpect)> {
        let Self { rows, cases, .. } = self;
        cases.into_iter().map(move |case| {
            let RaceRow { dtype: name, bits } = &rows[&case.row];
            let bits = bits.split(' ').map(|x| u32::from_str_radix(x, 16).expect("digits"));
            let bits: Vec<u32> = bits.collect();
            (Case::bits(&case.name, dtype(name), &bits, (&case.params).into()), case.expect)
        })
    }
}

impl Race<usize> {
    /// The case with the row's logits, f16.
    pub fn case(self, logits: Vec<u8>) -> (Case, RaceExpect) {
        (Case::new(self.name, Dtype::F16, logits, (&self.params).into()), self.expect)
    }
}

impl RaceExpect {
    /// What is wrong with a result, if anything is.
    pub fn objection(&self, result: RowResult<'_>) -> Option<String> {
        let answer = Answer::from(result);
        let same = answer.status == self.status
            && answer.kept == Some(self.kept)
            && answer.kept_mass == Some(self.kept_mass)
            && answer.draws.iter().map(|draw| draw.0).eq(self.draws.iter().copied())
            && answer.draws[0].0 == self.token
            && answer.draws[0].1.0.abs_diff(self.logprob_bits.0) <= 1;
        (!same).then(|| format!("expected {self:?}\ngot {answer:?}"))
    }
}

pub(super) fn dtype(name: &str) -> Dtype {
    *Dtype::ALL.iter().find(|d| d.name() == name).expect("the name of a dtype")
}
