//! A beam search: what it keeps, what it goes on with, and when it stops.
//!
//! The server makes steps: of the logits of a search's beams and their scores it says which continuations are the best. It
//! keeps nothing between them. The rest is here: a [`Search`] asks for rows, takes what was found of
//! them, and keeps the best finished texts, as Hugging Face's `generate(num_beams=...)` does. Several searches go side by side
//! as groups of one `Search`, so that a step is one call for all that are still open. [`Search::run_on`] makes the calls;
//! [`Search::run`] has any function for them, and needs no connection.
//!
//! Scores of beams are integers, in units of 2^-32 nat, and add up without rounding. Finished texts are compared by their
//! score divided by `length ^ length_penalty`, in f64 with a power that is the same on every machine.
//!
//! ```
//! use logitd_client::api::RowStatus;
//! use logitd_client::beam::{Candidate, Options, Search, Step};
//!
//! // A model of three tokens that does not look at its text: 0 ends it.
//! const SCORES: [(u32, i64); 3] = [(1, -3_000_000_000), (2, -4_000_000_000), (0, -6_000_000_000)];
//!
//! let options = Options { beams: 2, eos_ids: vec![0], max_length: 5, ..Options::default() };
//! let search = Search::new(options, 1)?;
//! let found = search.run(|groups| {
//!     let step = groups.iter().map(|group| {
//!         let beams = group.beams().iter().zip(0..);
//!         let each = beams.flat_map(|(beam, i)| SCORES.map(|(token, score)| (i, token, beam.score + score)));
//!         let mut candidates: Vec<_> = each.map(|(beam, token, score)| Candidate { beam, token, score }).collect();
//!         candidates.sort_by_key(|it| (-it.score, it.beam));
//!         candidates.truncate(4);
//!         let (finished, running): (Vec<Candidate>, Vec<_>) = candidates.iter().partition(|it| it.token == 0);
//!         let running = running.into_iter().take(2).collect();
//!         let finished = finished.into_iter().filter(|it| candidates[..2].contains(it)).collect();
//!         Step { statuses: vec![RowStatus::Ok; group.beams().len()], candidates, running, finished }
//!     });
//!     Ok::<_, std::convert::Infallible>(step.collect())
//! })?;
//! assert_eq!(found[0].texts[0].tokens, [1, 1, 1, 1, 1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use super::{Client, Error};
use logitd_proto::{
    BeamContinuations, BeamGroup, BeamGroupResult, BeamStepRequest, BeamStepResponse, RowStatus,
};
use std::fmt;
use std::future::Future;
use tonic::Status;

/// The most beams of a search.
pub const BEAMS_MAX: u32 = 64;
/// The units of a score in a nat: 2^32.
const NAT: f64 = 4_294_967_296.0;

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How many texts are looked at side by side, and how many are found: 1 to [`BEAMS_MAX`]. With 1 it is greedy decoding.
    pub beams: u32,
    /// Tokens that end a text, as the steps are told.
    pub eos_ids: Vec<u32>,
    /// How many tokens a text has at most, its prompt not counted: 1 or more. A text of so many is finished.
    pub max_length: u32,
    /// Finished texts are compared by `score / length ^ length_penalty`, where `length` counts the token that ends them:
    /// above 0 longer ones are favoured, since scores are negative; 0 compares the scores.
    pub length_penalty: f64,
    /// When a search stops before `max_length`.
    pub early_stopping: EarlyStopping,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            beams: 1,
            eos_ids: vec![],
            max_length: 20,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::default(),
        }
    }
}

/// When a search stops before the greatest length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EarlyStopping {
    /// Once as many texts are finished as there are beams: `early_stopping=True` of Hugging Face.
    WhenFull,
    /// Once, besides, the best beam as it is now would not be better than the worst of these: `False`.
    #[default]
    WhenUnlikely,
    /// Once, besides, no beam can become better than the worst of these: `"never"`.
    Never,
}

/// A text that a search goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beam {
    /// Its tokens so far, the prompt not among them.
    pub tokens: Vec<u32>,
    /// Its running score, in units of 2^-32 nat.
    pub score: i64,
    /// Which of the group's beams of the step before it continues: where its model's cache is. 0 in the first step.
    pub parent: u32,
}

/// A text that a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Natural logarithm of its probability, in units of 2^-32.
    pub score: i64,
    /// By what texts are compared: the score in nats, divided by the power of the length.
    pub normalised: f64,
}

/// A continuation of a beam.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Which of the group's beams it continues.
    pub beam: u32,
    /// The token that it continues it with.
    pub token: u32,
    /// Its running score, in units of 2^-32 nat.
    pub score: i64,
}

/// What was found of a group's rows, as the server says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What became of each row.
    pub statuses: Vec<RowStatus>,
    /// The best of all rows, in order.
    pub candidates: Vec<Candidate>,
    /// The first of them that do not end their text.
    pub running: Vec<Candidate>,
    /// Those of the first `beams` of them that end their text.
    pub finished: Vec<Candidate>,
}

impl TryFrom<BeamGroupResult> for Step {
    type Error = Error;

    /// What the server's answer says of a group; an error where that is not a step.
    fn try_from(result: BeamGroupResult) -> Result<Self, Error> {
        let statuses = result.statuses().collect();
        let BeamGroupResult { running, finished, candidates, .. } = result;
        let [candidates, running, finished] = [candidates, running, finished].map(continuations);
        Ok(Self { statuses, candidates: candidates?, running: running?, finished: finished? })
    }
}

fn continuations(columns: Option<BeamContinuations>) -> Result<Vec<Candidate>, Error> {
    let BeamContinuations { beams, tokens, scores } = columns.unwrap_or_default();
    if beams.len() != tokens.len() || beams.len() != scores.len() {
        return Err(Status::internal("an answer whose columns differ in length").into());
    }
    let all = beams.into_iter().zip(tokens).zip(scores);
    Ok(all.map(|((beam, token), score)| Candidate { beam, token, score }).collect())
}

/// Why a search has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By [`EarlyStopping`].
    Early,
    /// Its texts have the greatest length.
    Length,
    /// No beam can go on: what became of the last rows. What was found before stands.
    NoCandidate(Vec<RowStatus>),
}

/// What a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The best texts, best first: as many as there are beams, or fewer where fewer were finished; 1 or more.
    pub texts: Vec<Text>,
    /// Why there are no more.
    pub end: End,
}

/// Why there is no search, or no more of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SearchError {
    /// An option is out of its range.
    #[error("{field} {description}")]
    Option {
        /// The option's name.
        field: &'static str,
        /// What it is, and what is allowed.
        description: String,
    },
    /// A step has a request or an answer for another number of groups than are open, or one of beams that there are not.
    #[error("a step that does not fit: {0}")]
    Step(String),
    /// A search has no beam left to go on with, and has found nothing.
    #[error("group {group} has found no text, and none of its rows has candidates: {}", Statuses(.statuses))]
    NoCandidate {
        /// Which one, from 0 on.
        group: usize,
        /// What became of its rows.
        statuses: Vec<RowStatus>,
    },
}

/// Why [`Search::run`] or [`Search::run_on`] has ended without texts.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RunError<E> {
    /// The search.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The function that makes steps or their rows, or the server.
    #[error("{0}")]
    Step(E),
}

struct Statuses<'a>(&'a [RowStatus]);

impl fmt::Display for Statuses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(RowStatus::as_str_name).collect();
        f.write_str(&names.join(", "))
    }
}

/// Searches side by side: groups of beams.
#[derive(Clone, Debug)]
pub struct Search {
    options: Options,
    groups: Vec<Group>,
}

/// One of these.
#[derive(Clone, Debug)]
pub struct Group {
    index: usize,
    beams: Vec<Beam>,
    length: u32,
    texts: Vec<Text>,
    end: Option<End>,
}

impl Group {
    /// Which one it is, from 0 on, of all that the search began with.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The texts that it goes on with: a row each, in this order. In the first step one, which is empty.
    pub fn beams(&self) -> &[Beam] {
        &self.beams
    }

    /// The best texts that are finished so far, best first.
    pub fn texts(&self) -> &[Text] {
        &self.texts
    }

    fn new(index: usize) -> Self {
        Self { index, beams: vec![Beam::default()], length: 0, texts: vec![], end: None }
    }

    fn advance(&mut self, options: &Options, step: Step) -> Result<(), SearchError> {
        self.check(&step)?;
        self.length += 1;
        let at_most = self.length == options.max_length;
        // At the greatest length every text is finished, whatever its last token is.
        let finished = match at_most {
            true => &step.candidates[..step.candidates.len().min(options.beams as usize)],
            false => &step.finished[..],
        };
        for candidate in finished {
            let Beam { tokens, score, .. } = self.go_on(candidate);
            let normalised = normalised(score, self.length, options.length_penalty);
            self.keep(Text { tokens, score, normalised }, options.beams as usize);
        }
        self.beams = match at_most {
            true => vec![],
            false => step.running.iter().map(|candidate| self.go_on(candidate)).collect(),
        };
        self.end = match self.beams.first() {
            _ if at_most && !self.texts.is_empty() => Some(End::Length),
            None if self.texts.is_empty() => {
                let (group, statuses) = (self.index, step.statuses);
                return Err(SearchError::NoCandidate { group, statuses });
            }
            None => Some(End::NoCandidate(step.statuses)),
            Some(best) => self.stops(options, best.score).then_some(End::Early),
        };
        Ok(())
    }

    fn check(&self, step: &Step) -> Result<(), SearchError> {
        let (group, beams) = (self.index, self.beams.len());
        let all = step.candidates.iter().chain(&step.running).chain(&step.finished);
        match all.map(|it| it.beam).find(|&beam| beam as usize >= beams) {
            None => Ok(()),
            Some(beam) => Err(SearchError::Step(format!(
                "a candidate of group {group} continues beam {beam}, and there are {beams}"
            ))),
        }
    }

    /// A beam with a further token.
    fn go_on(&self, &Candidate { beam, token, score }: &Candidate) -> Beam {
        let before = &self.beams[beam as usize].tokens;
        Beam { tokens: [&before[..], &[token]].concat(), score, parent: beam }
    }

    /// Keeps a text if it is one of the best; of equals, the older one.
    fn keep(&mut self, text: Text, most: usize) {
        let place = self.texts.partition_point(|older| older.normalised >= text.normalised);
        self.texts.insert(place, text);
        self.texts.truncate(most);
    }

    fn stops(&self, options: &Options, best: i64) -> bool {
        let Some(worst) = self.texts.get(options.beams as usize - 1) else { return false };
        let length = match options.early_stopping {
            EarlyStopping::WhenFull => return true,
            EarlyStopping::Never if options.length_penalty > 0.0 => options.max_length,
            _ => self.length,
        };
        normalised(best, length, options.length_penalty) <= worst.normalised
    }
}

/// By what texts are compared.
fn normalised(score: i64, length: u32, length_penalty: f64) -> f64 {
    score as f64 / NAT / libm::pow(length.into(), length_penalty)
}

impl Search {
    /// So many searches, of the same kind.
    pub fn new(options: Options, groups: usize) -> Result<Self, SearchError> {
        let wrong = |field, description| Err(SearchError::Option { field, description });
        let Options { beams, max_length, length_penalty, .. } = options;
        if !(1..=BEAMS_MAX).contains(&beams) {
            return wrong("beams", format!("is {beams}; allowed: 1 to {BEAMS_MAX}"));
        }
        if max_length == 0 {
            return wrong("max_length", "is 0; allowed: 1 or more".into());
        }
        if !length_penalty.is_finite() {
            return wrong(
                "length_penalty",
                format!("is {length_penalty}; wanted: a finite number"),
            );
        }
        Ok(Self { options, groups: (0..groups).map(Group::new).collect() })
    }

    /// What is searched for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The groups that are not at their end, in order: the rows of the next step. None is the end of the search.
    pub fn open(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.end.is_none())
    }

    /// Takes what was found of the open groups, in order. After an error the search is not to be gone on with.
    pub fn advance(&mut self, steps: impl IntoIterator<Item = Step>) -> Result<(), SearchError> {
        let steps: Vec<Step> = steps.into_iter().collect();
        let open = self.groups.iter_mut().filter(|group| group.end.is_none());
        let open: Vec<&mut Group> = open.collect();
        if steps.len() != open.len() {
            let (steps, open) = (steps.len(), open.len());
            return Err(SearchError::Step(format!("{steps} groups, and {open} are open")));
        }
        let mut both = open.into_iter().zip(steps);
        both.try_for_each(|(group, step)| group.advance(&self.options, step))
    }

    /// What every group has found, in order; `None` of one that is not at its end.
    pub fn found(self) -> Vec<Option<Found>> {
        let found = |Group { texts, end, .. }| Some(Found { texts, end: end? });
        self.groups.into_iter().map(found).collect()
    }

    /// Goes on to the end. The function is given the open groups, and says what was found of each one's rows.
    pub fn run<E>(
        mut self,
        mut step: impl FnMut(&[&Group]) -> Result<Vec<Step>, E>,
    ) -> Result<Vec<Found>, RunError<E>> {
        loop {
            let open: Vec<&Group> = self.open().collect();
            if open.is_empty() {
                break;
            }
            let steps = step(&open).map_err(RunError::Step)?;
            self.advance(steps)?;
        }
        Ok(self.found().into_iter().flatten().collect())
    }

    /// Goes on to the end with a server's steps. The function is given the open groups, and returns a request with the
    /// rows of their beams, one group after another: as bytes, or as a slot of memory. Its `groups` are empty, or one a
    /// group with what is not the search's (`temperature`, `normaliser`, `params`, `adjustments`); the scores, the number
    /// of rows and of beams and `eos_ids` are set here.
    ///
    /// ```no_run
    /// use logitd_client::api::{BeamStepRequest, Dtype};
    /// use logitd_client::beam::{Beam, Options, Search};
    /// use logitd_client::{Client, Error};
    ///
    /// # async fn example(logits: impl Fn(&Beam) -> Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::connect("http://127.0.0.1:50051").await?;
    /// let options = Options { beams: 4, eos_ids: vec![2], max_length: 64, ..Options::default() };
    /// let found = Search::new(options, 1)?
    ///     .run_on(&client, |open| {
    ///         let beams = open.iter().flat_map(|group| group.beams());
    ///         let request = BeamStepRequest {
    ///             dtype: Dtype::F16.into(),
    ///             vocab_size: 32_000,
    ///             logits: beams.flat_map(&logits).collect(), // of the model, behind the tokens of each beam
    ///             ..Default::default()
    ///         };
    ///         async { Ok::<_, Error>(request) }
    ///     })
    ///     .await?;
    /// println!("{:?}", found[0].texts[0].tokens);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run_on<E, F>(
        mut self,
        client: &Client,
        mut rows: impl FnMut(&[&Group]) -> F,
    ) -> Result<Vec<Found>, RunError<E>>
    where
        E: From<Error>,
        F: Future<Output = Result<BeamStepRequest, E>>,
    {
        loop {
            let open: Vec<&Group> = self.open().collect();
            if open.is_empty() {
                break;
            }
            let made = rows(&open);
            drop(open);
            let mut request = made.await.map_err(RunError::Step)?;
            self.ask(&mut request)?;
            let answered = client.beam_step(request).await.and_then(steps);
            self.advance(answered.map_err(|error| RunError::Step(error.into()))?)?;
        }
        Ok(self.found().into_iter().flatten().collect())
    }

    /// Has a request ask for the open groups.
    fn ask(&self, request: &mut BeamStepRequest) -> Result<(), SearchError> {
        let (given, open) = (request.groups.len(), self.open().count());
        if given != 0 && given != open {
            let text = format!("a request of {given} groups, and {open} are open");
            return Err(SearchError::Step(text));
        }
        request.groups.resize_with(open, BeamGroup::default);
        for (asked, group) in request.groups.iter_mut().zip(self.open()) {
            asked.scores = group.beams.iter().map(|beam| beam.score).collect();
            asked.rows = Some(group.beams.len() as u32);
            asked.beams = self.options.beams;
            asked.eos_ids.clone_from(&self.options.eos_ids);
        }
        Ok(())
    }
}

fn steps(response: BeamStepResponse) -> Result<Vec<Step>, Error> {
    response.groups.into_iter().map(Step::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A model of a few tokens whose scores depend on the text, made of a hash of it; token 0 ends texts.
    fn score(seed: u64, text: &[u32], token: u32) -> i64 {
        let mix = |state: u64, word: u32| {
            (state ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        };
        let hash = text.iter().chain([&token]).fold(seed, |state, &word| mix(state, word + 1));
        // Few different ones, so that some are equal.
        -(((hash >> 40) % 24) as i64 + 1) << 29
    }

    fn step(seed: u64, tokens: u32, beams: u32, group: &Group) -> Step {
        let mut candidates: Vec<Candidate> = vec![];
        for (beam, text) in group.beams().iter().enumerate() {
            for token in 0..tokens {
                let score = text.score + score(seed + group.index() as u64, &text.tokens, token);
                candidates.push(Candidate { beam: beam as u32, token, score });
            }
        }
        candidates.sort_by_key(|it| (-it.score, it.beam, it.token));
        candidates.truncate(2 * beams as usize);
        let ends = |it: &&Candidate| it.token == 0;
        let running = candidates.iter().filter(|it| !ends(it)).take(beams as usize).copied();
        let finished = candidates.iter().take(beams as usize).filter(ends).copied();
        Step {
            statuses: vec![RowStatus::Ok; group.beams().len()],
            running: running.collect(),
            finished: finished.collect(),
            candidates,
        }
    }

    fn run(options: &Options, seed: u64, tokens: u32, groups: usize) -> Vec<Found> {
        let search = Search::new(options.clone(), groups).unwrap();
        let steps = |open: &[&Group]| {
            let steps = open.iter().map(|group| step(seed, tokens, options.beams, group));
            Ok::<_, std::convert::Infallible>(steps.collect())
        };
        search.run(steps).unwrap()
    }

    fn options(beams: u32, early_stopping: EarlyStopping, length_penalty: f64) -> Options {
        Options { beams, eos_ids: vec![0], max_length: 6, length_penalty, early_stopping }
    }

    const ALL: [EarlyStopping; 3] =
        [EarlyStopping::WhenFull, EarlyStopping::WhenUnlikely, EarlyStopping::Never];

    #[test]
    fn as_many_beams_as_texts_find_the_best_texts_that_there_are() {
        // Three tokens and four steps: 1 + 2 + 4 + 8 texts that end, and 16 that do not; with 64 beams none is left out.
        for seed in 0..50 {
            let options = Options {
                max_length: 4,
                ..options(64, EarlyStopping::Never, [0.0, 1.0][seed % 2])
            };
            let mut best: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
            let mut open: Vec<(Vec<u32>, i64)> = vec![(vec![], 0)];
            for length in 1..=4 {
                let mut next = vec![];
                for (text, sum) in open {
                    for token in 0..3 {
                        let sum = sum + score(seed as u64, &text, token);
                        let text = [&text[..], &[token]].concat();
                        if token == 0 || length == 4 {
                            let power = f64::from(length).powf(options.length_penalty);
                            best.insert(text, sum as f64 / NAT / power);
                        } else {
                            next.push((text, sum));
                        }
                    }
                }
                open = next;
            }
            let found = run(&options, seed as u64, 3, 1).pop().unwrap();
            assert_eq!(found.end, End::Length);
            assert_eq!(found.texts.len(), best.len());
            assert!(found.texts.is_sorted_by(|a, b| a.normalised >= b.normalised));
            for text in &found.texts {
                assert!((best[&text.tokens] - text.normalised).abs() < 1e-12, "{text:?}");
            }
        }
    }

    #[test]
    fn one_beam_is_greedy_decoding() {
        for seed in 0..200 {
            let found = run(&options(1, EarlyStopping::WhenFull, 1.0), seed, 5, 1).pop().unwrap();
            let mut text: Vec<u32> = vec![];
            while text.len() < 6 && text.last() != Some(&0) {
                let best = (0..5).max_by_key(|&token| (score(seed, &text, token), 5 - token));
                text.push(best.unwrap());
            }
            assert_eq!(found.texts.len(), 1);
            assert_eq!(found.texts[0].tokens, text, "seed {seed}");
        }
    }

    #[test]
    fn groups_are_searches_of_their_own() {
        for early_stopping in ALL {
            let options = options(3, early_stopping, 0.7);
            let together = run(&options, 40, 6, 9);
            let lengths: Vec<usize> =
                together.iter().map(|found| found.texts[0].tokens.len()).collect();
            assert!(lengths.iter().any(|length| *length != lengths[0]), "{lengths:?}");
            for (i, found) in together.into_iter().enumerate() {
                assert_eq!(found, run(&options, 40 + i as u64, 6, 1).pop().unwrap(), "{i}");
            }
        }
    }

    #[test]
    fn a_search_that_stops_later_finds_nothing_worse() {
        let mut early = 0;
        for seed in 0..300 {
            let [full, unlikely, never] =
                ALL.map(|when| run(&options(2, when, 1.0), seed, 4, 1).pop().unwrap());
            let best = |found: &Found| found.texts[0].normalised;
            assert!(best(&full) <= best(&unlikely) && best(&unlikely) <= best(&never), "{seed}");
            early += usize::from(best(&full) < best(&never));
        }
        assert!(early > 5, "{early}");
    }

    #[test]
    fn of_equal_texts_the_older_ones_are_kept() {
        let mut group = Group::new(0);
        let text = |token, normalised| Text { tokens: vec![token], score: 0, normalised };
        for (token, normalised) in [(1, -2.0), (2, -1.0), (3, -2.0), (4, -2.0), (5, -1.0)] {
            group.keep(text(token, normalised), 4);
        }
        let tokens: Vec<u32> = group.texts().iter().map(|text| text.tokens[0]).collect();
        assert_eq!(tokens, [2, 5, 1, 3]);
    }

    #[test]
    fn beams_know_where_they_come_from() {
        let mut search = Search::new(options(3, EarlyStopping::Never, 1.0), 1).unwrap();
        let mut before: Vec<Beam> = search.open().next().unwrap().beams().to_vec();
        loop {
            let step = step(7, 9, 3, search.open().next().unwrap());
            search.advance([step]).unwrap();
            let Some(group) = search.open().next() else { break };
            for beam in group.beams() {
                let (_, earlier) = beam.tokens.split_last().unwrap();
                assert_eq!(before[beam.parent as usize].tokens, earlier);
            }
            before = group.beams().to_vec();
        }
    }

    #[test]
    fn without_candidates_a_search_ends_by_name() {
        let nothing = |status| Step { statuses: vec![status], ..Step::default() };
        let mut search = Search::new(options(2, EarlyStopping::Never, 1.0), 2).unwrap();
        let steps = [step(1, 4, 2, search.open().next().unwrap()), nothing(RowStatus::Nan)];
        let error = search.advance(steps).unwrap_err();
        let said = "group 1 has found no text, and none of its rows has candidates: ROW_STATUS_NAN";
        assert_eq!(error.to_string(), said);

        // What was finished before stands.
        let mut search = Search::new(options(2, EarlyStopping::Never, 1.0), 1).unwrap();
        let ends = Candidate { beam: 0, token: 0, score: -5 };
        let goes_on = Candidate { beam: 0, token: 1, score: -6 };
        search
            .advance([Step {
                statuses: vec![RowStatus::Ok],
                candidates: vec![ends, goes_on],
                running: vec![goes_on],
                finished: vec![ends],
            }])
            .unwrap();
        search.advance([nothing(RowStatus::NoCandidate)]).unwrap();
        let found = search.found().pop().unwrap().unwrap();
        assert_eq!(found.end, End::NoCandidate(vec![RowStatus::NoCandidate]));
        assert_eq!(found.texts.len(), 1);
        assert_eq!(found.texts[0].tokens, [0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let wrong = |options| Search::new(options, 1).unwrap_err().to_string();
        let usual = Options::default;
        assert_eq!(wrong(Options { beams: 0, ..usual() }), "beams is 0; allowed: 1 to 64");
        assert_eq!(wrong(Options { beams: 65, ..usual() }), "beams is 65; allowed: 1 to 64");
        assert_eq!(
            wrong(Options { max_length: 0, ..usual() }),
            "max_length is 0; allowed: 1 or more"
        );
        assert_eq!(
            wrong(Options { length_penalty: f64::NAN, ..usual() }),
            "length_penalty is NaN; wanted: a finite number"
        );
        let mut search = Search::new(usual(), 2).unwrap();
        let error = search.advance([Step::default()]).unwrap_err().to_string();
        assert_eq!(error, "a step that does not fit: 1 groups, and 2 are open");
        let candidates = vec![Candidate { beam: 1, token: 0, score: 0 }];
        let strange = Step { candidates, ..Step::default() };
        let error = search.advance([strange, Step::default()]).unwrap_err().to_string();
        let said =
            "a step that does not fit: a candidate of group 0 continues beam 1, and there are 1";
        assert_eq!(error, said);
        let error =
            Search::new(usual(), 1).unwrap().run(|_| Err("the server is gone")).unwrap_err();
        assert_eq!(error.to_string(), "the server is gone");
    }
}
