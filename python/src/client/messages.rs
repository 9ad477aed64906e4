//! Calls as messages of the API, and its answers as results.

use crate::call::Asked;
use crate::each::Each;
use crate::invalid::Violation;
use crate::table::{RowOfTable, Status, Table};
use logitd_client::api;
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec};
use logitd_core::batch::Dtype;
use logitd_core::inspection::{
    Distribution, Entropy, Inspect, Inspection, KeptIds, Logprobs, TokenLogprob,
};
use logitd_core::params::{DrawRule, ParamsSpec, Profile, SamplingParams};
use logitd_core::status::{RowStatus, State};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A request without its logits: in columns where the server knows them and they can tell it, else in messages.
pub fn request(dtype: Dtype, asked: &Asked, has_columns: bool) -> api::SampleRequest {
    let Asked { params, adjustments, inspect, invalid, vocab_size } = asked;
    let on_invalid_row = match invalid.are_kept() {
        true => api::OnInvalidRow::Status,
        false => api::OnInvalidRow::Unspecified,
    };
    let mut columns = columns(params);
    // What is the same for all rows is in columns too.
    let shared =
        |row| (breakers(adjustments.as_ref(), row), inspect.as_ref().map(|each| each.get(row)));
    let are_shared = !matches!(inspect, Some(Each::Rows(_)))
        && (1..params.len()).all(|row| shared(row).0 == shared(0).0);
    let (columns, params) = if has_columns && are_shared {
        let (breakers, inspect) = shared(0);
        if !breakers.is_empty() {
            columns.dry.get_or_insert_default().breakers = sequences(breakers);
        }
        columns.logprobs = inspect.and_then(logprobs_of);
        columns.return_kept = inspect
            .filter(|inspect| inspect.kept_ids_max.is_some())
            .map(|_| true)
            .into_iter()
            .collect();
        (Some(columns), vec![])
    } else {
        (None, sets(asked))
    };
    let adjustments = match adjustments {
        None => vec![],
        Some(Each::All(all)) => vec![lists(all.lists())],
        Some(Each::Rows(rows)) => rows.iter().map(|row| lists(row.lists())).collect(),
    };
    api::SampleRequest {
        dtype: dtype_of(dtype),
        vocab_size: *vocab_size,
        rows: Some(asked.params.len() as u32),
        params,
        columns,
        return_columns: has_columns,
        adjustments,
        on_invalid_row: on_invalid_row.into(),
        ..Default::default()
    }
}

/// How logits are stored.
pub fn dtype_of(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::F16 => api::Dtype::F16,
        Dtype::Bf16 => api::Dtype::Bf16,
        Dtype::F32 => api::Dtype::F32,
    }
    .into()
}

/// The parameters of each row as a message, with what is asked for beside tokens.
pub fn sets(asked: &Asked) -> Vec<api::SamplingParams> {
    let Asked { params, adjustments, inspect, .. } = asked;
    let columns = columns(params);
    let set = |row| {
        let mut set = columns.set(row);
        break_at(&mut set, breakers(adjustments.as_ref(), row));
        let inspect = inspect.as_ref().map(|each| each.get(row));
        set.logprobs = inspect.and_then(logprobs_of);
        set.return_kept = inspect.is_some_and(|inspect| inspect.kept_ids_max.is_some());
        set
    };
    (0..params.len()).map(set).collect()
}

/// Parameters that nothing is asked of beside tokens, with the breakers of their adjustments.
pub fn set(params: SamplingParams, adjustments: Option<&Adjustments>) -> api::SamplingParams {
    let mut set = columns(&[params]).set(0);
    break_at(&mut set, adjustments.map_or(&[], Adjustments::breakers));
    set
}

fn break_at(set: &mut api::SamplingParams, breakers: &[Vec<u32>]) {
    if !breakers.is_empty() {
        set.dry.get_or_insert_default().breakers = sequences(breakers);
    }
}

fn breakers(adjustments: Option<&Each<Adjustments>>, row: usize) -> &[Vec<u32>] {
    adjustments.map_or(&[][..], |each| each.get(row).breakers())
}

/// The parameters of all rows. What is at its default in each is left out, so that servers that do not know it are not
/// asked for it.
fn columns(params: &[SamplingParams]) -> api::ParamColumns {
    let specs: Vec<ParamsSpec> = params.iter().map(|params| (*params).into()).collect();
    let default = ParamsSpec::default();
    let dry = api::DryColumns {
        multiplier: column(&specs, default.dry_multiplier, |spec| spec.dry_multiplier),
        base: column(&specs, default.dry_base, |spec| spec.dry_base),
        allowed_length: column(&specs, default.dry_allowed_length, |spec| spec.dry_allowed_length),
        last_n: column(&specs, default.dry_last_n, |spec| spec.dry_last_n),
        breakers: vec![],
    };
    let draw_rule = |spec: &ParamsSpec| -> i32 {
        match spec.draw_rule {
            DrawRule::Cumulative => api::DrawRule::Unspecified,
            DrawRule::Race => api::DrawRule::Race,
        }
        .into()
    };
    let profile = |spec: &ParamsSpec| -> i32 {
        match spec.profile {
            Profile::Logitd => api::Profile::Unspecified,
            Profile::Hf => api::Profile::Hf,
            Profile::Vllm => api::Profile::Vllm,
            Profile::Sglang => api::Profile::Sglang,
            Profile::Llamacpp => api::Profile::Llamacpp,
        }
        .into()
    };
    api::ParamColumns {
        temperature: column(&specs, default.temperature, |spec| spec.temperature),
        top_k: column(&specs, default.top_k, |spec| spec.top_k),
        top_p: column(&specs, default.top_p, |spec| spec.top_p),
        min_p: column(&specs, default.min_p, |spec| spec.min_p),
        // A row without a seed has got one here.
        seed: params.iter().map(SamplingParams::seed).collect(),
        position: column(&specs, default.position, |spec| spec.position),
        draws: column(&specs, default.draws, |spec| spec.draws),
        draw_rule: column(&specs, 0, draw_rule),
        draft: column(&specs, default.draft, |spec| spec.draft),
        repetition_penalty: column(&specs, default.repetition_penalty, |s| s.repetition_penalty),
        frequency_penalty: column(&specs, default.frequency_penalty, |s| s.frequency_penalty),
        presence_penalty: column(&specs, default.presence_penalty, |spec| spec.presence_penalty),
        no_repeat_ngram: column(&specs, default.no_repeat_ngram, |spec| spec.no_repeat_ngram),
        min_tokens: column(&specs, default.min_tokens, |spec| spec.min_tokens),
        dry: (dry != api::DryColumns::default()).then_some(dry),
        profile: column(&specs, 0, profile),
        logprobs: None,
        return_kept: vec![],
        top_n_sigma: column(&specs, default.top_n_sigma, |spec| spec.top_n_sigma),
        top_h: column(&specs, default.top_h, |spec| spec.top_h),
        top_a: column(&specs, default.top_a, |spec| spec.top_a),
        epsilon_cutoff: column(&specs, default.epsilon_cutoff, |spec| spec.epsilon_cutoff),
        eta_cutoff: column(&specs, default.eta_cutoff, |spec| spec.eta_cutoff),
        typical_p: column(&specs, default.typical_p, |spec| spec.typical_p),
        mirostat_tau: column(&specs, default.mirostat_tau, |spec| spec.mirostat_tau),
        mirostat_eta: column(&specs, default.mirostat_eta, |spec| spec.mirostat_eta),
        xtc_probability: column(&specs, default.xtc_probability, |spec| spec.xtc_probability),
        xtc_threshold: column(&specs, default.xtc_threshold, |spec| spec.xtc_threshold),
        adaptive_decay: column(&specs, default.adaptive_decay, |spec| spec.adaptive_decay),
        dynatemp_range: column(&specs, default.dynatemp_range, |spec| spec.dynatemp_range),
        dynatemp_exponent: column(&specs, default.dynatemp_exponent, |spec| spec.dynatemp_exponent),
        adaptive_target: optional(&specs, |spec| spec.adaptive_target),
        mirostat_mu: optional(&specs, |spec| spec.mirostat_mu),
        adaptive_sum: optional(&specs, |spec| spec.adaptive_sum),
        adaptive_weight: optional(&specs, |spec| spec.adaptive_weight),
    }
}

/// A value for all rows where they have the same, and none where that is the default.
fn column<T: Copy + PartialEq>(
    specs: &[ParamsSpec],
    default: T,
    value: impl Fn(&ParamsSpec) -> T,
) -> Vec<T> {
    let Some(first) = specs.first().map(&value) else { return vec![] };
    if specs.iter().any(|spec| value(spec) != first) {
        return specs.iter().map(value).collect();
    }
    if first == default { vec![] } else { vec![first] }
}

/// The same of what rows may be without, which is NaN there.
fn optional(specs: &[ParamsSpec], value: fn(&ParamsSpec) -> Option<f32>) -> Vec<f32> {
    let values = column(specs, None, value);
    values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect()
}

#[allow(
    clippy::needless_update,
    reason = "the API may have fields that this crate does not know yet"
)]
/// Lists as a message.
pub fn lists(spec: &AdjustmentsSpec) -> api::Adjustments {
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

/// The distributions that are asked for.
fn logprobs_of(inspect: &Inspect) -> Option<api::Logprobs> {
    let number = |of| match of {
        Distribution::Raw => api::LogprobsOf::Raw,
        Distribution::Adjusted => api::LogprobsOf::Adjusted,
        Distribution::Sampled => api::LogprobsOf::Sampled,
    };
    let of: Vec<i32> = inspect.distributions().map(|of| number(of).into()).collect();
    (!of.is_empty()).then(|| api::Logprobs { of, top: inspect.top, ids: inspect.ids.to_vec() })
}

/// The results of rows that were sampled so.
pub fn table(response: api::SampleResponse, asked: &Asked) -> PyResult<Table> {
    let table = match response.columns {
        Some(columns) => of_columns(columns, response.rows, asked),
        None => of_messages(response.rows, asked),
    };
    known(table)
}

/// What an answer says, or an error where it says what cannot be.
pub fn known<T>(read: Option<T>) -> PyResult<T> {
    read.ok_or_else(|| {
        let said = "the server's answer has other rows, statuses that are not known here, or tokens that there are not";
        PyRuntimeError::new_err(said)
    })
}

/// If there is a value for each row in every column.
fn of_columns(
    columns: api::ResultColumns,
    mut beside: Vec<api::RowResult>,
    asked: &Asked,
) -> Option<Table> {
    let api::ResultColumns { tokens, logprobs, kept, kept_mass, seeds, .. } = columns;
    let states = [columns.mirostat_mu, columns.adaptive_sum, columns.adaptive_weight];
    let (mut draw_tokens, mut draw_logprobs) =
        (&columns.draw_tokens[..], &columns.draw_logprobs[..]);
    let rows = columns.statuses.len();
    let lengths = [
        asked.params.len(),
        tokens.len(),
        logprobs.len(),
        kept.len(),
        kept_mass.len(),
        seeds.len(),
    ];
    let is_of_rows = |length: usize| [0, rows].contains(&length);
    if lengths.iter().any(|length| *length != rows)
        || !is_of_rows(beside.len())
        || !states.iter().all(|states| is_of_rows(states.len()))
    {
        return None;
    }
    let mut table = Table::new(asked);
    for i in 0..rows {
        let row = beside.get_mut(i).map(std::mem::take).unwrap_or_default();
        let status = status(columns.statuses[i])?;
        // A row that is wrong has no draws; one that was found wrong here has one, which nobody asked for.
        let is_sampled = status != Status::InvalidParameters;
        let draws = if is_sampled { asked.params[i].draws() as usize } else { 0 };
        let drawn: (&[i32], &[f32]) = match columns.draw_tokens.is_empty() {
            true => (&tokens[i..=i], &logprobs[i..=i]),
            false => (draw_tokens.split_off(..draws)?, draw_logprobs.split_off(..draws)?),
        };
        if push_invalid(&mut table, i, &row, asked) {
            continue;
        }
        let drawn = drawn.0.iter().zip(drawn.1);
        let drawn =
            drawn.filter_map(|(token, logprob)| Some((u32::try_from(*token).ok()?, *logprob)));
        let inspection = inspection(row, asked)?;
        let (seed, kept, kept_mass) = (seeds[i], kept[i], kept_mass[i]);
        let state = states.each_ref().map(|states| states.get(i).copied().filter(|x| !x.is_nan()));
        let state = state_of(state);
        table.push(RowOfTable { status, seed, kept, kept_mass, inspection, state }, drawn);
    }
    Some(table)
}

/// If there is one for each row.
fn of_messages(rows: Vec<api::RowResult>, asked: &Asked) -> Option<Table> {
    if rows.len() != asked.params.len() {
        return None;
    }
    let mut table = Table::new(asked);
    for (i, row) in rows.into_iter().enumerate() {
        if push_invalid(&mut table, i, &row, asked) {
            continue;
        }
        push(&mut table, row, asked)?;
    }
    Some(table)
}

/// Adds a row as its message says it, if it is one that can be.
pub fn push(table: &mut Table, row: api::RowResult, asked: &Asked) -> Option<()> {
    let status = status(row.status)?;
    // With one draw there is no list of them.
    let only = row.token.zip(row.logprob).filter(|_| row.draws.is_empty());
    let drawn = row.draws.iter().map(|draw| (draw.token, draw.logprob));
    let drawn: Vec<_> = only.into_iter().chain(drawn).collect();
    let (seed, kept, kept_mass) = (row.seed, row.kept, row.kept_mass);
    let state = state_of([row.mirostat_mu, row.adaptive_sum, row.adaptive_weight]);
    let inspection = inspection(row, asked)?;
    table.push(RowOfTable { status, seed, kept, kept_mass, inspection, state }, drawn.into_iter());
    Some(())
}

/// What the next row of a sequence is given: mirostat's mu, or the sum and the weight of adaptive-p.
fn state_of(parts: [Option<f32>; 3]) -> Option<State> {
    match parts {
        [Some(mu), ..] => Some(State::Mirostat { mu }),
        [None, Some(sum), Some(weight)] => Some(State::Adaptive { sum, weight }),
        _ => None,
    }
}

/// Adds a row that was found wrong, here or by the server, if it was.
fn push_invalid(table: &mut Table, i: usize, row: &api::RowResult, asked: &Asked) -> bool {
    let found = row.violation.as_ref().map(|violation| Violation {
        field: violation.field.clone(),
        description: violation.description.clone(),
    });
    let violation = asked.invalid.get(i).cloned().or(found);
    let is_invalid = violation.is_some();
    violation.into_iter().for_each(|violation| table.push_invalid(violation));
    is_invalid
}

/// What was asked for beside tokens, if it is what can be known.
fn inspection(row: api::RowResult, asked: &Asked) -> Option<Option<Box<Inspection>>> {
    if asked.inspect.is_none() {
        return Some(None);
    }
    let kept = match (row.kept_ids.is_empty(), row.kept_bitmask.is_empty()) {
        (true, true) => None,
        (false, _) => Some(kept_ids(row.kept_ids, asked.vocab_size)?),
        (true, false) => Some(kept_bitmask(&row.kept_bitmask, asked.vocab_size)?),
    };
    let logprobs = row.logprobs.into_iter().map(logprobs).collect::<Option<_>>()?;
    Some(Some(Box::new(Inspection { logprobs, kept, continuations: None })))
}

/// If there are such tokens.
fn kept_ids(ids: Vec<u32>, vocab_size: u32) -> Option<KeptIds> {
    ids.iter().all(|id| *id < vocab_size).then_some(KeptIds::Ids(ids))
}

/// If it has a bit for each token, and no other is set.
fn kept_bitmask(bytes: &[u8], vocab_size: u32) -> Option<KeptIds> {
    let (words, rest) = bytes.as_chunks();
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let is_whole = rest.is_empty() && words.len() == vocab_size.div_ceil(32) as usize;
    let beyond = match vocab_size % 32 {
        0 => 0,
        bits => words.last()? >> bits,
    };
    (is_whole && beyond == 0).then_some(KeptIds::Bitmask(words))
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
        status: match status(found.status)? {
            Status::Sampled(status) => status,
            Status::InvalidParameters => return None,
        },
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

/// A status that is known here.
pub fn status(number: i32) -> Option<Status> {
    Some(match api::RowStatus::try_from(number).ok()? {
        api::RowStatus::Unspecified => return None,
        api::RowStatus::Ok => Status::Sampled(RowStatus::Ok),
        api::RowStatus::Nan => Status::Sampled(RowStatus::Nan),
        api::RowStatus::PositiveInfinity => Status::Sampled(RowStatus::PositiveInfinity),
        api::RowStatus::NoCandidate => Status::Sampled(RowStatus::NoCandidate),
        api::RowStatus::InvalidParameters => Status::InvalidParameters,
    })
}
