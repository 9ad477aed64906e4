//! Draws tokens from a row of logits, on every backend that this machine has, and shows that they agree.

use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::ParamsSpec;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // A vocabulary of 1,000 tokens, of which the first ones are the likely ones.
    let logits: Vec<u8> =
        (0..1000u16).flat_map(|id| (-(f32::from(id) + 1.0).ln()).to_le_bytes()).collect();
    let params =
        ParamsSpec { temperature: 0.8, top_p: 0.9, draws: 5, seed: Some(7), ..Default::default() };
    let row = Row::new(Dtype::F32, &logits, params.parse(|| unreachable!("a seed is given"))?)?;

    let mut backends: Vec<Box<dyn Backend>> = vec![Box::<Reference>::default()];
    for isa in Isa::supported() {
        backends.push(Box::new(Cpu::new(CpuOptions { isa: Some(isa), threads: 1 })?));
    }
    for backend in &mut backends {
        let mut results = Results::default();
        backend.sample(&[row], &mut results)?;
        let answer = results.row(0);
        let device = backend.device();
        print!("{:<9} {:<9} kept {}:", device.id, device.isa, answer.outcome.kept);
        for draw in answer.draws {
            print!("  {} ({:.3})", draw.token, draw.logprob);
        }
        println!();
    }
    Ok(())
}
