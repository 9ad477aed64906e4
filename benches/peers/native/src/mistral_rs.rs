//! mistral.rs's sampler, over a tensor for each row.

use crate::cases::{Case, SEED};
use crate::peer::{Made, Peer, Sampler};
use crate::rows::{Rows, VOCAB_SIZE};
use logitd_peers_mistralrs::candle_core::{Device, Tensor};
use logitd_peers_mistralrs::{Random, VERSION, random, sampler};
use std::error::Error;

/// mistral.rs.
pub struct MistralRs;

impl Peer for MistralRs {
    fn name(&self) -> &'static str {
        "mistral.rs"
    }

    fn version(&self) -> String {
        VERSION.into()
    }

    fn dtype(&self) -> &'static str {
        "f32"
    }

    fn no_way(&self, case: &Case) -> Option<&'static str> {
        if case.has_further_cuts() {
            return Some("it has top_k, top_p, min_p and penalties alone");
        }
        let alone = case.params.min_p > 0.0 && case.params.top_p == 1.0;
        alone.then_some("its min_p acts only where a top_p does")
    }

    fn sampler<'a>(&'a self, case: &'a Case, rows: &'a Rows) -> Made<'a> {
        let params = &case.params;
        let tensor = |row| Tensor::from_slice(rows.wide(row), VOCAB_SIZE, &Device::Cpu);
        let given = |penalty: f32, off: f32| (penalty != off).then_some(penalty);
        let sampler = sampler::Sampler::new(
            Some(f64::from(params.temperature)),
            0,
            None,
            given(params.frequency_penalty, 0.0),
            given(params.presence_penalty, 0.0),
            given(params.repetition_penalty, 1.0),
            None,
            if params.top_k == 0 { -1 } else { i64::from(params.top_k) },
            f64::from(params.top_p),
            f64::from(params.min_p),
            vec![],
        )?;
        // A context of no token is an error there; without penalties it makes no difference.
        let context = if case.history.is_empty() { vec![0] } else { case.history.clone() };
        let tensors = (0..rows.len()).map(tensor).collect::<Result<_, _>>()?;
        Ok(Box::new(InUse { sampler, context, tensors, random: random(SEED) }))
    }
}

struct InUse {
    sampler: sampler::Sampler,
    context: Vec<u32>,
    tensors: Vec<Tensor>,
    random: Random,
}

impl Sampler for InUse {
    fn sample(&mut self, row: usize) -> Result<u32, Box<dyn Error>> {
        let (logits, random) = (self.tensors[row].clone(), self.random.clone());
        Ok(self.sampler.sample(logits, &self.context, false, random, false, false)?.token)
    }
}
