//! Two backends over the same batches, up to the first difference.

use super::pieces::Piece;
use crate::cli::progress::Progress;
use logitd_core::backend::Backend;
use logitd_core::backend::dual::{Difference, first_difference};
use logitd_core::batch::{Results, Row};
use std::error::Error;

/// Rows of a batch, unless they are large.
const BATCH_ROWS_MAX: usize = 64;
/// Bytes of logits of a batch, unless it is a single row.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// What was compared, and what was found.
pub struct Verdict {
    pub rows: u64,
    pub draws: u64,
    pub logits: u64,
    pub found: Option<Found>,
}

/// The first difference.
pub struct Found {
    pub difference: Difference,
    /// Where its row comes from.
    pub origin: String,
    /// The batch it shows in: the number of its first piece, and how many there are.
    pub batch: (u64, usize),
}

/// Runs both backends over everything, up to the first difference.
pub fn compare(
    pieces: impl Iterator<Item = Result<Piece, Box<dyn Error>>>,
    a: &mut dyn Backend,
    b: &mut dyn Backend,
    mut progress: Progress,
) -> Result<Verdict, Box<dyn Error>> {
    let mut verdict = Verdict { rows: 0, draws: 0, logits: 0, found: None };
    let mut first = 0;
    for batch in batches(pieces) {
        let batch = batch?;
        let rows = rows(&batch)?;
        let found = differ(&rows, a, b)?;
        let compared = found.as_ref().map_or(rows.len(), |difference| difference.row_index + 1);
        for row in &rows[..compared] {
            verdict.rows += 1;
            verdict.draws += u64::from(row.params().draws());
            verdict.logits += u64::from(row.vocab_size());
        }
        if let Some(difference) = found {
            verdict.found = Some(locate(difference, &batch, first, a, b)?);
            break;
        }
        first += batch.len() as u64;
        progress.advance(rows.len() as u64);
    }
    Ok(verdict)
}

/// Finds out whether a difference shows without its batchmates.
fn locate(
    difference: Difference,
    batch: &[Piece],
    first: u64,
    a: &mut dyn Backend,
    b: &mut dyn Backend,
) -> Result<Found, Box<dyn Error>> {
    let mut before = 0;
    let piece = batch
        .iter()
        .position(|piece| {
            before += piece.params.len();
            difference.row_index < before
        })
        .expect("the row is one of the batch");
    let alone = differ(&rows(&batch[piece..=piece])?, a, b)?;
    let (difference, batch_rows) = match alone {
        Some(alone) => (alone, (first + piece as u64, 1)),
        None => (difference, (first, batch.len())),
    };
    Ok(Found { difference, origin: batch[piece].origin.clone(), batch: batch_rows })
}

fn differ(
    rows: &[Row<'_>],
    a: &mut dyn Backend,
    b: &mut dyn Backend,
) -> Result<Option<Difference>, Box<dyn Error>> {
    let (mut of_a, mut of_b) = (Results::default(), Results::default());
    a.sample(rows, &mut of_a)?;
    b.sample(rows, &mut of_b)?;
    Ok(first_difference(rows, &of_a, &of_b))
}

/// Batches of neighbouring pieces, within the budgets above.
fn batches(
    pieces: impl Iterator<Item = Result<Piece, Box<dyn Error>>>,
) -> impl Iterator<Item = Result<Vec<Piece>, Box<dyn Error>>> {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let mut batch = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        loop {
            let piece = pieces.next_if(|piece| match piece {
                Ok(piece) => {
                    rows += piece.params.len();
                    bytes += piece.logits.len();
                    batch.is_empty() || (rows <= BATCH_ROWS_MAX && bytes <= BATCH_BYTES_MAX)
                }
                Err(_) => batch.is_empty(),
            });
            match piece {
                Some(Ok(piece)) => batch.push(piece),
                Some(Err(error)) => return Some(Err(error)),
                None => return (!batch.is_empty()).then_some(Ok(batch)),
            }
        }
    })
}

fn rows(batch: &[Piece]) -> Result<Vec<Row<'_>>, Box<dyn Error>> {
    let of = |piece| {
        let Piece { dtype, logits, params, adjustments, inspect, draft, .. }: &Piece = piece;
        let row = |&params| {
            let row = Row::new(*dtype, logits, params)?;
            let row = row.with_adjustments(adjustments.as_ref()).with_inspect(inspect.as_ref());
            Ok(row.with_draft(draft.as_ref()))
        };
        params.iter().map(row)
    };
    batch.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::batch::Dtype;
    use logitd_core::params::ParamsSpec;

    #[test]
    fn batches_keep_to_their_budgets() {
        let piece = |rows: usize, bytes: usize| Piece {
            origin: String::new(),
            dtype: Dtype::F16,
            logits: vec![0; bytes],
            params: vec![ParamsSpec::default().parse(|| 0).unwrap(); rows],
            adjustments: None,
            inspect: None,
            draft: None,
        };
        let pieces = [(8, 2), (56, 2), (1, 2), (1, BATCH_BYTES_MAX + 2), (100, 2), (1, 2)];
        let sizes: Vec<_> = batches(pieces.iter().map(|&(r, b)| Ok(piece(r, b))))
            .map(|batch| batch.unwrap().len())
            .collect();
        assert_eq!(sizes, [2, 1, 1, 1, 1]);
    }
}
