//! The threads that own backends.

use super::{Completed, Failure, Permit, Request, Shared, Timings};
use crate::backend::{Backend, DeviceInfo};
use crate::batch::{Results, Row};
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

/// An accepted request.
pub(super) struct Work {
    pub request: Request,
    pub permit: Permit,
    pub answer: oneshot::Sender<Result<Completed, Failure>>,
    pub accepted: Instant,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    backend: Box<dyn Backend>,
    device: Arc<DeviceInfo>,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, backend: Box<dyn Backend>) -> Self {
        let device = Arc::new(backend.device().clone());
        Self { shared, backend, device }
    }

    pub fn run(mut self) {
        let mut results = Results::default();
        while let Some(batch) = self.next_batch() {
            self.sample(batch, &mut results);
        }
    }

    /// Waits for work. `None` when there will be none.
    fn next_batch(&self) -> Option<Vec<Work>> {
        let mut state = self.shared.lock();
        while state.queue.is_empty() {
            if state.stopped {
                return None;
            }
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        while let Some(work) = state.queue.front() {
            rows += work.permit.rows();
            bytes += work.permit.bytes();
            let config = &self.shared.config;
            let full = rows > config.batch_rows_max || bytes > config.batch_bytes_max;
            if full && !batch.is_empty() {
                break;
            }
            batch.extend(state.queue.pop_front());
        }
        Some(batch)
    }

    fn sample(&mut self, batch: Vec<Work>, results: &mut Results) {
        let _unanswered = self.shared.permits.hold();
        let start = Instant::now();
        let rows: Vec<Row<'_>> =
            batch.iter().flat_map(|work| work.request.rows.iter().map(|r| r.as_row())).collect();
        let outcome = self.backend.sample(&rows, results);
        let compute = start.elapsed();
        let bytes = rows.iter().map(|row| row.logits().len()).sum();
        self.shared.permits.served(rows.len(), bytes, compute, 1);
        drop(rows);
        let mut at = 0;
        for work in batch {
            let Work { request, permit, answer, accepted } = work;
            let rows = at..at + request.rows.len();
            at = rows.end;
            drop((request, permit));
            let _ = answer.send(match &outcome {
                Ok(()) => {
                    let mut own = Results::default();
                    own.extend_from(results, rows);
                    let queue = start - accepted;
                    let timings = Timings { queue, compute, ..Timings::default() };
                    Ok(Completed { results: own, timings, device: Arc::clone(&self.device) })
                }
                Err(error) => Err(Failure::Device(error.clone())),
            });
        }
    }
}
