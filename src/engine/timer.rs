//! Answers requests whose deadline passes while they wait, however busy the devices are.

use super::{Failure, Shared};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// Runs until the engine stops. One thread sleeps until the first deadline of all: a request costs
/// an entry in an ordered set, and wakes this thread only if its deadline is before all others.
pub(super) fn run(shared: Arc<Shared>) {
    let mut expired = Vec::new();
    let mut state = shared.lock();
    while !state.stopped {
        let now = Instant::now();
        state.queue.expire(now, &mut expired);
        if !expired.is_empty() {
            shared.gauge(&state);
            let unanswered = shared.permits.hold();
            drop(state);
            expired.drain(..).for_each(|work| work.fail(Failure::DeadlineExceeded));
            drop(unanswered);
            state = shared.lock();
            continue;
        }
        state.timer_at = state.queue.next_deadline();
        state = match state.timer_at {
            None => shared.timer.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let left = at.saturating_duration_since(now);
                shared.timer.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}
