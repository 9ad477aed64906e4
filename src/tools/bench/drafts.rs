//! Drafts of rows that are timed: from rows beside them, as those of a smaller model are.

use super::cases::{Case, Drafts, SEQUENCE_ROWS};
use crate::tools::drafter::Drafter;
use crate::tools::generate::Random;
use half::{bf16, f16};
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::backend::{Backend, DeviceError};
use logitd_core::batch::{Dtype, Results, Row, RowStatus};
use logitd_core::params::ParamsSpec;
use logitd_core::row::{Draft, Proposal, Rule, Source};
use std::sync::Arc;

/// How far a drafter's logits are from the target's: about as far as those of a model of a fourth of the size.
const DEVIATION: f32 = 0.5;

/// What a row is with noise on its logits, drawn from as the row is, with random bits for drafts.
fn beside(row: &Row<'_>, number: u64) -> Drafter {
    let mut random = Random::new(number, 0);
    let mut logits = Vec::with_capacity(row.bytes());
    for token in 0..row.vocab_size() {
        let x = row.logit(token) + DEVIATION * random.bell();
        match row.dtype() {
            Dtype::F16 => logits.extend(f16::from_f32(x).to_le_bytes()),
            Dtype::Bf16 => logits.extend(bf16::from_f32(x).to_le_bytes()),
            Dtype::F32 => logits.extend(x.to_le_bytes()),
        }
    }
    let spec = ParamsSpec { draft: true, ..(*row.params()).into() };
    let params = spec.parse(|| unreachable!("it has a seed")).expect("still valid");
    Drafter { dtype: row.dtype(), logits: logits.into(), params, adjustments: None }
}

/// A token that no other is less likely than.
fn last(row: &Row<'_>) -> u32 {
    let tokens = 0..row.vocab_size();
    let last = tokens.min_by(|&a, &b| row.logit(a).total_cmp(&row.logit(b)));
    last.expect("a row has tokens")
}

/// The draft of each row of a case, in sequences whose last row has none; `None` where the case has no drafts.
pub fn drafts(case: &Case, rows: &[Row<'_>]) -> Result<Option<Vec<Option<Draft>>>, DeviceError> {
    let Some(kind) = case.drafts else { return Ok(None) };
    let mut cpu = Cpu::new(CpuOptions::default()).expect("a machine has a CPU");
    let mut results = Results::default();
    let mut draft = |(i, row): (usize, &Row<'_>)| {
        if i % SEQUENCE_ROWS == SEQUENCE_ROWS - 1 {
            return Ok(None);
        }
        let drafter = beside(row, i as u64);
        cpu.sample(&[drafter.row()], &mut results)?;
        let result = results.row(0);
        if result.outcome.status != RowStatus::Ok {
            return Ok(None);
        }
        let token = match kind {
            Drafts::Point | Drafts::Rows => result.draws[0].token,
            Drafts::Refused => last(row),
        };
        let proposal = match kind {
            Drafts::Point => Proposal::Point,
            Drafts::Rows | Drafts::Refused => Proposal::Row(Arc::new(drafter)),
        };
        Ok(Some(Draft { token, rule: Rule::Rejection(proposal) }))
    };
    rows.iter().enumerate().map(&mut draft).collect::<Result<Vec<_>, _>>().map(Some)
}
