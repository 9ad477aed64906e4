//! Known answers before work: rows of every kind, sampled on the device and by the oracle, bit for bit.

use super::driver::Driver;
use super::launcher::Launcher;
use crate::adjustments::{Adjustments, AdjustmentsSpec, Limits};
use crate::backend::Backend;
use crate::backend::dual::first_difference;
use crate::backend::reference::Reference;
use crate::batch::{Dtype, Results, Row};
use crate::inspection::Inspect;
use crate::params::{ParamsSpec, SamplingParams};

/// Sizes at the edges of lanes, tiles and blocks; the largest takes several tiles a warp.
const SIZES: [usize; 7] = [1, 31, 256, 257, 1000, 4099, 20_011];
/// Rows of more tokens have no adjustments, and nothing is asked of them but tokens: the oracle takes long for these.
const ASKED_SIZE_MAX: usize = 5000;
/// The most rows that are tried for the planner to take another kernel.
const ALIKE_MAX: usize = 256;

/// Samples the rows together, when a block has each, and the largest alone, when many share it; then as many of that
/// one as make the planner take the other kernel, if there are two.
pub fn run<D: Driver>(launcher: &mut Launcher<D>) -> Result<(), String> {
    let questions = questions();
    let rows: Vec<Row<'_>> = questions.iter().map(Question::row).collect();
    let largest = *rows.iter().max_by_key(|row| row.vocab_size()).expect("there are rows");
    let own = launcher.shape(&[largest]).kernel;
    let alike = vec![largest; ALIKE_MAX.min(launcher.driver().capacity().rows)];
    let other = (1..=alike.len()).find(|&n| launcher.shape(&alike[..n]).kernel != own);
    ask(launcher, &rows)?;
    ask(launcher, &alike[..1])?;
    other.map_or(Ok(()), |n| ask(launcher, &alike[..n]))
}

/// Compares the device's answers with the oracle's.
fn ask<D: Driver>(launcher: &mut Launcher<D>, batch: &[Row<'_>]) -> Result<(), String> {
    let (mut expected, mut got) = (Results::default(), Results::default());
    Reference::default().sample(batch, &mut expected).map_err(|error| error.to_string())?;
    launcher.sample(batch, &mut got).map_err(|error| error.reason)?;
    match first_difference(batch, &expected, &got) {
        None => Ok(()),
        Some(difference) => Err(format!(
            "it differs from the oracle in row {} of {} ({} logits): {}",
            difference.row_index,
            batch.len(),
            difference.vocab_size,
            difference.to_string().replace('\n', " / ")
        )),
    }
}

/// A row and where it lies.
struct Question {
    dtype: Dtype,
    logits: Vec<u8>,
    params: SamplingParams,
    adjustments: Option<Adjustments>,
    inspect: Option<Inspect>,
}

impl Question {
    /// About a row of so many tokens, adjusted and asked about by its index.
    fn new(dtype: Dtype, size: usize, logits: Vec<u8>, index: usize) -> Self {
        let asked = size <= ASKED_SIZE_MAX;
        let adjustments =
            (asked && !index.is_multiple_of(3)).then(|| adjustments(size as u32, index));
        let inspect = (asked && !index.is_multiple_of(4)).then(|| inspect(size as u32, index));
        Self { dtype, logits, params: params(index), adjustments, inspect }
    }

    fn row(&self) -> Row<'_> {
        let row = Row::new(self.dtype, &self.logits, self.params).expect("a row of a valid size");
        row.with_adjustments(self.adjustments.as_ref()).with_inspect(self.inspect.as_ref())
    }
}

/// Each size in each dtype, the parameters and the values going round; then what has no token.
fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for (i, size) in SIZES.into_iter().enumerate() {
        for (j, dtype) in Dtype::ALL.into_iter().enumerate() {
            let index = i * 3 + j;
            let logits = logits(dtype, size, index);
            questions.push(Question::new(dtype, size, logits, index));
        }
    }
    for (index, value) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let mut x = vec![value; 300];
        if value != f32::NEG_INFINITY {
            x[..299].fill(1.5);
        }
        let logits = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        questions.push(Question::new(Dtype::F32, 300, logits, index));
    }
    questions
}

/// Bans alone, or with tokens that get other logits.
fn adjustments(size: u32, index: usize) -> Adjustments {
    let mut lists = AdjustmentsSpec::default();
    let words = size.div_ceil(32) as usize;
    lists.allowed_bitmask.resize(words, 0xb6db_6db7);
    if index.is_multiple_of(2) {
        lists.logit_bias = vec![(size / 2, 1.5), ((size - 1) / 3, f32::NEG_INFINITY)];
        lists.output = vec![0, size - 1, size / 5, 0];
        lists.stop_ids = vec![0, size - 1];
    }
    lists.logit_bias.dedup_by_key(|(token, _)| *token);
    lists.parse(size, Limits::default()).expect("valid adjustments")
}

/// Everything, or the kept tokens alone.
fn inspect(size: u32, index: usize) -> Inspect {
    let ids = [0, size / 2, size - 1, size].into();
    let of = [index % 8 < 6; 3];
    Inspect { of, top: 20, ids, kept_ids_max: Some(size / 2), continuations: None }
}

/// Every cut alone and together, cold, hot and greedy.
fn params(index: usize) -> SamplingParams {
    let base = ParamsSpec {
        draws: 3,
        position: index as u64,
        repetition_penalty: [1.0, 1.2][index % 2],
        presence_penalty: [0.3, 0.0][index / 2 % 2],
        min_tokens: [0, 9][index / 4 % 2],
        ..Default::default()
    };
    let spec = match index % 8 {
        0 => base,
        1 => ParamsSpec { temperature: 0.0, ..base },
        2 => ParamsSpec { top_k: 50, ..base },
        3 => ParamsSpec { temperature: 0.8, top_p: 0.95, ..base },
        4 => ParamsSpec { temperature: 0.7, top_k: 40, top_p: 0.9, ..base },
        5 => ParamsSpec { min_p: 0.1, ..base },
        6 => ParamsSpec { temperature: 1e4, top_k: 2000, top_p: 0.5, ..base },
        _ => ParamsSpec { temperature: 1e-3, top_p: 0.999, min_p: 1e-6, ..base },
    };
    spec.parse(|| 0x5e1f_7e57).expect("valid parameters")
}

/// Values between -12 and 12 in steps that make ties, zeros of both signs and subnormals among them.
fn logits(dtype: Dtype, size: usize, salt: usize) -> Vec<u8> {
    let mut state = (salt as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(size * dtype.size_bytes());
    for _ in 0..size {
        let random = next();
        let x = match random % 64 {
            0 => 0.0,
            1 => -0.0,
            2 => f32::from_bits(0x8000_2000), // a subnormal, or a zero in 16 bits
            _ => (random >> 32) as i32 as f32 / 2_147_483_648.0 * 12.0,
        };
        match dtype {
            Dtype::F16 => bytes.extend(half::f16::from_f32(x).to_le_bytes()),
            Dtype::Bf16 => bytes.extend(half::bf16::from_f32(x).to_le_bytes()),
            Dtype::F32 => bytes.extend(x.to_le_bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_about_every_dtype_cut_and_status() {
        let questions = questions();
        let rows: Vec<Row<'_>> = questions.iter().map(Question::row).collect();
        let mut results = Results::default();
        Reference::default().sample(&rows, &mut results).unwrap();
        for status in 0..4 {
            assert!(
                results.iter().any(|result| result.outcome.status as u32 == status),
                "{status}"
            );
        }
        let has = |what: fn(&SamplingParams) -> bool| rows.iter().any(|row| what(row.params()));
        assert!(has(SamplingParams::is_greedy) && has(|p| p.top_k().is_some()));
        assert!(has(|p| p.top_p().is_some()) && has(|p| p.min_p().is_some()));
        let with = |with: fn(&Question) -> bool| questions.iter().filter(|q| with(q)).count();
        assert!(with(|q| q.adjustments.is_some() && q.inspect.is_none()) > 2);
        assert!(with(|q| q.adjustments.is_none() && q.inspect.is_some()) > 2);
        assert!(with(|q| q.adjustments.is_some() && q.inspect.is_some()) > 2);
    }
}
