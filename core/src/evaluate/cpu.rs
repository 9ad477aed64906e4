//! The fast implementation: digests, on several threads.
//!
//! A task is some rows of one label, so that a label's sums are those of few tasks, and threads share nothing.

use super::digest::{Digest, Digester};
use super::sums::{GroupSums, Sums};
use super::surface::Surface;
use super::{Evaluation, EvaluationResult, Evaluator, Position, Question, Reference, Summing};
use crate::backend::cpu::Isa;
use crate::batch::Row;
use crate::status::RowStatus;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows of a task, at most. A task's own sums are added to its label's at its end, which costs a fraction of a row.
const TASK_ROWS: usize = 32;

/// Evaluates digests on so many threads.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    threads: usize,
    isa: Isa,
}

/// A row that was read, and the label that it is summed under.
#[derive(Clone, Debug, PartialEq)]
pub struct Digested {
    /// What remains of the row; a row without a token has none.
    pub digest: Result<Digest, RowStatus>,
    /// The label.
    pub group: u32,
}

impl Cpu {
    /// On `threads` threads, 1 or more, with the best instructions that this machine has.
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), isa: Isa::detect() }
    }

    /// The same with other instructions; `None` where this machine does not have them.
    pub fn with_isa(self, isa: Isa) -> Option<Self> {
        isa.is_supported().then_some(Self { isa, ..self })
    }

    /// Reads rows. The copy of a row that is lent is made here.
    pub fn digest(&self, positions: &[Position<'_>]) -> Vec<Digested> {
        let digests: Vec<Mutex<Option<Digested>>> =
            positions.iter().map(|_| Mutex::new(None)).collect();
        self.each(positions.len(), || {
            let (mut digester, mut copy) = (Digester::default(), Vec::new());
            let digests = &digests;
            move |i| {
                let position = &positions[i];
                let row: Row<'_> = position.row().here(&mut copy);
                let digest = digester.digest(&row, position.reference());
                let group = position.group();
                *digests[i].lock().expect("no other thread panicked") =
                    Some(Digested { digest, group });
            }
        });
        let read = |digest: Mutex<Option<Digested>>| digest.into_inner().expect("nobody panicked");
        digests.into_iter().map(|digest| read(digest).expect("every row was read")).collect()
    }

    /// What the sets come to over rows that were read, by the rows' labels.
    pub fn sums(&self, rows: &[Digested], question: &Question<'_>) -> Sums {
        self.sums_by(rows, |row| rows[row].group, question, |_| {})
    }

    /// The same by other labels: that of a row, by its place. `seen` hears how many rows more are done, from any thread.
    pub fn sums_by(
        &self,
        rows: &[Digested],
        label: impl Fn(usize) -> u32 + Sync,
        question: &Question<'_>,
        seen: impl Fn(u64) + Sync,
    ) -> Sums {
        let tasks = tasks(rows.len(), &label);
        let sums = Mutex::new(Sums::default());
        self.each(tasks.len(), || {
            let mut surface = Surface::new(self.isa);
            let (tasks, sums, seen, label) = (&tasks, &sums, &seen, &label);
            move |i| {
                let mut own = GroupSums::new(question.sets.len());
                for &row in &tasks[i] {
                    match &rows[row].digest {
                        Ok(digest) => {
                            own.rows += 1;
                            surface.take(digest, question.tail);
                            surface.each(
                                digest,
                                question.sets,
                                || (),
                                |set, found| own.sets[set] += found.sums,
                            );
                        }
                        Err(_) => own.rows_failed += 1,
                    }
                    seen(1);
                }
                let label = label(tasks[i][0]);
                sums.lock().expect("no other thread panicked").add(label, own);
            }
        });
        sums.into_inner().expect("nobody panicked")
    }

    /// What is said of rows that were read, whatever the sets.
    pub fn references(&self, rows: &[Digested], question: &Question<'_>) -> Vec<Reference> {
        let mut surface = Surface::new(self.isa);
        let said = |row: &Digested| match &row.digest {
            Ok(digest) => surface.take(digest, question.tail),
            Err(status) => Reference { status: *status, ..Default::default() },
        };
        rows.iter().map(said).collect()
    }

    /// An answer a row and set, as [`EvaluationResult::rows`] has them.
    fn evaluations(&self, rows: &[Digested], question: &Question<'_>) -> Vec<Evaluation> {
        let sets = question.sets;
        let mut all = vec![Evaluation::default(); rows.len() * sets.len()];
        let mut surface = Surface::new(self.isa);
        for (row, own) in rows.iter().zip(all.chunks_mut(sets.len().max(1))) {
            let Ok(digest) = &row.digest else { continue };
            surface.take(digest, question.tail);
            surface.each(digest, sets, || (), |set, found| own[set] = found.evaluation());
        }
        all
    }

    /// Does so many tasks, each thread with its own state.
    fn each<T: FnMut(usize) + Send>(&self, tasks: usize, state: impl Fn() -> T + Sync) {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut work = state();
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                work(task);
            }
        };
        std::thread::scope(|scope| {
            let others = self.threads.min(tasks).saturating_sub(1);
            (0..others).for_each(|_| drop(scope.spawn(work)));
            work();
        });
    }
}

impl Evaluator for Cpu {
    fn evaluate(&self, positions: &[Position<'_>], question: &Question<'_>) -> EvaluationResult {
        let rows = self.digest(positions);
        EvaluationResult {
            references: self.references(&rows, question),
            sums: self.sums(&rows, question),
            rows: if question.rows { self.evaluations(&rows, question) } else { Vec::new() },
        }
    }
}

impl Summing for Cpu {
    fn sums_by(
        &self,
        rows: &[Digested],
        label: &(dyn Fn(usize) -> u32 + Sync),
        question: &Question<'_>,
        seen: &(dyn Fn(u64) + Sync),
    ) -> Result<Sums, String> {
        Ok(self.sums_by(rows, label, question, seen))
    }

    /// Those that take seconds, so that what was found can be kept now and then.
    fn sets_max(&self) -> usize {
        4096
    }
}

/// The rows of each task.
fn tasks(rows: usize, label: impl Fn(usize) -> u32) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by_key(|&row| label(row));
    let of_labels = order.chunk_by(|&a, &b| label(a) == label(b));
    of_labels.flat_map(|of_label| of_label.chunks(TASK_ROWS).map(<[usize]>::to_vec)).collect()
}
