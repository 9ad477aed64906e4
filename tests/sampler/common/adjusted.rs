//! Known answers of rows with adjustments, as `independent/adjustments.json` writes them.

use super::Case;
use super::known::{Hex, dtype, independent::Expect};
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::batch::Dtype;
use logitd_core::inspection::{Distribution, Inspect};
use logitd_core::params::{DrawRule, ParamsSpec};
use serde::Deserialize;
use std::collections::HashMap;

/// `adjustments.json`, and files like it that expect something else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File<E = Expect> {
    rows: HashMap<String, SmallRow>,
    pub cases: Vec<KnownCase<E>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SmallRow {
    dtype: String,
    bits: Vec<Hex>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownCase<E> {
    name: String,
    row: RowName,
    params: Params,
    pub expect: E,
}

/// A row of the file, or its place in the recording.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RowName {
    Small(String),
    Recorded(usize),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Params {
    temperature: Option<f32>,
    top_k: u32,
    top_p: Option<f32>,
    min_p: f32,
    seed: u64,
    position: u64,
    draws: Option<u32>,
    draw_rule: Option<String>,
    repetition_penalty: Option<f32>,
    frequency_penalty: f32,
    presence_penalty: f32,
    no_repeat_ngram: u32,
    min_tokens: u32,
    dry: Option<Dry>,
    allowed_bitmask: Vec<Hex>,
    /// The tokens that leave one of these rests, divided by that.
    allowed_mod: Option<(u32, Vec<u32>)>,
    allowed_ids: Vec<u32>,
    banned_ids: Vec<u32>,
    bad_words: Vec<Vec<u32>>,
    stop_ids: Vec<u32>,
    logit_bias: Vec<(u32, Bias)>,
    prompt: Vec<u32>,
    output: Vec<u32>,
    output_length: Option<u32>,
    counts: Vec<(u32, u32)>,
    logprobs: Option<AskedLogprobs>,
    return_kept: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedLogprobs {
    of: String,
    top: u32,
    ids: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: u32,
    last_n: u32,
    breakers: Vec<Vec<u32>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Bias {
    Finite(f32),
    Ban(Ban),
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Ban {
    #[serde(rename = "-inf")]
    MinusInfinity,
}

impl<E> File<E> {
    /// The case, if its row is in the file or among the recorded ones.
    pub fn case(
        &self,
        case: &KnownCase<E>,
        recorded: impl Fn(usize) -> Option<Vec<u8>>,
    ) -> Option<Case> {
        let params = &case.params;
        let made = match &case.row {
            RowName::Small(name) => {
                let row = &self.rows[name];
                let bits: Vec<u32> = row.bits.iter().map(|bits| bits.0).collect();
                Case::bits(&case.name, dtype(&row.dtype), &bits, params.spec())
            }
            RowName::Recorded(row) => {
                Case::new(&*case.name, Dtype::F16, recorded(*row)?, params.spec())
            }
        };
        let lists = params.lists(made.vocab_size() as u32);
        Some(made.adjusted(lists).inspected(params.inspect()))
    }
}

impl Params {
    fn spec(&self) -> ParamsSpec {
        let usual = ParamsSpec::default();
        let dry = self.dry.as_ref();
        ParamsSpec {
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p,
            seed: Some(self.seed),
            position: self.position,
            draws: self.draws.unwrap_or(usual.draws),
            draw_rule: self.draw_rule.as_ref().map_or(usual.draw_rule, |rule| {
                DrawRule::named(&rule.to_lowercase()).expect("the name of a rule")
            }),
            repetition_penalty: self.repetition_penalty.unwrap_or(usual.repetition_penalty),
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            no_repeat_ngram: self.no_repeat_ngram,
            min_tokens: self.min_tokens,
            dry_multiplier: dry.map_or(usual.dry_multiplier, |dry| dry.multiplier),
            dry_base: dry.map_or(usual.dry_base, |dry| dry.base),
            dry_allowed_length: dry.map_or(usual.dry_allowed_length, |dry| dry.allowed_length),
            dry_last_n: dry.map_or(usual.dry_last_n, |dry| dry.last_n),
            ..usual
        }
    }

    /// What is asked beside tokens; nothing in files without such parameters.
    fn inspect(&self) -> Option<Inspect> {
        let mut inspect = Inspect::default();
        if let Some(AskedLogprobs { of, top, ids }) = &self.logprobs {
            let of = Distribution::named(of).expect("the name of a distribution");
            inspect.of[of as usize] = true;
            (inspect.top, inspect.ids) = (*top, ids.clone().into());
        }
        inspect.kept_ids_max = self.return_kept.then_some(u32::MAX);
        (!inspect.is_empty()).then_some(inspect)
    }

    fn lists(&self, vocab_size: u32) -> AdjustmentsSpec {
        let mut allowed_bitmask: Vec<u32> = self.allowed_bitmask.iter().map(|hex| hex.0).collect();
        if let Some((n, rests)) = &self.allowed_mod {
            allowed_bitmask = vec![0; vocab_size.div_ceil(32) as usize];
            for id in (0..vocab_size).filter(|id| rests.contains(&(id % n))) {
                allowed_bitmask[id as usize / 32] |= 1 << (id % 32);
            }
        }
        let bias = |bias| match bias {
            Bias::Finite(bias) => bias,
            Bias::Ban(Ban::MinusInfinity) => f32::NEG_INFINITY,
        };
        AdjustmentsSpec {
            allowed_bitmask,
            allowed_ids: self.allowed_ids.clone(),
            banned_ids: self.banned_ids.clone(),
            bad_words: self.bad_words.clone(),
            stop_ids: self.stop_ids.clone(),
            logit_bias: self.logit_bias.iter().map(|&(id, b)| (id, bias(b))).collect(),
            prompt: self.prompt.clone(),
            output: self.output.clone(),
            output_length: self.output_length,
            counts: self.counts.clone(),
            breakers: self.dry.as_ref().map_or(vec![], |dry| dry.breakers.clone()),
        }
    }
}
