//! Groups of beams as messages of the API, and what came of them.

use super::messages::{dtype_of, known, lists, set, status};
use crate::beams::asked::Asked;
use crate::beams::found::BeamGroup;
use crate::logits::Logits;
use crate::table::Status;
use logitd_client::api;
use logitd_core::beams::{Candidate, Step, Stepped};
use logitd_core::inspection::Normaliser;
use logitd_core::status::RowStatus;
use pyo3::prelude::*;

/// A request without its logits.
pub fn request(logits: &Logits<'_>, asked: &Asked) -> api::BeamStepRequest {
    let mut at = 0;
    let groups = asked.steps.iter().map(|step| {
        let first = at;
        at += step.spec().scores.len();
        group(asked, step, first)
    });
    let groups = groups.collect();
    api::BeamStepRequest {
        dtype: dtype_of(logits.dtype()),
        vocab_size: asked.vocab_size,
        rows: Some(logits.rows() as u32),
        groups,
        ..Default::default()
    }
}

/// A group with the rows from one on.
fn group(asked: &Asked, step: &Step, first: usize) -> api::BeamGroup {
    let spec = step.spec();
    let normaliser = match spec.normaliser {
        Normaliser::Adjusted => api::BeamNormaliser::Adjusted,
        Normaliser::Raw => api::BeamNormaliser::Raw,
    };
    let rows = || first..first + spec.scores.len();
    let own = |row: usize| asked.adjustments.as_ref().map(|each| each.get(row));
    let params = rows().map(|row| {
        let params = asked.specs[row].parse(|| 0).expect("it was parsed before");
        // Nothing is drawn, and a seed would be refused.
        api::SamplingParams { seed: None, ..set(params, own(row)) }
    });
    api::BeamGroup {
        first_row: None,
        rows: Some(spec.scores.len() as u32),
        scores: spec.scores.clone(),
        beams: spec.beams,
        eos_ids: spec.eos_ids.clone(),
        temperature: Some(spec.temperature),
        normaliser: normaliser.into(),
        params: params.collect(),
        adjustments: rows().filter_map(|row| own(row).map(|own| lists(own.lists()))).collect(),
    }
}

/// What came of the groups.
pub fn found(response: api::BeamStepResponse, asked: &Asked) -> PyResult<Vec<BeamGroup>> {
    known(read(response, asked))
}

fn read(response: api::BeamStepResponse, asked: &Asked) -> Option<Vec<BeamGroup>> {
    if response.groups.len() != asked.steps.len() {
        return None;
    }
    let each = response.groups.into_iter().zip(&asked.steps);
    each.map(|(group, step)| stepped(group, step, asked.vocab_size).map(BeamGroup)).collect()
}

fn stepped(group: api::BeamGroupResult, step: &Step, vocab_size: u32) -> Option<Stepped> {
    let rows = step.spec().scores.len();
    let sampled = |number: &i32| -> Option<RowStatus> {
        match status(*number)? {
            Status::Sampled(status) => Some(status),
            Status::InvalidParameters => None,
        }
    };
    let columns = |columns: Option<api::BeamContinuations>| {
        let api::BeamContinuations { beams, tokens, scores } = columns.unwrap_or_default();
        let is_known = beams.len() == tokens.len()
            && beams.len() == scores.len()
            && beams.iter().all(|&beam| (beam as usize) < rows)
            && tokens.iter().all(|&token| token < vocab_size);
        let all = beams.into_iter().zip(tokens).zip(scores);
        let candidate = |((beam, token), score)| Candidate { beam, token, score };
        is_known.then(|| all.map(candidate).collect())
    };
    if group.statuses.len() != rows {
        return None;
    }
    Some(Stepped {
        statuses: group.statuses.iter().map(sampled).collect::<Option<_>>()?,
        candidates: columns(group.candidates)?,
        running: columns(group.running)?,
        finished: columns(group.finished)?,
    })
}
