//! Batches as the backends see them: rows, and their results.
//!
//! A [`Results`] is a flat table that is reused from batch to batch, so that sampling allocates nothing in steady state.

use crate::inspection::Inspection;
pub use crate::row::{Dtype, Loan, LoanError, Row, RowError, VOCAB_SIZE_MAX};
pub use crate::status::{RowStatus, State};
use std::ops::Range;

/// What is said once about a row. `kept` and `kept_mass` are 0 unless the status is OK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the row has a token, and why not.
    pub status: RowStatus,
    /// How many tokens the cuts left.
    pub kept: u32,
    /// Their mass, in units of 2^-40 of the first token's.
    pub kept_mass: u64,
}

impl Outcome {
    /// A row without a token.
    pub const fn failed(status: RowStatus) -> Self {
        Self { status, kept: 0, kept_mass: 0 }
    }
}

/// One drawn token. Equal means equal in every bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// The token's id.
    pub token: u32,
    /// Natural logarithm of its probability among the kept tokens.
    pub logprob: f32,
}

impl PartialEq for Draw {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.logprob.to_bits() == other.logprob.to_bits()
    }
}

impl Eq for Draw {}

/// The results of a batch, in the order of its rows.
#[derive(Clone, Debug, Default)]
pub struct Results {
    outcomes: Vec<Outcome>,
    /// Where each row's draws end; they start where the row before ends.
    ends: Vec<u32>,
    draws: Vec<Draw>,
    /// What rows asked for beside their draws; empty where none did.
    inspections: Vec<Option<Box<Inspection>>>,
    /// What rows give back to their sequences; empty where none does.
    states: Vec<Option<State>>,
    /// Which rows took their drafts; empty where none has one.
    accepted: Vec<Option<bool>>,
    /// Which rows the processor sampled in a device's place; empty where none.
    on_host: Vec<bool>,
}

impl Results {
    /// Makes room for these rows, keeping the memory of earlier batches.
    pub fn reset(&mut self, rows: &[Row<'_>]) {
        self.outcomes.clear();
        self.outcomes.resize(rows.len(), Outcome::default());
        self.ends.clear();
        let mut end = 0;
        self.ends.extend(rows.iter().map(|row| {
            end += row.params().draws();
            end
        }));
        self.draws.clear();
        self.draws.resize(end as usize, Draw::default());
        self.inspections.clear();
        if rows.iter().any(|row| row.inspect().is_some()) {
            let asked = |row: &Row<'_>| row.inspect().map(|_| Box::default());
            self.inspections.extend(rows.iter().map(asked));
        }
        self.states.clear();
        if rows.iter().any(|row| row.params().has_state()) {
            self.states.resize(rows.len(), None);
        }
        self.accepted.clear();
        if rows.iter().any(|row| row.draft().is_some()) {
            self.accepted.resize(rows.len(), None);
        }
        self.on_host.clear();
    }

    /// Says which rows, one after another, the processor samples in the device's place.
    pub fn set_on_host(&mut self, rows: &[bool]) {
        rows.clone_into(&mut self.on_host);
    }

    /// Whether the processor sampled a row in the device's place: one that no kernel samples, or that does not fit a launch.
    pub fn used_host(&self) -> bool {
        self.on_host.contains(&true)
    }

    /// The place of each row's result, to be written independently (by several threads, say).
    pub fn slots(&mut self) -> impl Iterator<Item = Slot<'_>> {
        let mut rest = self.draws.as_mut_slice();
        let mut start = 0;
        let mut inspections = self.inspections.iter_mut();
        let mut states = self.states.iter_mut();
        let mut accepted = self.accepted.iter_mut();
        self.outcomes.iter_mut().zip(&self.ends).map(move |(outcome, &end)| {
            let (draws, after) = std::mem::take(&mut rest).split_at_mut((end - start) as usize);
            (rest, start) = (after, end);
            let inspection = inspections.next().and_then(Option::as_deref_mut);
            let (state, accepted) = (states.next(), accepted.next());
            Slot { outcome, draws, inspection, state, accepted }
        })
    }

    /// Adds a copy of some rows of another table.
    ///
    /// # Panics
    /// If `other` does not have them.
    pub fn extend_from(&mut self, other: &Self, rows: Range<usize>) {
        let start = if rows.start == 0 { 0 } else { other.ends[rows.start - 1] };
        let end = if rows.end == 0 { 0 } else { other.ends[rows.end - 1] };
        let base = self.draws.len() as u32;
        extend(self.outcomes.len(), &mut self.inspections, &other.inspections, rows.clone());
        extend(self.outcomes.len(), &mut self.states, &other.states, rows.clone());
        extend(self.outcomes.len(), &mut self.accepted, &other.accepted, rows.clone());
        extend(self.outcomes.len(), &mut self.on_host, &other.on_host, rows.clone());
        self.outcomes.extend_from_slice(&other.outcomes[rows.clone()]);
        self.ends.extend(other.ends[rows].iter().map(|end| base + (end - start)));
        self.draws.extend_from_slice(&other.draws[start as usize..end as usize]);
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// The result of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> RowResult<'_> {
        let outcome = self.outcomes[i];
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        let draws = match outcome.status {
            RowStatus::Ok => &self.draws[start as usize..self.ends[i] as usize],
            _ => &[],
        };
        let inspection = self.inspections.get(i).and_then(Option::as_deref);
        let state = self.states.get(i).copied().flatten();
        let accepted = self.accepted.get(i).copied().flatten();
        RowResult { outcome, draws, inspection, state, accepted }
    }

    /// Every row's result, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RowResult<'_>> {
        (0..self.len()).map(|i| self.row(i))
    }
}

/// Adds what some rows of another table have, where either table has anything of the kind.
fn extend<T: Clone + Default>(len: usize, own: &mut Vec<T>, others: &[T], rows: Range<usize>) {
    if own.is_empty() && others.is_empty() {
        return;
    }
    own.resize(len, T::default());
    match others {
        [] => own.resize(len + rows.len(), T::default()),
        others => own.extend_from_slice(&others[rows]),
    }
}

/// Where a backend writes the result of one row.
#[derive(Debug)]
pub struct Slot<'a> {
    /// Said once.
    pub outcome: &'a mut Outcome,
    /// One place a draw; left as it is where the status is not OK.
    pub draws: &'a mut [Draw],
    /// What the row asks for beside its draws, if it asks; empty.
    pub inspection: Option<&'a mut Inspection>,
    /// What the row gives back to its sequence, where rows of the batch do; empty.
    pub state: Option<&'a mut Option<State>>,
    /// Whether the row took its draft, where rows of the batch have one; empty.
    pub accepted: Option<&'a mut Option<bool>>,
}

/// The result of one row. Equal means equal in every bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowResult<'a> {
    /// Said once.
    pub outcome: Outcome,
    /// One a draw asked for; none where the status is not OK.
    pub draws: &'a [Draw],
    /// What was asked for beside them.
    pub inspection: Option<&'a Inspection>,
    /// What it gives back to its sequence, where its controls have a state and the status is OK.
    pub state: Option<State>,
    /// Whether it took its draft, where it has one and the status is OK. Its one draw is the draft then, and otherwise
    /// what it says instead.
    pub accepted: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspection::{Inspect, KeptIds};
    use crate::params::ParamsSpec;

    #[test]
    fn results_of_rows_do_not_overlap() {
        let params = |draws| ParamsSpec { draws, ..Default::default() }.parse(|| 0).unwrap();
        let logits = [0; 6];
        let rows = [3, 1, 2].map(|n| Row::new(Dtype::F16, &logits, params(n)).unwrap());
        let mut results = Results::default();
        results.reset(&rows);
        for (i, slot) in results.slots().enumerate() {
            slot.draws.fill(Draw { token: i as u32, logprob: 0.0 });
            slot.outcome.status = if i == 1 { RowStatus::Nan } else { RowStatus::Ok };
        }
        let lengths: Vec<_> = results.iter().map(|r| r.draws.len()).collect();
        assert_eq!(lengths, [3, 0, 2]);
        assert!(results.row(2).draws.iter().all(|d| d.token == 2));

        let mut pieced = Results::default();
        pieced.extend_from(&results, 2..3);
        pieced.extend_from(&results, 1..1);
        pieced.extend_from(&results, 0..2);
        assert!(pieced.iter().eq([2, 0, 1].map(|i| results.row(i))));
    }

    #[test]
    fn inspections_go_where_their_rows_go() {
        let params = ParamsSpec::default().parse(|| 0).unwrap();
        let logits = [0; 6];
        let asked = Inspect { kept_ids_max: Some(1), ..Inspect::default() };
        let plain = Row::new(Dtype::F16, &logits, params).unwrap();
        let results = |asks: &[bool]| {
            let asked = |&asks| plain.with_inspect(Some(&asked).filter(|_| asks));
            let rows: Vec<_> = asks.iter().map(asked).collect();
            let mut results = Results::default();
            results.reset(&rows);
            for (i, slot) in results.slots().enumerate() {
                assert_eq!(slot.inspection.is_some(), asks[i]);
                if let Some(inspection) = slot.inspection {
                    inspection.kept = Some(KeptIds::Ids(vec![i as u32]));
                }
            }
            results
        };
        let (none, some) = (results(&[false, false]), results(&[true, false, true]));
        for order in [[&none, &some], [&some, &none]] {
            let mut pieced = Results::default();
            order.iter().for_each(|part| pieced.extend_from(part, 0..part.len()));
            pieced.extend_from(&some, 1..3);
            let all = order[0].iter().chain(order[1].iter()).chain([some.row(1), some.row(2)]);
            assert!(pieced.iter().eq(all));
        }
        // What was there before is gone.
        let mut reused = some.clone();
        reused.reset(&[plain]);
        assert_eq!(reused.row(0).inspection, None);
    }
}
