//! Rows evaluated one by one, for who takes them from a queue.
//!
//! A thread that does it gives way every 100 us or so. Its priority is not enough: a kernel that does not preempt, as servers
//! often have (`PREEMPT_NONE`), lets whoever computes go on until the next tick, 4 ms later, whoever else has woken up
//! meanwhile. A system call that finds nobody waiting takes less than a microsecond.

use super::digest::Digester;
use super::sums::SetSums;
use super::surface::Surface;
use super::{Evaluation, Position, Question, Reference};
use crate::backend::cpu::Isa;
use std::thread::yield_now;

/// Evaluates a row at a time on the thread that it is called from, in memory that it keeps.
#[derive(Debug)]
pub struct RowEvaluator {
    digester: Digester,
    surface: Surface,
    /// Of a row that is lent.
    copy: Vec<u8>,
}

impl RowEvaluator {
    /// With the best instructions that this machine has.
    pub fn new() -> Self {
        let surface = Surface::new(Isa::detect());
        Self { digester: Digester::default(), surface, copy: Vec::new() }
    }

    /// Reads a row and says what is true of it whatever the sets; `see` is told what each set comes to over it, by the
    /// set's place. A row without a token comes to nothing.
    pub fn evaluate(
        &mut self,
        position: &Position<'_>,
        question: &Question<'_>,
        mut see: impl FnMut(usize, &SetSums, Evaluation),
    ) -> Reference {
        let row = position.row().here(&mut self.copy);
        let digest = match self.digester.digest(&row, position.reference()) {
            Ok(digest) => digest,
            Err(status) => return Reference { status, ..Default::default() },
        };
        let reference = self.surface.take(&digest, question.tail);
        yield_now();
        self.surface.each(&digest, question.sets, yield_now, |set, found| {
            let evaluation = match question.rows {
                false => Evaluation::default(),
                true => found.evaluation(),
            };
            see(set, &found.sums, evaluation);
        });
        reference
    }
}

impl Default for RowEvaluator {
    fn default() -> Self {
        Self::new()
    }
}
