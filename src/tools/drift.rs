//! How much of what is drawn changes where logits change a little: the same positions, computed twice (in another
//! batch, by another kernel or model), drawn with the same seeds by each rule.
//!
//! It is what speculative decoding lives on, too. Where the second drafts for the first, MATCH takes the drafts that do not
//! differ, if both draw with the same seeds. Rejection sampling takes as many as the two distributions have in common,
//! and has to be told the drafter's.

use super::drafter::Drafter;
use logitd_core::backend::reference::kept_masses;
use logitd_core::backend::{Backend, DeviceError};
use logitd_core::batch::{Results, Row, RowStatus};
use logitd_core::params::{DrawRule, ParamsSpec, SamplingParams};
use logitd_core::row::{Draft, Proposal, Rule, Source};
use std::sync::Arc;

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drift {
    /// Pairs of rows.
    pub rows: u64,
    /// Draws of one side, by one rule.
    pub draws: u64,
    /// The sum of the rows' total variations: no rule that draws from both can differ less.
    distance: f64,
    /// Draws that differ.
    cumulative: u64,
    race: u64,
    /// Drafts of the second that the first takes by rejection.
    taken: u64,
}

impl Drift {
    /// Total variation of the kept distributions, averaged over rows.
    pub fn least(&self) -> f64 {
        self.distance / self.rows.max(1) as f64
    }

    /// The share of cumulative draws that differ.
    pub fn cumulative(&self) -> f64 {
        self.of_draws(self.cumulative)
    }

    /// The share of draws by race that differ.
    pub fn race(&self) -> f64 {
        self.of_draws(self.race)
    }

    /// The share of drafts that MATCH takes where the second drafts for the first with its seeds, by a rule: those that do
    /// not differ.
    pub fn matched(&self, draw_rule: DrawRule) -> f64 {
        1.0 - match draw_rule {
            DrawRule::Cumulative => self.cumulative(),
            DrawRule::Race => self.race(),
        }
    }

    /// The share of drafts that rejection sampling takes, where it is told the second's row.
    pub fn by_rejection(&self) -> f64 {
        self.of_draws(self.taken)
    }

    fn of_draws(&self, count: u64) -> f64 {
        count as f64 / self.draws.max(1) as f64
    }

    /// Adds a position, whose parameters both rows have. A row without a token is its own error.
    pub fn add(
        &mut self,
        backend: &mut dyn Backend,
        [a, b]: [&Row<'_>; 2],
        results: &mut Results,
    ) -> Result<(), DriftError> {
        let masses = |side, row| kept_masses(row).map_err(|status| DriftError::Row(side, status));
        let distance = total_variation(&masses(Side::A, a)?, &masses(Side::B, b)?);
        let mut differ = |rule| -> Result<u64, DriftError> {
            let by_rule = |row| with(row, |spec| ParamsSpec { draw_rule: rule, ..spec });
            let rows = [a, b].map(by_rule);
            backend.sample(&rows, results)?;
            let [a, b] = [0, 1].map(|i| results.row(i).draws);
            Ok(a.iter().zip(b).filter(|(a, b)| a.token != b.token).count() as u64)
        };
        let (cumulative, race) = (differ(DrawRule::Cumulative)?, differ(DrawRule::Race)?);
        self.taken += taken_by_rejection(backend, a, b, results)?;
        self.rows += 1;
        self.draws += u64::from(a.params().draws());
        self.distance += distance;
        self.cumulative += cumulative;
        self.race += race;
        Ok(())
    }
}

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

/// Why a pair of rows cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DriftError {
    /// A row has no token.
    #[error("the row is {1}, and has no token to compare")]
    Row(Side, RowStatus),
    /// The backend failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// How many drafts the target takes by rejection. There are as many as it has draws, each with a seed of its own, since a
/// row decides about one draft.
fn taken_by_rejection(
    backend: &mut dyn Backend,
    target: &Row<'_>,
    drafter: &Row<'_>,
    results: &mut Results,
) -> Result<u64, DeviceError> {
    let logits: Arc<[u8]> = drafter.logits().into();
    let of_trial = |row: &Row<'_>, trial: u32, draft| {
        let seed = row.params().seed().wrapping_add(trial.into());
        params(row, |spec| ParamsSpec { seed: Some(seed), draws: 1, draft, ..spec })
    };
    let trials = 0..target.params().draws();
    let drafters: Vec<_> = (trials.clone())
        .map(|trial| {
            let params = of_trial(drafter, trial, true);
            Arc::new(Drafter {
                dtype: drafter.dtype(),
                logits: Arc::clone(&logits),
                params,
                adjustments: None,
            })
        })
        .collect();
    let rows: Vec<Row<'_>> = drafters.iter().map(|drafter| drafter.row()).collect();
    backend.sample(&rows, results)?;
    let drafted = results.iter().zip(&drafters).map(|(result, drafter)| {
        let source = Arc::clone(drafter) as Arc<dyn Source>;
        Draft { token: result.draws[0].token, rule: Rule::Rejection(Proposal::Row(source)) }
    });
    let drafts: Vec<Draft> = drafted.collect();
    let row =
        |(trial, draft)| target.with_params(of_trial(target, trial, false)).with_draft(Some(draft));
    let rows: Vec<Row<'_>> = trials.zip(&drafts).map(row).collect();
    backend.sample(&rows, results)?;
    Ok(results.iter().filter(|result| result.accepted == Some(true)).count() as u64)
}

/// The row with other parameters.
fn with<'a>(row: &Row<'a>, change: impl Fn(ParamsSpec) -> ParamsSpec) -> Row<'a> {
    row.with_params(params(row, change))
}

fn params(row: &Row<'_>, change: impl Fn(ParamsSpec) -> ParamsSpec) -> SamplingParams {
    let changed = change((*row.params()).into());
    changed.parse(|| unreachable!("parsed parameters have a seed")).expect("still valid")
}

/// Half the sum of the differences in probability; both lists by ascending token.
fn total_variation(a: &[(u32, u64)], b: &[(u32, u64)]) -> f64 {
    let total = |of: &[(u32, u64)]| of.iter().map(|&(_, mass)| mass).sum::<u64>() as f64;
    let (of_a, of_b) = (total(a), total(b));
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    while i < a.len() || j < b.len() {
        let next = |of: &[(u32, u64)], at: usize| of.get(at).map_or(u32::MAX, |&(token, _)| token);
        let token = next(a, i).min(next(b, j));
        let take = |of: &[(u32, u64)], at: &mut usize, total: f64| match of.get(*at) {
            Some(&(found, mass)) if found == token => {
                *at += 1;
                mass as f64 / total
            }
            _ => 0.0,
        };
        let (p, q) = (take(a, &mut i, of_a), take(b, &mut j, of_b));
        sum += (p - q).abs();
    }
    sum / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::backend::reference::Reference;
    use logitd_core::batch::Dtype;

    fn row(logits: &[u8]) -> Row<'_> {
        let spec = ParamsSpec { seed: Some(3), draws: 1000, ..Default::default() };
        Row::new(Dtype::F32, logits, spec.parse(|| 0).unwrap()).unwrap()
    }

    fn bytes(x: impl Iterator<Item = f32>) -> Vec<u8> {
        x.flat_map(f32::to_le_bytes).collect()
    }

    #[test]
    fn total_variation_is_half_the_sum_of_differences() {
        assert_eq!(total_variation(&[(1, 4), (7, 4)], &[(1, 2), (7, 2)]), 0.0);
        assert_eq!(total_variation(&[(1, 5)], &[(2, 9)]), 1.0);
        assert_eq!(total_variation(&[(1, 3), (2, 1)], &[(1, 1), (2, 1)]), 0.25);
    }

    #[test]
    fn equal_rows_do_not_drift_and_the_race_drifts_less_than_the_place_in_a_sum() {
        let mut state = 1u64;
        // Uniform between -1 and 1.
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let logits: Vec<(f32, f32)> = (0..500).map(|_| (3.0 * random(), random())).collect();
        let x = |noise: f32| bytes(logits.iter().map(move |(x, other)| x + noise * other));
        let (same, other) = (x(0.0), x(0.3));
        let mut results = Results::default();
        let mut drift = Drift::default();
        let pair = [&row(&same), &row(&same)];
        drift.add(&mut Reference::default(), pair, &mut results).unwrap();
        assert_eq!((drift.least(), drift.cumulative(), drift.race()), (0.0, 0.0, 0.0));
        assert_eq!(drift.by_rejection(), 1.0);
        let mut drift = Drift::default();
        let pair = [&row(&same), &row(&other)];
        drift.add(&mut Reference::default(), pair, &mut results).unwrap();
        let (least, cumulative, race) = (drift.least(), drift.cumulative(), drift.race());
        println!("least {least}, cumulative {cumulative}, race {race}");
        assert!(
            least > 0.02 && race > least * 0.5 && race < least * 2.0 && race < cumulative / 2.0
        );
        assert_eq!((drift.rows, drift.draws), (1, 1000));
        // Rejection takes what the distributions share, a deviation of a thousand draws aside; by race nearly as much matches.
        let (rejection, race) = (drift.by_rejection(), drift.matched(DrawRule::Race));
        println!("rejection {rejection}, matched by race {race}");
        assert!((rejection - (1.0 - least)).abs() < 0.03 && rejection - race < least + 0.03);
        assert!(drift.matched(DrawRule::Cumulative) < race);
    }

    #[test]
    fn a_row_without_a_token_is_named() {
        let (good, nan) = (bytes([0.0, 1.0].into_iter()), bytes([0.0, f32::NAN].into_iter()));
        let pair = [&row(&good), &row(&nan)];
        let error = Drift::default()
            .add(&mut Reference::default(), pair, &mut Results::default())
            .unwrap_err();
        assert!(matches!(error, DriftError::Row(Side::B, RowStatus::Nan)), "{error}");
    }
}
