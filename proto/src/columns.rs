//! Parameters as columns, and as the messages that they stand for.

use super::{Dry, DryColumns, ParamColumns, SamplingParams};
use std::ops::Range;

/// A column with neither 0, nor 1, nor one value a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongColumn {
    /// Its path in [`ParamColumns`].
    pub name: &'static str,
    /// Its values.
    pub length: usize,
    /// The longest column, by the same path.
    pub longest: &'static str,
    /// The number of rows, taken from the longest column.
    pub rows: usize,
}

/// Calls a macro with the path of every column.
macro_rules! with_columns {
    ($each:ident) => {
        $each! {
            temperature, top_k, top_p, min_p, seed, position, draws, draw_rule, draft, repetition_penalty, frequency_penalty,
            presence_penalty, no_repeat_ngram, min_tokens, profile, return_kept, top_n_sigma, top_h, top_a,
            epsilon_cutoff, eta_cutoff, typical_p, mirostat_tau, mirostat_eta, mirostat_mu, xtc_probability,
            xtc_threshold, adaptive_target, adaptive_decay, adaptive_sum, adaptive_weight, dynatemp_range,
            dynatemp_exponent; multiplier, base, allowed_length, last_n
        }
    };
}

impl ParamColumns {
    /// How many parameter sets they stand for: 1 for all rows, or one a row.
    pub fn sets(&self) -> Result<usize, WrongColumn> {
        let Some((longest, rows)) = self.of_rows().max_by_key(|(_, length)| *length) else {
            return Ok(1);
        };
        match self.other_than(rows) {
            Some((name, length)) => Err(WrongColumn { name, length, longest, rows }),
            None => Ok(rows),
        }
    }

    /// The first column that has neither 0, nor 1, nor so many values, by its path; and its values.
    pub fn other_than(&self, rows: usize) -> Option<(&'static str, usize)> {
        self.of_rows().find(|(_, length)| *length != rows)
    }

    /// The columns with several values, by their paths; and how many these are.
    pub fn of_rows(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.lengths().into_iter().filter(|(_, length)| *length > 1)
    }

    /// The set of a row, or the one for all rows.
    pub fn set(&self, row: usize) -> SamplingParams {
        let mut set = self.set_without_lists(row);
        set.logprobs.clone_from(&self.logprobs);
        if let (Some(dry), Some(columns)) = (&mut set.dry, &self.dry) {
            dry.breakers.clone_from(&columns.breakers);
        }
        set
    }

    /// The same without breakers and logprobs, which are lists of all rows.
    pub fn set_without_lists(&self, row: usize) -> SamplingParams {
        let dry = self.dry.as_ref().map(|dry| Dry {
            multiplier: at(&dry.multiplier, row).unwrap_or_default(),
            base: at(&dry.base, row),
            allowed_length: at(&dry.allowed_length, row),
            last_n: at(&dry.last_n, row).unwrap_or_default(),
            breakers: vec![],
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
            draft: at(&self.draft, row).unwrap_or_default(),
            repetition_penalty: at(&self.repetition_penalty, row),
            frequency_penalty: at(&self.frequency_penalty, row).unwrap_or_default(),
            presence_penalty: at(&self.presence_penalty, row).unwrap_or_default(),
            no_repeat_ngram: at(&self.no_repeat_ngram, row).unwrap_or_default(),
            min_tokens: at(&self.min_tokens, row).unwrap_or_default(),
            dry,
            profile: at(&self.profile, row).unwrap_or_default(),
            logprobs: None,
            return_kept: at(&self.return_kept, row).unwrap_or_default(),
            top_n_sigma: at(&self.top_n_sigma, row).unwrap_or_default(),
            top_h: at(&self.top_h, row).unwrap_or_default(),
            top_a: at(&self.top_a, row).unwrap_or_default(),
            epsilon_cutoff: at(&self.epsilon_cutoff, row).unwrap_or_default(),
            eta_cutoff: at(&self.eta_cutoff, row).unwrap_or_default(),
            typical_p: at(&self.typical_p, row),
            mirostat_tau: at(&self.mirostat_tau, row).unwrap_or_default(),
            mirostat_eta: at(&self.mirostat_eta, row),
            mirostat_mu: at_or_nan(&self.mirostat_mu, row),
            xtc_probability: at(&self.xtc_probability, row).unwrap_or_default(),
            xtc_threshold: at(&self.xtc_threshold, row),
            adaptive_target: at_or_nan(&self.adaptive_target, row),
            adaptive_decay: at(&self.adaptive_decay, row),
            adaptive_sum: at_or_nan(&self.adaptive_sum, row),
            adaptive_weight: at_or_nan(&self.adaptive_weight, row),
            dynatemp_range: at(&self.dynatemp_range, row).unwrap_or_default(),
            dynatemp_exponent: at(&self.dynatemp_exponent, row),
        }
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

/// The value of a row that may be without one, which is NaN.
fn at_or_nan(column: &[f32], row: usize) -> Option<f32> {
    at(column, row).filter(|value| !value.is_nan())
}

fn of_rows<T: Clone>(column: &[T], rows: &Range<usize>) -> Vec<T> {
    match column {
        [] | [_] => column.to_vec(),
        each => each[rows.clone()].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Logprobs, TokenSequence};
    use super::*;

    fn columns() -> ParamColumns {
        ParamColumns {
            temperature: vec![0.5],
            seed: vec![7, 8, 9],
            return_kept: vec![true, false, true],
            dry: Some(DryColumns {
                base: vec![1.5, 2.5, 3.5],
                breakers: vec![TokenSequence { tokens: vec![4] }],
                ..Default::default()
            }),
            logprobs: Some(Logprobs { ids: vec![5], ..Default::default() }),
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
        let without = columns().set_without_lists(2);
        assert_eq!((without.logprobs, without.dry.unwrap().breakers), (None, vec![]));
        assert_eq!(set.logprobs, columns().logprobs);
        let mirostat_mu = vec![f32::NAN, 5.0, f32::NAN];
        let states = ParamColumns { mirostat_mu, ..Default::default() };
        assert_eq!([0, 1, 2].map(|row| states.set(row).mirostat_mu), [None, Some(5.0), None]);
        let dry = set.dry.unwrap();
        assert!(set.return_kept && dry.base == Some(3.5) && dry.breakers.len() == 1);
        assert_eq!(ParamColumns::default().sets(), Ok(1));
        assert_eq!(ParamColumns::default().set(0), SamplingParams::default());
        let of_rows: Vec<_> = columns().of_rows().collect();
        assert_eq!(of_rows, [("seed", 3), ("return_kept", 3), ("dry.base", 3)]);
    }

    #[test]
    fn columns_of_other_lengths_are_named() {
        let wrong = ParamColumns { draws: vec![1, 2], ..columns() };
        let error = |name, longest, rows| Err(WrongColumn { name, length: 2, longest, rows });
        assert_eq!(wrong.sets(), error("draws", "dry.base", 3));
        assert_eq!(
            [wrong.other_than(3), wrong.other_than(2)],
            [Some(("draws", 2)), Some(("seed", 3))]
        );
        let dry = DryColumns { last_n: vec![1, 2], ..Default::default() };
        let wrong = ParamColumns { dry: Some(dry), ..columns() };
        assert_eq!(wrong.sets(), error("dry.last_n", "return_kept", 3));
    }

    #[test]
    fn some_rows_have_their_part_of_each() {
        let cut = columns().cut(1..3);
        assert_eq!((cut.temperature.as_slice(), cut.seed.as_slice()), (&[0.5][..], &[8, 9][..]));
        assert_eq!([cut.set(0), cut.set(1)], [columns().set(1), columns().set(2)]);
    }
}
