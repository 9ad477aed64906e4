//! Requests some of whose rows are wrong, with something that is right in their places.

use super::params;
use logitd_core::params::ParamsSpec;
use logitd_proto::{Adjustments, SampleRequest};

/// The request with the first token of every wrong row in place of what is asked of it.
pub fn with_stand_ins(
    request: SampleRequest,
    rows: usize,
    is_wrong: impl Fn(usize) -> bool,
) -> SampleRequest {
    let first = ParamsSpec { temperature: 0.0, seed: Some(0), ..Default::default() };
    let params = each(&request.params, rows, &is_wrong, &params::message(&first));
    let adjustments = match request.adjustments.len() {
        // What all rows share can be long, and stays one; it is with no row if every row is wrong.
        0 | 1 if (0..rows).all(&is_wrong) => vec![],
        0 | 1 => request.adjustments,
        _ => each(&request.adjustments, rows, &is_wrong, &Adjustments::default()),
    };
    SampleRequest { params, adjustments, ..request }
}

/// One a row: what is given, or the stand-in.
fn each<T: Clone + Default>(
    given: &[T],
    rows: usize,
    is_wrong: impl Fn(usize) -> bool,
    stand_in: &T,
) -> Vec<T> {
    let of_row = |row| match is_wrong(row) {
        true => stand_in.clone(),
        false => one_of(given, row).cloned().unwrap_or_default(),
    };
    (0..rows).map(of_row).collect()
}

/// What a list says of a row: nothing, the same for all, or one a row.
pub fn one_of<T>(list: &[T], row: usize) -> Option<&T> {
    list.get(if list.len() == 1 { 0 } else { row })
}
