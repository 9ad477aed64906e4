//! Which tokens a sequence takes of those that were drafted for it, once its rows are sampled.
//!
//! Rows are sampled all at once, as rows of any batch, each as if the drafts before it were taken: the row of a draft at that
//! draft's position, with the drafts before it as history ([`of_row`]). Then the sequence walks over what they say: up to
//! the first row that says something else than its draft, which is the last that counts.

pub mod drafts;

use crate::adjustments::Adjustments;
use crate::batch::{RowResult, RowStatus};
use crate::params::SamplingParams;
use std::sync::Arc;

/// The most nodes of a tree, its root included.
pub const TREE_NODES_MAX: usize = 1024;

/// How drafts are compared with the target's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// With the token that is sampled anyway: the tokens are those of decoding without drafts, bit for bit.
    #[default]
    Match,
    /// By [rejection](crate::row::Rule::Rejection).
    Rejection,
    /// By [probability](crate::row::Rule::Typical).
    Typical,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Match, Self::Rejection, Self::Typical];

    /// The name used by flags and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Match => "match",
            Self::Rejection => "rejection",
            Self::Typical => "typical",
        }
    }
}

/// What came of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// OK, or that of the row after the last draft that was taken, which has no token.
    pub status: RowStatus,
    /// How many drafts were taken.
    pub accepted: usize,
    /// The rows whose tokens the sequence goes on with, in order, by their places in the sequence: one for each draft that
    /// was taken, and one more where the status is OK. Of a tree, the nodes that the walk came through, the root first.
    pub rows: Vec<usize>,
}

/// The adjustments of the row behind so many drafts: those of its sequence, whose history goes on with the drafts, and what
/// is allowed and banned in that row alone. `None` where they change nothing.
pub fn of_row(
    sequence: Option<&Adjustments>,
    params: &SamplingParams,
    drafts: &Arc<[u32]>,
    count: usize,
    row: Option<&Adjustments>,
) -> Option<Adjustments> {
    if sequence.is_none() && row.is_none() && (count == 0 || !params.reads_history()) {
        return None;
    }
    Some(sequence.cloned().unwrap_or_default().with_drafts(drafts, count).with_row(row))
}

/// Walks over a chain: one row a draft, and one more.
///
/// # Panics
/// If a result that is looked at is missing, or is OK without a token.
pub fn chain<'r>(drafts: &[u32], result: impl Fn(usize) -> RowResult<'r>) -> Verified {
    let mut rows = vec![];
    for place in 0..=drafts.len() {
        let result = result(place);
        let status = result.outcome.status;
        if status != RowStatus::Ok {
            return Verified { status, accepted: place, rows };
        }
        rows.push(place);
        let Some(&draft) = drafts.get(place) else { break };
        if !result.accepted.unwrap_or(result.draws[0].token == draft) {
            return Verified { status, accepted: place, rows };
        }
    }
    Verified { status: RowStatus::Ok, accepted: drafts.len(), rows }
}

/// Walks over a tree from its root, which is node 0: always to the first child whose token the node's row says. Node i + 1
/// has the parent `parents[i]`, an earlier node, and was drafted as `tokens[i]`. One row a node.
pub fn tree<'r>(
    parents: &[u32],
    tokens: &[u32],
    result: impl Fn(usize) -> RowResult<'r>,
) -> Verified {
    let (mut node, mut rows) = (0, vec![]);
    loop {
        let result = result(node);
        let status = result.outcome.status;
        if status != RowStatus::Ok {
            return Verified { status, accepted: rows.len(), rows };
        }
        rows.push(node);
        let token = result.draws[0].token;
        let mut children = (node..parents.len()).filter(|&i| parents[i] as usize == node);
        match children.find(|&i| tokens[i] == token) {
            Some(child) => node = child + 1,
            None => return Verified { status, accepted: rows.len() - 1, rows },
        }
    }
}

/// The drafts on the way from the root to each node of a tree, that of the node included.
pub fn paths(parents: &[u32], tokens: &[u32]) -> Vec<Arc<[u32]>> {
    let mut paths: Vec<Arc<[u32]>> = vec![Arc::default()];
    for (&parent, &token) in parents.iter().zip(tokens) {
        paths.push([&paths[parent as usize][..], &[token]].concat().into());
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adjustments::{AdjustmentsSpec, COUNT_MAX, Limits};
    use crate::backend::Backend;
    use crate::backend::cpu::{Cpu, CpuOptions};
    use crate::backend::reference::Reference;
    use crate::batch::{Dtype, Results, Row};
    use crate::params::ParamsSpec;

    /// Two drafts more than the most would be another f32, and another logit.
    #[test]
    fn counts_that_drafts_raise_stop_where_counts_do() {
        let spec =
            ParamsSpec { presence_penalty: 0.5, frequency_penalty: 1e-6, ..ParamsSpec::default() };
        let params = spec.parse(|| 1).unwrap();
        let logits: Vec<u8> =
            [0.5f32, 1.5, -0.5, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let limits = Limits { history_tokens_max: 100, adjusted_tokens_max: 100 };
        let counted = |count: u32| {
            let counts = vec![(1, count), (3, 1)];
            AdjustmentsSpec { counts, ..AdjustmentsSpec::default() }.parse(4, limits).unwrap()
        };
        let drafts: Arc<[u32]> = vec![1, 1, 3].into();
        let mut backends: [Box<dyn Backend>; 2] = [
            Box::<Reference>::default(),
            Box::new(Cpu::new(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap()),
        ];
        for backend in &mut backends {
            let mut masses = |adjustments: &Adjustments| {
                let row = Row::new(Dtype::F32, &logits, params).unwrap();
                let mut results = Results::default();
                backend.sample(&[row.with_adjustments(Some(adjustments))], &mut results).unwrap();
                results.row(0).outcome.kept_mass
            };
            let most = masses(&counted(COUNT_MAX));
            let raised = |count| counted(count).with_drafts(&drafts, 2);
            assert_eq!(masses(&raised(COUNT_MAX)), most);
            assert_eq!(masses(&raised(COUNT_MAX - 1)), most);
            assert_eq!(masses(&raised(COUNT_MAX - 2)), most);
            assert_ne!(masses(&raised(COUNT_MAX - 1_000_000)), most);
        }
    }
}
