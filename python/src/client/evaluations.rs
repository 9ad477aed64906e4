//! Evaluations as messages of the API, and their answers.

use super::messages::{dtype_of, known, set, status};
use crate::evaluate::asked::Asked;
use crate::logits::Logits;
use crate::table::Status;
use logitd_client::api;
use logitd_core::evaluate::sets::Grid;
use logitd_core::evaluate::sums::{GroupSums, SetSums, Sums};
use logitd_core::evaluate::{Evaluation, EvaluationResult, Reference};
use logitd_core::params::Value;
use logitd_core::status::RowStatus;
use pyo3::prelude::*;

/// A request without its logits.
pub fn request(logits: &Logits<'_>, asked: &Asked) -> api::EvaluateRequest {
    let grid = asked.sets.grid.as_ref().and_then(grid_of);
    let listed = match &grid {
        Some(_) => vec![],
        None => asked.sets.sets.params().iter().map(|params| set(*params, None)).collect(),
    };
    let groups = match asked.groups.iter().all(|group| *group == 0) {
        true => vec![],
        false => asked.groups.clone(),
    };
    api::EvaluateRequest {
        dtype: dtype_of(logits.dtype()),
        vocab_size: asked.vocab_size as u32,
        references: asked.references.clone(),
        groups,
        sets: listed,
        grid,
        tail_share: Some(asked.tail.get()),
        rows: asked.rows,
        ..Default::default()
    }
}

/// A grid whose axes the message has. Sets that others make are listed.
fn grid_of(grid: &Grid) -> Option<api::SetGrid> {
    let mut message = api::SetGrid::default();
    for (name, values) in grid.axes() {
        let real = || {
            values
                .iter()
                .filter_map(|value| if let Value::Real(x) = value { Some(*x) } else { None })
        };
        match name {
            "temperature" => message.temperature = real().collect(),
            "top_p" => message.top_p = real().collect(),
            "min_p" => message.min_p = real().collect(),
            "top_k" => {
                let whole = values.iter().filter_map(|value| match value {
                    Value::Whole(n) => u32::try_from(*n).ok(),
                    _ => None,
                });
                message.top_k = whole.collect();
            }
            _ => return None,
        }
    }
    Some(message)
}

/// What came of it.
pub fn answer(response: api::EvaluateResponse, asked: &Asked) -> PyResult<EvaluationResult> {
    known(read(response, asked))
}

fn read(response: api::EvaluateResponse, asked: &Asked) -> Option<EvaluationResult> {
    let (rows, sets) = (asked.references.len(), asked.sets.sets.len());
    let answers = if asked.rows { rows * sets } else { 0 };
    if response.references.len() != rows || response.rows.len() != answers {
        return None;
    }
    let mut sums = Sums::default();
    for group in response.groups {
        sums.add(group.group, sums_of(&group, sets)?);
    }
    let each = response.rows.into_iter();
    let evaluation = |own: api::Evaluation| {
        let api::Evaluation { kept, kept_mass, logprob } = own;
        Evaluation { kept, kept_mass, logprob }
    };
    Some(EvaluationResult {
        references: response.references.into_iter().map(reference).collect::<Option<_>>()?,
        sums,
        rows: each.map(evaluation).collect(),
    })
}

fn reference(row: api::RowReference) -> Option<Reference> {
    let status: RowStatus = match status(row.status)? {
        Status::Sampled(status) => status,
        Status::InvalidParameters => return None,
    };
    let api::RowReference { rank, logprob, entropy, .. } = row;
    Some(Reference { status, rank, logprob, entropy })
}

/// The sums of a label, if there is a value for each set in every list.
fn sums_of(group: &api::GroupSums, sets: usize) -> Option<GroupSums> {
    let set = |i: usize| {
        Some(SetSums {
            hits: *group.hits.get(i)?,
            kept: *group.kept.get(i)?,
            logprob_q32: *group.logprob_q32.get(i)?,
            probability_q32: *group.probability_q32.get(i)?,
            entropy_q32: *group.entropy_q32.get(i)?,
            surprise_q32: *group.surprise_q32.get(i)?,
            collision_q32: *group.collision_q32.get(i)?,
            tail_q32: *group.tail_q32.get(i)?,
        })
    };
    let (rows, rows_failed) = (group.rows, group.rows_failed);
    Some(GroupSums { rows, rows_failed, sets: (0..sets).map(set).collect::<Option<_>>()? })
}
