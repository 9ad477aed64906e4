//! Parameters as columns, and as the messages that they stand for.

use super::{Dry, DryColumns, ParamColumns, SamplingParams};
use std::ops::Range;

/// A column that is as long as nothing it could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongColumn {
    /// Its path in [`ParamColumns`].
    pub name: &'static str,
    /// Its values.
    pub length: usize,
    /// The values that a column with several has, by the longest of them.
    pub rows: usize,
}

/// Calls a macro with the path of every column.
macro_rules! with_columns {
    ($each:ident) => {
        $each! {
            temperature, top_k, top_p, min_p, seed, position, draws, draw_rule, repetition_penalty, frequency_penalty,
            presence_penalty, no_repeat_ngram, min_tokens, return_kept; multiplier, base, allowed_length, last_n
        }
    };
}

impl ParamColumns {
    /// How many parameter sets they stand for: 1 for all rows, or one a row.
    pub fn sets(&self) -> Result<usize, WrongColumn> {
        let lengths = self.lengths();
        let rows = lengths.iter().map(|(_, length)| *length).max().unwrap_or(0).max(1);
        match lengths.into_iter().find(|(_, length)| ![0, 1, rows].contains(length)) {
            Some((name, length)) => Err(WrongColumn { name, length, rows }),
            None => Ok(rows),
        }
    }

    /// The set of a row, or the one for all rows.
    pub fn set(&self, row: usize) -> SamplingParams {
        let dry = self.dry.as_ref().map(|dry| Dry {
            multiplier: at(&dry.multiplier, row).unwrap_or_default(),
            base: at(&dry.base, row),
            allowed_length: at(&dry.allowed_length, row),
            last_n: at(&dry.last_n, row).unwrap_or_default(),
            breakers: dry.breakers.clone(),
        });
        SamplingParams {
            temperature: at(&self.temperature, row),
            top_k: at(&self.top_k, row).unwrap_or_default(),
            top_p: at(&self.top_p, row),
            min_p: at(&self.min_p, row).unwrap_or_default(),
            seed: at(&self.seed, row),
            position: at(&self.position, row).unwrap_or_default(),
            draws: at(&self.draws, row),
            draw_rule: at(&self.draw_rule, row).unwrap_or_default(),
            repetition_penalty: at(&self.repetition_penalty, row),
            frequency_penalty: at(&self.frequency_penalty, row).unwrap_or_default(),
            presence_penalty: at(&self.presence_penalty, row).unwrap_or_default(),
            no_repeat_ngram: at(&self.no_repeat_ngram, row).unwrap_or_default(),
            min_tokens: at(&self.min_tokens, row).unwrap_or_default(),
            dry,
            logprobs: self.logprobs.clone(),
            return_kept: at(&self.return_kept, row).unwrap_or_default(),
        }
    }

    /// Whether the column of this path has a value for all rows.
    pub fn is_for_all(&self, path: &str) -> bool {
        self.lengths().into_iter().all(|(name, length)| name != path || length <= 1)
    }

    /// Those of some rows.
    pub fn cut(&self, rows: Range<usize>) -> Self {
        macro_rules! cut {
            ($($of_row:ident),*; $($of_dry:ident),*) => {
                Self {
                    $($of_row: of_rows(&self.$of_row, &rows),)*
                    dry: self.dry.as_ref().map(|dry| DryColumns {
                        $($of_dry: of_rows(&dry.$of_dry, &rows),)*
                        breakers: dry.breakers.clone(),
                    }),
                    logprobs: self.logprobs.clone(),
                }
            };
        }
        with_columns!(cut)
    }

    fn lengths(&self) -> Vec<(&'static str, usize)> {
        macro_rules! lengths {
            ($($of_row:ident),*; $($of_dry:ident),*) => {{
                let mut lengths = vec![$((stringify!($of_row), self.$of_row.len())),*];
                if let Some(dry) = &self.dry {
                    lengths.extend([$((concat!("dry.", stringify!($of_dry)), dry.$of_dry.len())),*]);
                }
                lengths
            }};
        }
        with_columns!(lengths)
    }
}

fn at<T: Copy>(column: &[T], row: usize) -> Option<T> {
    match column {
        [one] => Some(*one),
        each => each.get(row).copied(),
    }
}

fn of_rows<T: Clone>(column: &[T], rows: &Range<usize>) -> Vec<T> {
    match column {
        [] | [_] => column.to_vec(),
        each => each[rows.clone()].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> ParamColumns {
        ParamColumns {
            temperature: vec![0.5],
            seed: vec![7, 8, 9],
            return_kept: vec![true, false, true],
            dry: Some(DryColumns { base: vec![1.5, 2.5, 3.5], ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn a_value_is_for_all_rows_or_for_one() {
        assert_eq!(columns().sets(), Ok(3));
        let set = columns().set(2);
        assert_eq!(
            (set.temperature, set.seed, set.top_p, set.top_k),
            (Some(0.5), Some(9), None, 0)
        );
        assert!(set.return_kept && set.dry.unwrap().base == Some(3.5));
        assert_eq!(ParamColumns::default().sets(), Ok(1));
        assert_eq!(ParamColumns::default().set(0), SamplingParams::default());
        assert!(columns().is_for_all("temperature") && !columns().is_for_all("dry.base"));
    }

    #[test]
    fn columns_of_other_lengths_are_named() {
        let wrong = ParamColumns { draws: vec![1, 2], ..columns() };
        assert_eq!(wrong.sets(), Err(WrongColumn { name: "draws", length: 2, rows: 3 }));
        let dry = DryColumns { last_n: vec![1, 2], ..Default::default() };
        let wrong = ParamColumns { dry: Some(dry), ..columns() };
        assert_eq!(wrong.sets(), Err(WrongColumn { name: "dry.last_n", length: 2, rows: 3 }));
    }

    #[test]
    fn some_rows_have_their_part_of_each() {
        let cut = columns().cut(1..3);
        assert_eq!((cut.temperature.as_slice(), cut.seed.as_slice()), (&[0.5][..], &[8, 9][..]));
        assert_eq!([cut.set(0), cut.set(1)], [columns().set(1), columns().set(2)]);
    }
}
