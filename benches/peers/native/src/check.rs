//! Whether a sampler does what a case asks for: one that is used wrongly is not timed.
//!
//! Greedy tokens have to be logitd's, or as likely. Elsewhere random numbers differ, so draws are compared with the distribution
//! that logitd has: where they fall, how often on its first token, how surprising they are, and, where it can be seen, how many
//! tokens they are among.

use crate::cases::Case;
use crate::logitd::Own;
use crate::peer::Sampler;
use crate::rows::Rows;
use logitd_core::batch::Dtype;
use logitd_core::inspection::{Distribution, Inspect, Logprobs};
use std::error::Error;

/// Rows whose draws are looked at.
const ROWS: usize = 8;
/// Draws from each of them.
const DRAWS: usize = 128;
/// The least share of draws that are of tokens which logitd keeps: borders of cuts differ by a token.
const KEPT_LEAST: f64 = 0.99;
/// The same under top_k with top_p, where candle and mistral.rs keep more tokens: they apply top_p to probabilities that are not
/// divided by what top_k has left. Whether they apply it at all cannot be told there.
const KEPT_LEAST_OF_BOTH: f64 = 0.9;
/// How far apart numbers of kept tokens may be, and by how large a share: sums of f32 end beside those of integers.
const KEPT_BESIDE: (f64, f64) = (2.0, 0.01);
/// Standard deviations that a mean or a count may be away from what is expected.
const DEVIATIONS: f64 = 5.0;
/// How far a mean may be away besides, in nats: borders of cuts differ a little.
const NATS_BESIDE: f64 = 0.05;
/// How far a count may be away besides, as a share of the draws.
const SHARE_BESIDE: f64 = 0.02;

/// Compares a sampler with logitd, and says how many tokens its draws are among on average, where that can be seen.
pub fn check(
    case: &Case,
    rows: &Rows,
    sampler: &mut dyn Sampler,
) -> Result<Option<f64>, Box<dyn Error>> {
    let mut own = Own::new(Dtype::F16, case, rows)?;
    if case.params.temperature == 0.0 {
        check_greedy(rows, sampler, &mut own)?;
        return Ok(None);
    }
    let checked = ROWS.min(rows.len());
    let mut seen = Seen::default();
    let mut kept = Some(0.0);
    for row in 0..checked {
        let drawn = (0..DRAWS).map(|_| sampler.sample(row)).collect::<Result<Vec<_>, _>>()?;
        let of = Distribution::ALL.map(|of| of == Distribution::Sampled);
        let inspect = Inspect { of, top: 1, ids: drawn.into(), ..Inspect::default() };
        let result = own.look(row, Some(&inspect))?.row(0);
        let sampled = &result.inspection.ok_or("logitd says nothing of a row")?.logprobs[0];
        check_first(row, sampled)?;
        seen.add(sampled);
        let expected = f64::from(result.outcome.kept);
        kept = kept.zip(sampler.kept()).map(|(sum, kept)| sum + kept as f64);
        if let Some(kept) = sampler.kept() {
            let allowed = KEPT_BESIDE.0 + KEPT_BESIDE.1 * expected;
            if (kept as f64 - expected).abs() > allowed {
                return Err(
                    format!("it keeps {kept} tokens of row {row}, and logitd {expected}").into()
                );
            }
        }
    }
    seen.check(kept_least(case))?;
    Ok(kept.map(|sum| sum / checked as f64))
}

fn check_greedy(
    rows: &Rows,
    sampler: &mut dyn Sampler,
    own: &mut Own<'_>,
) -> Result<(), Box<dyn Error>> {
    for row in 0..rows.len() {
        let (found, expected) = (sampler.sample(row)?, own.sample(row)?);
        let logit = |token: u32| rows.wide(row).get(token as usize);
        if logit(found) != logit(expected) {
            return Err(
                format!("its token of row {row} is {found}, and logitd's {expected}").into()
            );
        }
    }
    Ok(())
}

/// Compares how often the first token of a row was drawn, among the draws that logitd keeps, with its probability.
fn check_first(row: usize, sampled: &Logprobs) -> Result<(), String> {
    let first = &sampled.top[0];
    let kept = sampled.ids.iter().filter(|id| id.rank > 0).count() as f64;
    let found = sampled.ids.iter().filter(|id| id.token == first.token).count() as f64;
    let p = f64::from(first.logprob).exp();
    let allowed = DEVIATIONS * (kept * p * (1.0 - p)).sqrt() + SHARE_BESIDE * kept + 1.0;
    if (found - kept * p).abs() > allowed {
        let expected = kept * p;
        return Err(format!(
            "the first token of row {row} is drawn {found} times, where {expected:.0} are expected; \
             allowed: {allowed:.0} more or less"
        ));
    }
    Ok(())
}

/// Draws, as logitd's distributions see them.
#[derive(Default)]
struct Seen {
    /// How many there were.
    drawn: usize,
    /// By how much the surprisal of each that logitd keeps is above the mean, which is the entropy.
    above: Vec<f64>,
}

impl Seen {
    /// The draws of a row. What logitd does not keep has no finite surprisal.
    fn add(&mut self, sampled: &Logprobs) {
        let surprisals = sampled.ids.iter().map(|id| -f64::from(id.logprob));
        let entropy = f64::from(sampled.entropy.0);
        self.drawn += surprisals.len();
        self.above.extend(surprisals.filter(|x| x.is_finite()).map(|x| x - entropy));
    }

    fn check(&self, kept_least: f64) -> Result<(), String> {
        let kept = self.above.len() as f64;
        if kept < kept_least * self.drawn as f64 {
            return Err(format!("of {} draws, {kept} are of tokens that logitd keeps", self.drawn));
        }
        let mean = self.above.iter().sum::<f64>() / kept;
        let variance = self.above.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / kept;
        let allowed = DEVIATIONS * (variance / kept).sqrt() + NATS_BESIDE;
        if mean.abs() > allowed {
            let nats = "nats more surprising than logitd's distribution has them";
            return Err(format!("draws are {mean:.3} {nats}; allowed: {allowed:.3} either way"));
        }
        Ok(())
    }
}

fn kept_least(case: &Case) -> f64 {
    if case.params.top_k > 0 && case.params.top_p < 1.0 { KEPT_LEAST_OF_BOTH } else { KEPT_LEAST }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::params::ParamsSpec;

    /// What a check says of logitd's sampler, asked for what another case asks for.
    fn checked(case: &Case, other: &Case, rows: &Rows) -> Result<(), String> {
        let mut sampler = Unseen(Own::new(Dtype::F32, other, rows).unwrap());
        check(case, rows, &mut sampler).map(|_| ()).map_err(|error| error.to_string())
    }

    /// One that does not say how many tokens its draws are among, and draws others than logitd.
    struct Unseen<'a>(Own<'a>);

    impl Sampler for Unseen<'_> {
        fn sample(&mut self, row: usize) -> Result<u32, Box<dyn Error>> {
            self.0.sample(row)
        }
    }

    #[test]
    fn a_sampler_that_is_used_wrongly_is_found() {
        let rows = Rows::carried(ROWS);
        let greedy = Case::greedy();
        let likeliest = {
            let mut own = Own::new(Dtype::F16, &greedy, &rows).unwrap();
            (0..ROWS).map(|row| own.sample(row).unwrap()).collect::<Vec<_>>()
        };
        for case in Case::all(&likeliest) {
            checked(&case, &case, &rows).unwrap();
            // Hot, and without cuts.
            let params = ParamsSpec { temperature: 1.5, seed: Some(1), ..ParamsSpec::default() };
            let hot = Case { name: "hot", params, history: vec![] };
            assert!(checked(&case, &hot, &rows).is_err(), "{}", case.name);
            // At the same temperature, and without cuts that take much.
            let ParamsSpec { temperature, top_k, top_p, .. } = case.params;
            if (top_k > 0) != (top_p < 1.0) && case.history.is_empty() {
                let params = ParamsSpec { temperature, seed: Some(1), ..ParamsSpec::default() };
                let uncut = Case { name: "uncut", params, history: vec![] };
                assert!(checked(&case, &uncut, &rows).is_err(), "{}", case.name);
            }
            // With the cuts, and without what came before.
            if !case.history.is_empty() {
                let params = ParamsSpec {
                    repetition_penalty: 1.0,
                    frequency_penalty: 0.0,
                    presence_penalty: 0.0,
                    ..case.params
                };
                let new = Case { name: "new", params, history: vec![] };
                assert!(checked(&case, &new, &rows).is_err(), "{}", case.name);
            }
        }
    }
}
