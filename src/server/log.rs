//! Log lines on their way to stderr, and lines that would come too often.
//!
//! stderr may be a pipe whose reader is stuck, and then a write to it never returns. So whoever logs puts the
//! line into a bounded queue and goes on, and one thread writes. What finds the queue full is dropped and
//! counted; when the reader is back, a line says how many were. A program that ends calls [`flush`], which
//! waits for the last lines, but not for ever.

use super::metrics;
use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Lines that wait to be written.
const LINES_MAX: usize = 4096;
/// Their bytes.
const BYTES_MAX: usize = 4 << 20;
/// Places beyond those, for what the writer itself has to say.
const SPARE_LINES: usize = 16;
/// How often lost lines are reported while lines go on being lost.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often [`Sparse`] lets a line through.
const SPARSE_INTERVAL: Duration = Duration::from_secs(1);

/// The writer of this process.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

thread_local! {
    /// Whether this is the thread that writes.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Takes lines and never waits. Clones are the same writer.
#[derive(Clone, Debug)]
pub struct LogWriter {
    queue: SyncSender<Message>,
    waiting: Arc<Waiting>,
}

/// What is between those who log and the thread.
#[derive(Debug, Default)]
struct Waiting {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    /// Lines dropped since the last report.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// To be answered when every line before it is written.
    Flush(SyncSender<()>),
}

/// The writer to stderr, whose thread is started the first time.
pub fn stderr() -> io::Result<LogWriter> {
    if let Some(writer) = WRITER.get() {
        return Ok(writer.clone());
    }
    let writer = LogWriter::start(io::stderr())?;
    Ok(WRITER.get_or_init(|| writer).clone())
}

/// Waits until every line logged so far is written, or for so long.
pub fn flush(patience: Duration) {
    if let Some(writer) = WRITER.get() {
        writer.flush(patience);
    }
}

impl LogWriter {
    /// Starts a thread that writes to `out`.
    fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(LINES_MAX + SPARE_LINES);
        let waiting = Arc::new(Waiting::default());
        let writer = Self { queue, waiting: Arc::clone(&waiting) };
        let thread = std::thread::Builder::new().name("logitd-log".into());
        thread.spawn(move || write_all(&lines, &waiting, out))?;
        Ok(writer)
    }

    fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let (written, all_written) = sync_channel(1);
        while self.queue.try_send(Message::Flush(written.clone())).is_err() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        all_written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }

    fn has_room(&self) -> bool {
        let Waiting { lines, bytes, .. } = &*self.waiting;
        lines.load(Ordering::Relaxed) < LINES_MAX && bytes.load(Ordering::Relaxed) < BYTES_MAX
    }

    fn put(&self, line: &[u8]) -> bool {
        if !self.has_room() && !WRITES.get() {
            return false;
        }
        self.waiting.lines.fetch_add(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let put = self.queue.try_send(Message::Line(line.to_vec())).is_ok();
        if !put {
            self.waiting.left(line);
        }
        put
    }
}

impl Waiting {
    fn left(&self, line: &[u8]) {
        self.lines.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
    }
}

/// Each write is a line, as the formatter makes them.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.put(line) {
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::log_line_dropped();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's work, as long as somebody can log.
fn write_all(lines: &Receiver<Message>, waiting: &Waiting, mut out: impl Write) {
    WRITES.set(true);
    let mut reported = Instant::now();
    loop {
        match lines.recv_timeout(REPORT_INTERVAL) {
            Ok(Message::Line(line)) => {
                // Nobody could be told.
                let _ = out.write_all(&line);
                waiting.left(&line);
            }
            Ok(Message::Flush(written)) => {
                let _ = out.flush();
                let _ = written.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            let dropped = waiting.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "log lines were dropped: stderr was not read fast enough");
            }
        }
    }
}

/// Lets one of many equal lines through, once a second: what a stranger can cause at will must not fill a disk.
#[derive(Debug)]
pub struct Sparse(Mutex<Repeated>);

#[derive(Debug)]
struct Repeated {
    /// When a line was let through.
    last: Option<Instant>,
    suppressed: u64,
}

impl Sparse {
    /// One for each place that logs: a `static` beside it.
    pub const fn new() -> Self {
        Self(Mutex::new(Repeated { last: None, suppressed: 0 }))
    }

    /// Whether to log now, and how many lines were not logged since the last one that was.
    pub fn pass(&self) -> Option<u64> {
        let mut repeated = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if repeated.last.is_some_and(|last| last.elapsed() < SPARSE_INTERVAL) {
            repeated.suppressed += 1;
            return None;
        }
        repeated.last = Some(Instant::now());
        Some(std::mem::take(&mut repeated.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Takes a line when it is allowed to, and passes it on.
    struct Slow {
        allowed: Receiver<()>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.taken.send(line.to_vec()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_stuck_reader_and_what_is_dropped_is_counted() {
        let (allow, allowed) = channel();
        let (taken, lines) = channel();
        let mut writer = LogWriter::start(Slow { allowed, taken }).unwrap();
        for n in 0..LINES_MAX + 100 {
            writer.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        // The thread may hold one.
        let dropped = writer.waiting.dropped.load(Ordering::Relaxed);
        assert!((99..=100).contains(&dropped), "{dropped}");
        assert!(!writer.flush(Duration::from_millis(20)), "it is stuck");
        (0..LINES_MAX + 1).for_each(|_| allow.send(()).unwrap());
        let line = || String::from_utf8(lines.recv().unwrap()).unwrap();
        assert!((0..LINES_MAX).all(|n| line() == format!("{n}\n")), "in their order");
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!(writer.waiting.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn equal_lines_come_once_a_second() {
        let sparse = Sparse::new();
        assert_eq!(sparse.pass(), Some(0));
        assert_eq!([sparse.pass(), sparse.pass()], [None, None]);
        sparse.0.lock().unwrap().last = Instant::now().checked_sub(SPARSE_INTERVAL);
        assert_eq!(sparse.pass(), Some(2));
        assert_eq!(sparse.pass(), None);
    }
}
