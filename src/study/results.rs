//! What a study has found: what it is about, and the sums of every set that was evaluated. It needs no rows, so a journal
//! is enough for it.

use super::choose::{Chooser, Scored};
use super::goal::Goal;
use super::journal::Trial;
use super::metrics::{Measure, Metric};
use super::search::{Further, Key, Point, double};
use logitd_core::evaluate::TailShare;
use logitd_core::evaluate::sums::SetSums;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// What a study is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// What is wanted.
    pub goal: Goal,
    /// What means are made by.
    pub measure: Measure,
    /// What the tail is.
    pub tail: TailShare,
    /// Tokens of a row.
    pub vocab_size: u32,
    /// SHA-256 of the logits, in hex.
    pub logits_sha256: String,
    /// Whether somebody named groups.
    pub grouped: bool,
    /// What labels are called, by label, as far as somebody said.
    pub group_names: BTreeMap<u32, String>,
    /// Rows that have a token, by label.
    pub group_rows: BTreeMap<u32, u64>,
    /// Rows that have none.
    pub rows_failed: u64,
}

impl Subject {
    /// What a journal says of it.
    pub fn to_attributes(&self) -> Vec<(&'static str, Value)> {
        let by_label = |label: &u32, value| (label.to_string(), value);
        let rows = self.group_rows.iter().map(|(label, rows)| by_label(label, json!(rows)));
        let names = self.group_names.iter().map(|(label, name)| by_label(label, json!(name)));
        vec![
            ("goal", json!(self.goal.to_string())),
            ("miss_nats", json!(self.measure.miss_nats)),
            ("tail_share", json!(double(self.tail.get()))),
            ("vocab_size", json!(self.vocab_size)),
            ("logits_sha256", json!(self.logits_sha256)),
            ("groups", json!(if self.grouped { self.group_rows.len() } else { 0 })),
            ("group_rows", Value::Object(rows.collect())),
            ("group_names", Value::Object(names.collect())),
            ("rows", json!(self.group_rows.values().sum::<u64>())),
            ("rows_failed", json!(self.rows_failed)),
        ]
    }

    /// The inverse; or the name of what is missing, or is something else.
    pub fn from_attributes(attributes: &Map<String, Value>) -> Result<Self, &'static str> {
        fn read<T>(
            attributes: &Map<String, Value>,
            name: &'static str,
            read: impl FnOnce(&Value) -> Option<T>,
        ) -> Result<T, &'static str> {
            attributes.get(name).and_then(read).ok_or(name)
        }
        fn by_label<T>(
            value: &Value,
            read: impl Fn(&Value) -> Option<T>,
        ) -> Option<BTreeMap<u32, T>> {
            let one = |(label, value): (&String, &Value)| Some((label.parse().ok()?, read(value)?));
            value.as_object()?.iter().map(one).collect()
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let whole = |value: &Value| u32::try_from(value.as_u64()?).ok();
        Ok(Self {
            goal: read(attributes, "goal", |goal| goal.as_str()?.parse().ok())?,
            measure: Measure { miss_nats: read(attributes, "miss_nats", Value::as_f64)? },
            tail: read(attributes, "tail_share", |x| TailShare::new(x.as_f64()? as f32))?,
            vocab_size: read(attributes, "vocab_size", whole)?,
            logits_sha256: read(attributes, "logits_sha256", text)?,
            grouped: read(attributes, "groups", Value::as_u64)? > 0,
            group_rows: read(attributes, "group_rows", |rows| by_label(rows, Value::as_u64))?,
            group_names: read(attributes, "group_names", |names| by_label(names, text))?,
            rows_failed: read(attributes, "rows_failed", Value::as_u64)?,
        })
    }
}

/// A study's sets with their sums.
#[derive(Clone, Debug)]
pub struct Results {
    subject: Subject,
    trials: Vec<Trial>,
    places: HashMap<Key, usize>,
}

impl Results {
    /// Of these sets: one that comes twice counts once.
    pub fn new(subject: Subject, trials: Vec<Trial>) -> Self {
        let mut results = Self { subject, trials: Vec::new(), places: HashMap::new() };
        trials.into_iter().for_each(|trial| results.push(trial));
        results
    }

    pub(super) fn push(&mut self, trial: Trial) {
        let next = self.trials.len();
        if *self.places.entry(trial.point.key()).or_insert(next) == next {
            self.trials.push(trial);
        }
    }

    /// What it is about.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Rows that have a token.
    pub fn rows(&self) -> u64 {
        self.subject.group_rows.values().sum()
    }

    /// Every set that was evaluated, in order.
    pub fn trials(&self) -> &[Trial] {
        &self.trials
    }

    /// The place of a set, if it was evaluated.
    pub fn place(&self, point: Point) -> Option<usize> {
        self.places.get(&point.key()).copied()
    }

    /// Whether any set has a further cut, or a profile of its own.
    pub fn have_further(&self) -> bool {
        self.trials.iter().any(|trial| trial.point.further != Further::NONE)
    }

    /// A mean over all rows.
    pub fn mean(&self, metric: Metric, sums: &SetSums) -> f64 {
        self.subject.measure.mean(metric, self.rows(), sums)
    }

    /// Every set with its sums over all rows.
    pub fn scored(&self) -> Vec<Scored<'_>> {
        let rows = self.rows();
        self.trials.iter().map(|t| Scored { point: t.point, rows, sums: &t.total }).collect()
    }

    /// The same over the rows of a label, where there are several.
    pub fn scored_in(&self, label: u32) -> Vec<Scored<'_>> {
        let rows = self.subject.group_rows.get(&label).copied().unwrap_or(0);
        let scored = self.trials.iter().filter_map(|trial| {
            let sums = trial.of_label(label)?;
            Some(Scored { point: trial.point, rows, sums })
        });
        scored.collect()
    }

    /// Sets over each group of rows: its rows, and a sum a set. `None` where nobody named groups, or a set is missing.
    pub fn by_group(&self, points: &[Point]) -> Option<Vec<(u64, Vec<SetSums>)>> {
        let trials = points.iter().map(|point| Some(&self.trials[self.place(*point)?]));
        let trials: Vec<&Trial> = trials.collect::<Option<_>>()?;
        let group = |(label, rows): (&u32, &u64)| {
            let sums = trials.iter().map(|trial| trial.of_label(*label).copied());
            Some((*rows, sums.collect::<Option<_>>()?))
        };
        self.subject.grouped.then(|| self.subject.group_rows.iter().map(group).collect())?
    }

    /// Chooses by the study's goal.
    pub fn chooser(&self) -> Chooser<'_> {
        Chooser { goal: &self.subject.goal, measure: self.subject.measure }
    }
}
