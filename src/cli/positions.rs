//! Flags that name positions: logits, the tokens that came next, labels.

use super::DtypeArg;
use super::progress::Progress;
use super::rows::RowList;
use crate::files::digests::Digests;
use crate::files::npy::Declared;
use crate::tools::positions::{Files, Positions};
use std::error::Error;
use std::path::PathBuf;

/// Files of positions.
#[derive(Debug, clap::Args)]
pub struct PositionsArgs {
    /// A .npy file of logits, a row a position (f16 or f32, or bf16 as 16-bit words); or a raw file of such values
    #[arg(long, value_name = "FILE", requires = "targets")]
    pub logits: Option<PathBuf>,

    /// A .npy file of whole numbers: the token that came after each row
    #[arg(long, value_name = "FILE", requires = "logits")]
    targets: Option<PathBuf>,

    /// A .npy file of whole numbers below 4096: what each row belongs to (a document, a task, a language)
    #[arg(long, value_name = "FILE", requires = "logits")]
    pub groups: Option<PathBuf>,

    /// What the values are, where the file does not say: bf16 for an array of 16-bit words
    #[arg(long, value_enum, requires = "logits")]
    dtype: Option<DtypeArg>,

    /// Tokens a row, 1 to 1048576: of a raw file, or of an array that has padding behind them
    #[arg(long, value_name = "N", requires = "logits")]
    vocab_size: Option<u32>,

    /// These rows only, numbered from 0
    #[arg(long, value_name = "3,5-9", requires = "logits")]
    rows: Option<RowList>,
}

impl PositionsArgs {
    /// Reads the files, if there are any.
    pub fn read(&self, threads: usize) -> Result<Option<Digests>, Box<dyn Error>> {
        let (Some(logits), Some(targets)) = (&self.logits, &self.targets) else { return Ok(None) };
        let declared = Declared { dtype: self.dtype.map(Into::into), vocab_size: self.vocab_size };
        let files = Files { logits, declared, targets, groups: self.groups.as_deref() };
        let positions = Positions::open(&files)?;
        let rows = match &self.rows {
            Some(rows) => rows.clone().within(positions.rows())?,
            None => RowList::all(positions.rows()),
        };
        let rows: Vec<usize> = rows.numbers().collect();
        let mut progress = Progress::new(rows.len() as u64, "rows read");
        let digests = positions.digest(&rows, threads, |rows| progress.advance(rows));
        Ok(Some(digests.map_err(|error| format!("{}: {error}", logits.display()))?))
    }
}

/// So many threads; one for each core where it is 0.
pub fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}
