//! Calls as messages of the API, and its answers as results.

use crate::call::Asked;
use crate::each::Each;
use crate::invalid::Violation;
use crate::table::{RowOfTable, Status, Table};
use logitd_client::api;
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::batch::Dtype;
use logitd_core::inspection::{
    Distribution, Entropy, Inspect, Inspection, KeptIds, Logprobs, TokenLogprob,
};
use logitd_core::params::{DrawRule, Field, ParamsSpec, SamplingParams};
use logitd_core::status::RowStatus;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A request without its logits.
pub fn request(dtype: Dtype, asked: &Asked) -> api::SampleRequest {
    let Asked { params, adjustments, inspect, invalid, vocab_size } = asked;
    let dtype = match dtype {
        Dtype::F16 => api::Dtype::F16,
        Dtype::Bf16 => api::Dtype::Bf16,
        Dtype::F32 => api::Dtype::F32,
    };
    let of_row = |(row, params): (usize, &SamplingParams)| {
        let breakers = adjustments.as_ref().map_or(&[][..], |each| each.get(row).breakers());
        let mut message = parameters((*params).into(), breakers);
        if let Some(inspect) = inspect {
            ask(inspect.get(row), &mut message);
        }
        message
    };
    let adjustments = match adjustments {
        None => vec![],
        Some(Each::All(all)) => vec![lists(all.lists())],
        Some(Each::Rows(rows)) => rows.iter().map(|row| lists(row.lists())).collect(),
    };
    api::SampleRequest {
        dtype: dtype.into(),
        vocab_size: *vocab_size,
        on_invalid_row: match invalid.are_kept() {
            true => api::OnInvalidRow::Status,
            false => api::OnInvalidRow::Unspecified,
        }
        .into(),
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

/// Puts what is asked for beside tokens into the message of a row.
fn ask(inspect: &Inspect, params: &mut api::SamplingParams) {
    let number = |of| match of {
        Distribution::Raw => api::LogprobsOf::Raw,
        Distribution::Adjusted => api::LogprobsOf::Adjusted,
        Distribution::Sampled => api::LogprobsOf::Sampled,
    };
    let of: Vec<i32> = inspect.distributions().map(|of| number(of).into()).collect();
    params.return_kept = inspect.kept_ids_max.is_some();
    params.logprobs =
        (!of.is_empty()).then(|| api::Logprobs { of, top: inspect.top, ids: inspect.ids.to_vec() });
}

/// The results of rows that were sampled so.
pub fn table(response: api::SampleResponse, asked: &Asked) -> PyResult<Table> {
    rows(response.rows, asked).ok_or_else(|| {
        let said = "the server's answer has other rows, or statuses that are not known here";
        PyRuntimeError::new_err(said)
    })
}

/// If there is one for each.
fn rows(rows: Vec<api::RowResult>, asked: &Asked) -> Option<Table> {
    if rows.len() != asked.params.len() {
        return None;
    }
    let mut table = Table::new(asked);
    for (i, row) in rows.into_iter().enumerate() {
        // What is wrong was found here, or by the server.
        let found = row.violation.as_ref().map(|violation| Violation {
            field: violation.field.clone(),
            description: violation.description.clone(),
        });
        if let Some(violation) = asked.invalid.get(i).cloned().or(found) {
            table.push_invalid(violation);
            continue;
        }
        let status = Status::Sampled(status(row.status())?);
        // With one draw there is no list of them.
        let only = row.token.zip(row.logprob).filter(|_| row.draws.is_empty());
        let drawn = row.draws.iter().map(|draw| (draw.token, draw.logprob));
        let drawn = only.into_iter().chain(drawn).collect::<Vec<_>>();
        let (seed, kept, kept_mass) = (row.seed, row.kept, row.kept_mass);
        let is_inspected = asked.inspect.is_some();
        let inspection = if is_inspected { Some(Box::new(inspection(row)?)) } else { None };
        table.push(RowOfTable { status, seed, kept, kept_mass, inspection }, drawn.into_iter());
    }
    Some(table)
}

fn inspection(row: api::RowResult) -> Option<Inspection> {
    let (words, _) = row.kept_bitmask.as_chunks();
    let kept = match (row.kept_ids.is_empty(), words.is_empty()) {
        (true, true) => None,
        (false, _) => Some(KeptIds::Ids(row.kept_ids)),
        (true, false) => {
            Some(KeptIds::Bitmask(words.iter().map(|word| u32::from_le_bytes(*word)).collect()))
        }
    };
    let logprobs = row.logprobs.into_iter().map(logprobs).collect::<Option<_>>()?;
    Some(Inspection { logprobs, kept })
}

fn logprobs(found: api::LogprobsResult) -> Option<Logprobs> {
    let of = match found.of() {
        api::LogprobsOf::Raw => Distribution::Raw,
        api::LogprobsOf::Adjusted => Distribution::Adjusted,
        api::LogprobsOf::Sampled => Distribution::Sampled,
        api::LogprobsOf::Unspecified => return None,
    };
    Some(Logprobs {
        of,
        status: status(found.status())?,
        entropy: Entropy(found.entropy),
        drawn: tokens(found.drawn),
        top: tokens(found.top),
        ids: tokens(found.ids),
    })
}

fn tokens(columns: Option<api::TokenLogprobs>) -> Vec<TokenLogprob> {
    let api::TokenLogprobs { tokens, ranks, logprobs } = columns.unwrap_or_default();
    let each = tokens.into_iter().zip(ranks).zip(logprobs);
    each.map(|((token, rank), logprob)| TokenLogprob { token, rank, logprob }).collect()
}

fn status(status: api::RowStatus) -> Option<RowStatus> {
    RowStatus::ALL
        .into_iter()
        .find(|known| status.as_str_name().strip_prefix("ROW_STATUS_") == Some(known.name()))
}
