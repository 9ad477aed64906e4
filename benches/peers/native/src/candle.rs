//! candle's sampler: `LogitsProcessor` of candle-transformers, over a tensor for each row.

use crate::cases::{Case, SEED};
use crate::peer::{Made, Peer, Sampler};
use crate::report::locked_version;
use crate::rows::{Rows, VOCAB_SIZE};
use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::utils::apply_repeat_penalty;
use std::error::Error;

/// candle.
pub struct Candle;

impl Peer for Candle {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn version(&self) -> String {
        locked_version("candle-transformers").into()
    }

    fn dtype(&self) -> &'static str {
        "f32"
    }

    fn no_way(&self, case: &Case) -> Option<&'static str> {
        let further = case.has_further_cuts() || case.params.min_p > 0.0;
        (further || case.counts()).then_some("it has top_k, top_p and a repetition penalty alone")
    }

    fn sampler<'a>(&'a self, case: &'a Case, rows: &'a Rows) -> Made<'a> {
        let tensor = |row| Tensor::from_slice(rows.wide(row), VOCAB_SIZE, &Device::Cpu);
        let tensors = (0..rows.len()).map(tensor).collect::<Result<_, _>>()?;
        let processor = LogitsProcessor::from_sampling(SEED, sampling(case));
        Ok(Box::new(InUse { case, tensors, processor }))
    }
}

fn sampling(case: &Case) -> Sampling {
    let temperature = f64::from(case.params.temperature);
    let (k, p) = (case.params.top_k as usize, f64::from(case.params.top_p));
    match (k > 0, p < 1.0) {
        _ if temperature == 0.0 => Sampling::ArgMax,
        (false, false) => Sampling::All { temperature },
        (true, false) => Sampling::TopK { k, temperature },
        (false, true) => Sampling::TopP { p, temperature },
        (true, true) => Sampling::TopKThenTopP { k, p, temperature },
    }
}

struct InUse<'a> {
    case: &'a Case,
    tensors: Vec<Tensor>,
    processor: LogitsProcessor,
}

impl Sampler for InUse<'_> {
    fn sample(&mut self, row: usize) -> Result<u32, Box<dyn Error>> {
        let Case { params, history, .. } = self.case;
        let logits = &self.tensors[row];
        if history.is_empty() {
            return Ok(self.processor.sample(logits)?);
        }
        let logits = apply_repeat_penalty(logits, params.repetition_penalty, history)?;
        Ok(self.processor.sample(&logits)?)
    }
}
