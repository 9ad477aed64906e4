//! The threads of a backend: the caller's, and workers that sleep while there is nothing to do.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::ops::Range;

/// Threads that compute together. The caller's is one of them.
#[derive(Debug)]
pub struct Team {
    /// All but the caller's.
    workers: Option<ThreadPool>,
    threads: usize,
}

impl Team {
    /// The caller by itself.
    pub const ALONE: Self = Self { workers: None, threads: 1 };

    /// Starts `threads - 1` workers, which are named after what they do: `logitd-NAME-1` and so on.
    pub fn new(threads: usize, name: &'static str) -> Result<Self, ThreadPoolBuildError> {
        if threads <= 1 {
            return Ok(Self::ALONE);
        }
        let workers = ThreadPoolBuilder::new()
            .num_threads(threads - 1)
            .thread_name(move |i| format!("logitd-{name}-{}", i + 1))
            .build()?;
        Ok(Self { workers: Some(workers), threads })
    }

    /// How many there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Does every part: the first on this thread, the others on workers. Returns when all are done.
    pub fn each<P: Send>(&self, parts: impl IntoIterator<Item = P>, work: impl Fn(P) + Sync) {
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else { return };
        let Some(workers) = &self.workers else {
            work(first);
            return parts.for_each(work);
        };
        let work = &work;
        workers.in_place_scope(|scope| {
            for part in parts {
                scope.spawn(move |_| work(part));
            }
            work(first);
        });
    }

    /// Splits blocks into at most one run for each thread, none shorter than `blocks_min` unless it
    /// is the only one.
    pub fn runs(
        &self,
        blocks: usize,
        blocks_min: usize,
    ) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let parts = (blocks / blocks_min).clamp(1, self.threads);
        (0..parts).map(move |i| blocks * i / parts..blocks * (i + 1) / parts)
    }
}

/// Pairs each of some adjacent runs, the first from 0, with its part of a slice that has `each`
/// values a block.
pub fn parts<T>(
    runs: impl Iterator<Item = Range<usize>>,
    each: usize,
    mut values: &mut [T],
) -> impl Iterator<Item = (Range<usize>, &mut [T])> {
    runs.map(move |run| {
        let (part, rest) = std::mem::take(&mut values).split_at_mut(run.len() * each);
        values = rest;
        (run, part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_every_block_once() {
        let team = Team { workers: None, threads: 3 };
        for blocks in [1, 2, 7, 64, 65, 2048] {
            let runs: Vec<_> = team.runs(blocks, 8).collect();
            assert!(runs.len() <= 3 && (runs.len() == 1 || runs.iter().all(|run| run.len() >= 8)));
            let covered: Vec<_> = runs.into_iter().flatten().collect();
            assert!(covered.into_iter().eq(0..blocks), "{blocks}");
        }
    }

    #[test]
    fn every_part_is_done_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads, "cpu").unwrap();
            let mut done = [0; 40];
            team.each(parts(team.runs(40, 1), 1, &mut done), |(run, done)| {
                assert_eq!(run.len(), done.len());
                done.iter_mut().for_each(|n| *n += 1);
            });
            assert_eq!(done, [1; 40]);
        }
    }
}
