//! The whole rows of a request that names them by their places: of sequences to be verified, or of beams.

use super::convert::{self, Layout, Lent, Violations};
use super::error::Error;
use crate::engine::RequestRow;
use bytes::Bytes;
use logitd_core::adjustments::{Adjustments, AdjustmentsError};
use logitd_core::batch::Dtype;
use logitd_core::params::SamplingParams;
use logitd_proto::RowLayout;
use std::ops::Range;
use std::sync::Arc;

/// What a request says of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    pub dtype: i32,
    pub vocab_size: u32,
    pub row_stride: u32,
    pub rows: Option<u32>,
}

/// The rows, where their logits lie.
#[derive(Debug)]
pub struct WholeRows {
    dtype: Dtype,
    vocab_size: u32,
    layout: RowLayout,
    logits: Bytes,
    lent: Option<Lent>,
}

impl WholeRows {
    /// Those of a request's own logits, or of those that are lent; or a note of what is wrong with them.
    pub(super) fn of(
        given: Given,
        logits: Bytes,
        lent: Option<Lent>,
        wrong: &mut Violations<'_>,
    ) -> Option<Self> {
        let Given { row_stride: stride, rows, .. } = given;
        let dtype = wrong.keep("dtype", convert::dtype(given.dtype));
        let vocab_size = wrong.keep("vocab_size", convert::vocab_size(given.vocab_size));
        let (dtype, vocab_size) = dtype.zip(vocab_size)?;
        wrong.keep("row_stride", convert::row_stride(stride, vocab_size))?;
        let bytes = lent.as_ref().map_or(logits.len(), |lent| lent.bytes);
        let layout = convert::row_layout(bytes, dtype, vocab_size, stride, rows);
        let layout = wrong.keep("logits", layout)?;
        let as_many = convert::as_many(rows, Layout::Whole(layout), dtype, vocab_size);
        wrong.keep("rows", as_many)?;
        Some(Self { dtype, vocab_size: vocab_size as u32, layout, logits, lent })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.layout.rows
    }

    /// Tokens of each.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of all of them, with their padding.
    pub fn bytes(&self) -> usize {
        self.lent.as_ref().map_or(self.logits.len(), |lent| lent.bytes)
    }

    /// One of them.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, place: usize, params: SamplingParams) -> Result<RequestRow, Error> {
        assert!(place < self.count(), "a row");
        let range = self.layout.row(place);
        let row = match &self.lent {
            None => RequestRow::new(self.dtype, self.logits.slice(range), params),
            Some(Lent { loan, .. }) => {
                let loan = Arc::clone(loan);
                RequestRow::lent(self.dtype, loan, range.start, range.len(), params)
            }
        };
        row.map_err(|error| Error::invalid("logits", error.to_string()))
    }

    /// Notes the first row that nothing uses, where no `first_row` says where rows are: who sends it has forgotten something, or
    /// miscounts. `by` says what uses rows, `used` which.
    pub(super) fn check_used(
        &self,
        wrong: &mut Violations<'_>,
        used: impl Iterator<Item = Range<usize>>,
        by: &str,
    ) {
        let mut used: Vec<Range<usize>> = used.collect();
        used.sort_unstable_by_key(|range| range.start);
        let on = |next: usize, range: Range<usize>| match range.start <= next {
            true => next.max(range.end),
            false => next,
        };
        let next = used.into_iter().fold(0, on);
        let all = self.count();
        if next < all {
            let text = || {
                format!(
                    "row {next} of {all} is in no {by}; allowed: rows that are used, unless a first_row says which are"
                )
            };
            wrong.add(|| "logits".into(), text);
        }
    }

    /// Where the rows of one that has `count` of them begin: where it says, or behind those of the one before. What is
    /// wrong is noted under `path`; `each` says what a row is for.
    pub(super) fn place(
        &self,
        wrong: &mut Violations<'_>,
        path: &dyn Fn() -> String,
        asked: Asked,
        each: &str,
    ) -> usize {
        let Asked { first_row, rows, count, next } = asked;
        if let Some(rows) = rows
            && rows as usize != count
        {
            let text = || {
                format!(
                    "rows is {rows}, and it has {count} rows, one {each}; allowed: the same number"
                )
            };
            wrong.add(|| format!("{}.rows", path()), text);
        }
        let first = first_row.map_or(next, |first| first as usize);
        let all = self.count();
        let fits = first.saturating_add(count) <= all;
        if !fits && first_row.is_none() {
            let text = || {
                format!(
                    "logits has {all} rows, and {} has {count}, from row {first} on, one {each}; allowed: rows for all of them",
                    path()
                )
            };
            wrong.add(|| "logits".into(), text);
        } else if !fits {
            let last = first.saturating_add(count - 1);
            let text = || {
                format!(
                    "first_row is {first}, and its rows go up to {last}; allowed: the request's {all} rows, 0 to {}",
                    all - 1
                )
            };
            wrong.add(|| format!("{}.first_row", path()), text);
        }
        first
    }
}

/// What is said of the rows of a sequence or a group.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub first_row: Option<u32>,
    pub rows: Option<u32>,
    /// How many it has.
    pub count: usize,
    /// Where they begin, if nothing is said.
    pub next: usize,
}

/// Bytes of the lists of adjustments and of their breakers.
pub fn bytes<'a>(adjustments: impl IntoIterator<Item = &'a Adjustments>) -> usize {
    adjustments.into_iter().map(|one| one.lists().bytes() + one.breaker_bytes()).sum()
}

/// The same errors, whose paths begin with that of a list of sets, as those of one set, or of a list by another name.
pub fn renamed(
    errors: Vec<AdjustmentsError>,
    rename: &dyn Fn(&str) -> String,
) -> Vec<AdjustmentsError> {
    let rename =
        |error: AdjustmentsError| AdjustmentsError { field: rename(&error.field), ..error };
    errors.into_iter().map(rename).collect()
}
