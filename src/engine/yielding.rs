//! Yielding: when a worker that has more to compute gives way, so that other threads have its core for once.
//!
//! Where there are fewer cores than threads, the system gives a thread that computes up to a tick (4 ms on many kernels) before
//! one that has just become ready: the thread that serves calls waits for it, then the worker for that thread, and so at
//! every step of a call. A worker that gives way ([`yield_now`]) about every millisecond makes these waits short. Where no other
//! thread is ready on its core, that takes a microsecond.
//!
//! Where much waits in the queue ([`Queue::is_long`](super::queue::Queue::is_long)) a millisecond is long: the worker has no end of work, and who
//! asks for little waits for it at each step. There the worker yields after every batch that took a tenth of a millisecond. It does not do so always:
//! where small calls alone keep the core busy, their threads do more at once when they have it for longer, a tenth more calls in all.
//!
//! A program that computes on the same core takes all of its own share each time it is given way to, and gives none of it
//! back (Linux from 6.18 on): the worker would be left with a fifth of the core instead of a half. The two are told apart
//! by how long they keep the core. Serving many calls that come at once may take as long several times in a row, but not twelve times:
//!
//! ```text
//! yielding took less than 2.5 ms                          pause = pause / 2
//! as long for the twelfth time in a row, or one after it  pause = 2 * pause + 0.8 ms, up to 0.2 s
//! the worker does not yield while it computes for so much longer as `pause` says
//! ```
//!
//! After one that took long the worker computes for 0.8 ms in any case, so that it is never left with nothing.

use std::thread::yield_now;
use std::time::{Duration, Instant};

/// A worker gives way once it has computed for so long.
const STRETCH: Duration = Duration::from_micros(800);
/// The same while much waits.
const STRETCH_IN_LONG_QUEUE: Duration = Duration::from_micros(100);
/// A program that computes keeps the core until the first tick after its slice (1.4 to 3 ms by the number of cores) is over. A
/// thread that serves calls has less to do: converting, encoding and writing an answer of a megabyte takes it 1 ms.
const LONG: Duration = Duration::from_micros(2500);
/// So many in a row are no accident.
const LONG_MANY: u32 = 12;
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// How long a worker computes before it gives way; much may wait in the queue.
pub(super) fn stretch(is_queue_long: bool) -> Duration {
    if is_queue_long { STRETCH_IN_LONG_QUEUE } else { STRETCH }
}

/// When a worker gives way next.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    computed: Duration,
    /// How many times in a row it took long.
    long: u32,
    pause: Duration,
}

impl Yielding {
    /// Gives way after so much computing, where it is time: after a `stretch` of it.
    pub fn give(&mut self, computed: Duration, stretch: Duration) {
        if self.is_due(computed, stretch) {
            let start = Instant::now();
            yield_now();
            self.took(start.elapsed());
        }
    }

    fn is_due(&mut self, computed: Duration, stretch: Duration) -> bool {
        self.computed += computed;
        let stretch = if self.long > 0 { STRETCH } else { stretch };
        let is_due = self.computed >= stretch + self.pause;
        if is_due {
            self.computed = Duration::ZERO;
        }
        is_due
    }

    fn took(&mut self, time: Duration) {
        self.long = if time < LONG { 0 } else { self.long.saturating_add(1) };
        self.pause = match self.long {
            0 => self.pause / 2,
            1..LONG_MANY => self.pause,
            _ => (2 * self.pause + STRETCH).min(PAUSE_MAX),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it gives way in so many milliseconds of computing, if each time takes so long.
    fn given(yielding: &mut Yielding, computed_ms: u64, took: Duration) -> usize {
        let mut count = 0;
        for _ in 0..computed_ms {
            if yielding.is_due(Duration::from_millis(1), STRETCH) {
                yielding.took(took);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn it_gives_way_every_millisecond_to_threads_that_are_soon_done() {
        let mut yielding = Yielding::default();
        assert_eq!(given(&mut yielding, 1000, Duration::from_micros(300)), 1000);
        let short = Duration::from_micros(100);
        let count = (0..1000).filter(|_| yielding.is_due(short, STRETCH)).count();
        assert_eq!(count, 125, "batches of 0.1 ms count together");
        let count = (0..1000).filter(|_| yielding.is_due(short, STRETCH_IN_LONG_QUEUE)).count();
        assert_eq!(count, 1000, "much waits");
    }

    #[test]
    fn it_goes_on_beside_threads_that_take_long_now_and_then() {
        let mut yielding = Yielding::default();
        for _ in 0..100 {
            assert_eq!(given(&mut yielding, 11, Duration::from_millis(4)), 11);
            assert_eq!(given(&mut yielding, 1, Duration::from_millis(1)), 1);
        }
    }

    #[test]
    fn a_program_that_keeps_the_core_is_hardly_given_way_to() {
        let mut yielding = Yielding::default();
        given(&mut yielding, 1000, Duration::from_millis(4));
        let count = given(&mut yielding, 10_000, Duration::from_millis(4));
        assert!((30..60).contains(&count), "{count} times in 10 s, 4 ms each");
        let short = Duration::from_micros(100);
        assert!(!yielding.is_due(short, STRETCH_IN_LONG_QUEUE), "however much waits");
        // And as before soon after it has ended.
        given(&mut yielding, 1000, Duration::from_micros(1));
        assert_eq!(given(&mut yielding, 100, Duration::from_micros(1)), 100);
    }
}
