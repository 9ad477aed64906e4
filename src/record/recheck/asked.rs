//! Rows of recorded requests, to be sampled again.

use super::RecheckError;
use crate::wire::inspection::Asked as Inspected;
use bytes::Bytes;
use logitd_core::adjustments::Adjustments;
use logitd_core::backend::{Backend, dual};
use logitd_core::batch::{Dtype, Results, Row, RowError};
use logitd_core::candidates::TokenList;
use logitd_core::params::SamplingParams;
use logitd_core::row::{Draft, Source};

/// A row of a request, and what it takes to sample it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) dtype: Dtype,
    pub(super) logits: Bytes,
    pub(super) params: SamplingParams,
    /// What the indices of its result stand for, where it is a row of candidates.
    pub(super) tokens: Option<TokenList>,
    pub(super) adjustments: Option<Adjustments>,
    pub(super) inspected: Option<Inspected>,
    /// What was drafted for it.
    pub(super) draft: Option<Draft>,
    /// Tokens of the whole row.
    pub(super) vocab_size: u32,
}

impl Asked {
    /// A whole row of which nothing but tokens is asked.
    pub(super) fn plain(
        dtype: Dtype,
        logits: Bytes,
        params: SamplingParams,
        vocab_size: u32,
    ) -> Self {
        let (tokens, adjustments, inspected, draft) = (None, None, None, None);
        Self { dtype, logits, params, tokens, adjustments, inspected, draft, vocab_size }
    }

    /// The row as backends see it.
    pub(super) fn row(&self) -> Result<Row<'_>, RowError> {
        let row = Row::new(self.dtype, &self.logits, self.params)?;
        let inspect = self.inspected.as_ref().map(|asked| &*asked.inspect);
        let row = row.with_adjustments(self.adjustments.as_ref()).with_inspect(inspect);
        let row = row.with_draft(self.draft.as_ref());
        Ok(self.tokens.iter().fold(row, |row, tokens| row.with_ids(tokens.as_bytes())))
    }

    /// The row with its parameters and two answers: what is needed to sample it again. `theirs` is what was answered, as
    /// far as an answer says what became of the row.
    pub(super) fn replayable(
        &self,
        backend: &mut dyn Backend,
        row_index: usize,
        theirs: Option<dual::OwnedResult>,
    ) -> Result<dual::Difference, RecheckError> {
        let row = self.row()?;
        let mut results = Results::default();
        backend.sample(&[row], &mut results)?;
        let ours = results.row(0);
        Ok(dual::Difference {
            row_index,
            dtype: row.dtype(),
            vocab_size: row.vocab_size(),
            params: *row.params(),
            adjustments: row.adjustments().cloned(),
            inspect: row.inspect().cloned(),
            draft: row.draft().cloned(),
            a: Some(dual::OwnedResult {
                outcome: ours.outcome,
                draws: ours.draws.to_vec(),
                inspection: ours.inspection.cloned(),
                state: ours.state,
                accepted: ours.accepted,
            }),
            b: theirs,
            logits: self.logits.to_vec(),
        })
    }
}

impl Source for Asked {
    fn row(&self) -> Row<'_> {
        self.row().expect("checked when it was made")
    }
}

/// Samples rows.
pub(super) fn sample(
    backend: &mut dyn Backend,
    asked: &[Asked],
    results: &mut Results,
) -> Result<(), RecheckError> {
    let rows = asked.iter().map(Asked::row).collect::<Result<Vec<_>, _>>()?;
    Ok(backend.sample(&rows, results)?)
}
