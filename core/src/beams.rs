//! A step of a beam search: from the continuations of its beams to the candidates that the search goes on with.
//!
//! Beams are rows of a batch like any other, each of which is asked for its [`Continuations`] ([`Step::inspect`]). What these
//! say is merged by [`Step::merge`], in integers: sums of scores have no rounding, so that texts of one score tie exactly, and
//! ties have an order. What comes of finished candidates over the steps, and when a search stops, is the caller's.
//!
//! ```
//! use logitd_core::backend::{Backend, cpu::Cpu};
//! use logitd_core::batch::{Dtype, Results, Row};
//! use logitd_core::beams::StepSpec;
//! use logitd_core::params::ParamsSpec;
//!
//! let logits: Vec<u8> = [1.5f32, -0.25, 3.0, 2.75].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let step = StepSpec { scores: vec![0], beams: 2, eos_ids: vec![3], ..StepSpec::default() };
//! let step = step.parse(4).map_err(|errors| errors[0].clone())?;
//!
//! let greedy = ParamsSpec { temperature: 0.0, ..Default::default() }.parse(|| 0)?;
//! let asked = step.inspect();
//! let row = Row::new(Dtype::F32, &logits, greedy)?.with_inspect(Some(&asked));
//! let mut results = Results::default();
//! Cpu::new(Default::default())?.sample(&[row], &mut results)?;
//! let found = results.row(0).inspection.and_then(|found| found.continuations.as_ref());
//!
//! let stepped = step.merge(found);
//! let tokens = |of: &[logitd_core::beams::Candidate]| -> Vec<u32> { of.iter().map(|it| it.token).collect() };
//! assert_eq!(tokens(&stepped.running), [2, 0]);
//! assert_eq!(tokens(&stepped.finished), [3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::adjustments::{AdjustmentsError, STOP_IDS_MAX};
use crate::batch::Results;
use crate::inspection::{Continuation, Continuations, Continue, Inspect, Normaliser};
use crate::params::{COEFFICIENTS, FIELDS, ParamsSpec};
use crate::status::RowStatus;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

/// The most beams of a search.
pub const BEAMS_MAX: usize = 64;
/// The most tokens that end a text.
pub const EOS_IDS_MAX: usize = 32;
/// Running scores are at most so far from 0, in units of 2^-32 nat.
pub const SCORE_MAX: i64 = 1 << 62;
/// The most continuations that a step asks a row for.
pub const CONTINUATIONS_MAX: u32 = count(BEAMS_MAX, EOS_IDS_MAX);
/// The least and the greatest temperature of a step.
pub const TEMPERATURES: [f32; 2] = [1e-4, 1e4];

/// How many candidates a step of so many beams looks at: enough that so many are left when every row ends its text in
/// every way.
const fn count(beams: usize, eos_ids: usize) -> u32 {
    let each = if eos_ids == 0 { 2 } else { 1 + eos_ids };
    (each * beams) as u32
}

/// A step as somebody asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct StepSpec {
    /// The running score of each row's beam, in units of 2^-32 nat: 1 to `beams` of them, within [`SCORE_MAX`].
    pub scores: Vec<i64>,
    /// How many beams the search has: 1 to [`BEAMS_MAX`].
    pub beams: u32,
    /// Tokens that end a text: up to [`EOS_IDS_MAX`], none twice.
    pub eos_ids: Vec<u32>,
    /// The temperature of the probabilities, within [`TEMPERATURES`].
    pub temperature: f32,
    /// Over which logits they add up to 1.
    pub normaliser: Normaliser,
}

impl Default for StepSpec {
    fn default() -> Self {
        Self {
            scores: vec![0],
            beams: 1,
            eos_ids: vec![],
            temperature: 1.0,
            normaliser: Normaliser::default(),
        }
    }
}

/// What is wrong with a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {description}")]
pub struct StepError {
    /// The field, by its name in the API, with the index of what is wrong: `scores[3]`.
    pub field: String,
    /// What it is, and what is allowed.
    pub description: String,
}

/// A valid step. Made by [`StepSpec::parse`].
#[derive(Clone, Debug, PartialEq)]
pub struct Step(StepSpec);

/// What a search can go on with, or has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Which row's beam it continues, from 0 on.
    pub beam: u32,
    /// The token that it continues it with.
    pub token: u32,
    /// Its running score, in units of 2^-32 nat.
    pub score: i64,
}

/// What came of a step. Candidates are in order: score descending, then beam ascending, then by the order of their row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// What became of each row. One that is not OK has no candidates.
    pub statuses: Vec<RowStatus>,
    /// The best of all rows: `beams` times 2, or times 1 and the number of `eos_ids` where that is more; fewer where there
    /// are fewer.
    pub candidates: Vec<Candidate>,
    /// The first `beams` of them that do not end their text: the beams of the next step.
    pub running: Vec<Candidate>,
    /// Those of the first `beams` of them that end their text.
    pub finished: Vec<Candidate>,
}

impl StepSpec {
    /// Checks everything, for rows of so many tokens; an error for each field that is wrong.
    pub fn parse(self, vocab_size: u32) -> Result<Step, Vec<StepError>> {
        self.parse_within(vocab_size, BEAMS_MAX as u32)
    }

    /// The same where a search has no more beams than this, which is at most [`BEAMS_MAX`].
    pub fn parse_within(self, vocab_size: u32, beams_max: u32) -> Result<Step, Vec<StepError>> {
        let checks = [
            self.check_beams(beams_max.min(BEAMS_MAX as u32)),
            self.check_scores(),
            self.check_eos_ids(vocab_size),
            self.check_temperature(),
        ];
        match checks.into_iter().filter_map(Result::err).collect::<Vec<_>>() {
            wrong if wrong.is_empty() => Ok(Step(self)),
            wrong => Err(wrong),
        }
    }

    fn check_beams(&self, beams_max: u32) -> Checked {
        match self.beams {
            beams if (1..=beams_max).contains(&beams) => Ok(()),
            beams => wrong("beams", format!("is {beams}; allowed: 1 to {beams_max}")),
        }
    }

    fn check_scores(&self) -> Checked {
        let (rows, beams) = (self.scores.len(), self.beams);
        if rows == 0 {
            return wrong(
                "scores",
                "is empty; wanted: one score a row, 0 in the first step".into(),
            );
        }
        if rows > beams as usize {
            let description =
                format!("has {rows} scores; allowed: up to {beams} (beams), one a row");
            return wrong("scores", description);
        }
        let out = |score: &i64| !(-SCORE_MAX..=SCORE_MAX).contains(score);
        match self.scores.iter().position(out) {
            None => Ok(()),
            Some(i) => wrong(
                &format!("scores[{i}]"),
                format!(
                    "is {}; allowed: -{SCORE_MAX} to {SCORE_MAX}, in units of 2^-32 nat",
                    self.scores[i]
                ),
            ),
        }
    }

    fn check_eos_ids(&self, vocab_size: u32) -> Checked {
        let ids = &self.eos_ids;
        if ids.len() > EOS_IDS_MAX {
            let description = format!("has {} tokens; allowed: up to {EOS_IDS_MAX}", ids.len());
            return wrong("eos_ids", description);
        }
        let mut seen = HashSet::new();
        for (i, &id) in ids.iter().enumerate() {
            let field = format!("eos_ids[{i}]");
            if id >= vocab_size {
                let last = vocab_size.saturating_sub(1);
                return wrong(&field, format!("is {id}; allowed: 0 to {last}, below vocab_size"));
            }
            if !seen.insert(id) {
                return wrong(&field, format!("is {id}, which is there before; name it once"));
            }
        }
        Ok(())
    }

    fn check_temperature(&self) -> Checked {
        let ([least, greatest], temperature) = (TEMPERATURES, self.temperature);
        if (least..=greatest).contains(&temperature) {
            return Ok(());
        }
        let description = format!("is {temperature}; allowed: {least} to {greatest}");
        wrong("temperature", description)
    }
}

type Checked = Result<(), StepError>;

fn wrong(field: &str, description: String) -> Checked {
    Err(StepError { field: field.into(), description })
}

impl Step {
    /// What it was made of.
    pub fn spec(&self) -> &StepSpec {
        &self.0
    }

    /// How many candidates it looks at.
    pub fn count(&self) -> u32 {
        count(self.0.beams as usize, self.0.eos_ids.len())
    }

    /// What is asked of each of its rows.
    pub fn inspect(&self) -> Inspect {
        let StepSpec { temperature, normaliser, .. } = self.0;
        let continuations = Some(Continue { count: self.count(), temperature, normaliser });
        Inspect { continuations, ..Inspect::default() }
    }

    /// Merges what was found of its rows, in their order.
    ///
    /// # Panics
    /// If there are not as many as scores.
    pub fn merge<'r>(&self, rows: impl IntoIterator<Item = &'r Continuations>) -> Stepped {
        let rows: Vec<&Continuations> = rows.into_iter().collect();
        let StepSpec { scores, beams, eos_ids, .. } = &self.0;
        assert_eq!(rows.len(), scores.len(), "one row a score");
        let candidates = first(&rows, scores, self.count() as usize);
        let (beams, ends) = (*beams as usize, |it: &&Candidate| eos_ids.contains(&it.token));
        let running = candidates.iter().filter(|it| !ends(it)).take(beams);
        let finished = candidates.iter().take(beams).filter(ends);
        Stepped {
            statuses: rows.iter().map(|row| row.status).collect(),
            running: running.copied().collect(),
            finished: finished.copied().collect(),
            candidates,
        }
    }
}

/// What comes of several steps, whose rows are those of a batch, step by step.
///
/// # Panics
/// If a row was not asked what its step [asks](Step::inspect), or there are fewer of them than scores.
pub fn merged<'a>(steps: impl IntoIterator<Item = &'a Step>, results: &Results) -> Vec<Stepped> {
    let mut first = 0;
    let merged = steps.into_iter().map(|step| {
        let rows = first..first + step.spec().scores.len();
        first = rows.end;
        step.merge(rows.map(|row| {
            let inspection = results.row(row).inspection.expect("it was asked for");
            inspection.continuations.as_ref().expect("they were asked for")
        }))
    });
    merged.collect()
}

/// The first `count` candidates. Scores do not ascend within a row, so the next one is always some row's next.
fn first(rows: &[&Continuations], scores: &[i64], count: usize) -> Vec<Candidate> {
    let candidate = |beam: usize, place: usize| {
        let Continuation { score, .. } = rows[beam].tokens.get(place)?;
        Some((scores[beam] + score, Reverse(beam), place))
    };
    let firsts = (0..rows.len()).filter_map(|beam| candidate(beam, 0));
    let mut heads: BinaryHeap<_> = firsts.collect();
    let mut candidates = Vec::new();
    while candidates.len() < count
        && let Some((score, Reverse(beam), place)) = heads.pop()
    {
        let token = rows[beam].tokens[place].token;
        candidates.push(Candidate { beam: beam as u32, token, score });
        heads.extend(candidate(beam, place + 1));
    }
    candidates
}

/// The first parameter of a row that does not adjust logits, by its name, with its value. A profile alone changes nothing.
pub fn beyond_coefficients(spec: &ParamsSpec) -> Option<(&'static str, String)> {
    let default = ParamsSpec::default();
    let others = FIELDS.iter().filter(|field| !COEFFICIENTS.contains(&field.name));
    let others = others.filter(|field| field.name != "profile");
    let mut given = others.filter(|field| field.get(*spec) != field.get(default));
    given.next().map(|field| (field.name, field.get(*spec).to_string()))
}

/// Has `min_tokens` ban the tokens that finish a beam, as it bans these stop tokens.
pub fn stop_at(stop_ids: &mut Vec<u32>, eos_ids: &[u32]) -> Result<(), AdjustmentsError> {
    let own = stop_ids.len();
    if own > STOP_IDS_MAX {
        // Refused as they are.
        return Ok(());
    }
    let others: Vec<u32> = eos_ids.iter().copied().filter(|id| !stop_ids.contains(id)).collect();
    stop_ids.extend(others);
    if stop_ids.len() > STOP_IDS_MAX {
        return Err(AdjustmentsError {
            field: "stop_ids".into(),
            description: format!(
                "has {own}, and {} with eos_ids; allowed: up to {STOP_IDS_MAX} together",
                stop_ids.len()
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Row `index` of a stream of random numbers.
    fn random(index: u32) -> impl FnMut(u32) -> u32 {
        let mut state = u64::from(index) << 32 | 7;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u32 % below
        }
    }

    fn row(tokens: &[(u32, i64)]) -> Continuations {
        let tokens = tokens.iter().map(|&(token, score)| Continuation { token, score });
        Continuations { status: RowStatus::Ok, tokens: tokens.collect() }
    }

    fn step(scores: &[i64], beams: u32, eos_ids: &[u32]) -> Step {
        let spec = StepSpec {
            scores: scores.into(),
            beams,
            eos_ids: eos_ids.into(),
            ..StepSpec::default()
        };
        spec.parse(1000).unwrap()
    }

    /// Sorts everything, and reads section by section what is wanted.
    fn naive(step: &Step, rows: &[Continuations]) -> Stepped {
        let StepSpec { scores, beams, eos_ids, .. } = step.spec();
        let mut all = Vec::new();
        for (beam, row) in rows.iter().enumerate() {
            for (place, token) in row.tokens.iter().enumerate() {
                all.push((-(i128::from(scores[beam]) + i128::from(token.score)), beam, place));
            }
        }
        all.sort_unstable();
        let each = 2.max(1 + eos_ids.len());
        all.truncate(each * *beams as usize);
        let candidates: Vec<Candidate> = all
            .iter()
            .map(|&(minus_score, beam, place)| {
                let (score, token) = (-minus_score as i64, rows[beam].tokens[place].token);
                Candidate { beam: beam as u32, token, score }
            })
            .collect();
        let (mut running, mut finished) = (vec![], vec![]);
        for (place, &it) in candidates.iter().enumerate() {
            match eos_ids.contains(&it.token) {
                true if place < *beams as usize => finished.push(it),
                false if running.len() < *beams as usize => running.push(it),
                _ => {}
            }
        }
        let statuses = rows.iter().map(|row| row.status).collect();
        Stepped { statuses, candidates, running, finished }
    }

    #[test]
    fn a_merge_is_what_sorting_everything_says() {
        let (mut ties, mut ended) = (0, 0);
        for index in 0..3000 {
            let mut random = random(index);
            let beams = 1 + random(6);
            let scores: Vec<i64> =
                (0..1 + random(beams)).map(|_| i64::from(random(4)) - 2).collect();
            let mut eos_ids: Vec<u32> = (0..random(4)).map(|_| random(12)).collect();
            eos_ids.sort_unstable();
            eos_ids.dedup();
            let step = step(&scores, beams, &eos_ids);
            let rows: Vec<Continuations> = scores
                .iter()
                .map(|_| {
                    if random(8) == 0 {
                        return Continuations { status: RowStatus::Nan, tokens: vec![] };
                    }
                    let mut score = 0;
                    let count = random(step.count() + 1);
                    let tokens = (0..count).map(|token| {
                        score -= i64::from(random(3));
                        ((token * 5 + index) % 12, score)
                    });
                    row(&tokens.collect::<Vec<_>>())
                })
                .collect();
            let (expected, got) = (naive(&step, &rows), step.merge(&rows));
            assert_eq!(got, expected, "{index}: {step:?} {rows:?}");
            ties += got.candidates.windows(2).filter(|two| two[0].score == two[1].score).count();
            ended += got.finished.len();
        }
        assert!(ties > 1000 && ended > 1000, "{ties} {ended}");
    }

    #[test]
    fn sums_at_the_ends_of_the_range_are_exact() {
        let far = 1i64 << 60;
        let step = step(&[SCORE_MAX, -SCORE_MAX], 2, &[]);
        let merged = step.merge(&[row(&[(1, far), (2, -far)]), row(&[(3, far), (4, -far - 5)])]);
        let scores: Vec<i64> = merged.candidates.iter().map(|it| it.score).collect();
        assert_eq!(
            scores,
            [SCORE_MAX + far, SCORE_MAX - far, -SCORE_MAX + far, -SCORE_MAX - far - 5]
        );
    }

    #[test]
    fn each_wrong_field_is_named_with_its_limit() {
        let errors = |spec: StepSpec| -> Vec<String> {
            spec.parse(10).unwrap_err().iter().map(ToString::to_string).collect()
        };
        let usual = StepSpec::default;
        for (spec, said) in [
            (StepSpec { beams: 65, ..usual() }, "beams is 65; allowed: 1 to 64"),
            (StepSpec { scores: vec![], ..usual() }, "scores is empty; wanted: one score a row"),
            (StepSpec { scores: vec![0; 2], ..usual() }, "scores has 2 scores; allowed: up to 1"),
            (
                StepSpec { scores: vec![0, i64::MIN], beams: 2, ..usual() },
                "scores[1] is -9223372036854775808; allowed: -4611686018427387904 to 4611686018427387904",
            ),
            (
                StepSpec { eos_ids: (0..33).collect(), ..usual() },
                "eos_ids has 33 tokens; allowed: up to 32",
            ),
            (StepSpec { eos_ids: vec![3, 10], ..usual() }, "eos_ids[1] is 10; allowed: 0 to 9"),
            (StepSpec { eos_ids: vec![3, 4, 3], ..usual() }, "eos_ids[2] is 3, which is there"),
            (
                StepSpec { temperature: 0.0, ..usual() },
                "temperature is 0; allowed: 0.0001 to 10000",
            ),
            (StepSpec { temperature: f32::NAN, ..usual() }, "temperature is NaN"),
        ] {
            let errors = errors(spec);
            assert!(errors.len() == 1 && errors[0].starts_with(said), "{said}: {errors:?}");
        }
        let all = errors(StepSpec {
            beams: 0,
            scores: vec![],
            eos_ids: vec![99],
            temperature: -1.0,
            normaliser: Normaliser::Raw,
        });
        assert_eq!(all.len(), 4, "{all:?}");
        let few = StepSpec { beams: 0, ..usual() }.parse_within(10, 8).unwrap_err();
        assert_eq!(few[0].to_string(), "beams is 0; allowed: 1 to 8");
        assert!(StepSpec { beams: 65, ..usual() }.parse_within(10, 100).is_err());
        assert_eq!(step(&[0], 64, &[]).count(), 128);
        assert_eq!(step(&[0], 64, &(0..32).collect::<Vec<_>>()).count(), CONTINUATIONS_MAX);
    }

    #[test]
    fn tokens_that_finish_a_beam_are_stop_tokens_once() {
        let mut stop_ids = vec![3, 4];
        stop_at(&mut stop_ids, &[4, 5]).unwrap();
        assert_eq!(stop_ids, [3, 4, 5]);
        stop_ids = (0..128).collect();
        stop_at(&mut stop_ids, &[5]).unwrap();
        let error = stop_at(&mut stop_ids, &[200]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "stop_ids has 128, and 129 with eos_ids; allowed: up to 128 together"
        );
    }
}
