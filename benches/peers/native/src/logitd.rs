//! logitd's sampler, a batch of one row a call.

use crate::cases::{Case, SEED};
use crate::peer::{Made, Peer, Sampler};
use crate::report::locked_version;
use crate::rows::{Rows, VOCAB_SIZE};
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec, Limits};
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::inspection::Inspect;
use logitd_core::params::SamplingParams;
use std::error::Error;

/// logitd, over rows of a dtype.
pub struct Logitd(pub Dtype);

impl Peer for Logitd {
    fn name(&self) -> &'static str {
        "logitd"
    }

    fn version(&self) -> String {
        locked_version("logitd-core").into()
    }

    fn dtype(&self) -> &'static str {
        self.0.name()
    }

    fn no_way(&self, _: &Case) -> Option<&'static str> {
        None
    }

    fn sampler<'a>(&'a self, case: &'a Case, rows: &'a Rows) -> Made<'a> {
        Ok(Box::new(Own::new(self.0, case, rows)?))
    }
}

/// logitd's sampler of a case.
pub struct Own<'a> {
    cpu: Cpu,
    dtype: Dtype,
    rows: &'a Rows,
    params: SamplingParams,
    /// That of the next draw: each has random bits of its own.
    position: u64,
    adjustments: Option<Adjustments>,
    results: Results,
}

impl<'a> Own<'a> {
    /// With one thread.
    pub fn new(dtype: Dtype, case: &Case, rows: &'a Rows) -> Result<Self, Box<dyn Error>> {
        let params = case.params.parse(|| SEED);
        let adjustments = (!case.history.is_empty()).then(|| {
            let spec = AdjustmentsSpec { output: case.history.clone(), ..Default::default() };
            spec.parse(VOCAB_SIZE as u32, Limits::default())
        });
        Ok(Self {
            cpu: Cpu::new(CpuOptions { isa: None, threads: 1 })?,
            dtype,
            rows,
            params: params.map_err(|wrong| format!("{wrong:?}"))?,
            position: 0,
            adjustments: adjustments.transpose().map_err(|wrong| format!("{wrong:?}"))?,
            results: Results::default(),
        })
    }

    /// Samples a row, and finds what is asked of it beside its token.
    pub fn look(
        &mut self,
        row: usize,
        inspect: Option<&Inspect>,
    ) -> Result<&Results, Box<dyn Error>> {
        let logits = match self.dtype {
            Dtype::F32 => bytemuck::cast_slice(self.rows.wide(row)),
            _ => bytemuck::cast_slice(self.rows.narrow(row)),
        };
        let params = self.params.with_position(self.position);
        self.position += 1;
        let batch = Row::new(self.dtype, logits, params)?
            .with_adjustments(self.adjustments.as_ref())
            .with_inspect(inspect);
        self.cpu.sample(&[batch], &mut self.results)?;
        Ok(&self.results)
    }
}

impl Sampler for Own<'_> {
    fn sample(&mut self, row: usize) -> Result<u32, Box<dyn Error>> {
        Ok(self.look(row, None)?.row(0).draws[0].token)
    }

    fn kept(&self) -> Option<usize> {
        Some(self.results.row(0).outcome.kept as usize)
    }
}
