//! What became of the rows of a call.

use crate::call::Asked;
use crate::invalid::Violation;
use logitd_core::batch::{Outcome, RowResult};
use logitd_core::inspection::{Inspection, KeptIds};
use logitd_core::status::{RowStatus, State};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::collections::BTreeMap;

create_exception!(
    logitd,
    RowError,
    PyValueError,
    "A row has no token: a logit is NaN or +inf, or no token is left."
);

/// The token where there is none.
pub const NO_TOKEN: i64 = -1;

/// Rows of results, all with as many draws.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<RowOfTable>,
    /// The most that a row has.
    pub draws: usize,
    /// `draws` of each row: tokens and their logprobs.
    pub drawn: Vec<(i64, f32)>,
    pub vocab_size: u32,
    /// What is wrong with some rows.
    pub violations: BTreeMap<usize, Violation>,
}

/// What is said once about a row.
pub struct RowOfTable {
    pub status: Status,
    pub seed: u64,
    pub kept: u32,
    pub kept_mass: u64,
    /// What was asked for beside its tokens.
    pub inspection: Option<Box<Inspection>>,
    /// What the next row of its sequence is given, if its controls have a state.
    pub state: Option<State>,
}

/// What became of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Sampled(RowStatus),
    InvalidParameters,
}

impl Status {
    /// Every one, by its name and its number.
    pub fn all() -> impl Iterator<Item = (&'static str, u8)> {
        let sampled = RowStatus::ALL.into_iter().map(Self::Sampled);
        sampled.chain([Self::InvalidParameters]).map(|status| (status.name(), status.number()))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sampled(status) => status.name(),
            Self::InvalidParameters => "INVALID_PARAMETERS",
        }
    }

    pub fn number(self) -> u8 {
        match self {
            Self::Sampled(status) => status as u8,
            Self::InvalidParameters => RowStatus::ALL.len() as u8,
        }
    }
}

impl Table {
    /// Room for the results of rows that are asked for so.
    pub fn new(asked: &Asked) -> Self {
        let params = &asked.params;
        let draws = params.iter().map(|params| params.draws() as usize).max().unwrap_or(1);
        Self {
            rows: Vec::with_capacity(params.len()),
            draws,
            drawn: Vec::with_capacity(params.len() * draws),
            vocab_size: asked.vocab_size,
            violations: BTreeMap::new(),
        }
    }

    /// Room for rows that have one draw each.
    pub fn of_single_draws(vocab_size: u32) -> Self {
        Self { draws: 1, vocab_size, ..Self::default() }
    }

    /// Adds a row that was sampled with this seed.
    pub fn add(&mut self, result: RowResult<'_>, seed: u64) {
        let Outcome { status, kept, kept_mass } = result.outcome;
        let status = Status::Sampled(status);
        let inspection = result.inspection.cloned().map(Box::new);
        let row = RowOfTable { status, seed, kept, kept_mass, inspection, state: result.state };
        self.push(row, result.draws.iter().map(|draw| (draw.token, draw.logprob)));
    }

    /// Adds a row and what was drawn from it.
    pub fn push(&mut self, row: RowOfTable, drawn: impl Iterator<Item = (u32, f32)>) {
        self.rows.push(row);
        self.drawn.extend(drawn.map(|(token, logprob)| (token.into(), logprob)));
        self.drawn.resize(self.rows.len() * self.draws, (NO_TOKEN, f32::NAN));
    }

    /// Adds a row that was not sampled, since this is wrong with it.
    pub fn push_invalid(&mut self, violation: Violation) {
        self.violations.insert(self.rows.len(), violation);
        let row = RowOfTable {
            status: Status::InvalidParameters,
            seed: 0,
            kept: 0,
            kept_mass: 0,
            inspection: None,
            state: None,
        };
        self.push(row, [].into_iter());
    }

    /// The first draw of each row.
    pub fn first(&self) -> impl Iterator<Item = &(i64, f32)> {
        self.drawn.iter().step_by(self.draws)
    }

    /// The rows without a token, and why they have none.
    pub fn failed(&self) -> impl Iterator<Item = (usize, Status)> {
        let rows = self.rows.iter().map(|row| row.status).enumerate();
        rows.filter(|(_, status)| *status != Status::Sampled(RowStatus::Ok))
    }

    /// What a row's cuts kept, if it was asked for and there is a token.
    fn kept_of(&self, row: &RowOfTable) -> Option<KeptIds> {
        row.inspection.as_ref().and_then(|found| found.kept.clone())
    }

    /// The ids of the tokens that a row's cuts kept, ascending, as far as that was asked for.
    pub fn kept_ids(&self, row: &RowOfTable) -> Option<Vec<u32>> {
        self.kept_of(row).map(|kept| match kept {
            KeptIds::Ids(ids) => ids,
            KeptIds::Bitmask(words) => {
                let has = |token: &u32| words[*token as usize / 32] >> (token % 32) & 1 == 1;
                (0..words.len() as u32 * 32).filter(has).collect()
            }
        })
    }

    /// The same as a bit a token, none where there are none.
    pub fn kept_words(&self, row: &RowOfTable) -> Vec<u32> {
        let mut words = vec![0; self.vocab_size.div_ceil(32) as usize];
        match self.kept_of(row) {
            Some(KeptIds::Bitmask(found)) => words = found,
            Some(KeptIds::Ids(ids)) => {
                ids.iter().for_each(|id| words[*id as usize / 32] |= 1 << (id % 32));
            }
            None => {}
        }
        words
    }

    /// A RowError of the first row without a token.
    pub fn check(&self) -> PyResult<()> {
        let mut failed = self.failed();
        let Some((row, status)) = failed.next() else { return Ok(()) };
        let others = match failed.count() {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        let why = match self.violations.get(&row) {
            Some(violation) => format!(": {}", violation.description),
            None => String::new(),
        };
        let status = status.name();
        Err(RowError::new_err(format!("row {row} has no token: {status}{why}{others}")))
    }
}
