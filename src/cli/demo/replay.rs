//! The draws again: in other batches, and on other code. Every bit has to be the same.

use super::{Question, ask};
use crate::cli::answer::RowAnswer;
use crate::cli::sampler::{Local, Sampler};
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::reference::Reference;
use std::error::Error;

/// One way of asking again.
pub struct Replay {
    /// What was done differently.
    pub how: String,
    /// Draws that were compared.
    pub draws: usize,
    /// Rows whose answer is not the same.
    pub differences: usize,
}

/// Asks everything again in several ways. `answers` is what the server said at first.
pub fn replay(
    server: &mut dyn Sampler,
    questions: &[Question],
    answers: &[RowAnswer],
) -> Result<Vec<Replay>, Box<dyn Error>> {
    let all: Vec<usize> = (0..questions.len()).collect();
    let reversed: Vec<usize> = all.iter().rev().copied().collect();
    let compare = |how: String, order: &[usize], batch: usize, sampler: &mut dyn Sampler| {
        let mut differences = 0;
        let mut draws = 0;
        for places in order.chunks(batch) {
            let again: Vec<Question> = places.iter().map(|&i| questions[i].clone()).collect();
            for (&i, answer) in places.iter().zip(ask(sampler, &again)?) {
                draws += answer.draws.len();
                differences += usize::from(answer != answers[i]);
            }
        }
        Ok::<Replay, Box<dyn Error>>(Replay { how, draws, differences })
    };
    let mut replays = vec![
        compare("the same requests again".into(), &all, 6, server)?,
        compare("one row a request, last row first".into(), &reversed, 1, server)?,
        compare("all rows in one request".into(), &all, all.len(), server)?,
    ];
    for isa in Isa::supported() {
        let mut cpu = Local::new(Box::new(Cpu::new(CpuOptions { isa: Some(isa), threads: 1 })?));
        let how = format!("in process, {isa} instructions, 1 thread");
        replays.push(compare(how, &all, 5, &mut cpu)?);
    }
    let mut oracle = Local::new(Box::<Reference>::default());
    replays.push(compare("in process, the sort-based reference".into(), &all, 1, &mut oracle)?);
    Ok(replays)
}
