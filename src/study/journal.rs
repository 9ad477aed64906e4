//! The record of a study, in the file format of Optuna's `JournalStorage`: lines of JSON, appended and never changed, so
//! that Optuna and its dashboard open, continue and show what was measured here.
//!
//! 1. A line is one operation: 0 creates a study, 1 deletes one, 2 and 3 set its attributes, 4 creates a trial; a complete
//!    trial is one line. Studies are numbered as they are created. Other operations are those of trials that Optuna runs
//!    itself, and are nothing to us.
//! 2. Whoever appends holds a symbolic link beside the file, `FILE.lock`. Where neither it nor the file changes for 30
//!    seconds, its holder is gone, and it is taken over.
//! 3. A line that was cut off when its writer died is cut away before anything is appended: Optuna passes over it at the
//!    end of a file, and fails on it within one.

use super::search::{Axes, FURTHER, Further, Point};
use logitd_core::evaluate::sums::SetSums;
use logitd_core::params::{Profile, shortest};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A lock whose file has not changed for so long is nobody's.
const LOCK_GRACE: Duration = Duration::from_secs(30);
/// Whoever waits for a lock for so long is told.
const LOCK_SAID: Duration = Duration::from_secs(1);
/// Between two looks at a lock.
const LOCK_WAIT: Duration = Duration::from_millis(20);
/// What every line begins with, here and where Optuna writes.
const HEAD: &[u8] = b"{\"op_code\":";
/// What is written at a time.
const WRITE_BYTES: usize = 8 << 20;
/// What the parameters of a study may be, as Optuna is told, where no set is beyond it; `top_k` ends at the vocabulary.
const RANGES: [(&str, f64, f64); 4] = [
    ("temperature", 0.0, 2.0),
    ("top_k", 0.0, u32::MAX as f64),
    ("top_p", 0.01, 1.0),
    ("min_p", 0.0, 1.0),
];
/// The same of further cuts, in their order: whatever they can be.
const FURTHER_RANGES: [(f64, f64); FURTHER.len()] = [
    (0.0, 100.0),
    (0.0, 1.0),
    (0.0, 1.0),
    (0.0, 1.0),
    (0.0, 1.0),
    (1e-45, 1.0),
    (0.0, 1.0),
    (1e-45, 1.0),
    (0.0, 100.0),
    (0.01, 100.0),
];
/// The same where one is: no top_p is 0.
const WIDE_RANGES: [(f64, f64); 4] = [(0.0, 1e4), (0.0, u32::MAX as f64), (1e-45, 1.0), (0.0, 1.0)];

/// The sums of a set in the order in which a trial has them.
fn numbers(sums: &SetSums) -> [i128; 8] {
    [
        sums.hits.into(),
        sums.kept.into(),
        sums.logprob_q32.into(),
        sums.probability_q32.into(),
        sums.entropy_q32.into(),
        sums.surprise_q32.into(),
        sums.collision_q32.into(),
        sums.tail_q32.into(),
    ]
}

/// What stands at those places.
pub const SUMS: [&str; 8] = [
    "hits",
    "kept",
    "logprob_q32",
    "probability_q32",
    "entropy_q32",
    "surprise_q32",
    "collision_q32",
    "tail_q32",
];

fn sums(numbers: &[Value]) -> Option<SetSums> {
    let [hits, kept, logprob, probability, entropy, surprise, collision, tail] = numbers else {
        return None;
    };
    Some(SetSums {
        hits: hits.as_u64()?,
        kept: kept.as_u64()?,
        logprob_q32: logprob.as_i64()?,
        probability_q32: probability.as_u64()?,
        entropy_q32: entropy.as_u64()?,
        surprise_q32: surprise.as_u64()?,
        collision_q32: collision.as_u64()?,
        tail_q32: tail.as_u64()?,
    })
}

/// A set that was evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The set.
    pub point: Point,
    /// Over all rows.
    pub total: SetSums,
    /// Over the rows of each label, ascending, where somebody named groups.
    pub groups: Vec<(u32, SetSums)>,
}

impl Trial {
    /// Its sums over the rows of a label.
    pub fn of_label(&self, label: u32) -> Option<&SetSums> {
        let place = self.groups.binary_search_by_key(&label, |(of, _)| *of).ok()?;
        Some(&self.groups[place].1)
    }
}

/// What is said of a trial beside its sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The values of the study's metrics.
    pub values: Vec<f64>,
    /// Of each limit, how far beyond it the set is.
    pub constraints: Vec<f64>,
    /// Means, for people.
    pub means: Vec<(&'static str, f64)>,
}

/// What a study is created with.
#[derive(Clone, Debug, PartialEq)]
pub struct StudySpec {
    /// What tells it from the others of the file.
    pub name: String,
    /// Its metrics; of each, whether less is better.
    pub metrics: Vec<(&'static str, bool)>,
    /// Tokens of a row: no `top_k` need be greater.
    pub vocab_size: u32,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What is searched: every trial has it, off or not, so that Optuna goes on with it.
    pub lists: Axes,
}

/// A study in an open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    study_id: u64,
    vocab_size: u32,
    also: Also,
    worker_id: String,
}

/// What of a line is looked at.
#[derive(Deserialize)]
struct Line {
    op_code: u64,
    study_name: Option<String>,
    study_id: Option<u64>,
    state: Option<u64>,
    params: Option<Value>,
    user_attrs: Option<Value>,
    user_attr: Option<Map<String, Value>>,
}

/// A study as a file has it.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// What tells it from the others of the file.
    pub name: String,
    /// What is said of it.
    pub attributes: Map<String, Value>,
    /// The trials that were written here, in their order.
    pub trials: Vec<Trial>,
}

/// The studies of a file, in the order in which they were created. The file stays as it is.
pub fn studies(path: &Path) -> Result<Vec<Recorded>, JournalError> {
    let found = Found::read(&File::open(path)?, |_| true)?;
    Ok(found.studies.into_iter().flatten().collect())
}

impl Journal {
    /// Opens a study of a file, which is made where there is none. Returns the trials that the study has, in their order.
    pub fn open(path: &Path, spec: &StudySpec) -> Result<(Self, Vec<Trial>), JournalError> {
        let worker_id = worker_id()?;
        let lock = Lock::take(path)?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut found = Found::read(&file, |name| name == spec.name)?;
        // What was cut off in the middle of a line belongs to nobody.
        if found.whole_bytes < file.metadata()?.len() {
            file.set_len(found.whole_bytes)?;
        }
        let is_own = |study: &Option<Recorded>| study.as_ref().is_some_and(|s| s.name == spec.name);
        let place = found.studies.iter().position(is_own);
        let study_id = place.unwrap_or(found.studies.len()) as u64;
        if place.is_none() {
            (&file).write_all(creation(spec, study_id, &worker_id).as_bytes())?;
            file.sync_all()?;
        }
        drop(lock);
        let own = place.and_then(|place| found.studies[place].take()).unwrap_or_default();
        let vocab_size = spec.vocab_size;
        let also = Also::of(&spec.lists);
        Ok((Self { path: path.to_owned(), study_id, vocab_size, also, worker_id }, own.trials))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends trials.
    pub fn append(&mut self, trials: &[(Trial, Said)]) -> Result<(), JournalError> {
        let now = now();
        let points = trials.iter().map(|(trial, _)| trial.point);
        let head = |also: &Also| {
            format!(
                "{{\"op_code\":4,\"worker_id\":\"{}\",\"study_id\":{},\"datetime_start\":\"{now}\",\
                 \"datetime_complete\":\"{now}\",\"state\":1,\"value\":null,\"distributions\":{}",
                self.worker_id,
                self.study_id,
                distributions(points.clone(), self.vocab_size, also)
            )
        };
        // All that a search tries begin alike; what was named beside it may have more.
        let mut heads: HashMap<Also, String> = HashMap::new();
        let _lock = Lock::take(&self.path)?;
        let mut file = OpenOptions::new().read(true).append(true).open(&self.path)?;
        cut_torn_line(&file)?;
        let mut lines = String::new();
        for (trial, said) in trials {
            let also = self.also.with(trial.point);
            let head = heads.entry(also.clone()).or_insert_with(|| head(&also));
            line(head, trial, said, &also, &mut lines);
            if lines.len() >= WRITE_BYTES {
                file.write_all(lines.as_bytes())?;
                lines.clear();
            }
        }
        file.write_all(lines.as_bytes())?;
        file.sync_all()?;
        Ok(())
    }
}

/// What is in a file.
#[derive(Default)]
struct Found {
    /// Studies that were ever created: `None` where one was deleted.
    studies: Vec<Option<Recorded>>,
    whole_bytes: u64,
}

impl Found {
    /// Reads a file; of studies that are not wanted, only that they are there.
    fn read(mut file: &File, wanted: impl Fn(&str) -> bool) -> Result<Self, JournalError> {
        let mut found = Self::default();
        file.seek(SeekFrom::Start(0))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            reader.read_until(b'\n', &mut bytes)?;
            if bytes.last() != Some(&b'\n') {
                if !begins_like_a_line(&bytes) {
                    let error = "it does not begin like one".into();
                    return Err(JournalError::Line { number, error });
                }
                break;
            }
            let line: Line = serde_json::from_slice(&bytes)
                .map_err(|error| JournalError::Line { number, error: error.to_string() })?;
            found.take(line, &wanted);
            found.whole_bytes += bytes.len() as u64;
        }
        Ok(found)
    }

    fn take(&mut self, line: Line, wanted: &impl Fn(&str) -> bool) {
        if line.op_code == 0 {
            let name = line.study_name.unwrap_or_default();
            // Optuna creates no study twice either.
            if !self.studies.iter().flatten().any(|study| study.name == name) {
                self.studies.push(Some(Recorded { name, ..Recorded::default() }));
            }
            return;
        }
        let place = line.study_id.and_then(|id| self.studies.get_mut(id as usize));
        match (line.op_code, place) {
            (1, Some(place)) => *place = None,
            (2, Some(Some(study))) if wanted(&study.name) => {
                study.attributes.extend(line.user_attr.unwrap_or_default());
            }
            (4, Some(Some(study))) if wanted(&study.name) => study.trials.extend(trial(&line)),
            _ => {}
        }
    }
}

/// A complete trial that was written here, or `None`: one of Optuna's own has no sums.
fn trial(line: &Line) -> Option<Trial> {
    let (params, attributes) = (line.params.as_ref()?, line.user_attrs.as_ref()?);
    let number = |name: &str| params.get(name)?.as_f64();
    let own = sums(attributes.get("sums")?.as_array()?)?;
    let mut groups = match attributes.get("group_sums") {
        Some(groups) => groups
            .as_object()?
            .iter()
            .map(|(label, numbers)| Some((label.parse().ok()?, sums(numbers.as_array()?)?)))
            .collect::<Option<Vec<_>>>()?,
        None => Vec::new(),
    };
    // An object's keys are texts, and 10 comes before 9 there.
    groups.sort_unstable_by_key(|(label, _)| *label);
    let mut further = Further::NONE;
    for (name, value) in FURTHER.iter().zip(&mut further.values) {
        *value = number(name).map_or(*value, |number| number as f32);
    }
    if let Some(place) = number("profile") {
        further.profile = *Profile::ALL.get(place as usize)?;
    }
    let point = Point {
        further,
        temperature: number("temperature")? as f32,
        top_k: number("top_k")? as u32,
        top_p: number("top_p")? as f32,
        min_p: number("min_p")? as f32,
    };
    (line.state == Some(1)).then_some(Trial { point, total: own, groups })
}

/// The lines that create a study.
fn creation(spec: &StudySpec, study_id: u64, worker_id: &str) -> String {
    let directions: Vec<u32> =
        spec.metrics.iter().map(|(_, least)| if *least { 1 } else { 2 }).collect();
    let names: Vec<&str> = spec.metrics.iter().map(|(name, _)| *name).collect();
    let mut lines = String::new();
    // The operation first: a line that is cut off is known by its head.
    let mut push = |op_code: u32, rest: Value| {
        let rest = rest.to_string();
        writeln!(lines, "{{\"op_code\":{op_code},{}", &rest[1..]).expect("a text has room");
    };
    push(0, json!({"worker_id": worker_id, "study_name": spec.name, "directions": directions}));
    let names = json!({"study:metric_names": names});
    push(3, json!({"worker_id": worker_id, "study_id": study_id, "system_attr": names}));
    for (name, value) in &spec.attributes {
        let attribute = json!({*name: value});
        push(2, json!({"worker_id": worker_id, "study_id": study_id, "user_attr": attribute}));
    }
    lines
}

/// What the parameters may be: the same for every trial of a study whose sets are within [`RANGES`].
fn distributions(
    points: impl Iterator<Item = Point> + Clone,
    vocab_size: u32,
    also: &Also,
) -> String {
    let of = |i: usize, name: &str| {
        let value = |point: Point| match name {
            "temperature" => f64::from(point.temperature),
            "top_k" => f64::from(point.top_k),
            "top_p" => f64::from(point.top_p),
            _ => f64::from(point.min_p),
        };
        let (_, low, mut high) = RANGES[i];
        if name == "top_k" {
            high = vocab_size.into();
        }
        let within = points.clone().all(|point| (low..=high).contains(&value(point)));
        let (low, high) = if within { (low, high) } else { WIDE_RANGES[i] };
        match name {
            "top_k" => json!({
                "name": "IntDistribution",
                "attributes": {"log": false, "step": 1, "low": low as u64, "high": high as u64},
            }),
            _ => json!({
                "name": "FloatDistribution",
                "attributes": {"step": null, "low": low, "high": high, "log": false},
            }),
        }
    };
    // Optuna has each as a text of JSON.
    let all = RANGES
        .iter()
        .enumerate()
        .map(|(i, (name, ..))| (name.to_string(), of(i, name).to_string().into()));
    let further = also.places().map(|place| {
        let (low, high) = FURTHER_RANGES[place];
        let own = json!({
            "name": "FloatDistribution",
            "attributes": {"step": null, "low": low, "high": high, "log": false},
        });
        (FURTHER[place].to_owned(), own.to_string().into())
    });
    let profile = also.profile.then(|| {
        let names = Profile::ALL.map(Profile::name);
        let own = json!({"name": "CategoricalDistribution", "attributes": {"choices": names}});
        ("profile".to_owned(), own.to_string().into())
    });
    Value::Object(all.chain(further).chain(profile).collect()).to_string()
}

/// What trials have beside temperature, top_k, top_p and min_p.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Also {
    /// Whether each of [`FURTHER`].
    further: [bool; FURTHER.len()],
    profile: bool,
}

impl Also {
    /// What is searched.
    fn of(lists: &Axes) -> Self {
        let is_searched = |place| lists.further.iter().any(|(axis, _)| *axis == place);
        Self { further: std::array::from_fn(is_searched), profile: lists.profile.len() > 1 }
    }

    /// And what a set has otherwise than by default.
    fn with(&self, point: Point) -> Self {
        let (own, none) = (point.further, Further::NONE);
        let has = |place: usize| self.further[place] || own.values[place] != none.values[place];
        Self {
            further: std::array::from_fn(has),
            profile: self.profile || own.profile != none.profile,
        }
    }

    /// Their places in [`FURTHER`].
    fn places(&self) -> impl Iterator<Item = usize> {
        (0..FURTHER.len()).filter(|place| self.further[*place])
    }
}

/// A trial as a line. By hand: there are tens of thousands, and all begin alike.
fn line(head: &str, trial: &Trial, said: &Said, also: &Also, to: &mut String) {
    let list = |numbers: &SetSums| {
        let texts = self::numbers(numbers).map(|number| number.to_string());
        format!("[{}]", texts.join(","))
    };
    let floats = |values: &[f64]| {
        let texts: Vec<String> = values.iter().map(|value| json!(value).to_string()).collect();
        format!("[{}]", texts.join(","))
    };
    let Point { temperature, top_k, top_p, min_p, further } = trial.point;
    let mut params = format!(
        "{{\"temperature\":{},\"top_k\":{top_k},\"top_p\":{},\"min_p\":{}",
        shortest(temperature),
        shortest(top_p),
        shortest(min_p)
    );
    for place in also.places() {
        let (name, value) = (FURTHER[place], shortest(further.values[place]));
        write!(params, ",\"{name}\":{value}").expect("a text has room");
    }
    if also.profile {
        // Optuna has a category by its place.
        write!(params, ",\"profile\":{}", further.profile as u32).expect("a text has room");
    }
    params.push('}');
    let mut attributes = String::new();
    for (name, mean) in &said.means {
        write!(attributes, "\"{name}\":{},", json!(mean)).expect("a text has room");
    }
    write!(attributes, "\"sums\":{}", list(&trial.total)).expect("a text has room");
    if !trial.groups.is_empty() {
        let groups = trial.groups.iter().map(|(label, sums)| format!("\"{label}\":{}", list(sums)));
        let groups = groups.collect::<Vec<_>>().join(",");
        write!(attributes, ",\"group_sums\":{{{groups}}}").expect("a text has room");
    }
    let system = match said.constraints.is_empty() {
        true => String::new(),
        false => format!("\"constraints\":{}", floats(&said.constraints)),
    };
    writeln!(
        to,
        "{head},\"params\":{params},\"values\":{},\"user_attrs\":{{{attributes}}},\
         \"system_attrs\":{{{system}}},\"intermediate_values\":{{}}}}",
        floats(&said.values)
    )
    .expect("a text has room");
}

/// Whether a line that was cut off is one of a journal, which may be cut away, and not somebody's file.
fn begins_like_a_line(torn: &[u8]) -> bool {
    let length = torn.len().min(HEAD.len());
    torn[..length] == HEAD[..length]
}

/// Cuts away what follows the last line's end.
fn cut_torn_line(mut file: &File) -> Result<(), JournalError> {
    let length = file.metadata()?.len();
    let (mut end, mut buffer) = (length, vec![0; 1 << 16]);
    while end > 0 {
        let size = end.min(buffer.len() as u64);
        file.seek(SeekFrom::Start(end - size))?;
        file.read_exact(&mut buffer[..size as usize])?;
        if let Some(newline) = buffer[..size as usize].iter().rposition(|byte| *byte == b'\n') {
            end = end - size + newline as u64 + 1;
            break;
        }
        end -= size;
    }
    if end == length {
        return Ok(());
    }
    let mut torn = vec![0; HEAD.len().min((length - end) as usize)];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut torn)?;
    match begins_like_a_line(&torn) {
        true => Ok(file.set_len(end)?),
        false => Err(JournalError::Foreign),
    }
}

/// The right to append to a journal, as Optuna's `JournalFileSymlinkLock` has it.
struct Lock {
    link: PathBuf,
    identity: Identity,
}

/// What tells a link from another of the same name: its place, and when it was made.
type Identity = (u64, u64, i64, i64);

impl Lock {
    fn take(path: &Path) -> Result<Self, JournalError> {
        Self::take_within(path, LOCK_GRACE)
    }

    /// Takes over a lock while which the journal has not changed for `grace`.
    fn take_within(path: &Path, grace: Duration) -> Result<Self, JournalError> {
        let link = PathBuf::from(format!("{}.lock", path.display()));
        // A link is read from its own folder: a relative path would lead elsewhere.
        let target = std::path::absolute(path)?;
        let start = Instant::now();
        let (mut seen, mut since, mut said) = (None, start, false);
        loop {
            match std::os::unix::fs::symlink(&target, &link) {
                Ok(()) => {
                    let identity = identity(&link)?;
                    return Ok(Self { link, identity });
                }
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error.into());
                }
                Err(_) => {}
            }
            // As long as the journal or the lock changes, somebody is at work.
            let changed = std::fs::metadata(path).and_then(|of| of.modified()).ok();
            let now = Some((changed, identity(&link).ok()));
            if seen != now {
                (seen, since) = (now, Instant::now());
            }
            if since.elapsed() > grace {
                match release(&link) {
                    // Somebody else was first.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error.into());
                    }
                    _ => since = Instant::now(),
                }
            }
            if !said && start.elapsed() > LOCK_SAID {
                said = true;
                eprintln!(
                    "waiting for {}: another process is writing to the study; if it is gone, the lock is taken over {} seconds \
                     after the last change",
                    link.display(),
                    grace.as_secs()
                );
            }
            std::thread::sleep(LOCK_WAIT);
        }
    }
}

impl Drop for Lock {
    /// Releases what is ours. Whoever thought us gone has made a lock of their own, which stays.
    fn drop(&mut self) {
        if identity(&self.link).is_ok_and(|identity| identity == self.identity) {
            // Nobody can be told here; what stays is taken over after the grace.
            let _ = release(&self.link);
        }
    }
}

fn identity(link: &Path) -> io::Result<Identity> {
    let of = std::fs::symlink_metadata(link)?;
    Ok((of.dev(), of.ino(), of.mtime(), of.mtime_nsec()))
}

/// Renamed first, so that of two who release it one fails.
fn release(link: &Path) -> io::Result<()> {
    let own = worker_id().map_err(io::Error::other)?;
    let renamed = PathBuf::from(format!("{}{own}.rename", link.display()));
    std::fs::rename(link, &renamed)?;
    std::fs::remove_file(&renamed)
}

/// Random, in the form of a UUID of version 4.
fn worker_id() -> Result<String, JournalError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| JournalError::Random(error.to_string()))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// Now, as Python writes a time with its zone.
fn now() -> String {
    let text = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    text.replace('Z', "+00:00")
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line that is no operation.
    #[error(
        "line {number} is none of an Optuna journal ({error}); name another file with --study, or cut the file off \
         before that line"
    )]
    Line {
        /// Counted from 1.
        number: u64,
        /// What is wrong with it.
        error: String,
    },
    /// Somebody else wrote to the file.
    #[error(
        "its last line is none of an Optuna journal: another program wrote to it; name another file with --study"
    )]
    Foreign,
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::params::Field;

    #[test]
    fn the_range_of_each_further_cut_is_that_of_its_parameter() {
        for (name, (low, high)) in FURTHER.into_iter().zip(FURTHER_RANGES) {
            let (low, high) = (low as f32, high as f32);
            let field = Field::named(name).expect("a parameter");
            let is_allowed = |x: f32| field.read(&shortest(x)).is_ok();
            // Some begin or end before a value that they do not have.
            assert!(is_allowed(low) || is_allowed(low.next_up()), "{name}");
            assert!(is_allowed(high) || is_allowed(high.next_down()), "{name}");
            assert!(!is_allowed(high.next_up()), "{name}");
            assert!(low == 0.0 || !is_allowed(low.next_down()), "{name}");
        }
    }

    fn spec(name: &str) -> StudySpec {
        StudySpec {
            name: name.into(),
            metrics: vec![("nll", true), ("tail", true)],
            vocab_size: 262_144,
            attributes: vec![("rows", json!(4)), ("goal", json!("least nll"))],
            lists: Axes::default(),
        }
    }

    fn trials(count: u32) -> Vec<(Trial, Said)> {
        let trial = |i: u32| {
            let mut further = Further::NONE;
            if i % 2 == 1 {
                further.values[i as usize % FURTHER.len()] = 0.7;
                further.profile = Profile::Vllm;
            }
            let temperature = 0.3 + i as f32 / 10.0;
            let point = Point { temperature, top_k: i, top_p: 0.95, min_p: 1e-7, further };
            let sums = SetSums {
                hits: i.into(),
                logprob_q32: -(1 << 60),
                kept: u64::MAX,
                ..Default::default()
            };
            let said = Said {
                values: vec![3.5, 1e-300],
                constraints: vec![-0.001],
                means: vec![("coverage", 0.5)],
            };
            (Trial { point, total: sums, groups: vec![(9, sums), (10, SetSums::default())] }, said)
        };
        (0..count).map(trial).collect()
    }

    #[test]
    fn trials_come_back_bit_for_bit_each_in_its_own_study() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        let (mut journal, before) = Journal::open(&path, &spec("a")).unwrap();
        assert!(before.is_empty());
        journal.append(&trials(5)).unwrap();
        let (mut other, before) = Journal::open(&path, &spec("b")).unwrap();
        assert!(before.is_empty());
        other.append(&trials(2)).unwrap();
        journal.append(&trials(1)).unwrap();
        let again = |name: &str| Journal::open(&path, &spec(name)).unwrap().1;
        let expected: Vec<Trial> =
            trials(5).into_iter().chain(trials(1)).map(|(trial, _)| trial).collect();
        assert_eq!(again("a"), expected);
        assert_eq!(again("b").len(), 2);
        // Nothing was added by looking, and no lock is left.
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!((again("a").len(), std::fs::metadata(&path).unwrap().len()), (6, length));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_parameters_may_be_does_not_change_from_batch_to_batch() {
        let point = |top_k| Point { top_k, ..Point::PLAIN };
        let also = Also::of(&Axes::default());
        let few = distributions([point(0), point(40)].into_iter(), 262_144, &also);
        assert_eq!(few, distributions([point(262_143)].into_iter(), 262_144, &also));
        assert!(few.contains("262144"), "{few}");
    }

    #[test]
    fn a_torn_last_line_is_cut_off_before_anything_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        let (mut journal, _) = Journal::open(&path, &spec("a")).unwrap();
        journal.append(&trials(3)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let start = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for end in [start + 1, whole.len() - 1] {
            // Torn while it was open, and while it was not.
            std::fs::write(&path, &whole[..end]).unwrap();
            journal.append(&trials(1)).unwrap();
            assert_eq!(Journal::open(&path, &spec("a")).unwrap().1.len(), 3, "{end}");
            std::fs::write(&path, &whole[..end]).unwrap();
            let (mut again, before) = Journal::open(&path, &spec("a")).unwrap();
            assert_eq!(before.len(), 2, "{end}");
            again.append(&trials(1)).unwrap();
            assert_eq!(Journal::open(&path, &spec("a")).unwrap().1.len(), 3, "{end}");
        }
        std::fs::write(&path, b"{\"op_code\":0,\"stu").unwrap();
        assert!(Journal::open(&path, &spec("a")).unwrap().1.is_empty());
    }

    #[test]
    fn what_is_no_journal_is_refused_and_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in [
            "a shopping list\nmilk\n",
            "a shopping list",
            "{\"temperature\": 0.8, \"top_k\": 40}",
            "{\"op\":1}",
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = Journal::open(file.path(), &spec("a")).unwrap_err().to_string();
            assert!(error.contains("line 1") && error.contains("--study"), "{error}");
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
        }
    }

    #[test]
    fn every_line_begins_like_one_and_what_does_not_is_not_cut_away() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut journal, _) = Journal::open(file.path(), &spec("a")).unwrap();
        journal.append(&trials(1)).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert!(text.lines().count() > 3 && text.lines().all(|l| l.starts_with("{\"op_code\":")));
        let text = text + "milk";
        std::fs::write(file.path(), &text).unwrap();
        assert!(matches!(journal.append(&trials(1)), Err(JournalError::Foreign)));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
    }

    #[test]
    fn studies_that_were_deleted_keep_their_numbers() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (mut first, _) = Journal::open(file.path(), &spec("a")).unwrap();
        first.append(&trials(2)).unwrap();
        let mut text = std::fs::read_to_string(file.path()).unwrap();
        text += "{\"op_code\":1,\"worker_id\":\"x\",\"study_id\":0}\n";
        std::fs::write(file.path(), text).unwrap();
        let (second, before) = Journal::open(file.path(), &spec("a")).unwrap();
        assert_eq!((second.study_id, before.len()), (1, 0));
    }

    #[test]
    fn a_file_tells_all_its_studies_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        for (name, count) in [("a", 3), ("b", 2), ("c", 1)] {
            let (mut journal, _) = Journal::open(&path, &spec(name)).unwrap();
            journal.append(&trials(count)).unwrap();
        }
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "{\"op_code\":1,\"worker_id\":\"x\",\"study_id\":1}\n{\"op_code\":4,\"stu";
        std::fs::write(&path, &text).unwrap();
        let studies = studies(&path).unwrap();
        let names: Vec<&str> = studies.iter().map(|study| study.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(studies[0].attributes["goal"], "least nll");
        let expected: Vec<Trial> = trials(3).into_iter().map(|(trial, _)| trial).collect();
        assert_eq!((&studies[0].trials, studies[1].trials.len()), (&expected, 1));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(super::studies(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_lock_that_is_held_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        let (mut journal, _) = Journal::open(&path, &spec("a")).unwrap();
        let lock = Lock::take(&path).unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            journal.append(&trials(1)).unwrap();
            said.send(()).unwrap();
        });
        assert!(heard.recv_timeout(LOCK_WAIT * 5).is_err(), "it did not wait");
        drop(lock);
        heard.recv_timeout(Duration::from_secs(20)).unwrap();
        waiting.join().unwrap();
    }

    #[test]
    fn a_lock_whose_holder_is_gone_is_taken_over_and_its_holder_leaves_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.journal");
        Journal::open(&path, &spec("a")).unwrap();
        let gone = Lock::take(&path).unwrap();
        let target = std::fs::read_link(&gone.link).unwrap();
        assert!(target.is_absolute() && target.ends_with("study.journal"), "{target:?}");
        let start = Instant::now();
        let own = Lock::take_within(&path, LOCK_WAIT * 5).unwrap();
        assert!(start.elapsed() > LOCK_WAIT * 5, "it did not wait");
        drop(gone);
        assert!(own.link.is_symlink(), "the lock of another was taken away");
        drop(own);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
