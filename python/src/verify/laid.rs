//! The rows of sequences as a backend samples them, and what they come to.

use super::asked::{Asked, Sequence};
use super::origins::Origin;
use super::verified::Found;
use crate::logits::RowLogits;
use crate::table::{Status, Table};
use logitd_core::adjustments::Adjustments;
use logitd_core::batch::{Dtype, Results, Row, RowError};
use logitd_core::params::SamplingParams;
use logitd_core::row::{Draft, Proposal, Rule};
use logitd_core::verify::{self, Mode, drafts};
use std::sync::Arc;

/// What is done with a row.
pub struct Laid {
    params: SamplingParams,
    adjustments: Option<Adjustments>,
    draft: Option<Draft>,
    /// Which sequence it is of.
    sequence: usize,
}

impl Laid {
    /// The row with these logits.
    pub fn row<'a>(
        &'a self,
        dtype: Dtype,
        logits: RowLogits<'a>,
        asked: &'a Asked,
    ) -> Result<Row<'a>, RowError> {
        let inspect = asked.each.inspect.as_ref().map(|each| each.get(self.sequence));
        let row = logits.row(dtype, self.params)?;
        let row = row.with_inspect(inspect.filter(|inspect| !inspect.is_empty()));
        Ok(row.with_adjustments(self.adjustments.as_ref()).with_draft(self.draft.as_ref()))
    }
}

/// The rows of all sequences, each behind the drafts of its history.
pub fn rows(asked: &Asked) -> Vec<Laid> {
    asked.sequences.iter().enumerate().flat_map(|(i, one)| rows_of(asked, i, one)).collect()
}

fn rows_of(asked: &Asked, i: usize, sequence: &Sequence) -> Vec<Laid> {
    let first = asked.each.params[i];
    let own = asked.each.adjustments.as_ref().map(|each| each.get(i));
    let paths = sequence.parents.as_ref().map(|parents| verify::paths(parents, &sequence.drafts));
    let row = |place: usize| {
        let (history, depth) = match &paths {
            None => (&sequence.drafts, place),
            Some(paths) => (&paths[place], paths[place].len()),
        };
        let params = first.with_position(first.position() + depth as u64);
        let of_row = asked.of_rows.as_ref().map(|each| each.get(sequence.first + place));
        let adjustments = verify::of_row(own, &params, history, depth, of_row);
        Laid { params, adjustments, draft: draft(sequence, place, &params), sequence: i }
    };
    (0..=sequence.drafts.len()).map(row).collect()
}

/// What a row decides about, where that is not the token that it draws.
fn draft(sequence: &Sequence, place: usize, params: &SamplingParams) -> Option<Draft> {
    let token = *sequence.drafts.get(place)?;
    let rule = match sequence.mode {
        Mode::Match => return None,
        Mode::Typical => Rule::Typical(sequence.typical),
        Mode::Rejection => Rule::Rejection(match sequence.origins.get(place) {
            None => Proposal::Point,
            Some(Origin::Known(proposal)) => proposal.clone(),
            Some(Origin::Row(drafted)) => {
                let mut drafted = drafted.clone();
                let own = drafted.params.with_seed(params.seed());
                drafted.params = own.with_position(params.position());
                Proposal::Row(Arc::new(drafted))
            }
        }),
    };
    Some(Draft { token, rule })
}

/// What the sequences take, and the rows that say so where more than tokens was asked for.
pub fn found(asked: &Asked, results: &Results) -> (Vec<Found>, Option<Table>) {
    let mut rows =
        asked.each.inspect.as_ref().map(|_| Table::of_single_draws(asked.each.vocab_size));
    let mut all = Vec::with_capacity(asked.sequences.len());
    for (sequence, params) in asked.sequences.iter().zip(&asked.each.params) {
        let Sequence { first, drafts, parents, .. } = sequence;
        let result = |place: usize| results.row(first + place);
        let verified = match parents {
            None => verify::chain(drafts, result),
            Some(parents) => verify::tree(parents, drafts, result),
        };
        let drawn = || verified.rows.iter().map(|&place| result(place).draws[0]);
        let tokens: Vec<u32> = drawn().map(|draw| draw.token).collect();
        let taken = &tokens[..verified.accepted];
        let path = parents.as_ref().map(|parents| drafts::path(parents, drafts, taken));
        if let Some(rows) = &mut rows {
            for &place in &verified.rows {
                rows.add(result(place), params.seed());
            }
        }
        all.push(Found {
            status: Status::Sampled(verified.status),
            accepted: verified.accepted as u32,
            logprobs: drawn().map(|draw| draw.logprob).collect(),
            tokens,
            path: path.unwrap_or_default(),
            seed: params.seed(),
        });
    }
    (all, rows)
}
