//! A draft model's row, with what its drafts are drawn with.

use logitd_core::adjustments::Adjustments;
use logitd_core::batch::{Dtype, Row};
use logitd_core::params::SamplingParams;
use logitd_core::row::Source;
use std::sync::Arc;

/// The row that a draft was drawn from.
#[derive(Debug)]
pub struct Drafter {
    /// How its logits are stored.
    pub dtype: Dtype,
    /// Its logits, little-endian: 1 to 2^20 whole ones.
    pub logits: Arc<[u8]>,
    /// What its drafts are drawn with.
    pub params: SamplingParams,
    /// What is done to single logits before that.
    pub adjustments: Option<Adjustments>,
}

impl Source for Drafter {
    fn row(&self) -> Row<'_> {
        let row = Row::new(self.dtype, &self.logits, self.params).expect("1 to 2^20 whole logits");
        row.with_adjustments(self.adjustments.as_ref())
    }
}
