//! Sequences with drafts as messages of the API, and what came of them.

use super::messages::{dtype_of, known, lists, push, set, sets, status};
use super::planes::{Link, Staged};
use crate::logits::Logits;
use crate::table::{Status, Table};
use crate::verify::asked::{Asked, Sequence};
use crate::verify::origins::{Drafted, Origin};
use crate::verify::verified::Found;
use logitd_client::api::{self, draft_distribution::Kind};
use logitd_core::row::Proposal;
use logitd_core::verify::Mode;
use pyo3::prelude::*;

/// A request without its logits: the rows of the sequences, and behind them those of drafts ([`rows`]).
pub fn request(logits: &Logits<'_>, asked: &Asked) -> api::VerifyRequest {
    let mut next = logits.rows() as u32;
    let params = sets(&asked.each);
    let each = asked.sequences.iter().zip(params).enumerate();
    let sequences = each.map(|(i, (one, params))| sequence(asked, i, one, params, &mut next));
    let sequences = sequences.collect();
    api::VerifyRequest {
        dtype: dtype_of(logits.dtype()),
        vocab_size: asked.each.vocab_size,
        rows: Some(next),
        sequences,
        ..Default::default()
    }
}

/// The rows of drafts, in the order of a request.
pub fn rows(asked: &Asked) -> impl Iterator<Item = &[u8]> {
    let origins = asked.sequences.iter().flat_map(|sequence| &sequence.origins);
    origins.filter_map(|origin| match origin {
        Origin::Row(Drafted { logits, .. }) => Some(&logits[..]),
        Origin::Known(_) => None,
    })
}

/// The memory that all rows lie in, where it is lent: rows of drafts lie elsewhere.
pub fn staged(link: &Link, logits: &Logits<'_>, asked: &Asked) -> Option<Staged> {
    match rows(asked).next() {
        None => link.staged::<api::VerifyRequest>(logits),
        Some(_) => None,
    }
}

fn sequence(
    asked: &Asked,
    i: usize,
    one: &Sequence,
    params: api::SamplingParams,
    next: &mut u32,
) -> api::DraftedSequence {
    let rows = one.drafts.len() + 1;
    let mode = match one.mode {
        Mode::Match => api::VerifyMode::Match,
        Mode::Rejection => api::VerifyMode::Rejection,
        Mode::Typical => api::VerifyMode::Typical,
    };
    let of_rows = asked.of_rows.iter();
    let of_rows = of_rows.flat_map(|each| (one.first..one.first + rows).map(|row| each.get(row)));
    let typical = (one.mode == Mode::Typical).then_some(one.typical);
    let adjustments = asked.each.adjustments.as_ref().map(|each| lists(each.get(i).lists()));
    api::DraftedSequence {
        first_row: None,
        rows: Some(rows as u32),
        mode: mode.into(),
        drafts: one.drafts.to_vec(),
        parents: one.parents.clone().unwrap_or_default(),
        params: Some(params),
        adjustments,
        row_adjustments: of_rows.map(|own| lists(own.lists())).collect(),
        distributions: one.origins.iter().map(|origin| distribution(origin, next)).collect(),
        typical_epsilon: typical.map(|typical| typical.epsilon),
        typical_delta: typical.map(|typical| typical.delta),
    }
}

/// What a draft was drawn from; a row of it is the `next` one.
fn distribution(origin: &Origin, next: &mut u32) -> api::DraftDistribution {
    let kind = match origin {
        Origin::Known(Proposal::Point | Proposal::Row(_)) => None,
        Origin::Known(Proposal::Sparse(weighted)) => {
            let (tokens, weights) = weighted.iter().copied().unzip();
            Some(Kind::Sparse(api::SparseDraft { tokens, weights }))
        }
        Origin::Known(Proposal::Dense(probabilities)) => {
            Some(Kind::Dense(api::DenseDraft { probabilities: probabilities.clone() }))
        }
        Origin::Row(Drafted { params, adjustments, .. }) => {
            let row = *next;
            *next += 1;
            let adjustments = adjustments.as_ref();
            Some(Kind::Logits(Box::new(api::LogitsDraft {
                row,
                params: Some(set(*params, adjustments)),
                adjustments: adjustments.map(|own| lists(own.lists())),
            })))
        }
    };
    api::DraftDistribution { kind }
}

/// What came of the sequences, with the rows of their tokens where more than these was asked for.
pub fn found(
    response: api::VerifyResponse,
    asked: &Asked,
) -> PyResult<(Vec<Found>, Option<Table>)> {
    known(read(response, asked))
}

fn read(response: api::VerifyResponse, asked: &Asked) -> Option<(Vec<Found>, Option<Table>)> {
    if response.sequences.len() != asked.sequences.len() {
        return None;
    }
    let mut rows =
        asked.each.inspect.as_ref().map(|_| Table::of_single_draws(asked.each.vocab_size));
    let mut all = Vec::with_capacity(asked.sequences.len());
    for (one, sequence) in response.sequences.into_iter().zip(&asked.sequences) {
        let api::VerifiedSequence {
            tokens,
            logprobs,
            accepted,
            path,
            seed,
            rows: one_rows,
            status: number,
            ..
        } = one;
        let beyond = |token: &u32| *token >= asked.each.vocab_size;
        let is_known = accepted as usize <= tokens.len()
            && tokens.len() == logprobs.len()
            && tokens.len() <= sequence.drafts.len() + 1
            && (rows.is_none() || one_rows.len() == tokens.len())
            && (sequence.parents.is_none() || path.len() == accepted as usize)
            && !tokens.iter().any(beyond);
        if !is_known {
            return None;
        }
        if let Some(rows) = &mut rows {
            for row in one_rows {
                push(rows, row, &asked.each)?;
            }
        }
        let status = status(number).filter(|status| matches!(status, Status::Sampled(_)))?;
        all.push(Found { status, accepted, tokens, logprobs, path, seed });
    }
    Some((all, rows))
}
