//! The rows that are timed: one buffer, row after row.

use crate::files::assets;
use crate::files::npy::{Declared, LogitsFile};
use half::{bf16, f16};
use logitd_core::batch::{Dtype, Row};
use logitd_core::params::ParamsSpec;
use std::error::Error;
use std::path::Path;

/// Generated rows that differ; more are repetitions.
const DISTINCT_ROWS: usize = 16;
/// The seed of every draw: the same results each time.
const SEED: u64 = 10;

/// Rows of one dtype and vocabulary in one buffer.
pub struct Rows {
    dtype: Dtype,
    vocab_size: u32,
    logits: Vec<u8>,
    /// For people: where they come from.
    pub source: String,
}

impl Rows {
    /// The rows that the program carries, repeated.
    pub fn carried(dtype: Dtype, vocab_size: u32, count: usize) -> Self {
        let rows: Vec<_> =
            assets::rows().iter().map(|row| (assets::DTYPE, row.logits.as_slice())).collect();
        let source = format!("the {} real rows that logitd carries, repeated", rows.len());
        Self::repeat(&rows, dtype, vocab_size, count, source)
    }

    /// The rows of a file, repeated.
    pub fn from_file(
        path: &Path,
        file_dtype: Option<Dtype>,
        dtype: Dtype,
        vocab_size: u32,
        count: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let declared = Declared { dtype: file_dtype, vocab_size: None };
        let mut file = LogitsFile::open(path, declared)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let used = file.rows().min(count);
        let mut bytes = Vec::new();
        file.read(0..used, &mut bytes)?;
        let rows: Vec<_> =
            bytes.chunks_exact(file.row_bytes()).map(|row| (file.dtype(), row)).collect();
        let source = format!("{used} rows of {}, repeated", path.display());
        Ok(Self::repeat(&rows, dtype, vocab_size, count, source))
    }

    /// Rows of a single value.
    pub fn constant(dtype: Dtype, vocab_size: u32, count: usize) -> Self {
        let row = 3.0f32.to_le_bytes();
        Self::repeat(&[(Dtype::F32, &row)], dtype, vocab_size, count, "one value".into())
    }

    /// Rows from a normal distribution.
    pub fn normal(dtype: Dtype, vocab_size: u32, count: usize) -> Self {
        let mut uniform = uniform();
        let mut normal = || {
            let (radius, angle) =
                ((-2.0 * uniform().ln()).sqrt(), uniform() * std::f64::consts::TAU);
            ((radius * angle.cos()) as f32).to_le_bytes()
        };
        let rows: Vec<Vec<u8>> = (0..count.min(DISTINCT_ROWS))
            .map(|_| (0..vocab_size).flat_map(|_| normal()).collect())
            .collect();
        let rows: Vec<_> = rows.iter().map(|row| (Dtype::F32, row.as_slice())).collect();
        Self::repeat(&rows, dtype, vocab_size, count, "normally distributed values".into())
    }

    /// Converts rows and repeats them, and the tokens of each, until there are enough.
    fn repeat(
        rows: &[(Dtype, &[u8])],
        dtype: Dtype,
        vocab_size: u32,
        count: usize,
        source: String,
    ) -> Self {
        let distinct: Vec<Vec<u8>> = rows
            .iter()
            .take(count)
            .map(|&(from, row)| convert(from, row, dtype, vocab_size))
            .collect();
        let logits = distinct.iter().cycle().take(count).flatten().copied().collect();
        Self { dtype, vocab_size, logits, source }
    }

    /// All rows, with the same parameters but for the position in the random stream.
    pub fn batch(&self, spec: ParamsSpec) -> Vec<Row<'_>> {
        let row_bytes = self.vocab_size as usize * self.dtype.size_bytes();
        let rows = self.logits.chunks_exact(row_bytes).enumerate();
        rows.map(|(i, logits)| {
            let spec = ParamsSpec { position: i as u64, ..spec };
            let params = spec.parse(|| SEED).expect("a case's parameters are valid");
            Row::new(self.dtype, logits, params).expect("whole rows of a valid vocabulary")
        })
        .collect()
    }

    /// The first rows, each with parameters and a seed of its own.
    pub fn batch_of(&self, count: usize, spec: impl Fn(u32) -> ParamsSpec) -> Vec<Row<'_>> {
        let row_bytes = self.vocab_size as usize * self.dtype.size_bytes();
        let rows = self.logits.chunks_exact(row_bytes).take(count).zip(0..);
        rows.map(|(logits, row)| {
            let params = spec(row).parse(|| SEED + u64::from(row));
            let params = params.expect("a case's parameters are valid");
            Row::new(self.dtype, logits, params).expect("whole rows of a valid vocabulary")
        })
        .collect()
    }

    /// How the logits are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Tokens a row.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.logits.len()
    }
}

/// The first `vocab_size` logits of a row (which is repeated where it is shorter) in another dtype.
fn convert(from: Dtype, row: &[u8], dtype: Dtype, vocab_size: u32) -> Vec<u8> {
    let tokens = row.chunks_exact(from.size_bytes()).cycle().take(vocab_size as usize);
    if from == dtype {
        return tokens.flatten().copied().collect();
    }
    let wide = tokens.map(|logit| match from {
        Dtype::F16 => f16::from_le_bytes([logit[0], logit[1]]).to_f32(),
        Dtype::Bf16 => bf16::from_le_bytes([logit[0], logit[1]]).to_f32(),
        Dtype::F32 => f32::from_le_bytes([logit[0], logit[1], logit[2], logit[3]]),
    });
    match dtype {
        Dtype::F16 => wide.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::Bf16 => wide.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::F32 => wide.flat_map(f32::to_le_bytes).collect(),
    }
}

/// Numbers above 0 and up to 1, the same ones each time (splitmix64).
fn uniform() -> impl FnMut() -> f64 {
    let mut state = SEED;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 * f64::powi(2.0, -53) + f64::powi(2.0, -53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_repeated_and_converted() {
        let row: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let converted = convert(Dtype::F32, &row, Dtype::Bf16, 3);
        let expected: Vec<u8> =
            [0x3fc0u16, 0xc000, 0x3fc0].iter().flat_map(|b| b.to_le_bytes()).collect();
        assert_eq!(converted, expected);
        let rows = Rows::repeat(&[(Dtype::F32, &row)], Dtype::F16, 5, 3, String::new());
        assert_eq!(rows.batch(ParamsSpec::default()).len(), 3);
        assert_eq!(rows.bytes(), 3 * 5 * 2);
    }

    #[test]
    fn normal_rows_are_normal() {
        let rows = Rows::normal(Dtype::F32, 20_000, 1);
        let row = rows.batch(ParamsSpec::default())[0];
        let x: Vec<f64> = (0..20_000).map(|i| f64::from(row.logit(i))).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
