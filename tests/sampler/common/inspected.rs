//! Known answers beside tokens, as `independent/inspections.json` writes them.

use super::known::Hex;
use logitd_core::batch::RowResult;
use logitd_core::inspection::{KeptIds, TokenLogprob};
use serde::Deserialize;

/// What a case of the file expects.
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
    /// Of small rows, ascending.
    pub kept_ids: Option<Vec<u32>>,
    pub logprobs: Option<Logprobs>,
    /// The first and the last kept token of the order.
    #[serde(rename = "bounds")]
    _bounds: Option<(u32, u32)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logprobs {
    status: String,
    entropy_bits: Option<Hex>,
    token: Option<Token>,
    #[serde(default)]
    top: Vec<Token>,
    #[serde(default)]
    ids: Vec<Token>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    token: u32,
    rank: u32,
    logprob_bits: Hex,
}

impl Expect {
    /// What is wrong with a result, if anything is.
    pub fn objection(&self, result: RowResult<'_>) -> Option<String> {
        let ok = result.outcome.status.name() == "OK";
        let drawn: Vec<u32> = result.draws.iter().map(|draw| draw.token).collect();
        let logprob = result.draws.first().map(|draw| draw.logprob.to_bits());
        let same = result.outcome.status.name() == self.status
            && drawn.first().copied() == self.token
            && (self.draws.is_empty() || drawn == self.draws)
            && ok.then_some(result.outcome.kept) == self.kept
            && ok.then_some(result.outcome.kept_mass) == self.kept_mass
            && match (logprob, &self.logprob_bits) {
                (Some(a), Some(Hex(b))) => a.abs_diff(*b) <= 1,
                (a, b) => a.is_none() && b.is_none(),
            }
            && self.kept_ids_are(result)
            && self.logprobs_are(result);
        (!same).then(|| format!("expected {self:?}\ngot {result:?}"))
    }

    fn kept_ids_are(&self, result: RowResult<'_>) -> bool {
        let Some(expected) = &self.kept_ids else { return true };
        let kept = result.inspection.and_then(|inspection| inspection.kept.as_ref());
        matches!(kept, Some(KeptIds::Ids(ids)) if ids == expected)
    }

    fn logprobs_are(&self, result: RowResult<'_>) -> bool {
        let Some(expected) = &self.logprobs else { return true };
        let Some(inspection) = result.inspection else { return false };
        let [got] = &inspection.logprobs[..] else { return false };
        let same = |expected: &[Token], got: &[TokenLogprob]| {
            expected.len() == got.len() && expected.iter().zip(got).all(|(a, b)| a.is(b))
        };
        let drawn = &got.drawn[..got.drawn.len().min(1)];
        got.status.name() == expected.status
            && got.entropy.0.to_bits() == expected.entropy_bits.as_ref().map_or(0, |bits| bits.0)
            && same(expected.token.as_slice(), drawn)
            && same(&expected.top, &got.top)
            && same(&expected.ids, &got.ids)
    }
}

impl Token {
    /// The logarithm is another library's: it may differ by one unit in the last place.
    fn is(&self, got: &TokenLogprob) -> bool {
        (self.token, self.rank) == (got.token, got.rank)
            && self.logprob_bits.0.abs_diff(got.logprob.to_bits()) <= 1
    }
}
