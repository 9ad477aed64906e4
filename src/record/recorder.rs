//! Writes a trace while a server works, and never makes it wait.

use super::format::{Encoder, MAGIC};
use super::method::Method;
use super::reader::{ReadError, Reader};
use super::{Entry, Exchange};
use logitd_proto::StreamError;
use logitd_proto::trace::Session;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// How much is recorded, and where.
#[derive(Clone, Debug)]
pub struct RecorderOptions {
    /// The file. An existing trace is continued; anything else that exists is refused.
    pub path: PathBuf,
    /// Share of the requests that is recorded, evenly spread: 0 to 1.
    pub fraction: f64,
    /// Bytes of requests that may wait for the disk. What comes when they are used up is dropped and counted.
    pub buffer_bytes_max: u64,
    /// Size of the file beyond which nothing more is recorded; what comes then is dropped and counted.
    pub file_bytes_max: u64,
}

impl RecorderOptions {
    /// Everything, with 256 MiB of buffer and 64 GiB of file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            fraction: 1.0,
            buffer_bytes_max: 256 << 20,
            file_bytes_max: 64 << 30,
        }
    }
}

/// Records requests and answers: [`record`](Self::record) takes no longer than putting them into a
/// bounded buffer, from which a thread writes them, at the latest a second later. What the disk cannot keep up
/// with, or does not take, is dropped and counted, and the serving goes on. A disk that was full is tried again.
///
/// Dropped, it writes what it has taken; [`finish`](Self::finish) does so and says how it went.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    queue: SyncSender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    started: Instant,
}

/// What became of a request that was offered to a recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It will be written, if the disk takes it; [`RecorderStats`] tells.
    Taken,
    /// It is not among the fraction that is recorded.
    NotChosen,
    /// There was no room for it, or there is no recording any more.
    Dropped,
}

#[derive(Debug)]
enum Message {
    /// An entry, and what its request takes while it waits.
    Entry(Box<Entry>, u64),
    /// Nothing comes after this.
    Finish,
}

/// What a recorder has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecorderStats {
    /// Requests in the file: the system has taken them, so that they are there even if this process is killed.
    pub recorded: u64,
    /// Bytes of the file, with what is about to be written.
    pub file_bytes: u64,
    /// Requests that were to be recorded and are not: the buffer or the file was full, or the disk failed.
    pub dropped: u64,
    /// Why nothing can be written, while that is so.
    pub failure: Option<String>,
}

#[derive(Debug)]
struct Shared {
    options: RecorderOptions,
    /// Requests that were offered.
    offered: AtomicU64,
    recorded: AtomicU64,
    dropped: AtomicU64,
    file_bytes: AtomicU64,
    /// Bytes of requests between `record` and the disk.
    buffered_bytes: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Recorder {
    /// Opens the file, readable by its owner only, begins a session in it, and starts the thread.
    pub fn start(options: RecorderOptions) -> Result<Self, ReadError> {
        let (file, mut end) = open(&options.path)?;
        let mut encoder = Encoder::default();
        let since_1970 =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let session = encoder.session(Session {
            started_unix_us: u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX),
            server_version: env!("CARGO_PKG_VERSION").into(),
        });
        file.write_all_at(session, end)?;
        end += session.len() as u64;

        let shared = Arc::new(Shared {
            options,
            offered: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            file_bytes: AtomicU64::new(end),
            buffered_bytes: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let (queue, messages) = sync_channel(QUEUE_ENTRIES_MAX);
        let writer = Writer::new(shared.clone(), file, end, encoder);
        let thread = std::thread::Builder::new()
            .name("trace".into())
            .spawn(move || writer.run(&messages))?;
        Ok(Self { shared, queue, thread: Mutex::new(Some(thread)), started: Instant::now() })
    }

    /// Takes a request and what came of it, if it is to be recorded. Returns at once.
    pub fn record<M: Method>(
        &self,
        arrived: Instant,
        request: &M,
        result: Result<&M::Answer, &StreamError>,
    ) -> Offered {
        match self.chooses() {
            Some(refused) => refused,
            None => self.record_chosen(arrived, request.clone(), result),
        }
    }

    /// Whether the next request is not to be recorded: it is not among the fraction, or the file is full. Asked once for each, before
    /// anything of it is kept.
    pub fn chooses(&self) -> Option<Offered> {
        if !self.shared.chosen() {
            return Some(Offered::NotChosen);
        }
        let bytes = self.shared.file_bytes.load(Ordering::Relaxed);
        let full = bytes >= self.shared.options.file_bytes_max;
        full.then(|| self.drop_one())
    }

    /// Takes a request that was [chosen](Self::chooses), and what came of it. Returns at once.
    pub fn record_chosen<M: Method>(
        &self,
        arrived: Instant,
        request: M,
        result: Result<&M::Answer, &StreamError>,
    ) -> Offered {
        let bytes = request.bytes();
        if !self.shared.reserve(bytes) {
            return self.drop_one();
        }
        let entry = Entry {
            arrival: arrived.saturating_duration_since(self.started),
            took: arrived.elapsed(),
            call: M::call(Exchange { request, result: result.cloned().map_err(Clone::clone) }),
        };
        match self.queue.try_send(Message::Entry(Box::new(entry), bytes)) {
            Ok(()) => Offered::Taken,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.buffered_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.drop_one()
            }
        }
    }

    fn drop_one(&self) -> Offered {
        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        Offered::Dropped
    }

    /// What it has done so far.
    pub fn stats(&self) -> RecorderStats {
        self.shared.stats()
    }

    /// Writes what it has taken, to the disk itself, and says how it went. Blocks. Nothing is recorded
    /// after it.
    pub fn finish(&self) -> RecorderStats {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It fails only where the thread has ended already.
            let _ = self.queue.send(Message::Finish);
            if thread.join().is_err() {
                self.shared.fail("the thread that writes it panicked".to_owned());
            }
        }
        self.shared.stats()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    /// Whether this request is among the fraction: every tenth, say, and not one in ten by chance.
    fn chosen(&self) -> bool {
        let n = self.offered.fetch_add(1, Ordering::Relaxed) as f64;
        let share = |n: f64| (n * self.options.fraction).floor();
        share(n + 1.0) > share(n)
    }

    fn reserve(&self, bytes: u64) -> bool {
        let max = self.options.buffer_bytes_max;
        let more = |held: u64| held.checked_add(bytes).filter(|&held| held <= max);
        self.buffered_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Whether so little waits for the disk that logits can be packed.
    fn has_time(&self) -> bool {
        self.buffered_bytes.load(Ordering::Relaxed) <= self.options.buffer_bytes_max / 4
    }

    fn stats(&self) -> RecorderStats {
        RecorderStats {
            recorded: self.recorded.load(Ordering::Relaxed),
            file_bytes: self.file_bytes.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            failure: self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn fail(&self, reason: impl Into<Option<String>>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = reason.into();
    }
}

/// Entries between `record` and the disk, whatever their size.
const QUEUE_ENTRIES_MAX: usize = 4096;
/// How long a request may stay in this process's memory, and how long a disk that has failed is left alone.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes that are written without waiting for that.
const PENDING_BYTES_MAX: usize = 1 << 20;

/// The thread's side.
struct Writer {
    shared: Arc<Shared>,
    file: File,
    encoder: Encoder,
    /// Where the last whole frame in the file ends.
    end: u64,
    /// A write has failed, and what it left behind there is still to be cut off.
    torn: bool,
    /// Whole frames that come next, and where each of them ends.
    pending: Vec<u8>,
    pending_ends: Vec<usize>,
    /// When they are written at the latest.
    due: Option<Instant>,
    /// Nothing is tried before, since the disk has failed.
    retry: Option<Instant>,
}

impl Writer {
    fn new(shared: Arc<Shared>, file: File, end: u64, encoder: Encoder) -> Self {
        let (pending, pending_ends) = (Vec::new(), Vec::new());
        Self {
            shared,
            file,
            encoder,
            end,
            torn: false,
            pending,
            pending_ends,
            due: None,
            retry: None,
        }
    }

    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let patience = self.due.map_or(FLUSH_INTERVAL, |due| due - Instant::now().min(due));
            match messages.recv_timeout(patience) {
                Ok(Message::Entry(entry, bytes)) => {
                    self.take(*entry);
                    self.shared.buffered_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Finish) | Err(RecvTimeoutError::Disconnected) => break,
            }
            let due = self.due.is_some_and(|due| due <= Instant::now());
            if due || self.pending.len() >= PENDING_BYTES_MAX {
                self.flush();
            }
        }
        self.flush();
        if let Err(error) = self.file.sync_all() {
            self.shared.fail(error.to_string());
        }
    }

    fn take(&mut self, entry: Entry) {
        if self.retry.is_some_and(|retry| Instant::now() < retry) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let frame = self.encoder.entry(entry, self.shared.has_time());
        self.pending.extend_from_slice(frame);
        self.pending_ends.push(self.pending.len());
        self.due.get_or_insert_with(|| Instant::now() + FLUSH_INTERVAL);
        self.measure();
    }

    /// Writes what is pending. What the disk does not take is dropped and counted: a request is in the file as a whole
    /// or not at all.
    fn flush(&mut self) {
        self.due = None;
        if self.pending.is_empty() {
            return;
        }
        let (bytes, outcome) = self.write_pending();
        let whole = self.pending_ends.partition_point(|&end| end <= bytes);
        self.end += self.pending_ends[..whole].last().map_or(0, |&end| end as u64);
        let dropped = self.pending_ends.len() - whole;
        self.shared.recorded.fetch_add(whole as u64, Ordering::Relaxed);
        self.shared.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        self.retry = outcome.is_err().then(|| Instant::now() + FLUSH_INTERVAL);
        self.shared.fail(outcome.as_ref().err().map(io::Error::to_string));
        if outcome.is_err() {
            self.torn = true;
            // If that fails too it is tried again before anything is written.
            let _ = self.cut();
        }
        self.pending.clear();
        self.pending_ends.clear();
        self.measure();
    }

    /// How many bytes of it are in the file, and why not all.
    fn write_pending(&mut self) -> (usize, io::Result<()>) {
        if let Err(error) = self.cut() {
            return (0, Err(error));
        }
        let mut written = 0;
        while written < self.pending.len() {
            let at = self.end + written as u64;
            match self.file.write_at(&self.pending[written..], at) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Takes away what a write that failed half way has left behind.
    fn cut(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.end)?;
            self.torn = false;
        }
        Ok(())
    }

    fn measure(&self) {
        let bytes = self.end + self.pending.len() as u64;
        self.shared.file_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// The file, ready for appending, and its length: new, or an existing trace without its torn tail.
fn open(path: &Path) -> Result<(File, u64), ReadError> {
    let mut new = OpenOptions::new();
    match new.write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            file.write_all(MAGIC)?;
            return Ok((file, MAGIC.len() as u64));
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        Err(_) => {}
    }
    let end = Reader::open(path)?.whole_bytes()?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(end)?;
    Ok((file, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Call;
    use crate::record::Damage;
    use logitd_proto::{
        Dry, ParamColumns, SampleRequest, SampleResponse, SamplingParams, TokenSequence,
    };
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::PermissionsExt;

    fn request(n: u8) -> SampleRequest {
        let logits: Vec<u8> = (0..200u8).map(|i| i.wrapping_mul(97) ^ n).collect();
        SampleRequest { dtype: 1, vocab_size: 100, logits: logits.into(), ..Default::default() }
    }

    fn response(n: u8) -> SampleResponse {
        SampleResponse { device: n.to_string(), ..Default::default() }
    }

    fn record(recorder: &Recorder, n: u8) -> bool {
        recorder.record(Instant::now(), &request(n), Ok(&response(n))) == Offered::Taken
    }

    /// A trace of three entries.
    fn trace(path: &Path) {
        let recorder = Recorder::start(RecorderOptions::new(path)).unwrap();
        assert!((0..3).all(|n| record(&recorder, n)));
        assert_eq!(recorder.finish().recorded, 3);
    }

    fn read(path: &Path) -> Vec<Result<Entry, ReadError>> {
        Reader::open(path).unwrap().collect()
    }

    #[test]
    fn what_is_recorded_is_read_and_only_by_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace");
        let recorder = Recorder::start(RecorderOptions::new(&path)).unwrap();
        let error = StreamError { code: 8, message: "full".into(), ..Default::default() };
        record(&recorder, 0);
        recorder.record(Instant::now(), &request(1), Err(&error));
        let stats = recorder.finish();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((stats.recorded, stats.dropped, stats.failure), (2, 0, None));
        assert_eq!(stats.file_bytes, metadata.len());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

        let entries: Vec<Entry> = read(&path).into_iter().map(Result::unwrap).collect();
        let call = |n, result| Call::Sample(Exchange { request: request(n), result });
        assert_eq!(entries[0].call, call(0, Ok(response(0))));
        assert_eq!(entries[1].call, call(1, Err(error)));
    }

    /// Requests come all the time, and none of them has to wait for the end.
    #[test]
    fn what_was_recorded_is_in_the_file_within_a_second_or_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace");
        let recorder = Recorder::start(RecorderOptions::new(&path)).unwrap();
        let begun = Instant::now();
        while recorder.stats().recorded == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing was written");
            assert!(record(&recorder, 1));
            std::thread::sleep(Duration::from_millis(50));
        }
        let recorded = recorder.stats().recorded;
        assert!(read(&path).len() as u64 >= recorded && recorded > 1, "{recorded}");
    }

    /// Cut off anywhere, the entries before the cut are read and the tear is said; continued, the file is
    /// whole again.
    #[test]
    fn a_torn_tail_costs_one_entry_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("whole.trace");
        trace(&path);
        let whole = std::fs::read(&path).unwrap();
        let torn = dir.path().join("torn.trace");
        let mut tears = 0;
        for cut in MAGIC.len()..whole.len() {
            std::fs::write(&torn, &whole[..cut]).unwrap();
            let items = read(&torn);
            let (entries, rest): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
            assert!(entries.len() < 3 && rest.len() <= 1, "cut at {cut}");
            for error in &rest {
                assert!(
                    matches!(error, Err(ReadError::Damage(Damage { torn: true, .. }))),
                    "cut at {cut}: {error:?}"
                );
            }
            tears += rest.len();
            if cut % 61 == 0 {
                trace(&torn);
                let all = read(&torn);
                assert_eq!(all.len(), entries.len() + 3);
                assert!(all.iter().all(Result::is_ok), "cut at {cut}");
            }
        }
        assert!(tears > 100, "{tears}");
    }

    #[test]
    fn a_flipped_bit_costs_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace");
        trace(&path);
        let whole = std::fs::read(&path).unwrap();
        // In the logits of the second entry.
        let at = whole.windows(200).position(|w| *w == request(1).logits[..]).unwrap() + 99;
        let mut spoilt = whole.clone();
        spoilt[at] ^= 1;
        std::fs::write(&path, &spoilt).unwrap();
        let items = read(&path);
        assert_eq!(items.len(), 3);
        assert!(items[0].is_ok() && items[2].is_ok());
        assert!(matches!(&items[1], Err(ReadError::Damage(damage)) if !damage.torn));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let start = |name: &str, change: fn(&mut RecorderOptions)| {
            let mut options = RecorderOptions::new(dir.path().join(name));
            change(&mut options);
            Recorder::start(options).unwrap()
        };
        let buffer = start("buffer", |o| o.buffer_bytes_max = 199);
        assert!(!record(&buffer, 0));
        assert_eq!(buffer.finish().dropped, 1);

        let file = start("file", |o| o.file_bytes_max = 1);
        assert!(!record(&file, 0));
        assert_eq!(file.finish().dropped, 1);

        // Parameter sets and columns take room as well.
        let sets = start("sets", |o| o.buffer_bytes_max = 2000);
        let dry = Dry { breakers: vec![TokenSequence { tokens: vec![1; 500] }], ..Dry::default() };
        let params = vec![SamplingParams { dry: Some(dry), ..Default::default() }; 5];
        let columns = Some(ParamColumns { seed: vec![1; 300], ..Default::default() });
        for request in
            [SampleRequest { params, ..request(0) }, SampleRequest { columns, ..request(0) }]
        {
            let offered = sets.record(Instant::now(), &request, Ok(&response(0)));
            assert_eq!(offered, Offered::Dropped);
        }
        assert!(record(&sets, 0));

        let tenth = start("tenth", |o| o.fraction = 0.1);
        let taken = (0..100).filter(|&n| record(&tenth, n)).count();
        assert_eq!((taken, tenth.finish().recorded), (10, 10));
    }

    #[test]
    fn logits_are_packed_while_little_waits_for_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        for (buffer_bytes_max, packed) in [(799, false), (800, true)] {
            let path = dir.path().join(buffer_bytes_max.to_string());
            let options = RecorderOptions { buffer_bytes_max, ..RecorderOptions::new(&path) };
            let recorder = Recorder::start(options).unwrap();
            let request = SampleRequest { logits: vec![7; 200].into(), ..request(0) };
            recorder.record(Instant::now(), &request, Ok(&response(0)));
            recorder.finish();
            let file = std::fs::read(&path).unwrap();
            assert_eq!(!file.windows(200).any(|bytes| *bytes == [7; 200]), packed);
            let call = Call::Sample(Exchange { request, result: Ok(response(0)) });
            assert_eq!(read(&path)[0].as_ref().unwrap().call, call);
        }
    }

    #[test]
    fn a_trace_of_another_format_is_refused_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.trace");
        std::fs::write(&path, b"logitd trace\0\0\0\x01and frames").unwrap();
        let error = Recorder::start(RecorderOptions::new(&path)).unwrap_err().to_string();
        assert!(error.contains("format 1") && error.contains("knows format 2"), "{error}");
    }

    #[cfg(target_os = "linux")] // Others have no /dev/full.
    #[test]
    fn a_full_disk_stops_the_recording_and_nothing_else() {
        let full = Path::new("/dev/full");
        let shared = Arc::new(Shared {
            options: RecorderOptions::new(full),
            offered: AtomicU64::new(0),
            recorded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            file_bytes: AtomicU64::new(0),
            buffered_bytes: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let file = OpenOptions::new().write(true).open(full).unwrap();
        let (queue, entries) = sync_channel(10);
        let writer = Writer::new(shared.clone(), file, 0, Encoder::default());
        let thread = std::thread::spawn(move || writer.run(&entries));
        let thread = Mutex::new(Some(thread));
        let recorder = Recorder { shared, queue, thread, started: Instant::now() };
        record(&recorder, 0);
        record(&recorder, 1);
        let stats = recorder.finish();
        assert_eq!((stats.recorded, stats.dropped), (0, 2));
        assert!(stats.failure.is_some());
        assert_eq!(
            recorder.record(Instant::now(), &request(2), Ok(&response(2))),
            Offered::Dropped
        );
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for path in [&pipe, Path::new("/dev/null"), dir.path()] {
            let error = Recorder::start(RecorderOptions::new(path)).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, "do not touch me, I am not a trace").unwrap();
        let error = Recorder::start(RecorderOptions::new(&path)).unwrap_err();
        assert!(matches!(error, ReadError::NoTrace));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "do not touch me, I am not a trace");
    }
}
