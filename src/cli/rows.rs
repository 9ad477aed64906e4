//! Which rows of a file: `3,5-9`.

use std::ops::Range;
use std::str::FromStr;

/// Rows by number and by range, in the order they were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowList(Vec<Range<usize>>);

impl RowList {
    /// Every row of a file of `rows`.
    pub fn all(rows: usize) -> Self {
        Self(std::iter::once(0..rows).collect())
    }

    /// Checks that a file of `rows` has them all.
    pub fn within(self, rows: usize) -> Result<Self, String> {
        match self.0.iter().map(|range| range.end - 1).find(|&last| last >= rows) {
            Some(row) => {
                Err(format!("--rows names row {row}, and there are {rows}: 0 to {}", rows - 1))
            }
            None => Ok(self),
        }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// Their numbers.
    pub fn numbers(&self) -> impl ExactSizeIterator<Item = usize> {
        let numbers: Vec<usize> = self.0.iter().cloned().flatten().collect();
        numbers.into_iter()
    }

    /// The same rows, in runs of neighbours of at most `longest` each, which is at least 1.
    pub fn runs(&self, longest: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.iter().flat_map(move |range| {
            let end = range.end;
            range.clone().step_by(longest).map(move |start| start..end.min(start + longest))
        })
    }
}

impl FromStr for RowList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("{part:?} is neither a row nor a range; write 3,5-9");
        text.split(',')
            .map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                    (Ok(first), Ok(last)) if first <= last && last < usize::MAX => {
                        Ok(first..last + 1)
                    }
                    _ => Err(wrong(part)),
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_ranges_in_their_order() {
        let list: RowList = "3,5-9,0".parse().unwrap();
        assert_eq!(list.len(), 7);
        let runs: Vec<_> = list.runs(2).collect();
        assert_eq!(runs, [3..4, 5..7, 7..9, 9..10, 0..1]);
        assert!(list.clone().within(10).is_ok());
        assert_eq!(list.within(9).unwrap_err(), "--rows names row 9, and there are 9: 0 to 8");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "a", "1-", "-1", "5-3", "1,,2", "18446744073709551615"] {
            assert!(text.parse::<RowList>().is_err(), "{text}");
        }
    }
}
