//! The bound on everything accepted: permits, counted in rows and in bytes.
//!
//! A [`Permit`] is taken whole or refused at once, never waited for. It goes with the request that it
//! was taken for and gives back what it holds when it is dropped, so every way a request can end
//! (answered, cancelled, expired, failed) releases it exactly once. A permit also keeps
//! [`drained`](Permits::drained) from resolving, even one of nothing: the worker holds such a one
//! between freeing a request's room and answering it.

use super::{Refused, Resource};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The shortest wait a refused caller is told.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);

/// What may be held at once, and the longest wait that a refusal may name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub rows: usize,
    pub bytes: usize,
    pub retry_after_max: Duration,
}

impl Limits {
    /// A wait as refusals say it; the shortest where nothing is known.
    fn told(&self, seconds: f64) -> Duration {
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        wait.max(RETRY_AFTER_MIN).min(self.retry_after_max)
    }
}

/// The pool that permits are taken from.
#[derive(Debug)]
pub(super) struct Permits {
    limits: Limits,
    state: Mutex<State>,
    /// Told whenever the last permit of a closed pool is dropped.
    drained: Notify,
    pub freed: Freed,
}

/// Bytes that have been given back since the beginning, and news of it for one who waits for some.
#[derive(Debug, Default)]
pub struct Freed {
    bytes: AtomicU64,
    news: Notify,
}

impl Freed {
    /// So many more are.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// How many have been.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Resolves when there are more than when this last resolved.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

#[derive(Debug, Default)]
struct State {
    rows: usize,
    bytes: usize,
    /// Permits out, those of nothing included.
    permits: usize,
    /// Why nothing more is taken.
    closed: Option<Refused>,
    rate: Rate,
    /// Since when at least half of what may be held is, or since rows were last sampled while it is.
    crowded: Option<Instant>,
}

impl Permits {
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), drained: Notify::new(), freed: Freed::default() }
    }

    /// Takes both amounts or neither.
    pub fn take(self: &Arc<Self>, rows: usize, bytes: usize) -> Result<Permit, Refused> {
        let mut state = self.lock();
        if let Some(refused) = state.closed {
            return Err(refused);
        }
        state.fit(&self.limits, rows, bytes)?;
        state.rows += rows;
        state.bytes += bytes;
        state.permits += 1;
        state.look(&self.limits);
        Ok(Permit { pool: Arc::clone(self), rows, bytes })
    }

    /// A permit of nothing, which is never refused: what it is held for belongs to work that was
    /// accepted.
    pub fn hold(self: &Arc<Self>) -> Permit {
        self.lock().permits += 1;
        Permit { pool: Arc::clone(self), rows: 0, bytes: 0 }
    }

    /// From now on nothing is accepted, for this reason.
    pub fn close(&self, refused: Refused) {
        let mut state = self.lock();
        state.closed = Some(refused);
        if state.permits == 0 {
            self.drained.notify_waiters();
        }
    }

    /// Resolves when no permit is out. Meant for after [`close`](Self::close).
    pub async fn drained(&self) {
        loop {
            // Listens before it looks, so that no news falls between the two.
            let news = self.drained.notified();
            if self.lock().permits == 0 {
                return;
            }
            news.await;
        }
    }

    /// Tells how long a device was busy with how much; refusals are estimated from it. While much is held, all time is time that
    /// it takes: rows that are on their way are waited for as those are that a device samples.
    pub fn served(&self, rows: usize, bytes: usize, busy: Duration, devices: usize) {
        let mut state = self.lock();
        let busy = busy.div_f64(devices.max(1) as f64);
        let passed = state.crowded.as_mut().map_or(Duration::ZERO, |since| {
            let now = Instant::now();
            now - std::mem::replace(since, now)
        });
        state.rate.add(rows, bytes, busy.max(passed));
    }

    /// How long it takes to answer so many bytes at the recent rate, within the bounds of what refusals say.
    pub fn time_for(&self, bytes: usize) -> Duration {
        let seconds = self.lock().rate.byte() * bytes as f64;
        self.limits.told(seconds)
    }

    /// The longest wait that refusals name.
    pub fn retry_after_max(&self) -> Duration {
        self.limits.retry_after_max
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Looks whether at least half of what may be held is.
    fn look(&mut self, limits: &Limits) {
        let is_crowded =
            self.rows >= limits.rows.div_ceil(2) || self.bytes >= limits.bytes.div_ceil(2);
        match is_crowded {
            true => self.crowded = self.crowded.or_else(|| Some(Instant::now())),
            false => self.crowded = None,
        }
    }

    /// Whether this much more may be held.
    fn fit(&self, limits: &Limits, rows: usize, bytes: usize) -> Result<(), Refused> {
        for (what, asked, limit) in
            [(Resource::QueueRows, rows, limits.rows), (Resource::QueueBytes, bytes, limits.bytes)]
        {
            if asked > limit {
                return Err(Refused::TooLarge { what, limit, asked });
            }
        }
        for (what, asked, limit, held, pace) in [
            (Resource::QueueRows, rows, limits.rows, self.rows, self.rate.row()),
            (Resource::QueueBytes, bytes, limits.bytes, self.bytes, self.rate.byte()),
        ] {
            if asked > limit - held {
                // When what was asked for will fit; but not before half of what waits is done, or
                // everybody refused now comes back for the same few places.
                let ahead = (asked - (limit - held)).max(held / 2);
                let retry_after = limits.told(pace * ahead as f64);
                return Err(Refused::Overloaded { what, limit, asked, retry_after });
            }
        }
        Ok(())
    }
}

/// Room for rows and bytes, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Permits>,
    rows: usize,
    bytes: usize,
}

impl Permit {
    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of logits held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds other amounts from now on: all of the change happens, or none. Shrinking is never
    /// refused, and neither is growing once the engine drains: the request was accepted before.
    pub fn resize(&mut self, rows: usize, bytes: usize) -> Result<(), Refused> {
        let pool = Arc::clone(&self.pool);
        let mut state = pool.lock();
        let (others_rows, others_bytes) = (state.rows - self.rows, state.bytes - self.bytes);
        if rows > self.rows || bytes > self.bytes {
            let others = State { rows: others_rows, bytes: others_bytes, ..*state };
            others.fit(&pool.limits, rows, bytes)?;
        }
        state.rows = others_rows + rows;
        state.bytes = others_bytes + bytes;
        state.look(&pool.limits);
        drop(state);
        if bytes < self.bytes {
            pool.freed.add(self.bytes - bytes);
        }
        (self.rows, self.bytes) = (rows, bytes);
        Ok(())
    }

    /// Another permit, with so many of these bytes or all there are: for what is not part of the request
    /// that this one goes into.
    pub fn split_off(&mut self, bytes: usize) -> Self {
        let mut other = self.pool.hold();
        other.bytes = bytes.min(self.bytes);
        self.bytes -= other.bytes;
        other
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.rows -= self.rows;
        state.bytes -= self.bytes;
        state.permits -= 1;
        state.look(&self.pool.limits);
        if state.permits == 0 && state.closed.is_some() {
            self.pool.drained.notify_waiters();
        }
        drop(state);
        if self.bytes > 0 {
            self.pool.freed.add(self.bytes);
        }
    }
}

/// The recent rate of service: sums in which every addition takes an eighth off what was before, so
/// that long batches weigh more than short ones and old ones fade.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    rows: f64,
    bytes: f64,
    busy_seconds: f64,
}

impl Rate {
    fn add(&mut self, rows: usize, bytes: usize, busy: Duration) {
        let add = |sum: &mut f64, x: f64| *sum = *sum * 0.875 + x;
        add(&mut self.rows, rows as f64);
        add(&mut self.bytes, bytes as f64);
        add(&mut self.busy_seconds, busy.as_secs_f64());
    }

    /// Seconds a row, or NaN as long as nothing is known.
    fn row(&self) -> f64 {
        self.busy_seconds / self.rows
    }

    /// Seconds a byte, or NaN as long as nothing is known.
    fn byte(&self) -> f64 {
        self.busy_seconds / self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(rows: usize, bytes: usize) -> Arc<Permits> {
        let retry_after_max = Duration::from_millis(500);
        Arc::new(Permits::new(Limits { rows, bytes, retry_after_max }))
    }

    fn retry_after(pool: &Arc<Permits>, rows: usize, bytes: usize) -> (Resource, Duration) {
        match pool.take(rows, bytes).unwrap_err() {
            Refused::Overloaded { what, retry_after, .. } => (what, retry_after),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let pool = pool(10, 100);
        let _held = pool.take(5, 60).unwrap();
        assert_eq!(retry_after(&pool, 5, 41).0, Resource::QueueBytes);
        assert_eq!(retry_after(&pool, 6, 40).0, Resource::QueueRows);
        assert!(pool.take(5, 40).is_ok());
    }

    #[test]
    fn the_wait_is_estimated_from_the_recent_rate_within_bounds() {
        let ms = Duration::from_millis;
        // A rate that is still on its way to its limit is off by less than that.
        let rounded_ms = |wait: Duration| (wait.as_secs_f64() * 1e3).round() as u64;
        let pool = pool(100, 1000);
        let held = pool.take(100, 0).unwrap();
        assert_eq!(retry_after(&pool, 1, 0).1, RETRY_AFTER_MIN, "nothing is known");

        // 1 ms a row: half of what is held has to be done, or as much as was asked for.
        pool.served(1000, 0, ms(1000), 1);
        assert_eq!(retry_after(&pool, 1, 0).1, ms(50));
        assert_eq!(retry_after(&pool, 80, 0).1, ms(80));
        // A device that is eight times as slow soon counts more; two of them less.
        for _ in 0..100 {
            pool.served(1000, 0, ms(8000), 1);
        }
        assert_eq!(rounded_ms(retry_after(&pool, 1, 0).1), 400);
        for _ in 0..100 {
            pool.served(1000, 0, ms(8000), 2);
        }
        assert_eq!(rounded_ms(retry_after(&pool, 1, 0).1), 200);
        pool.served(1, 0, ms(1_000_000), 1);
        assert_eq!(retry_after(&pool, 1, 0).1, ms(500), "the limit");

        drop(held);
        let _held = pool.take(0, 1000).unwrap();
        for _ in 0..100 {
            pool.served(1, 1000, ms(100), 1);
        }
        assert_eq!(rounded_ms(retry_after(&pool, 0, 700).1), 70);
    }

    #[test]
    fn while_much_is_held_the_wait_is_that_of_what_is_on_its_way_too() {
        let ms = Duration::from_millis;
        // 10 bytes are sampled in a millisecond, and come in 20.
        let serve = |pool: &Arc<Permits>| {
            for _ in 0..10 {
                std::thread::sleep(ms(20));
                pool.served(1, 10, ms(1), 1);
            }
        };
        let pool = pool(100, 1000);
        let _some = pool.take(0, 499).unwrap();
        serve(&pool);
        assert_eq!(
            retry_after(&pool, 0, 600).1,
            Duration::from_micros(24_900),
            "249 bytes at 10 a millisecond"
        );
        let _more = pool.take(0, 501).unwrap();
        serve(&pool);
        assert!(pool.time_for(400) >= ms(400) && pool.time_for(1000) == ms(500));
        assert!(retry_after(&pool, 0, 100).1 >= ms(400), "500 bytes at 10 in 20 ms");
    }

    #[test]
    fn what_is_split_off_is_held_until_both_are_gone() {
        let pool = pool(10, 100);
        let mut permit = pool.take(5, 60).unwrap();
        let other = permit.split_off(40);
        assert_eq!((permit.bytes(), other.rows(), other.bytes()), (20, 0, 40));
        drop(permit);
        assert_eq!(retry_after(&pool, 10, 61).0, Resource::QueueBytes);
        drop(other);
        let mut all = pool.take(10, 100).unwrap();
        assert_eq!(all.split_off(1000).bytes(), 100);
    }

    #[tokio::test]
    async fn drained_means_that_nothing_is_held_not_even_an_empty_permit() {
        let pool = pool(1, 1);
        let (permit, hold) = (pool.take(1, 1).unwrap(), pool.hold());
        pool.close(Refused::Draining);
        assert_eq!(pool.take(0, 0).unwrap_err(), Refused::Draining);
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.drained().await }
        });
        drop(permit);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(hold);
        waiting.await.unwrap();
    }
}
