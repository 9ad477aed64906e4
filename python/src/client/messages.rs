//! Calls as messages of the API, and its answers as results.

use crate::each::Each;
use crate::results::{RowOfTable, Table};
use logitd_client::api;
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec};
use logitd_core::batch::Dtype;
use logitd_core::params::{DrawRule, Field, ParamsSpec, SamplingParams};
use logitd_core::status::RowStatus;

/// A request without its logits.
pub fn request(
    dtype: Dtype,
    vocab_size: usize,
    params: &[SamplingParams],
    adjustments: Option<&Each<Adjustments>>,
) -> api::SampleRequest {
    let dtype = match dtype {
        Dtype::F16 => api::Dtype::F16,
        Dtype::Bf16 => api::Dtype::Bf16,
        Dtype::F32 => api::Dtype::F32,
    };
    let of_row = |(row, params): (usize, &SamplingParams)| {
        let breakers = adjustments.map_or(&[][..], |each| each.get(row).breakers());
        parameters((*params).into(), breakers)
    };
    let adjustments = match adjustments {
        None => vec![],
        Some(Each::All(all)) => vec![lists(all.lists())],
        Some(Each::Rows(rows)) => rows.iter().map(|row| lists(row.lists())).collect(),
    };
    api::SampleRequest {
        dtype: dtype.into(),
        vocab_size: u32::try_from(vocab_size).unwrap_or(u32::MAX),
        rows: Some(params.len() as u32),
        params: params.iter().enumerate().map(of_row).collect(),
        adjustments,
        ..Default::default()
    }
}

/// The message of a row's parameters. What is at its default is left out where the message allows it, so that servers
/// that do not know it are not asked for it.
#[allow(
    clippy::needless_update,
    reason = "the API may have fields that this crate does not know yet"
)]
fn parameters(spec: ParamsSpec, breakers: &[Vec<u32>]) -> api::SamplingParams {
    let default = ParamsSpec::default();
    let has_dry = Field::of_group("dry").any(|field| field.get(spec) != field.get(default));
    api::SamplingParams {
        temperature: Some(spec.temperature),
        top_k: spec.top_k,
        top_p: Some(spec.top_p),
        min_p: spec.min_p,
        seed: spec.seed,
        position: spec.position,
        draws: Some(spec.draws),
        draw_rule: match spec.draw_rule {
            DrawRule::Cumulative => api::DrawRule::Unspecified,
            DrawRule::Race => api::DrawRule::Race,
        }
        .into(),
        repetition_penalty: (spec.repetition_penalty != default.repetition_penalty)
            .then_some(spec.repetition_penalty),
        frequency_penalty: spec.frequency_penalty,
        presence_penalty: spec.presence_penalty,
        no_repeat_ngram: spec.no_repeat_ngram,
        min_tokens: spec.min_tokens,
        dry: (has_dry || !breakers.is_empty()).then(|| api::Dry {
            multiplier: spec.dry_multiplier,
            base: Some(spec.dry_base),
            allowed_length: Some(spec.dry_allowed_length),
            last_n: spec.dry_last_n,
            breakers: sequences(breakers),
        }),
        ..Default::default()
    }
}

#[allow(
    clippy::needless_update,
    reason = "the API may have fields that this crate does not know yet"
)]
fn lists(spec: &AdjustmentsSpec) -> api::Adjustments {
    let mask = spec.allowed_bitmask.iter().flat_map(|word| word.to_le_bytes());
    let bias = |&(token, bias): &(u32, f32)| api::TokenBias { token, bias };
    api::Adjustments {
        allowed_bitmask: mask.collect(),
        allowed_ids: spec.allowed_ids.clone(),
        banned_ids: spec.banned_ids.clone(),
        bad_words: sequences(&spec.bad_words),
        stop_ids: spec.stop_ids.clone(),
        logit_bias: spec.logit_bias.iter().map(bias).collect(),
        prompt: spec.prompt.clone(),
        output: spec.output.clone(),
        output_length: spec.output_length,
        counts: spec.counts.iter().flat_map(|&(token, count)| [token, count]).collect(),
        ..Default::default()
    }
}

fn sequences(sequences: &[Vec<u32>]) -> Vec<api::TokenSequence> {
    sequences.iter().map(|tokens| api::TokenSequence { tokens: tokens.clone() }).collect()
}

/// The results of rows that were sampled with these parameters, if there is one for each.
pub fn table(rows: &[api::RowResult], params: &[SamplingParams]) -> Option<Table> {
    if rows.len() != params.len() {
        return None;
    }
    let mut table = Table::new(params);
    for row in rows {
        let status = status(row.status())?;
        let of_row =
            RowOfTable { status, seed: row.seed, kept: row.kept, kept_mass: row.kept_mass };
        // With one draw there is no list of them.
        let only = row.token.zip(row.logprob).filter(|_| row.draws.is_empty());
        let drawn = row.draws.iter().map(|draw| (draw.token, draw.logprob));
        table.push(of_row, only.into_iter().chain(drawn));
    }
    Some(table)
}

fn status(status: api::RowStatus) -> Option<RowStatus> {
    RowStatus::ALL
        .into_iter()
        .find(|known| status.as_str_name().strip_prefix("ROW_STATUS_") == Some(known.name()))
}
