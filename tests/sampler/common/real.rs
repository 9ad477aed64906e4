//! Rows that a language model gave: those the project carries, and more beside the project if
//! they are there.

use super::Case;
use logitd::files::assets;
use logitd_core::params::ParamsSpec;
use std::path::{Path, PathBuf};

/// The carried rows, by their place in the recording that they were taken from.
pub const CARRIED: [usize; 8] = [4, 1, 53, 24, 56, 60, 49, 44];

/// Parameters that each do something else to a real row.
pub fn settings(seed: u64, draws: u32) -> impl Iterator<Item = ParamsSpec> {
    let each = [
        (0.0, 0, 1.0, 0.0),
        (1.0, 0, 1.0, 0.0),
        (0.8, 50, 0.95, 0.0),
        (0.8, 0, 0.95, 0.0),
        (2.0, 0, 0.999, 0.0),
        (1.0, 51, 1.0, 0.0),
        (1.0, 0, 1.0, 0.1),
        (10.0, 0, 0.9, 0.0),
        (1e4, 200_000, 0.5, 0.0),
        (1e-4, 0, 0.5, 0.0),
        (1e-30, 0, 0.5, 0.0),
        (1e-6, 50, 0.95, 0.1),
        (1.0, 3000, 0.9, 0.01),
    ];
    each.into_iter().map(move |(temperature, top_k, top_p, min_p)| {
        let seed = Some(seed);
        ParamsSpec { temperature, top_k, top_p, min_p, seed, draws, ..Default::default() }
    })
}

/// One of the carried rows.
pub fn carried(index: usize, spec: ParamsSpec) -> Case {
    let row = &assets::rows()[index];
    Case::new(
        format!("carried row {index} ({})", row.kind),
        assets::DTYPE,
        row.logits.clone(),
        spec,
    )
}

/// The first tokens of a carried row.
pub fn carried_prefix(index: usize, vocab_size: usize, spec: ParamsSpec) -> Case {
    let mut case = carried(index, spec);
    case.logits.truncate(vocab_size * assets::DTYPE.size_bytes());
    case.name += &format!(", first {vocab_size} tokens");
    case
}

/// The whole recording, or why it is not there.
pub struct Recording {
    bytes: Vec<u8>,
}

impl Recording {
    /// Reads `../shared/logits` beside the project.
    pub fn open() -> Result<Self, String> {
        let path = beside("logits/gemma3_270m_64x262144.f16.npy");
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let expected = 128 + 64 * assets::VOCAB_SIZE as usize * 2;
        if bytes.len() == expected {
            Ok(Self { bytes })
        } else {
            Err(format!("{}: {} bytes, not {expected}", path.display(), bytes.len()))
        }
    }

    /// The bytes of one row, f16.
    pub fn row(&self, row: usize) -> &[u8] {
        let size = assets::VOCAB_SIZE as usize * 2;
        &self.bytes[128 + row * size..][..size]
    }
}

fn beside(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path)
}
