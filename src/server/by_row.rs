//! Requests some of whose rows are wrong, where their sender wants the others all the same
//! (`on_invalid_row` is ON_INVALID_ROW_STATUS).
//!
//! A request that is right costs nothing more. One that is refused is looked at row by row, each as a request of its own;
//! something that is right then stands in the places of the rows that are wrong, and their results are overwritten with
//! what is wrong with them.

use super::convert::{self, CheckedRows, Invalid, Lent};
use super::error::{Error, Violation};
use crate::wire::columns;
use crate::wire::stand_in::{one_of, with_stand_ins};
use logitd_proto::{self as api, Adjustments, OnInvalidRow, RequestRows, RowLayout, SampleRequest};

/// As [`convert::batch`], with the rows that are wrong beside those that are right, if the request says so. Columns become
/// messages first.
pub fn batch(
    mut request: SampleRequest,
    lent: Option<Lent>,
    limits: &api::Limits,
) -> Result<CheckedRows, Error> {
    let sets = convert::params_sets(&request, limits)?;
    let paths = columns::unpack(&mut request, sets);
    if request.on_invalid_row() != OnInvalidRow::Status {
        return convert::batch(request, lent, paths.as_ref(), limits);
    }
    let error = match convert::batch(request.clone(), lent.clone(), paths.as_ref(), limits) {
        Err(error @ Error::Invalid { .. }) => error,
        batch_or_limit => return batch_or_limit,
    };
    request.on_invalid_row = OnInvalidRow::Refuse.into();
    without_wrong_rows(request, lent, limits).unwrap_or(Err(error))
}

/// `None` where it is not single rows that are wrong.
fn without_wrong_rows(
    request: SampleRequest,
    lent: Option<Lent>,
    limits: &api::Limits,
) -> Option<Result<CheckedRows, Error>> {
    let rows = Rows::of(&request, lent.as_ref()).filter(|rows| rows.can_be(&request, limits))?;
    let shared = match &request.adjustments[..] {
        [one] => Some(shared(one, request.vocab_size, limits)),
        _ => None,
    };
    let mut invalid = Invalid::new();
    for row in 0..rows.count {
        let adjustments = match &shared {
            None => one_of(&request.adjustments, row).cloned(),
            Some(Ok(shared)) => Some(shared.clone()),
            Some(Err(violation)) => {
                invalid.insert(row, violation.clone());
                continue;
            }
        };
        let (one, lent) = rows.one(&request, lent.as_ref(), row, adjustments);
        match convert::batch(one, lent, None, limits) {
            Err(Error::Invalid { mut listed, .. }) if !listed.is_empty() => {
                let Violation { field, description } = listed.swap_remove(0);
                let field = field.replacen("[0].", ".", 1);
                invalid.insert(row, Violation { field, description });
            }
            Err(error) => return Some(Err(error)),
            Ok(_) => {}
        }
    }
    let right = with_stand_ins(request, rows.count, |row| invalid.contains_key(&row));
    let batch = convert::batch(right, lent, None, limits).ok()?;
    Some(Ok(CheckedRows { invalid, ..batch }))
}

/// What all rows share, which can be long, is looked at once. What then is left of it is enough to tell with which rows it
/// cannot go: whether there is something in each list.
fn shared(
    adjustments: &Adjustments,
    vocab_size: u32,
    limits: &api::Limits,
) -> Result<Adjustments, Violation> {
    convert::adjustments(adjustments.clone(), vocab_size, limits)?;
    let some = |list: &[u32], most: usize| list[..list.len().min(most)].to_vec();
    let mask = &adjustments.allowed_bitmask;
    // A sequence of several tokens needs more than one of a single token does.
    let longest = adjustments.bad_words.iter().max_by_key(|word| word.tokens.len());
    Ok(Adjustments {
        allowed_bitmask: mask.slice(..mask.len().min(4)),
        allowed_ids: some(&adjustments.allowed_ids, 1),
        banned_ids: some(&adjustments.banned_ids, 1),
        bad_words: longest.cloned().into_iter().collect(),
        stop_ids: some(&adjustments.stop_ids, 1),
        // Beside candidates each of these counts.
        logit_bias: adjustments.logit_bias.clone(),
        prompt: some(&adjustments.prompt, 1),
        output: some(&adjustments.output, 1),
        counts: some(&adjustments.counts, 2),
        ..Default::default()
    })
}

/// The rows of a request, each as a request of its own.
struct Rows {
    count: usize,
    sent: Option<RequestRows>,
    row_bytes: usize,
}

impl Rows {
    /// `None` if they cannot be told apart.
    fn of(request: &SampleRequest, lent: Option<&Lent>) -> Option<Self> {
        let Some(lent) = lent else {
            let sent = RequestRows::of(request)?;
            return Some(Self { count: sent.count(), sent: Some(sent), row_bytes: 0 });
        };
        let size = crate::wire::row::dtype(request.dtype)?.size_bytes();
        let layout = RowLayout::of(lent.bytes, request.vocab_size, request.row_stride, size)?;
        Some(Self { count: layout.rows, sent: None, row_bytes: layout.row_bytes })
    }

    /// Whether a request may have so many, and says so.
    fn can_be(&self, request: &SampleRequest, limits: &api::Limits) -> bool {
        let of_row = |sets: usize| matches!(sets, 0 | 1) || sets == self.count;
        self.count <= limits.request_rows_max as usize
            && request.rows.is_none_or(|rows| rows as usize == self.count)
            && of_row(request.params.len())
            && of_row(request.adjustments.len())
    }

    /// A request for one row, to be looked at: of memory that is lent the first row stands for any.
    fn one(
        &self,
        request: &SampleRequest,
        lent: Option<&Lent>,
        row: usize,
        adjustments: Option<Adjustments>,
    ) -> (SampleRequest, Option<Lent>) {
        let bare = SampleRequest {
            params: vec![],
            columns: None,
            adjustments: vec![],
            candidates: request.candidates.clone(),
            logits: request.logits.clone(),
            rows: None,
            slot: None,
            ..*request
        };
        let bare = match &self.sent {
            Some(rows) => rows.cut(&bare, row..row + 1),
            None => bare,
        };
        let one = SampleRequest {
            params: one_of(&request.params, row).cloned().into_iter().collect(),
            adjustments: adjustments.into_iter().collect(),
            ..bare
        };
        let lent = lent.map(|lent| Lent { bytes: self.row_bytes, ..lent.clone() });
        (one, lent)
    }
}
