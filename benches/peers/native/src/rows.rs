//! The rows that are timed: logits of a language model, as f16 and as f32.

use half::f16;
use half::slice::HalfFloatSliceExt;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use zlib_rs::{InflateConfig, ReturnCode};

/// Tokens a row: the first ones of each.
pub const VOCAB_SIZE: usize = 128_256;
/// Tokens of a carried row.
const CARRIED_VOCAB_SIZE: usize = 262_144;

/// Rows of [`VOCAB_SIZE`] tokens, one after another.
pub struct Rows {
    narrow: Vec<f16>,
    wide: Vec<f32>,
}

impl Rows {
    /// The rows that logitd carries, repeated until there are so many.
    pub fn carried(count: usize) -> Self {
        let packed = include_bytes!("../../../../assets/rows.gz");
        let mut planes =
            vec![0; packed.last_chunk().map_or(0, |n| u32::from_le_bytes(*n)) as usize];
        let gzip = InflateConfig { window_bits: 16 + 15 };
        let (whole, code) = zlib_rs::decompress_slice(&mut planes, packed, gzip);
        assert_eq!(code, ReturnCode::Ok, "assets/rows.gz is whole");
        // All upper bytes of a row, then all lower ones.
        let row = |row: &[u8]| {
            let (upper, lower) = row.split_at(CARRIED_VOCAB_SIZE);
            let both = lower.iter().zip(upper).take(VOCAB_SIZE);
            both.map(|(&low, &high)| f16::from_le_bytes([low, high])).collect()
        };
        Self::repeat(
            &whole.chunks_exact(2 * CARRIED_VOCAB_SIZE).map(row).collect::<Vec<_>>(),
            count,
        )
    }

    /// The rows of a `.npy` file of f16, repeated until there are so many.
    pub fn from_file(path: &Path, count: usize) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let rows = rows_of_npy(&bytes).map_err(|what| format!("{}: {what}", path.display()))?;
        Ok(Self::repeat(&rows, count))
    }

    fn repeat(rows: &[Vec<f16>], count: usize) -> Self {
        let narrow: Vec<f16> = rows.iter().cycle().take(count).flatten().copied().collect();
        let wide = narrow.to_f32_vec();
        Self { narrow, wide }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.narrow.len() / VOCAB_SIZE
    }

    /// A row as it is stored.
    pub fn narrow(&self, row: usize) -> &[f16] {
        &self.narrow[row * VOCAB_SIZE..][..VOCAB_SIZE]
    }

    /// The same logits as f32.
    pub fn wide(&self, row: usize) -> &[f32] {
        &self.wide[row * VOCAB_SIZE..][..VOCAB_SIZE]
    }

    /// How long it takes to make f32 of all rows, by the instructions that this processor has for it, into memory that is reused.
    pub fn time_widening(&self) -> Duration {
        let mut wide = vec![0.0; VOCAB_SIZE];
        let start = Instant::now();
        for row in 0..self.len() {
            self.narrow(row).convert_to_f32_slice(&mut wide);
            std::hint::black_box(&wide);
        }
        start.elapsed()
    }
}

/// The first tokens of each row of a file.
fn rows_of_npy(bytes: &[u8]) -> Result<Vec<Vec<f16>>, String> {
    let start = match bytes {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, low, high, ..] => {
            10 + usize::from(u16::from_le_bytes([*low, *high]))
        }
        _ => return Err("no .npy file of version 1".into()),
    };
    let header = bytes.get(10..start).ok_or("its header is cut off")?;
    let header = String::from_utf8_lossy(header);
    if !header.contains("'descr': '<f2'") || !header.contains("'fortran_order': False") {
        return Err(format!(
            "rows are of little-endian f16, row after row, and these are {header}"
        ));
    }
    let shape = header.split_once("'shape': (").and_then(|(_, shape)| shape.split_once(')'));
    let shape: Vec<usize> = match shape {
        Some((shape, _)) => shape.split(',').filter_map(|size| size.trim().parse().ok()).collect(),
        None => vec![],
    };
    let &[rows, vocab_size] = shape.as_slice() else {
        return Err(format!("rows have two dimensions, and these are {header}"));
    };
    if rows == 0 || vocab_size < VOCAB_SIZE {
        return Err(format!(
            "{rows} rows of {vocab_size} tokens; needed: a row or more of {VOCAB_SIZE} or more"
        ));
    }
    let whole = bytes[start..].chunks_exact(2 * vocab_size).take(rows);
    if whole.len() < rows {
        return Err(format!("it has fewer than the {rows} rows that its header tells"));
    }
    let logit = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]);
    Ok(whole.map(|row| row.chunks_exact(2).take(VOCAB_SIZE).map(logit).collect()).collect())
}
