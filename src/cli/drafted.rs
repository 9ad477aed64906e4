//! A sequence and what was drafted for it, to be verified by a backend of this process or by a server.

use super::params;
use crate::files::params::Set;
use crate::files::vectors::StoredRow;
use logitd_core::adjustments::Adjustments;
use logitd_core::backend::Backend;
use logitd_core::batch::{Results, RowStatus};
use logitd_core::params::SamplingParams;
use logitd_core::row::{Draft, Proposal, Row, RowError, Rule, Source, Typical};
use logitd_core::verify::{self, Mode, of_row};
use std::error::Error;
use std::sync::Arc;

/// A sequence: a row for each draft, and one more.
pub struct Sequence {
    /// Of a chain in its order; of a tree the root's first.
    pub rows: Vec<StoredRow>,
    /// What is done with the first row. Of the others the position and the history go on with the drafts.
    pub set: Set,
    /// How drafts are compared with the rows.
    pub mode: Mode,
    /// The drafted tokens.
    pub drafts: Vec<u32>,
    /// Of a tree: the node that each draft hangs under.
    pub parents: Option<Vec<u32>>,
    /// What the drafts were drawn from, in [`Mode::Rejection`]: one a draft.
    pub origins: Vec<Origin>,
    /// When a draft is likely enough, in [`Mode::Typical`].
    pub typical: Option<Typical>,
}

/// What a draft was drawn from.
pub enum Origin {
    /// Nothing: it was certain.
    Point,
    /// A row of the draft model. Seed and position are those of the draft's place.
    Row(StoredRow, Box<Set>),
    /// Tokens with weights, ids ascending.
    Sparse(Vec<(u32, u64)>),
    /// A probability a token.
    Dense(Vec<f32>),
}

/// What a sequence takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// OK, or that of the row behind the last token.
    pub status: RowStatus,
    /// How many drafts.
    pub accepted: usize,
    /// Of a tree: the nodes of these.
    pub path: Vec<u32>,
    /// What the sequence goes on with.
    pub tokens: Vec<u32>,
    /// One a token.
    pub logprobs: Vec<f32>,
}

impl Sequence {
    /// Samples all rows at once, each behind the drafts of its history, and walks over what they say.
    pub fn verify(&self, backend: &mut dyn Backend) -> Result<Taken, Box<dyn Error>> {
        let first = params::parse(self.set.params)?;
        let mut made = Vec::with_capacity(self.rows.len());
        for (place, (history, count)) in self.histories().into_iter().enumerate() {
            let row = &self.rows[place];
            let params = first.with_position(first.position().wrapping_add(count as u64));
            let own = params::adjustments(&self.set, &first, row.vocab_size())?;
            let adjustments = of_row(own.as_ref(), &first, &history, count, None);
            made.push((row, params, adjustments, self.draft(place, params)?));
        }
        let rows = made.iter().map(|(row, params, adjustments, draft)| {
            let row = Row::new(row.dtype, &row.logits, *params)?;
            Ok(row.with_adjustments(adjustments.as_ref()).with_draft(draft.as_ref()))
        });
        let rows = rows.collect::<Result<Vec<_>, RowError>>()?;
        let mut results = Results::default();
        backend.sample(&rows, &mut results)?;
        Ok(self.walk(&results))
    }

    /// The drafts before each row, as the first tokens of a list.
    fn histories(&self) -> Vec<(Arc<[u32]>, usize)> {
        let drafts: Arc<[u32]> = self.drafts.as_slice().into();
        let Some(parents) = &self.parents else {
            return (0..=drafts.len()).map(|place| (Arc::clone(&drafts), place)).collect();
        };
        let with_length = |path: Arc<[u32]>| {
            let length = path.len();
            (path, length)
        };
        verify::paths(parents, &drafts).into_iter().map(with_length).collect()
    }

    /// What the row at a place decides about: nothing, where its draft is compared with what it says.
    fn draft(&self, place: usize, params: SamplingParams) -> Result<Option<Draft>, Box<dyn Error>> {
        let Some(&token) = self.drafts.get(place) else { return Ok(None) };
        let rule = match self.mode {
            Mode::Match => return Ok(None),
            Mode::Typical => Rule::Typical(self.typical.ok_or("has no bounds of its mode")?),
            Mode::Rejection => Rule::Rejection(self.origins[place].proposal(params)?),
        };
        let draft = Draft { token, rule };
        match draft.fits(self.rows[place].vocab_size()) {
            true => Ok(Some(draft)),
            false => Err(format!("draft {place} is of another vocabulary than its row").into()),
        }
    }

    fn walk(&self, results: &Results) -> Taken {
        let verified = match &self.parents {
            None => verify::chain(&self.drafts, |place| results.row(place)),
            Some(parents) => verify::tree(parents, &self.drafts, |node| results.row(node)),
        };
        let draws = || verified.rows.iter().map(|&row| results.row(row).draws[0]);
        let tokens: Vec<u32> = draws().map(|draw| draw.token).collect();
        let accepted = &tokens[..verified.accepted];
        let path = |parents: &Vec<u32>| verify::drafts::path(parents, &self.drafts, accepted);
        let path = self.parents.as_ref().map(path);
        Taken {
            status: verified.status,
            accepted: verified.accepted,
            path: path.unwrap_or_default(),
            logprobs: draws().map(|draw| draw.logprob).collect(),
            tokens,
        }
    }
}

impl Origin {
    /// The same for a row with these parameters.
    fn proposal(&self, params: SamplingParams) -> Result<Proposal, Box<dyn Error>> {
        Ok(match self {
            Self::Point => Proposal::Point,
            Self::Sparse(weights) => Proposal::Sparse(weights.clone()),
            Self::Dense(probabilities) => Proposal::Dense(probabilities.clone()),
            Self::Row(row, set) => {
                let own = params::parse(set.params)?;
                let params = own.with_seed(params.seed()).with_position(params.position());
                let adjustments = params::adjustments(set, &params, row.vocab_size())?;
                Proposal::Row(Arc::new(Drafter { row: row.clone(), params, adjustments }))
            }
        })
    }
}

/// The row that a draft was drawn from.
#[derive(Debug)]
struct Drafter {
    row: StoredRow,
    params: SamplingParams,
    adjustments: Option<Adjustments>,
}

impl Source for Drafter {
    fn row(&self) -> Row<'_> {
        let row = Row::new(self.row.dtype, &self.row.logits, self.params).expect("a row's logits");
        row.with_adjustments(self.adjustments.as_ref())
    }
}
