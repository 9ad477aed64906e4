//! Logits on loan: the bits of logits that are here, however they can be read, each byte of them read once.

use crate::common::compare::{first_difference, sample};
use crate::common::real::carried;
use crate::common::{Case, candidates};
use logitd_core::backend::reference::Reference;
use logitd_core::batch::{Loan, LoanError, Results, Row};
use logitd_core::params::ParamsSpec;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

/// Memory of a test's own, which counts how much of it is copied.
#[derive(Debug)]
struct Lent {
    bytes: Vec<AtomicU8>,
    mapped: bool,
    copied: AtomicUsize,
}

impl Loan for Lent {
    fn copy(&self, at: usize, into: &mut [u8]) {
        self.copied.fetch_add(into.len(), Relaxed);
        for (from, to) in self.bytes[at..at + into.len()].iter().zip(into) {
            *to = from.load(Relaxed);
        }
    }

    fn mapped(&self) -> Option<&[AtomicU8]> {
        self.mapped.then_some(&self.bytes)
    }

    fn check(&self) -> Result<(), LoanError> {
        Ok(())
    }
}

impl Lent {
    /// The rows one after another, the first at an odd place; and where each begins.
    fn new(rows: &[Case], mapped: bool) -> (Self, Vec<usize>) {
        let (mut bytes, mut starts) = (vec![AtomicU8::new(0xff)], Vec::new());
        for row in rows {
            starts.push(bytes.len());
            bytes.extend(row.logits.iter().copied().map(AtomicU8::new));
        }
        (Self { bytes, mapped, copied: 0.into() }, starts)
    }
}

/// Every size around blocks and vectors, every dtype and status, and rows that threads share.
fn rows() -> Vec<Case> {
    let spec = ParamsSpec { top_k: 50, top_p: 0.95, draws: 4, ..Default::default() };
    let mut rows: Vec<Case> = (0..150).map(|i| Case::generated(23, i, 9000)).collect();
    rows.extend((150..158).map(|i| Case::generated(23, i, 300_000)));
    rows.extend([0, 3].map(|row| carried(row, spec)));
    rows
}

#[test]
fn rows_on_loan_give_the_bits_of_rows_that_are_here() {
    let rows = rows();
    let placed: Vec<_> = rows.iter().map(Case::place).collect();
    let here: Vec<Row<'_>> = placed.iter().map(|placed| placed.row()).collect();
    let mut expected = Results::default();
    sample(&mut Reference::default(), &here, &mut expected);
    for mapped in [true, false] {
        let (memory, starts) = Lent::new(&rows, mapped);
        let lent = |i: usize| {
            let Case { dtype, logits, params, adjustments, inspect, draft, .. } = &rows[i];
            let row = Row::lent(*dtype, &memory, starts[i], logits.len(), *params).unwrap();
            let row = row.with_adjustments(adjustments.as_ref()).with_inspect(inspect.as_ref());
            row.with_draft(draft.as_ref())
        };
        let all: Vec<Row<'_>> = (0..rows.len()).map(lent).collect();
        let mut mixed = all.clone();
        mixed.iter_mut().zip(&here).step_by(3).for_each(|(row, here)| *row = *here);
        let mut backends = candidates();
        backends.push(Box::new(Reference::default()));
        for mut backend in backends {
            let name = crate::common::candidates::name(backend.as_mut());
            let mut results = Results::default();
            for batch in [&all, &mixed] {
                memory.copied.store(0, Relaxed);
                sample(backend.as_mut(), batch, &mut results);
                assert_eq!(first_difference(&expected, &results), None, "{name}, mapped: {mapped}");
                let bytes: usize = batch.iter().filter(|r| r.is_lent()).map(Row::bytes).sum();
                let copied = memory.copied.load(Relaxed);
                assert!(copied == bytes || mapped && copied < bytes, "{name}: {copied} of {bytes}");
            }
            // Alone, large ones are shared between threads.
            for i in (0..rows.len()).rev().step_by(9) {
                sample(backend.as_mut(), &all[i..=i], &mut results);
                assert_eq!(
                    results.row(0),
                    expected.row(i),
                    "{name}, mapped: {mapped}: {}",
                    rows[i]
                );
            }
        }
    }
}
