//! The recording of a server: opened, watched while it goes on, and ended.

use super::convert;
use super::error::Error;
use super::metrics;
use super::state::Shared;
use crate::config::RecordingConfig;
use crate::record::{Method, Recorder, RecorderStats};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the recorder is asked how it goes.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often it is said that requests are lost, while they are.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Opens the file these settings name; `None` where they name none.
pub fn open(config: &RecordingConfig) -> Result<Option<Arc<Recorder>>, String> {
    let Some(options) = config.options() else { return Ok(None) };
    let path = options.path.display().to_string();
    let recorder = Recorder::start(options).map_err(|e| format!("--record {path}: {e}"))?;
    Ok(Some(Arc::new(recorder)))
}

/// A request that is recorded once there is an answer, where the server records.
pub struct Recording<'a, M>(Option<Offer<'a, M>>);

struct Offer<'a, M> {
    recorder: &'a Recorder,
    arrived: Instant,
    request: M,
}

impl<'a, M: Method> Recording<'a, M> {
    /// Keeps a request that is to be recorded: its logits are counted references, and its lists are copied.
    pub fn of(shared: &'a Shared, arrived: Instant, request: &M) -> Self {
        let chosen = shared.recorder.as_deref().filter(|recorder| recorder.chooses().is_none());
        Self(chosen.map(|recorder| Offer { recorder, arrived, request: request.clone() }))
    }

    /// Records it with what came of it.
    pub fn end(self, result: Result<&M::Answer, &Error>) {
        let Some(Offer { recorder, arrived, request }) = self.0 else { return };
        match result {
            Ok(answer) => recorder.record_chosen(arrived, request, Ok(answer)),
            Err(error) => {
                recorder.record_chosen(arrived, request, Err(&convert::stream_error(error)))
            }
        };
    }
}

/// Counts what the recorder has written and dropped, and says at once where anything is dropped.
pub struct Watch {
    recorder: Arc<Recorder>,
    file_bytes_max: u64,
    counted: RecorderStats,
    /// When it was last said that requests are lost, if they still are.
    said: Option<Instant>,
}

impl Watch {
    /// Watches this recorder.
    pub fn new(recorder: Arc<Recorder>, config: &RecordingConfig) -> Self {
        let file_bytes_max = config.record_file_bytes_max as u64;
        Self { recorder, file_bytes_max, counted: RecorderStats::default(), said: None }
    }

    /// Goes on until dropped.
    pub async fn go_on(&mut self) {
        loop {
            let stats = self.recorder.stats();
            self.look(stats);
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Writes what was recorded, and says so where not everything was.
    pub async fn finish(mut self) {
        let recorder = Arc::clone(&self.recorder);
        let Ok(stats) = tokio::task::spawn_blocking(move || recorder.finish()).await else {
            return;
        };
        self.look(stats.clone());
        let RecorderStats { recorded, file_bytes, dropped, failure } = stats;
        match failure {
            Some(reason) => tracing::error!(recorded, dropped, reason, "the recording failed"),
            None => tracing::info!(recorded, dropped, file_bytes, "recorded"),
        }
    }

    fn look(&mut self, stats: RecorderStats) {
        let dropped = stats.dropped - self.counted.dropped;
        metrics::recorded(stats.recorded - self.counted.recorded, dropped);
        if dropped > 0 && self.said.is_none_or(|said| said.elapsed() >= REPORT_INTERVAL) {
            self.said = Some(Instant::now());
            let reason = self.reason(&stats);
            tracing::error!(dropped = stats.dropped, reason, "requests are not recorded");
        } else if dropped == 0 && self.said.is_some_and(|said| said.elapsed() >= REPORT_INTERVAL) {
            self.said = None;
        }
        self.counted = stats;
    }

    fn reason(&self, stats: &RecorderStats) -> String {
        match &stats.failure {
            Some(reason) => reason.clone(),
            None if stats.file_bytes >= self.file_bytes_max => {
                format!("the file has {} bytes (--record-file-bytes-max)", stats.file_bytes)
            }
            None => "the disk is slower than the traffic (--record-buffer-bytes-max)".into(),
        }
    }
}
