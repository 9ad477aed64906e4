//! When refused messages of a connection are to come again.
//!
//! Told the same time, all that were refused come at once, for room that one of them gets, and each that is refused once more has
//! cost a window's worth of bytes. So each gets a time of its own, behind those of the messages refused before it, at
//! the pace at which messages of the connection are taken. The times pass by themselves, so whoever does not come holds up
//! nobody for long; and they are those of one connection, so that nobody is told to wait for another's messages.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long what is taken is counted before the pace is looked at.
const WINDOW: Duration = Duration::from_millis(100);
/// Without a refusal for so long nothing is known of the pace: time may have passed in which nobody sent anything.
const QUIET: Duration = Duration::from_secs(1);

/// The times that have been told, and the pace at which they follow each other.
#[derive(Debug, Default)]
pub struct Schedule(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    /// Bytes of messages that were taken since.
    taken: u64,
    since: Instant,
    pace: Pace,
    /// The last time that was told.
    told: Instant,
    /// When a message was last refused.
    refused: Instant,
}

/// Sums in which every window takes half off what was before.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    bytes: f64,
    seconds: f64,
}

impl Schedule {
    /// A message of so many bytes has been taken.
    pub fn taken(&self, bytes: usize) {
        if let Some(state) = self.lock().as_mut() {
            state.taken += bytes as u64;
        }
    }

    /// How long a message of so many bytes that is refused now has to wait: `least`, longer where others come before
    /// it, and `most` however many they are.
    pub fn tell(&self, bytes: usize, least: Duration, most: Duration) -> Duration {
        let now = Instant::now();
        let mut state = self.lock();
        let state = match &mut *state {
            Some(state) if now - state.refused < QUIET => state,
            state => state.insert(State::new(now)),
        };
        state.refused = now;
        state.look(now);
        let turn = state.told.max(now) + state.pace.time_for(bytes).min(most);
        state.told = turn.min(now + most);
        (state.told - now).max(least)
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        // Nothing in here panics half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self { taken: 0, since: now, pace: Pace::default(), told: now, refused: now }
    }

    fn look(&mut self, now: Instant) {
        let passed = now - self.since;
        if passed >= WINDOW && self.taken > 0 {
            self.pace.bytes = self.pace.bytes / 2.0 + self.taken as f64;
            self.pace.seconds = self.pace.seconds / 2.0 + passed.as_secs_f64();
            (self.taken, self.since) = (0, now);
        }
    }
}

impl Pace {
    /// Nothing, where nothing is known.
    fn time_for(self, bytes: usize) -> Duration {
        let seconds = self.seconds * bytes as f64 / self.bytes;
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MS: Duration = Duration::from_millis(1);
    const MOST: Duration = Duration::from_millis(500);

    /// One in which 10 messages of 1000 bytes have been taken in 100 ms, and one has been refused before.
    async fn known() -> Schedule {
        let schedule = Schedule::default();
        assert_eq!(schedule.tell(1000, 3 * MS, MOST), 3 * MS, "nothing is known");
        schedule.taken(10_000);
        advance(WINDOW).await;
        schedule
    }

    #[tokio::test(start_paused = true)]
    async fn each_that_is_refused_comes_behind_those_before_it() {
        let schedule = known().await;
        let told: Vec<Duration> = (0..4).map(|_| schedule.tell(1000, MS, MOST)).collect();
        assert_eq!(told, [10 * MS, 20 * MS, 30 * MS, 40 * MS]);
        assert_eq!(schedule.tell(2000, MS, MOST), 60 * MS);
        assert_eq!(schedule.tell(1000, 200 * MS, MOST), 200 * MS, "there is no room before");
        advance(50 * MS).await;
        assert_eq!(schedule.tell(1000, MS, MOST), 30 * MS, "times pass");
        advance(200 * MS).await;
        assert_eq!(schedule.tell(1000, MS, MOST), 10 * MS, "all of them");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_sooner_than_told_is_told_no_more_than_the_most() {
        let schedule = known().await;
        let last = (0..1000).map(|_| schedule.tell(1000, MS, MOST)).last();
        assert_eq!(last, Some(MOST));
        advance(MOST).await;
        assert_eq!(schedule.tell(1000, MS, MOST), 10 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_that_of_late_and_not_that_of_a_quiet_time() {
        let schedule = known().await;
        for _ in 0..20 {
            schedule.taken(2_500);
            advance(WINDOW).await;
            schedule.tell(1000, MS, MOST);
        }
        advance(QUIET - WINDOW).await;
        schedule.taken(22_500);
        let told = schedule.tell(1000, MS, MOST).as_secs_f64();
        assert!((told - 0.04).abs() < 1e-6, "time counts in which nothing was taken: {told}");
        advance(QUIET).await;
        assert_eq!(schedule.tell(1000, MS, MOST), MS);
    }
}
