//! A row with a name, at an alignment of the test's choosing, surrounded by NaN.

use half::{bf16, f16};
use logitd::tools::generate;
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec, Limits};
use logitd_core::batch::{Dtype, Row};
use logitd_core::inspection::Inspect;
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::Draft;
use std::fmt;

/// A row to be sampled, and where to lay it.
#[derive(Clone)]
pub struct Case {
    /// What it is, or how it is made again.
    pub name: String,
    /// How the logits are stored.
    pub dtype: Dtype,
    /// Little-endian values.
    pub logits: Vec<u8>,
    /// What to do with them.
    pub params: SamplingParams,
    /// What is done to single logits before that.
    pub adjustments: Option<Adjustments>,
    /// What is asked beside its tokens.
    pub inspect: Option<Inspect>,
    /// What it decides about.
    pub draft: Option<Draft>,
    /// Address of the first byte, modulo 64.
    pub offset: usize,
}

impl Case {
    /// A case of logits in the bytes they arrive in.
    pub fn new(name: impl Into<String>, dtype: Dtype, logits: Vec<u8>, spec: ParamsSpec) -> Self {
        let params = spec.parse(|| 0).expect("a test gives valid parameters");
        Self {
            name: name.into(),
            dtype,
            logits,
            params,
            adjustments: None,
            inspect: None,
            draft: None,
            offset: 0,
        }
    }

    /// A case of bit patterns.
    pub fn bits(name: &str, dtype: Dtype, patterns: &[u32], spec: ParamsSpec) -> Self {
        Self::new(name, dtype, pack(dtype, patterns), spec)
    }

    /// A case of values, rounded to the dtype.
    pub fn values(name: &str, dtype: Dtype, x: &[f32], spec: ParamsSpec) -> Self {
        let patterns: Vec<u32> = x.iter().map(|&x| pattern(dtype, x)).collect();
        Self::bits(name, dtype, &patterns, spec)
    }

    /// Row `index` of `seed`.
    pub fn generated(seed: u64, index: u64, vocab_size_max: u32) -> Self {
        let case = generate::case(seed, index, vocab_size_max);
        let name = format!("generate::case({seed}, {index}, {vocab_size_max}): {:?}", case.values);
        let offset = (index % 64) as usize;
        let generate::Case { dtype, logits, params, adjustments, inspect, draft, .. } = case;
        Self { name, dtype, logits, params, adjustments, inspect, draft, offset }
    }

    /// The same with other parameters.
    pub fn with(&self, params: SamplingParams) -> Self {
        Self { params, ..self.clone() }
    }

    /// The same with adjustments.
    pub fn adjusted(mut self, lists: AdjustmentsSpec) -> Self {
        let parsed = lists.parse(self.vocab_size() as u32, Limits::default());
        self.adjustments = Some(parsed.expect("a test gives valid adjustments"));
        self
    }

    /// The same, of which more than tokens is asked.
    pub fn inspected(self, inspect: Option<Inspect>) -> Self {
        Self { inspect, ..self }
    }

    /// The same, its first byte elsewhere modulo 64.
    pub fn at(mut self, offset: usize) -> Self {
        self.offset = offset;
        self
    }

    /// How many tokens it has.
    pub fn vocab_size(&self) -> usize {
        self.logits.len() / self.dtype.size_bytes()
    }

    /// Its bit patterns.
    pub fn patterns(&self) -> Vec<u32> {
        let value = |bytes: &[u8]| bytes.iter().rev().fold(0, |acc, &b| acc << 8 | u32::from(b));
        self.logits.chunks_exact(self.dtype.size_bytes()).map(value).collect()
    }

    /// The row in memory of its own.
    pub fn place(&self) -> Placed<'_> {
        const MARGIN: usize = 256;
        let mut memory = vec![0xff; self.logits.len() + 2 * MARGIN];
        let start = MARGIN - (memory.as_ptr() as usize + MARGIN) % 64 + self.offset % 64;
        memory[start..start + self.logits.len()].copy_from_slice(&self.logits);
        Placed { case: self, memory, start }
    }
}

/// A case at its alignment. All bytes around it are ones, a NaN in every dtype: whoever looks at a
/// neighbour's bytes sees another status.
pub struct Placed<'a> {
    case: &'a Case,
    memory: Vec<u8>,
    start: usize,
}

impl Placed<'_> {
    /// The row, as a backend takes it.
    pub fn row(&self) -> Row<'_> {
        let logits = &self.memory[self.start..self.start + self.case.logits.len()];
        let row = Row::new(self.case.dtype, logits, self.case.params);
        let row = row.expect("a test gives valid rows");
        row.with_adjustments(self.case.adjustments.as_ref())
            .with_inspect(self.case.inspect.as_ref())
            .with_draft(self.case.draft.as_ref())
    }
}

impl fmt::Display for Case {
    /// Everything needed to make it again, if it is small.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dtype, params) = (self.dtype, &self.params);
        writeln!(f, "{}", self.name)?;
        writeln!(f, "  {dtype} x {}, address % 64 = {}", self.vocab_size(), self.offset % 64)?;
        writeln!(
            f,
            "  temperature {:e} ({:#010x}), top_k {}, top_p {:e} ({:#010x}), min_p {:e} ({:#010x}), \
             seed {}, position {}, draws {}",
            params.temperature(),
            params.temperature().to_bits(),
            params.top_k().unwrap_or(0),
            params.top_p().unwrap_or(1.0),
            params.top_p().unwrap_or(1.0).to_bits(),
            params.min_p().unwrap_or(0.0),
            params.min_p().unwrap_or(0.0).to_bits(),
            params.seed(),
            params.position(),
            params.draws(),
        )?;
        if let Some(adjustments) = &self.adjustments {
            writeln!(f, "  {params}, {adjustments:?}")?;
        }
        if let Some(inspect) = &self.inspect {
            writeln!(f, "  {inspect:?}")?;
        }
        if let Some(draft) = &self.draft {
            writeln!(f, "  {draft:?}")?;
        }
        let digits = 2 * dtype.size_bytes();
        write!(f, "  patterns (hex, xN for a run):")?;
        let patterns = self.patterns();
        let runs: Vec<&[u32]> = patterns.chunk_by(|a, b| a == b).collect();
        for run in runs.iter().take(200) {
            write!(f, " {:0digits$x}", run[0])?;
            if run.len() > 1 {
                write!(f, "x{}", run.len())?;
            }
        }
        if runs.len() > 200 { write!(f, " .. ({} more runs)", runs.len() - 200) } else { Ok(()) }
    }
}

/// The parameters as they were written.
pub fn spec(params: &SamplingParams) -> ParamsSpec {
    (*params).into()
}

/// The same for so many draws, without what follows a sequence draw by draw.
pub fn spec_of_draws(params: &SamplingParams, draws: u32) -> ParamsSpec {
    let without = ParamsSpec::default();
    ParamsSpec {
        draws,
        mirostat_tau: without.mirostat_tau,
        mirostat_mu: without.mirostat_mu,
        adaptive_target: without.adaptive_target,
        adaptive_sum: without.adaptive_sum,
        adaptive_weight: without.adaptive_weight,
        ..spec(params)
    }
}

/// Little-endian bytes of bit patterns.
pub fn pack(dtype: Dtype, patterns: &[u32]) -> Vec<u8> {
    let size = dtype.size_bytes();
    patterns.iter().flat_map(|p| p.to_le_bytes().into_iter().take(size)).collect()
}

/// The bit pattern of a value in a dtype, rounded.
pub fn pattern(dtype: Dtype, x: f32) -> u32 {
    match dtype {
        Dtype::F16 => f16::from_f32(x).to_bits().into(),
        Dtype::Bf16 => bf16::from_f32(x).to_bits().into(),
        Dtype::F32 => x.to_bits(),
    }
}

/// The pattern of the greatest finite value; one more is +inf.
pub fn greatest(dtype: Dtype) -> u32 {
    pattern(dtype, f32::INFINITY) - 1
}

/// The value of a bit pattern.
pub fn value(dtype: Dtype, pattern: u32) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_bits(pattern as u16).to_f32(),
        Dtype::Bf16 => bf16::from_bits(pattern as u16).to_f32(),
        Dtype::F32 => f32::from_bits(pattern),
    }
}
