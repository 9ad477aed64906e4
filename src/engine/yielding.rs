//! Yielding: when a worker that has more to compute gives way, so that other threads have its core for once.
//!
//! Where there are fewer cores than threads, the system gives a thread that computes up to a tick (4 ms on many kernels) before
//! one that has just become ready: the thread that serves calls waits for it, then the worker for that thread, and so at
//! every step of a call. A worker that gives way ([`yield_now`]) about every millisecond makes these waits short. Where no other
//! thread is ready on its core, that takes a microsecond.
//!
//! A program that computes on the same core takes all of its own share each time it is given way to, and gives none of it
//! back (Linux from 6.18 on): the worker would be left with a fifth of the core instead of a half. The two are told apart
//! by how long they keep the core. Serving several large answers may take as long now and then, but not four times in a row:
//!
//! ```text
//! giving way took less than 2.5 ms                        pause = pause / 2
//! as long for the fourth time in a row, or one after it   pause = 2 * pause + 1, up to 255
//! the worker does not give way for as many times as `pause` says
//! ```

use std::thread::yield_now;
use std::time::{Duration, Instant};

/// A worker gives way once it has computed for so long.
const STRETCH: Duration = Duration::from_micros(800);
/// A program that computes keeps the core until the first tick after its slice (1.4 to 3 ms by the number of cores) is over. A
/// thread that serves calls has less to do: converting, encoding and writing an answer of a megabyte takes it 1 ms.
const LONG: Duration = Duration::from_micros(2500);
/// So many in a row are no accident.
const LONG_MANY: u32 = 4;
const PAUSE_MAX: u32 = 255;

/// When a worker gives way next.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    computed: Duration,
    /// How many times in a row it took long.
    long: u32,
    pause: u32,
    left: u32,
}

impl Yielding {
    /// Gives way after so much computing, where it is time.
    pub fn give(&mut self, computed: Duration) {
        if self.is_due(computed) {
            let start = Instant::now();
            yield_now();
            self.took(start.elapsed());
        }
    }

    fn is_due(&mut self, computed: Duration) -> bool {
        self.computed += computed;
        if self.computed < STRETCH {
            return false;
        }
        self.computed = Duration::ZERO;
        let is_due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        is_due
    }

    fn took(&mut self, time: Duration) {
        self.long = if time < LONG { 0 } else { self.long.saturating_add(1) };
        self.pause = match self.long {
            0 => self.pause / 2,
            1..LONG_MANY => self.pause,
            _ => (2 * self.pause + 1).min(PAUSE_MAX),
        };
        self.left = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it gives way in so many milliseconds of computing, if each time takes so long.
    fn given(yielding: &mut Yielding, computed_ms: u64, took: Duration) -> usize {
        let mut count = 0;
        for _ in 0..computed_ms {
            if yielding.is_due(Duration::from_millis(1)) {
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
        let count = (0..1000).filter(|_| yielding.is_due(short)).count();
        assert_eq!(count, 125, "batches of 0.1 ms count together");
    }

    #[test]
    fn it_goes_on_beside_threads_that_take_long_now_and_then() {
        let mut yielding = Yielding::default();
        for _ in 0..100 {
            assert_eq!(given(&mut yielding, 3, Duration::from_millis(4)), 3);
            assert_eq!(given(&mut yielding, 1, Duration::from_millis(1)), 1);
        }
    }

    #[test]
    fn a_program_that_keeps_the_core_is_hardly_given_way_to() {
        let mut yielding = Yielding::default();
        given(&mut yielding, 1000, Duration::from_millis(4));
        let count = given(&mut yielding, 10_000, Duration::from_millis(4));
        assert!((30..50).contains(&count), "{count} times in 10 s, 4 ms each");
        // And as before soon after it has ended.
        given(&mut yielding, 1000, Duration::from_micros(1));
        assert_eq!(given(&mut yielding, 100, Duration::from_micros(1)), 100);
    }
}
