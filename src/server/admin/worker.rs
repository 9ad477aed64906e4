//! The one thread that computes for pages, while the processor has nothing else to do.
//!
//! It has a backend of its own. In the engine's queue a page would share budgets with callers, and its rows, which ask for
//! much beside tokens, would make the batches longer that they are in. Any backend gives the same bits, so the page shows
//! what callers get.

use super::rows::Uploads;
use crate::engine::priority::lower_priority;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::batch::Results;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// What the thread works with.
pub struct Bench {
    /// Samples, on this thread alone.
    pub cpu: Cpu,
    /// Of the last batch.
    pub results: Results,
    /// Rows that pages have brought.
    pub uploads: Uploads,
}

type Job = Box<dyn FnOnce(&mut Bench) + Send>;

/// The way to the thread, which is started by the first question and ends when this is dropped.
pub struct Worker {
    waiting_max: usize,
    upload_bytes_max: usize,
    jobs: OnceLock<Result<SyncSender<Job>, String>>,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// Too many are before it.
    #[error("{0} questions wait already (--admin-waiting-max); ask again")]
    Busy(usize),
    /// There is no thread.
    #[error("the page has no thread to compute on: {0}")]
    Thread(String),
    /// It panicked.
    #[error("the question could not be answered; the log says why")]
    Panicked,
}

impl Worker {
    /// So many questions may wait, and uploads have so many bytes together.
    pub fn new(waiting_max: usize, upload_bytes_max: usize) -> Self {
        Self { waiting_max, upload_bytes_max, jobs: OnceLock::new() }
    }

    /// Has the thread do something, in its turn.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Bench) -> T + Send + 'static,
    ) -> Result<T, WorkerError> {
        let jobs = self.jobs.get_or_init(|| self.start());
        let jobs = jobs.as_ref().map_err(|error| WorkerError::Thread(error.clone()))?;
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move |bench| {
            // Whoever has gone by now wants no answer.
            if !done.is_closed() {
                let _ = done.send(work(bench));
            }
        });
        match jobs.try_send(job) {
            Ok(()) => answer.await.map_err(|_| WorkerError::Panicked),
            Err(TrySendError::Full(_)) => Err(WorkerError::Busy(self.waiting_max)),
            Err(TrySendError::Disconnected(_)) => Err(WorkerError::Panicked),
        }
    }

    fn start(&self) -> Result<SyncSender<Job>, String> {
        let cpu = Cpu::new(CpuOptions { isa: None, threads: 1 }).map_err(|e| e.to_string())?;
        let uploads = Uploads::new(self.upload_bytes_max);
        let bench = Bench { cpu, results: Results::default(), uploads };
        let (jobs, waiting) = sync_channel(self.waiting_max);
        let thread = std::thread::Builder::new().name("logitd-admin".into());
        thread.spawn(move || work(waiting, bench)).map_err(|error| error.to_string())?;
        Ok(jobs)
    }
}

fn work(jobs: Receiver<Job>, mut bench: Bench) {
    lower_priority();
    for job in jobs {
        // A job that panics has dropped its sender, by which its asker hears of it.
        if catch_unwind(AssertUnwindSafe(|| job(&mut bench))).is_err() {
            tracing::error!("a question of the page panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_many_questions_are_refused_and_a_panic_is_one_answer() {
        let worker = Worker::new(1, 1 << 20);
        let panicked: Result<(), _> = worker.ask(|_| panic!("a test")).await;
        assert_eq!(panicked, Err(WorkerError::Panicked));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let mut first = Box::pin(worker.ask(move |_| {
            let _ = begun.send(());
            wait.recv()
        }));
        assert!(futures_poll(&mut first).await.is_none());
        has_begun.await.unwrap();
        let mut second = Box::pin(worker.ask(|_| 2));
        assert!(futures_poll(&mut second).await.is_none());
        assert_eq!(worker.ask(|_| 3).await, Err(WorkerError::Busy(1)));
        go.send(()).unwrap();
        assert_eq!(second.await, Ok(2));
    }

    /// What a future has, asked once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
