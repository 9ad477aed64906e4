//! The logits of a request that names its rows by their places: its own, or those that are lent.

use super::convert::{self, Lent};
use super::error::Error;
use crate::engine::RequestRow;
use crate::wire::whole_rows::{Limits, WholeRows};
use bytes::Bytes;
use logitd_core::params::SamplingParams;
use logitd_proto as api;
use std::sync::Arc;

/// Logits, where they lie.
#[derive(Debug)]
pub struct Logits {
    own: Bytes,
    lent: Option<Lent>,
}

impl Logits {
    /// A request's own, or those that are lent.
    pub fn of(own: Bytes, lent: Option<Lent>) -> Self {
        Self { own, lent }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.lent.as_ref().map_or(self.own.len(), |lent| lent.bytes)
    }

    /// One of the rows that lie in them.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(
        &self,
        rows: &WholeRows,
        place: usize,
        params: SamplingParams,
    ) -> Result<RequestRow, Error> {
        let range = rows.range(place);
        let row = match &self.lent {
            None => RequestRow::new(rows.dtype(), self.own.slice(range), params),
            Some(Lent { loan, .. }) => {
                let loan = Arc::clone(loan);
                RequestRow::lent(rows.dtype(), loan, range.start, range.len(), params)
            }
        };
        row.map_err(|error| Error::invalid("logits", error.to_string()))
    }
}

/// What requests may ask of such rows.
pub fn limits(limits: &api::Limits) -> Limits {
    Limits {
        adjustments: convert::adjustment_limits(limits),
        inspection: convert::inspection_limits(limits),
    }
}
