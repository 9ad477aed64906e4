//! The whole rows of a request that names them by their places: of sequences to be verified, or of beams.

use super::inspection;
use super::layout::{self, Layout};
use super::violations::Violations;
use logitd_core::adjustments::{self, Adjustments, AdjustmentsError};
use logitd_core::batch::Dtype;
use logitd_proto::RowLayout;
use std::ops::Range;

/// What a request says of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// How logits are stored.
    pub dtype: i32,
    /// Tokens a row.
    pub vocab_size: u32,
    /// Logits from the start of a row to that of the next.
    pub row_stride: u32,
    /// How many there are.
    pub rows: Option<u32>,
}

/// What a request may ask of its rows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of what is done to single logits.
    pub adjustments: adjustments::Limits,
    /// Of what is asked beside tokens.
    pub inspection: inspection::Limits,
}

impl Limits {
    /// Those of a process that looks at what a server has answered, and does not know the server's.
    pub const NONE: Self = Self {
        adjustments: adjustments::Limits {
            history_tokens_max: usize::MAX,
            adjusted_tokens_max: usize::MAX,
        },
        inspection: inspection::Limits::NONE,
    };
}

/// How the rows lie in the request's logits.
#[derive(Clone, Copy, Debug)]
pub struct WholeRows {
    dtype: Dtype,
    vocab_size: u32,
    layout: RowLayout,
    bytes: usize,
}

impl WholeRows {
    /// Those in so many bytes of logits, or a note of what is wrong with them.
    pub fn of(given: Given, bytes: usize, wrong: &mut Violations<'_>) -> Option<Self> {
        let Given { row_stride: stride, rows, .. } = given;
        let dtype = wrong.keep("dtype", layout::dtype(given.dtype));
        let vocab_size = wrong.keep("vocab_size", layout::vocab_size(given.vocab_size));
        let (dtype, vocab_size) = dtype.zip(vocab_size)?;
        wrong.keep("row_stride", layout::row_stride(stride, vocab_size))?;
        let layout = layout::row_layout(bytes, dtype, vocab_size, stride, rows);
        let layout = wrong.keep("logits", layout)?;
        let as_many = layout::as_many(rows, Layout::Whole(layout), dtype, vocab_size);
        wrong.keep("rows", as_many)?;
        Some(Self { dtype, vocab_size: vocab_size as u32, layout, bytes })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.layout.rows
    }

    /// How their logits are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Tokens of each.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of all of them, with their padding.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes of one of them.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn range(&self, place: usize) -> Range<usize> {
        assert!(place < self.count(), "a row");
        self.layout.row(place)
    }

    /// Notes the first row that nothing uses, where no `first_row` says where rows are: who sends it has forgotten something, or
    /// miscounts. `by` says what uses rows, `used` which.
    pub fn check_used(
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
    pub fn place(
        &self,
        wrong: &mut Violations<'_>,
        path: &dyn Fn() -> String,
        asked: Place,
        each: &str,
    ) -> usize {
        let Place { first_row, rows, count, next } = asked;
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
pub struct Place {
    /// Where they begin, if it says so.
    pub first_row: Option<u32>,
    /// How many they are, if it says so.
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
