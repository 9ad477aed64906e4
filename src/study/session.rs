//! A study under way: sets are evaluated over positions, a batch after another, and recorded.
//!
//! What a set comes to depends on the positions, the share of the tail and the set; what a mean comes to, on the cost of a
//! miss as well. A study's name has the hash of all that, so that a set is found again by its parameters alone, and what
//! other data gave never mixes with it.

use super::choose::Scored;
use super::goal::{Bound, Direction, Goal};
use super::journal::{Journal, JournalError, SUMS, Said, StudySpec, Trial};
use super::metrics::{Measure, Metric};
use super::results::{Results, Subject};
use super::search::{Axes, AxisError, Point, Refinement, SOBOL_MAX};
use crate::files::digests::{Digests, hex};
use logitd_core::arithmetic;
use logitd_core::evaluate::cpu::Cpu;
use logitd_core::evaluate::sets::{SetError, Sets};
use logitd_core::evaluate::sums::SetSums;
use logitd_core::evaluate::{Question, Summing, TailShare};
use logitd_core::params::ParamsError;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Sets times labels that are evaluated and recorded at a time.
const BATCH_SUMS: usize = 1 << 22;
/// Sets times labels of a study: they are held in memory, at 72 bytes each.
pub const SUMS_MAX: usize = 1 << 24;
/// Neighbouring positions are of one text and not independent: so many are one cluster where nobody names groups.
const CLUSTER_ROWS: usize = 32;
/// The most clusters that rows without groups are made: longer runs are as good.
const CLUSTERS_MAX: usize = 64;

/// What is studied.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The positions.
    pub data: Digests,
    /// Whether somebody named groups.
    pub grouped: bool,
    /// What is wanted.
    pub goal: Goal,
    /// What the tail is.
    pub tail: TailShare,
    /// What means are made by.
    pub measure: Measure,
    /// Threads to evaluate on.
    pub threads: usize,
}

/// What is told of a study when it is created.
#[derive(Clone, Debug)]
pub struct Told {
    /// How sets were searched for.
    pub search: String,
    /// Among which values.
    pub lists: Axes,
    /// The seed of the search.
    pub seed: u64,
    /// The command that created it.
    pub command_line: String,
}

/// Which sets are tried.
#[derive(Clone, Debug, PartialEq)]
pub enum Search {
    /// Every combination of the axes' values, and so many rounds around the best.
    Grid {
        /// Rounds of refinement.
        rounds: usize,
    },
    /// So many random points of that space.
    Random(usize),
    /// So many points that fill it evenly.
    Sobol(usize),
    /// Every third value of each axis, and rounds around the best until two gain nothing or all steps are the least.
    Refine,
}

impl Search {
    /// How many sets it tries at least.
    pub fn sets_min(&self, axes: &Axes) -> Result<usize, AxisError> {
        match self {
            Self::Grid { .. } => Ok(axes.grid()?.len()),
            Self::Refine => Ok(coarse(axes).grid()?.len()),
            Self::Random(sets) | Self::Sobol(sets) => Ok(*sets),
        }
    }
}

/// The most rounds of a refinement.
const ROUNDS_MAX: usize = 16;
/// Of how many values of an axis one is tried where the search begins coarse.
const COARSE: usize = 3;

/// A study.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    cpu: Cpu,
    /// What sets are tried with; what is shown of a few of them is worked out here.
    search: Option<Box<dyn Summing>>,
    journal: Option<Journal>,
    results: Results,
    recorded: usize,
}

impl Session {
    /// Opens a study, or creates it; without a file it is recorded nowhere.
    pub fn open(setup: Setup, path: Option<&Path>, told: &Told) -> Result<Self, SessionError> {
        let (mut group_rows, mut rows_failed) = (BTreeMap::new(), 0);
        for row in &setup.data.rows {
            match row.digest {
                Ok(_) => *group_rows.entry(row.group).or_insert(0) += 1,
                Err(_) => rows_failed += 1,
            }
        }
        if group_rows.is_empty() {
            return Err(SessionError::NoRows(rows_failed));
        }
        let cpu = Cpu::new(setup.threads);
        let subject = subject(&setup, group_rows, rows_failed);
        let (journal, trials) = match path {
            Some(path) => {
                let spec = study(&setup, told, &subject);
                let (journal, trials) = Journal::open(path, &spec)
                    .map_err(|error| SessionError::Journal { path: path.into(), error })?;
                (Some(journal), trials)
            }
            None => (None, Vec::new()),
        };
        // Two commands at once may have recorded a set twice: it counts once.
        let results = Results::new(subject, trials);
        let recorded = results.trials().len();
        Ok(Self { setup, cpu, search: None, journal, results, recorded })
    }

    /// The same study, whose search has something else than this process evaluate sets.
    pub fn searched_by(self, search: Option<Box<dyn Summing>>) -> Self {
        Self { search, ..self }
    }

    /// What is studied.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What was found: every set that was evaluated.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// How many of its sets were in the file before.
    pub fn recorded(&self) -> usize {
        self.recorded
    }

    /// Searches. `seen` hears how many row-sets are done, and how many more there are than it heard last.
    pub fn search(
        &mut self,
        search: &Search,
        axes: &Axes,
        seed: u64,
        mut seen: impl FnMut(Progress),
    ) -> Result<(), SessionError> {
        match search {
            Search::Random(sets) => self.evaluate(&axes.random(*sets, seed), &mut seen),
            Search::Sobol(sets) => self.evaluate(&axes.sobol(*sets, seed), &mut seen),
            Search::Grid { rounds } => self.refine(axes.clone(), *rounds, &mut seen),
            Search::Refine => self.refine(coarse(axes), ROUNDS_MAX, &mut seen),
        }
    }

    /// Evaluates a grid, and so many rounds around the best of the sets that were tried here: what else the study has does
    /// not show, so that the same search gives the same sets.
    fn refine(
        &mut self,
        axes: Axes,
        rounds: usize,
        seen: &mut impl FnMut(Progress),
    ) -> Result<(), SessionError> {
        let mut refinement = Refinement::new(axes, self.setup.data.about.vocab_size);
        let mut tried = Vec::new();
        for _ in 0..=rounds {
            let points = refinement.round()?;
            if points.is_empty() {
                break;
            }
            self.evaluate(&points, seen)?;
            tried.extend(
                points.iter().map(|point| self.results.place(*point).expect("it was evaluated")),
            );
            refinement.found(self.centre(&tried));
        }
        Ok(())
    }

    /// The best of some trials; where none is within the limits, the one that is least beyond them.
    fn centre(&self, tried: &[usize]) -> Point {
        let all = self.results.scored();
        let sets: Vec<Scored<'_>> = tried.iter().map(|&i| all[i]).collect();
        let chooser = self.results.chooser();
        if let Some(&best) = chooser.ranked(&sets).first() {
            return sets[best].point;
        }
        let beyond = |excesses: &[f64]| excesses.iter().map(|excess| excess.max(0.0)).sum::<f64>();
        let excesses = chooser.excesses(&sets);
        let least =
            (0..sets.len()).min_by(|&a, &b| beyond(&excesses[a]).total_cmp(&beyond(&excesses[b])));
        sets[least.expect("a grid has a set")].point
    }

    /// Evaluates the sets that the study does not have yet, and records them.
    pub fn evaluate(
        &mut self,
        points: &[Point],
        seen: &mut impl FnMut(Progress),
    ) -> Result<(), SessionError> {
        let mut new = Vec::new();
        let mut keys = std::collections::HashSet::new();
        for point in points {
            if self.results.place(*point).is_none() && keys.insert(point.key()) {
                new.push(*point);
            }
        }
        let labels = if self.setup.grouped { self.results.subject().group_rows.len() } else { 1 };
        bounded("--groups", "labels", labels, self.results.trials().len() + new.len())?;
        seen(Progress { done: 0, more: (new.len() * self.setup.data.rows.len()) as u64 });
        let sets_max = self.search.as_deref().unwrap_or(&self.cpu).sets_max();
        for batch in batches(&new, (BATCH_SUMS / labels).min(sets_max)) {
            let trials = self.sums_of(self.search.as_deref().unwrap_or(&self.cpu), &batch, seen)?;
            let said = trials.into_iter().map(|trial| {
                let said = self.said(&trial);
                (trial, said)
            });
            let said: Vec<(Trial, Said)> = said.collect();
            if let Some(journal) = &mut self.journal {
                journal.append(&said).map_err(|error| SessionError::Journal {
                    path: journal.path().into(),
                    error,
                })?;
            }
            said.into_iter().for_each(|(trial, _)| self.results.push(trial));
        }
        Ok(())
    }

    fn sums_of(
        &self,
        by: &dyn Summing,
        points: &[Point],
        seen: &mut impl FnMut(Progress),
    ) -> Result<Vec<Trial>, SessionError> {
        let sets = sets(points)?;
        let rows = &self.setup.data.rows;
        let by = self.by_label(by, &sets, &|row| rows[row].group, seen)?;
        let grouped = self.setup.grouped;
        let trial = |(i, point): (usize, &Point)| Trial {
            point: *point,
            total: by.values().fold(SetSums::default(), |mut sum, (_, sets)| {
                sum += sets[i];
                sum
            }),
            groups: by
                .iter()
                .filter(|_| grouped)
                .map(|(label, (_, sets))| (*label, sets[i]))
                .collect(),
        };
        Ok(points.iter().enumerate().map(trial).collect())
    }

    /// Sets over each cluster of positions: its rows, and a sum a set. Clusters are the groups that somebody named, or runs
    /// of neighbours.
    pub fn clusters(&self, points: &[Point]) -> Result<Vec<(u64, Vec<SetSums>)>, SessionError> {
        if let Some(groups) = self.results.by_group(points) {
            return Ok(groups);
        }
        let sets = sets(points)?;
        let by = self.by_label(&self.cpu, &sets, &|row| self.cluster(row), &mut |_| {})?;
        Ok(by.into_values().collect())
    }

    /// Refuses more folds than there is to be folded, and more than fit in memory with so many sets: before a search, the
    /// sets that it will have at least.
    pub fn check_folds(&self, folds: u32, sets: usize) -> Result<(), SessionError> {
        bounded("--folds", "parts", folds as usize, sets.max(self.results.trials().len()))?;
        match self.different_clusters().len() {
            clusters if clusters < folds as usize => Err(SessionError::Folds { folds, clusters }),
            _ => Ok(()),
        }
    }

    fn different_clusters(&self) -> Vec<u32> {
        let mut labels: Vec<u32> =
            (0..self.setup.data.rows.len()).map(|row| self.cluster(row)).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    /// Sets over each of so many folds, which are made of whole clusters.
    pub fn folds(
        &self,
        points: &[Point],
        folds: u32,
        seen: &mut impl FnMut(Progress),
    ) -> Result<Vec<(u64, Vec<SetSums>)>, SessionError> {
        self.check_folds(folds, points.len())?;
        let sets = sets(points)?;
        seen(Progress { done: 0, more: (sets.len() * self.setup.data.rows.len()) as u64 });
        let clusters = self.different_clusters();
        let fold = |row: usize| {
            clusters.partition_point(|label| *label < self.cluster(row)) as u32 % folds
        };
        Ok(self.by_label(&self.cpu, &sets, &fold, seen)?.into_values().collect())
    }

    fn cluster(&self, row: usize) -> u32 {
        if self.setup.grouped {
            return self.setup.data.rows[row].group;
        }
        let run = CLUSTER_ROWS.max(self.setup.data.rows.len().div_ceil(CLUSTERS_MAX));
        (row / run) as u32
    }

    /// Rows that have a token, and a sum a set, by label.
    fn by_label(
        &self,
        by: &dyn Summing,
        sets: &Sets,
        label: &(dyn Fn(usize) -> u32 + Sync),
        seen: &mut impl FnMut(Progress),
    ) -> Result<BTreeMap<u32, (u64, Vec<SetSums>)>, SessionError> {
        let question = Question { sets, tail: self.setup.tail, rows: false };
        let rows = &self.setup.data.rows;
        let (said, heard) = std::sync::mpsc::channel();
        let sums = std::thread::scope(|scope| {
            let question = &question;
            let work = scope.spawn(move || {
                by.sums_by(rows, label, question, &|rows| {
                    // Whoever no longer listens has no use for it.
                    let _ = said.send(rows);
                })
            });
            for done in heard {
                seen(Progress { done: done * sets.len() as u64, more: 0 });
            }
            work.join().expect("evaluating does not panic")
        })
        .map_err(SessionError::Elsewhere)?;
        let own = |(label, sums): (u32, &logitd_core::evaluate::sums::GroupSums)| {
            (label, (sums.rows, sums.sets.clone()))
        };
        Ok(sums.groups().map(own).filter(|(_, (rows, _))| *rows > 0).collect())
    }

    /// What a trial says beside its sums.
    fn said(&self, trial: &Trial) -> Said {
        let mean = |metric| self.results.mean(metric, &trial.total);
        let metrics = self.setup.goal.metrics();
        let of_value = |limit: &&super::goal::Limit| matches!(limit.bound, Bound::Value(_));
        let limits = self.setup.goal.limits.iter().filter(of_value);
        let others = Metric::ALL.into_iter().filter(|metric| !metrics.contains(metric));
        Said {
            values: metrics.iter().map(|metric| mean(*metric)).collect(),
            constraints: limits.map(|limit| limit.excess(mean(limit.metric), 0.0)).collect(),
            means: others.map(|metric| (metric.name(), mean(metric))).collect(),
        }
    }
}

/// How far work has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows times sets that were done since.
    pub done: u64,
    /// And that were found to be to do.
    pub more: u64,
}

fn sets(points: &[Point]) -> Result<Sets, SessionError> {
    let params = points.iter().map(|point| point.params()).collect::<Result<_, _>>()?;
    Ok(Sets::new(params)?)
}

/// Refuses more sums than fit in memory.
fn bounded(
    flag: &'static str,
    what: &'static str,
    parts: usize,
    sets: usize,
) -> Result<(), SessionError> {
    match parts.saturating_mul(sets) <= SUMS_MAX {
        true => Ok(()),
        false => Err(SessionError::Large { flag, what, parts, sets }),
    }
}

/// Points in batches of at most `most`, those of one temperature one after another, in the order in which temperatures
/// come: sets of one temperature share most of their work, and a batch ends within one only where it has too many.
fn batches(points: &[Point], most: usize) -> Vec<Vec<Point>> {
    let mut places = HashMap::new();
    let mut temperatures: Vec<Vec<Point>> = Vec::new();
    for point in points {
        let place = *places.entry(point.key()[0]).or_insert(temperatures.len());
        if place == temperatures.len() {
            temperatures.push(Vec::new());
        }
        temperatures[place].push(*point);
    }
    let mut batches: Vec<Vec<Point>> = Vec::new();
    for part in temperatures.iter().flat_map(|temperature| temperature.chunks(most)) {
        match batches.last_mut() {
            Some(batch) if batch.len() + part.len() <= most => batch.extend(part),
            _ => batches.push(part.to_vec()),
        }
    }
    batches
}

/// Every third value of each axis, and what is off.
fn coarse(axes: &Axes) -> Axes {
    fn few<T: Copy + PartialEq>(axis: &[T]) -> Vec<T> {
        let mut few: Vec<T> = axis.iter().copied().step_by(COARSE).collect();
        if few.last() != axis.last() {
            few.extend(axis.last());
        }
        few
    }
    Axes {
        temperature: few(&axes.temperature),
        top_k: few(&axes.top_k),
        top_p: few(&axes.top_p),
        min_p: few(&axes.min_p),
        profile: axes.profile.clone(),
        further: axes.further.iter().map(|(axis, values)| (*axis, few(values))).collect(),
    }
}

/// SHA-256 of some bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// What a study is about.
fn subject(setup: &Setup, group_rows: BTreeMap<u32, u64>, rows_failed: u64) -> Subject {
    let about = &setup.data.about;
    Subject {
        goal: setup.goal.clone(),
        measure: setup.measure,
        tail: setup.tail,
        vocab_size: about.vocab_size,
        logits_sha256: about.logits_sha256.clone(),
        grouped: setup.grouped,
        group_names: (0..).zip(about.groups.iter().cloned()).collect(),
        group_rows,
        rows_failed,
    }
}

/// What a study is created with.
fn study(setup: &Setup, told: &Told, subject: &Subject) -> StudySpec {
    let about = &setup.data.about;
    let labels: Vec<u8> = setup.data.rows.iter().flat_map(|row| row.group.to_le_bytes()).collect();
    let groups = if setup.grouped { sha256(&labels) } else { String::new() };
    let key = format!(
        "{} {} {} {} {} {:08x} {:016x} {}",
        about.dtype,
        about.vocab_size,
        about.logits_sha256,
        about.references_sha256,
        groups,
        setup.tail.get().to_bits(),
        setup.measure.miss_nats.to_bits(),
        arithmetic::VERSION,
    );
    let metrics = setup.goal.metrics();
    let is_least = |metric: &Metric| match metric == &setup.goal.metric {
        true => setup.goal.direction == Direction::Least,
        false => setup.goal.limits.iter().find(|l| l.metric == *metric).is_none_or(|l| l.at_most),
    };
    let mut attributes: Vec<(&'static str, Value)> = vec![
        ("logitd_version", json!(env!("CARGO_PKG_VERSION"))),
        ("arithmetic_version", json!(arithmetic::VERSION)),
        ("references_sha256", json!(about.references_sha256)),
        ("dtype", json!(about.dtype)),
    ];
    attributes.extend(subject.to_attributes());
    attributes.extend([
        ("sums", json!(SUMS)),
        ("search", json!(told.search)),
        ("lists", told.lists.to_json()),
        ("seed", json!(told.seed)),
        ("command_line", json!(told.command_line)),
    ]);
    StudySpec {
        name: format!("{} [{}]", setup.goal, &sha256(key.as_bytes())[..12]),
        metrics: metrics.iter().map(|metric| (metric.name(), is_least(metric))).collect(),
        vocab_size: about.vocab_size,
        attributes,
        lists: told.lists.clone(),
    }
}

/// Why a study does not go on.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No row has a token.
    #[error(
        "none of the {0} rows has a token (NaN, +inf or no candidate in each); rows of finite logits are needed"
    )]
    NoRows(u64),
    /// The record cannot be used.
    #[error("--study {}: {error}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: JournalError,
    },
    /// What should evaluate the sets did not.
    #[error("{0}")]
    Elsewhere(String),
    /// A set out of range.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// A set with a parameter that sets cannot have.
    #[error(transparent)]
    Sets(#[from] SetError),
    /// An axis without values.
    #[error(transparent)]
    Axis(#[from] AxisError),
    /// More sums than fit in memory.
    #[error(
        "{flag} has {parts} {what}, and there are {sets} sets, those of the study included; {what} x sets may be at most \
         {SUMS_MAX}; give fewer {what}, or --search sobol --sets {} and another --study",
        (SUMS_MAX / parts).clamp(1, SOBOL_MAX)
    )]
    Large {
        /// Whose parts they are.
        flag: &'static str,
        /// What they are called.
        what: &'static str,
        /// How many there are.
        parts: usize,
        /// Sets of the study, and those to come.
        sets: usize,
    },
    /// More folds than there is to be folded.
    #[error("--folds is {folds}, and there are {clusters} groups (or runs of at least 32 rows); {}",
            folds_allowed(*clusters))]
    Folds {
        /// Asked for.
        folds: u32,
        /// What there is.
        clusters: usize,
    },
}

/// How many folds so many clusters allow.
fn folds_allowed(clusters: usize) -> String {
    match clusters {
        0 | 1 => "leave --folds out, or give more rows or --groups".into(),
        _ => format!("allowed: 2 to {clusters}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::digests::About;
    use logitd_core::batch::RowStatus;
    use logitd_core::evaluate::cpu::Digested;
    use logitd_core::evaluate::digest::Digest;

    /// Positions with a few likely tokens and a long tail, of two groups, and one that has no token.
    fn setup(grouped: bool) -> Setup {
        let row = |i: u32| {
            let value = |j: u32| 4.0 - j as f32 / 2.0 - (i * j % 7) as f32 / 64.0;
            let values: Vec<f32> = (0..40).map(value).collect();
            let counts: Vec<u32> = (0..40).map(|j| 1 + j * j / 4).collect();
            let digest = Digest::new(20_000, (i * i) % 60, values.into(), counts.into()).unwrap();
            Digested { digest: Ok(digest), group: i % 2 }
        };
        let mut rows: Vec<Digested> = (0..70).map(row).collect();
        rows.push(Digested { digest: Err(RowStatus::Nan), group: 0 });
        let about = About {
            rows: 71,
            vocab_size: 20_000,
            dtype: "f32".into(),
            logits_sha256: "a".into(),
            references_sha256: "b".into(),
            groups: vec![],
            origin: String::new(),
        };
        Setup {
            data: Digests { about, rows },
            grouped,
            goal: Goal::named("safe").unwrap(),
            tail: TailShare::default(),
            measure: Measure { miss_nats: 9.9 },
            threads: 2,
        }
    }

    fn told() -> Told {
        Told { search: "grid".into(), lists: axes(), seed: 1, command_line: "logitd tune".into() }
    }

    fn axes() -> Axes {
        let mut axes = Axes::default();
        axes.set("temperature", "0.6:1.4:0.2").unwrap();
        axes.set("top_p", "0.8,0.9,off").unwrap();
        axes.set("min_p", "off,0.05").unwrap();
        axes
    }

    /// The lines of a journal without what differs from run to run.
    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            for name in ["worker_id", "datetime_start", "datetime_complete"] {
                value.as_object_mut().unwrap().remove(name);
            }
            value
        };
        text.lines().map(line).collect()
    }

    fn searched(path: &Path, search: &Search) -> Session {
        let mut session = Session::open(setup(true), Some(path), &told()).unwrap();
        session.search(search, &axes(), 3, |_| {}).unwrap();
        session
    }

    #[test]
    fn the_same_search_gives_the_same_study_and_adds_nothing_to_it() {
        for search in
            [Search::Grid { rounds: 2 }, Search::Random(300), Search::Sobol(300), Search::Refine]
        {
            let folder = tempfile::tempdir().unwrap();
            let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
            let first = searched(&a, &search);
            searched(&b, &search);
            assert_eq!(lines(&a), lines(&b), "{search:?}");
            let again = searched(&a, &search);
            assert_eq!(again.results().trials(), first.results().trials(), "{search:?}");
            assert_eq!(again.recorded(), first.results().trials().len(), "{search:?}");
            assert_eq!(lines(&a), lines(&b), "{search:?}");
        }
    }

    #[test]
    fn a_search_that_was_killed_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(name));
        let search = Search::Grid { rounds: 1 };
        let expected = searched(&whole, &search);
        let text = std::fs::read(&whole).unwrap();
        for share in [3, 2] {
            std::fs::write(&killed, &text[..text.len() / share]).unwrap();
            let found = searched(&killed, &search);
            assert!(found.recorded() > 10 && found.recorded() < expected.results().trials().len());
            assert_eq!(found.results().trials(), expected.results().trials());
            assert_eq!(lines(&killed), lines(&whole));
        }
    }

    #[test]
    fn refinement_is_no_worse_than_its_grid() {
        let folder = tempfile::tempdir().unwrap();
        let best = |name: &str, rounds| {
            let session = searched(&folder.path().join(name), &Search::Grid { rounds });
            let sets = session.results().scored();
            let best = session.results().chooser().ranked(&sets)[0];
            session.results().mean(Metric::Nll, sets[best].sums)
        };
        let (grid, refined) = (best("grid", 0), best("refined", 2));
        println!("grid {grid}, refined {refined}");
        assert!(refined <= grid);
    }

    #[test]
    fn groups_clusters_and_folds_add_up_to_the_whole() {
        let points = axes().grid().unwrap();
        for grouped in [false, true] {
            let session = Session::open(setup(grouped), None, &told()).unwrap();
            assert_eq!(
                (session.results().rows(), session.results().subject().rows_failed),
                (70, 1)
            );
            let trials = session.sums_of(&session.cpu, &points, &mut |_| {}).unwrap();
            assert_eq!(trials[0].groups.len(), if grouped { 2 } else { 0 });
            let clusters = session.clusters(&points).unwrap();
            assert_eq!(clusters.len(), if grouped { 2 } else { 3 });
            let folds = session.folds(&points, 2, &mut |_| {}).unwrap();
            for parts in [clusters, folds] {
                assert_eq!(parts.iter().map(|(rows, _)| rows).sum::<u64>(), 70);
                for (i, trial) in trials.iter().enumerate() {
                    let mut sum = SetSums::default();
                    parts.iter().for_each(|(_, sets)| sum += sets[i]);
                    assert_eq!(sum, trial.total);
                }
            }
            assert!(session.check_folds(2, points.len()).is_ok());
            assert!(session.check_folds(2, SUMS_MAX).is_err());
            let error = session.check_folds(9, points.len()).unwrap_err().to_string();
            assert!(error.contains("--folds is 9") && error.contains("allowed: 2 to"), "{error}");
        }
    }

    #[test]
    fn other_data_is_another_study_of_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        let search = Search::Grid { rounds: 0 };
        let own = searched(&path, &search).results().trials().len();
        let mut others = [setup(true), setup(true), setup(true), setup(false)];
        others[0].tail = TailShare::new(0.01).unwrap();
        // The same bytes, read otherwise.
        others[1].data.about.dtype = "bf16".into();
        others[2].data.about.vocab_size *= 2;
        for (i, other) in others.into_iter().enumerate() {
            let session = Session::open(other, Some(&path), &told()).unwrap();
            assert_eq!((own > 0, session.recorded()), (true, 0), "{i}");
            let created = lines(&path).iter().filter(|line| line["op_code"] == 0).count();
            assert_eq!(created, i + 2);
        }
    }

    #[test]
    fn a_set_that_was_recorded_twice_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        let own = searched(&path, &Search::Grid { rounds: 0 }).results().trials().len();
        let text = std::fs::read_to_string(&path).unwrap();
        let last = text.lines().last().unwrap();
        std::fs::write(&path, format!("{text}{last}\n{last}\n")).unwrap();
        let session = Session::open(setup(true), Some(&path), &told()).unwrap();
        assert_eq!((session.recorded(), session.results().trials().len()), (own, own));
    }

    #[test]
    fn more_groups_times_sets_than_fit_in_memory_are_refused() {
        let mut data = setup(true);
        data.data.rows.truncate(1);
        let row = data.data.rows[0].clone();
        data.data.rows = (0..4096).map(|group| Digested { group, ..row.clone() }).collect();
        let mut session = Session::open(data, None, &told()).unwrap();
        let points = axes().sobol(4097, 1);
        let error = session.evaluate(&points, &mut |_| {}).unwrap_err().to_string();
        let parts = ["--groups has 4096 labels", "4097 sets", "at most 16777216", "--sets 4096"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert!(session.folds(&points, 4096, &mut |_| {}).is_err());
    }

    #[test]
    fn batches_are_bounded_and_keep_temperatures_together() {
        let points = axes().grid().unwrap();
        // Five temperatures of 54 sets.
        for (most, count) in [(1, 270), (20, 15), (54, 5), (60, 5), (108, 3), (1000, 1)] {
            let batches = batches(&points, most);
            assert_eq!(batches.concat(), points, "{most}");
            assert_eq!(batches.len(), count, "{most}");
            assert!(batches.iter().all(|batch| batch.len() <= most), "{most}");
        }
    }

    #[test]
    fn progress_ends_where_it_said() {
        let mut session = Session::open(setup(false), None, &told()).unwrap();
        let (mut done, mut more) = (0, 0);
        let search = Search::Grid { rounds: 2 };
        session
            .search(&search, &axes(), 0, |progress| {
                (done, more) = (done + progress.done, more + progress.more)
            })
            .unwrap();
        assert_eq!((done, done), (more, (session.results().trials().len() * 71) as u64));
    }
}
