//! Evaluation by servers: rows go out in chunks, to whichever server is free, and the sums that come back are added.
//!
//! Sums do not depend on how rows are spread, so a chunk that a server did not answer goes to another one.

use crate::wire;
use half::{bf16, f16};
use logitd_client::{Client, Error};
use logitd_core::batch::Dtype;
use logitd_core::evaluate::cpu::Digested;
use logitd_core::evaluate::digest::Digest;
use logitd_core::evaluate::sums::{GroupSums, Sums};
use logitd_core::evaluate::{Question, Summing};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_proto::{self as api, EvaluateRequest, EvaluateResponse, Limits, SetGrid};
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Bytes of logits in a chunk, if more than one row fits.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes that a message may have beside logits, sets and a label and a reference a row.
const MESSAGE_BYTES: usize = 1 << 10;
/// Bytes of a set in a list, at most.
const SET_BYTES: usize = 96;
/// Chunks on their way to one server.
const CHUNKS_AT_ONCE: usize = 2;
/// Chunks that a server does not answer, one after another, before it is left out.
const FAILURES_MAX: u32 = 5;
/// How long a server is left alone after such a chunk.
const PAUSE: Duration = Duration::from_millis(200);

/// Servers that evaluate.
#[derive(Debug)]
pub struct Fleet {
    runtime: Runtime,
    servers: Vec<Server>,
    dtype: Dtype,
    vocab_size: u32,
}

#[derive(Clone, Debug)]
struct Server {
    target: String,
    client: Client,
    limits: Limits,
}

impl Fleet {
    /// Connects to servers, for rows that were stored so. Each must know `Evaluate` and this program's arithmetic.
    pub fn connect(
        targets: Vec<(String, logitd_client::Builder)>,
        dtype: Dtype,
        vocab_size: u32,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let mut servers = Vec::new();
        for (target, builder) in targets {
            let info = runtime.block_on(async {
                let client = builder.connect().await?;
                let info = client.info().await?;
                Ok::<_, Error>((client, info))
            });
            let (client, info) = info.map_err(|error| format!("--target {target}: {error}"))?;
            let (ours, theirs) = (logitd_core::arithmetic::VERSION, info.arithmetic_version);
            let limits = info.limits.unwrap_or_default();
            if theirs != ours || limits.evaluate_sets_max == 0 {
                return Err(format!(
                    "--target {target}: version {} with arithmetic version {theirs} has no Evaluate that this program knows \
                     (arithmetic version {ours}); use the same release on both sides",
                    info.version
                ));
            }
            let message = vocab_size as usize * dtype.size_bytes() + MESSAGE_BYTES + SET_BYTES;
            if message as u64 > limits.message_bytes_max {
                return Err(format!(
                    "--target {target}: a row of {vocab_size} {dtype} logits takes a message of {message} bytes, and this \
                     server allows {} (--message-bytes-max); start it with more",
                    limits.message_bytes_max
                ));
            }
            servers.push(Server { target, client, limits });
        }
        Ok(Self { runtime, servers, dtype, vocab_size })
    }

    /// The least of a limit, over all servers.
    fn least(&self, limit: impl Fn(&Limits) -> u64) -> usize {
        let least = self.servers.iter().map(|server| limit(&server.limits)).min();
        usize::try_from(least.unwrap_or(0)).unwrap_or(usize::MAX).max(1)
    }

    /// The rows of each chunk, which fit a message with the sets of any part.
    fn chunks(
        &self,
        rows: &[Digested],
        label: &dyn Fn(usize) -> u32,
        parts: &[Part],
    ) -> Vec<Vec<usize>> {
        let list = parts.iter().map(Part::list_bytes).max().unwrap_or(0);
        let sets = parts.iter().map(|part| part.places.len()).max().unwrap_or(1);
        let message = self.least(|limits| limits.message_bytes_max);
        let row_bytes = self.vocab_size as usize * self.dtype.size_bytes() + 8;
        let room = message.saturating_sub(MESSAGE_BYTES + list).min(CHUNK_BYTES);
        let rows_max = (room / row_bytes).clamp(1, self.least(|l| l.request_rows_max.into()));
        let labels_max = (self.least(|limits| limits.evaluate_sums_max) / sets).max(1);
        let mut order: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].digest.is_ok()).collect();
        order.sort_by_key(|&row| label(row));
        let (mut chunks, mut labels): (Vec<Vec<usize>>, _) = (Vec::new(), 0);
        for row in order {
            match chunks.last_mut() {
                Some(chunk) if chunk.len() < rows_max => {
                    let is_new = label(row) != label(chunk[chunk.len() - 1]);
                    if !is_new || labels < labels_max {
                        labels += usize::from(is_new);
                        chunk.push(row);
                        continue;
                    }
                    chunks.push(vec![row]);
                }
                _ => chunks.push(vec![row]),
            }
            labels = 1;
        }
        chunks
    }
}

impl Summing for Fleet {
    fn sums_by(
        &self,
        rows: &[Digested],
        label: &(dyn Fn(usize) -> u32 + Sync),
        question: &Question<'_>,
        seen: &(dyn Fn(u64) + Sync),
    ) -> Result<Sums, String> {
        let sets = question.sets.params();
        let most = self.sets_max();
        let parts = parts(sets, most, self.least(|limits| limits.request_rows_max.into()));
        let chunks = self.chunks(rows, label, &parts);
        let mut sums = Sums::default();
        for row in (0..rows.len()).filter(|&row| rows[row].digest.is_err()) {
            sums.add(label(row), GroupSums { rows_failed: 1, ..GroupSums::new(sets.len()) });
            seen(1);
        }
        let sums = Mutex::new(sums);
        let jobs =
            chunks.iter().flat_map(|chunk| parts.iter().map(move |part| Job { chunk, part }));
        let work = Work::new(jobs.collect(), self.servers.len() * CHUNKS_AT_ONCE);
        std::thread::scope(|scope| {
            for server in self.servers.iter().flat_map(|server| [server; CHUNKS_AT_ONCE]) {
                let (work, sums) = (&work, &sums);
                scope.spawn(move || {
                    let ask = |job: Job<'_>| {
                        let request = self.request(rows, label, question, job);
                        let response = self.runtime.block_on(server.client.evaluate(request));
                        let response =
                            response.map_err(|error| Failed::of(&server.target, &error))?;
                        let found = answer(&response, job, label, sets.len());
                        let found = found.map_err(|error| Failed {
                            text: format!("--target {}: {error}", server.target),
                            is_over: true,
                        })?;
                        let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                        found.into_iter().for_each(|(label, found)| sums.add(label, found));
                        drop(sums);
                        if job.part.is_first {
                            seen(job.chunk.len() as u64);
                        }
                        Ok(())
                    };
                    work.serve(ask);
                });
            }
        });
        work.end().map(|()| sums.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn sets_max(&self) -> usize {
        self.least(|limits| u64::from(limits.evaluate_sets_max).min(limits.evaluate_sums_max))
    }
}

impl Fleet {
    /// The rows of a chunk as rows of the same dtype that have the same digests, and the sets of a part.
    fn request(
        &self,
        rows: &[Digested],
        label: &dyn Fn(usize) -> u32,
        question: &Question<'_>,
        Job { chunk, part }: Job<'_>,
    ) -> EvaluateRequest {
        let digests = || chunk.iter().filter_map(|&row| rows[row].digest.as_ref().ok());
        let mut logits =
            Vec::with_capacity(chunk.len() * self.vocab_size as usize * self.dtype.size_bytes());
        digests().for_each(|digest| write_row(digest, self.dtype, &mut logits));
        let labels = labels(chunk, label);
        let place = |row: &usize| labels.partition_point(|other| *other < label(*row)) as u32;
        let (sets, grid) = match &part.asked {
            Asked::List(sets) => (sets.clone(), None),
            Asked::Grid(grid) => (vec![], Some(grid.clone())),
        };
        EvaluateRequest {
            dtype: wire::row::dtype_message(self.dtype).into(),
            vocab_size: self.vocab_size,
            logits: logits.into(),
            references: digests().map(Digest::rank).collect(),
            groups: chunk.iter().map(place).collect(),
            sets,
            grid,
            tail_share: Some(question.tail.get()),
            ..Default::default()
        }
    }
}

/// A row with this digest: its values from the greatest down, the reference token where its rank says.
fn write_row(digest: &Digest, dtype: Dtype, into: &mut Vec<u8>) {
    for (&value, &count) in digest.values().iter().zip(digest.counts()) {
        let count = count as usize;
        match dtype {
            Dtype::F16 => into.extend(f16::from_f32(value).to_le_bytes().repeat(count)),
            Dtype::Bf16 => into.extend(bf16::from_f32(value).to_le_bytes().repeat(count)),
            Dtype::F32 => into.extend(value.to_le_bytes().repeat(count)),
        }
    }
}

/// The labels of a chunk's rows, ascending.
fn labels(chunk: &[usize], label: &dyn Fn(usize) -> u32) -> Vec<u32> {
    let mut labels: Vec<u32> = chunk.iter().map(|&row| label(row)).collect();
    labels.dedup();
    labels
}

/// What an answer says, by label, in the places of all sets.
fn answer(
    response: &EvaluateResponse,
    Job { chunk, part }: Job<'_>,
    label: &dyn Fn(usize) -> u32,
    sets: usize,
) -> Result<Vec<(u32, GroupSums)>, String> {
    let labels = labels(chunk, label);
    let groups = &response.groups;
    if groups.len() != labels.len() {
        return Err(format!("the answer has {} labels of {}", groups.len(), labels.len()));
    }
    let each = groups.iter().zip(labels).map(|(group, label)| {
        let found = wire::evaluate::sums(group, part.places.len())?;
        let mut all = GroupSums::new(sets);
        // Each part has all rows of the chunk.
        if part.is_first {
            (all.rows, all.rows_failed) = (found.rows, found.rows_failed);
        }
        part.places.iter().zip(found.sets).for_each(|(&set, sums)| all.sets[set] = sums);
        Ok((label, all))
    });
    each.collect()
}

/// Sets that are asked about in one message.
#[derive(Debug)]
struct Part {
    asked: Asked,
    /// The places of its sets, in the order in which it has them.
    places: Vec<usize>,
    is_first: bool,
}

#[derive(Debug)]
enum Asked {
    List(Vec<api::SamplingParams>),
    Grid(SetGrid),
}

impl Part {
    fn list_bytes(&self) -> usize {
        match &self.asked {
            Asked::List(sets) => sets.len() * SET_BYTES,
            Asked::Grid(grid) => {
                4 * (grid.temperature.len() + grid.top_p.len() + grid.min_p.len())
                    + 5 * grid.top_k.len()
            }
        }
    }
}

/// Sets as one grid, if they are one of up to `most`; else as lists of up to `list_max`.
fn parts(sets: &[SamplingParams], most: usize, list_max: usize) -> Vec<Part> {
    if sets.len() <= most
        && let Some((grid, places)) = grid(sets)
    {
        return vec![Part { asked: Asked::Grid(grid), places, is_first: true }];
    }
    let list_max = list_max.min(most);
    let part = |(i, sets): (usize, &[SamplingParams])| {
        let message = |set: &SamplingParams| {
            let message = wire::params::message(&ParamsSpec { seed: None, ..(*set).into() });
            api::SamplingParams { draws: None, repetition_penalty: None, ..message }
        };
        let first = i * list_max;
        Part {
            asked: Asked::List(sets.iter().map(message).collect()),
            places: (first..first + sets.len()).collect(),
            is_first: i == 0,
        }
    };
    sets.chunks(list_max).enumerate().map(part).collect()
}

/// The grid whose combinations these are, each once, and the place of each combination among them. Further cuts are none of
/// its axes.
fn grid(sets: &[SamplingParams]) -> Option<(SetGrid, Vec<usize>)> {
    type Key = (u32, u32, u32, u32);
    fn keep<T: PartialEq>(axis: &mut Vec<T>, value: T) {
        if !axis.contains(&value) {
            axis.push(value);
        }
    }
    if sets.iter().any(|set| set.cuts().is_some()) {
        return None;
    }
    let (mut grid, mut found) = (SetGrid::default(), HashMap::<Key, usize>::new());
    for (place, set) in sets.iter().enumerate() {
        let ParamsSpec { temperature, top_k, top_p, min_p, .. } = (*set).into();
        keep(&mut grid.temperature, temperature);
        keep(&mut grid.top_k, top_k);
        keep(&mut grid.top_p, top_p);
        keep(&mut grid.min_p, min_p);
        found.insert((temperature.to_bits(), top_k, top_p.to_bits(), min_p.to_bits()), place);
        let all = [grid.top_k.len(), grid.top_p.len(), grid.min_p.len()];
        let all = all.into_iter().try_fold(grid.temperature.len(), usize::checked_mul)?;
        // Axes that grow beyond what there is make no grid, and looking on would take long.
        if all > sets.len() {
            return None;
        }
    }
    let mut places = Vec::with_capacity(sets.len());
    for temperature in &grid.temperature {
        for &top_k in &grid.top_k {
            for top_p in &grid.top_p {
                for min_p in &grid.min_p {
                    let key = (temperature.to_bits(), top_k, top_p.to_bits(), min_p.to_bits());
                    places.push(*found.get(&key)?);
                }
            }
        }
    }
    (places.len() == sets.len()).then_some((grid, places))
}

/// A chunk of rows, and sets to be evaluated over them.
#[derive(Clone, Copy)]
struct Job<'a> {
    chunk: &'a [usize],
    part: &'a Part,
}

/// Why a job was not done.
struct Failed {
    text: String,
    /// Whether nobody else need try.
    is_over: bool,
}

impl Failed {
    fn of(target: &str, error: &Error) -> Self {
        // A server that is overloaded has been asked again already, as often as it may be.
        Self { text: format!("--target {target}: {error}"), is_over: !error.is_of_the_server() }
    }
}

/// The jobs of one question, and who does them.
struct Work<'a> {
    state: Mutex<State<'a>>,
    changed: Condvar,
}

struct State<'a> {
    jobs: VecDeque<Job<'a>>,
    /// Jobs that are not done.
    left: usize,
    /// Threads that still take some.
    serving: usize,
    /// What ended a thread, the first that ended all if any did.
    error: Option<String>,
    is_over: bool,
}

impl<'a> Work<'a> {
    fn new(jobs: VecDeque<Job<'a>>, serving: usize) -> Self {
        let left = jobs.len();
        let state = State { jobs, left, serving, error: None, is_over: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        // Nothing panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs until none is left, or until a server does not answer any more: its jobs are others' then.
    fn serve(&self, ask: impl Fn(Job<'a>) -> Result<(), Failed>) {
        let mut failures = 0;
        while let Some(job) = self.next() {
            match ask(job) {
                Ok(()) => {
                    failures = 0;
                    self.lock().left -= 1;
                    self.changed.notify_all();
                }
                Err(failed) => {
                    failures += 1;
                    if self.put_back(job, failed, failures) {
                        return;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// The next job; `None` once none is left, or none should be done. Waits while others have the last ones.
    fn next(&self) -> Option<Job<'a>> {
        let mut state = self.lock();
        loop {
            if state.is_over || state.left == 0 {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a job to others, and says whether this thread is to end.
    fn put_back(&self, job: Job<'a>, failed: Failed, failures: u32) -> bool {
        let mut state = self.lock();
        state.jobs.push_front(job);
        let ends = failed.is_over || failures == FAILURES_MAX;
        if ends {
            state.serving -= 1;
            if !state.is_over {
                state.error = Some(failed.text);
            }
            state.is_over |= failed.is_over || state.serving == 0;
        }
        drop(state);
        self.changed.notify_all();
        ends
    }

    fn end(self) -> Result<(), String> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.left {
            0 => Ok(()),
            left => Err(state.error.unwrap_or_else(|| format!("{left} chunks were not evaluated"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(temperature: f32, top_k: u32, top_p: f32) -> SamplingParams {
        ParamsSpec { temperature, top_k, top_p, ..Default::default() }.parse(|| 0).unwrap()
    }

    #[test]
    fn sets_are_a_grid_where_they_are_one_and_lists_elsewhere() {
        let mut sets = Vec::new();
        for top_p in [1.0, 0.5] {
            for temperature in [0.7, 1.0, 0.0] {
                sets.extend([set(temperature, 5, top_p), set(temperature, 0, top_p)]);
            }
        }
        let [part] = &parts(&sets, 12, 5)[..] else { panic!("one part") };
        let Asked::Grid(grid) = &part.asked else { panic!("a grid") };
        assert_eq!((&grid.temperature[..], &grid.top_k[..]), (&[0.7, 1.0, 0.0][..], &[5, 0][..]));
        // min_p changes fastest, then top_p, top_k and temperature.
        assert_eq!(part.places, [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]);
        // More than there may be at once, one twice, one too few.
        for (sets, most) in
            [(sets.clone(), 11), ([&sets[..], &sets[..1]].concat(), 20), (sets[1..].to_vec(), 20)]
        {
            let parts = parts(&sets, most, 5);
            let places: Vec<usize> = parts.iter().flat_map(|part| part.places.clone()).collect();
            assert_eq!(places, (0..sets.len()).collect::<Vec<_>>());
            let are_first: Vec<bool> = parts.iter().map(|part| part.is_first).collect();
            assert_eq!(are_first, [true, false, false]);
            assert!(
                parts
                    .iter()
                    .all(|part| matches!(&part.asked, Asked::List(sets) if sets.len() <= 5))
            );
        }
    }

    #[test]
    fn jobs_of_a_server_that_fails_are_done_by_others_and_one_that_nobody_can_do_ends_all() {
        let part = Part { asked: Asked::List(vec![]), places: vec![], is_first: true };
        let chunks: Vec<Vec<usize>> = (0..20).map(|i| vec![i]).collect();
        let jobs = || chunks.iter().map(|chunk| Job { chunk, part: &part }).collect();
        let fails = |is_over| Failed { text: "down".into(), is_over };
        let done = Mutex::new(Vec::new());
        let well = |job: Job<'_>| {
            done.lock().unwrap().push(job.chunk[0]);
            Ok(())
        };
        let work = Work::new(jobs(), 2);
        std::thread::scope(|scope| {
            scope.spawn(|| work.serve(|_| Err(fails(false))));
            scope.spawn(|| work.serve(well));
        });
        work.end().unwrap();
        let mut all = std::mem::take(&mut *done.lock().unwrap());
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());

        let work = Work::new(jobs(), 1);
        work.serve(|_| Err(fails(false)));
        assert_eq!(work.end(), Err("down".into()));
        let work = Work::new(jobs(), 2);
        work.serve(|_| Err(fails(true)));
        work.serve(|_| panic!("nothing is done any more"));
        assert_eq!(work.end(), Err("down".into()));
    }
}
