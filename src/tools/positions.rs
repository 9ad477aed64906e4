//! Positions whose next token is known: files of logits, of the tokens that came, and of labels, read into digests.

use crate::files::digests::{About, Digests, hex};
use crate::files::npy::integers::{self, IntegersError};
use crate::files::npy::{Declared, LogitsFile, NpyError};
use logitd_core::batch::Row;
use logitd_core::evaluate::GROUPS_END;
use logitd_core::evaluate::Position;
use logitd_core::evaluate::cpu::Cpu;
use logitd_core::params::ParamsSpec;
use ring::digest::{Context, SHA256};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of logits that are read at a time; a row at least.
const READ_BYTES: usize = 16 << 20;

/// Which files.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Rows of logits.
    pub logits: &'a Path,
    /// What that file does not say itself.
    pub declared: Declared,
    /// The token that came after each row.
    pub targets: &'a Path,
    /// A label for each row.
    pub groups: Option<&'a Path>,
}

/// Opened files that belong together.
#[derive(Debug)]
pub struct Positions {
    logits: LogitsFile,
    targets: Vec<u32>,
    groups: Option<Vec<u32>>,
}

impl Positions {
    /// Opens files and checks that they belong together.
    pub fn open(files: &Files<'_>) -> Result<Self, PositionsError> {
        let logits = LogitsFile::open(files.logits, files.declared)
            .map_err(|error| PositionsError::Logits { path: files.logits.into(), error })?;
        let (rows, vocab_size) = (logits.rows(), logits.vocab_size());
        let numbers = |path: &Path, what, end: u32| {
            let numbers = integers::read(path)
                .map_err(|error| PositionsError::Numbers { path: path.into(), error })?;
            if numbers.len() != rows {
                let path = path.into();
                return Err(PositionsError::Count { path, what, held: numbers.len(), rows });
            }
            match numbers.iter().position(|number| *number >= end) {
                Some(row) => {
                    let value = numbers[row];
                    Err(PositionsError::Range {
                        path: path.into(),
                        row,
                        what,
                        value,
                        last: end - 1,
                    })
                }
                None => Ok(numbers),
            }
        };
        let targets = numbers(files.targets, "token", vocab_size)?;
        let groups = files.groups.map(|path| numbers(path, "label", GROUPS_END)).transpose()?;
        Ok(Self { logits, targets, groups })
    }

    /// How many there are.
    pub fn rows(&self) -> usize {
        self.logits.rows()
    }

    /// Reads these of them. `seen` hears how many more are read.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn digest(
        mut self,
        rows: &[usize],
        threads: usize,
        mut seen: impl FnMut(u64),
    ) -> io::Result<Digests> {
        let (dtype, vocab_size) = (self.logits.dtype(), self.logits.vocab_size());
        let row_bytes = self.logits.row_bytes();
        let params = ParamsSpec::DEFAULT.parse(|| 0).expect("the defaults are valid");
        let cpu = Cpu::new(threads);
        let (mut of_logits, mut of_targets) = (Context::new(&SHA256), Context::new(&SHA256));
        let (mut bytes, mut digests) = (Vec::new(), Vec::with_capacity(rows.len()));
        for chunk in rows.chunks((READ_BYTES / row_bytes).max(1)) {
            bytes.clear();
            for &row in chunk {
                self.logits.read(row..row + 1, &mut bytes)?;
                of_targets.update(&self.targets[row].to_le_bytes());
            }
            of_logits.update(&bytes);
            let position = |(&row, logits)| {
                let own = Row::new(dtype, logits, params).expect("a row of the file");
                let group = self.groups.as_ref().map_or(0, |groups| groups[row]);
                Position::new(own, self.targets[row], group).expect("a token of the row")
            };
            let positions: Vec<_> =
                chunk.iter().zip(bytes.chunks_exact(row_bytes)).map(position).collect();
            digests.extend(cpu.digest(&positions));
            seen(chunk.len() as u64);
        }
        let hex = |context: Context| hex(context.finish().as_ref());
        let about = About {
            rows: rows.len() as u64,
            vocab_size,
            dtype: dtype.name().into(),
            logits_sha256: hex(of_logits),
            references_sha256: hex(of_targets),
            groups: Vec::new(),
            origin: String::new(),
        };
        Ok(Digests { about, rows: digests })
    }
}

/// Why files are no positions.
#[derive(Debug, thiserror::Error)]
pub enum PositionsError {
    /// No rows of logits.
    #[error("{}: {error}", path.display())]
    Logits {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: NpyError,
    },
    /// No whole numbers.
    #[error("{}: {error}", path.display())]
    Numbers {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: IntegersError,
    },
    /// Not as many as rows.
    #[error("{} holds {held} numbers, and there are {rows} rows of logits; one {what} a row is needed", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// What its numbers are.
        what: &'static str,
        /// How many it has.
        held: usize,
        /// How many it should have.
        rows: usize,
    },
    /// A number out of range.
    #[error("{}: the {what} of row {row} is {value}; allowed: 0 to {last}", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// Where it stands.
        row: usize,
        /// What its numbers are.
        what: &'static str,
        /// What it is.
        value: u32,
        /// What it may be.
        last: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::npy;
    use logitd_core::batch::{Dtype, RowStatus};

    struct Folder(tempfile::TempDir);

    impl Folder {
        /// Six rows of three tokens, the fourth with a NaN.
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            let mut x: Vec<f32> = (0..18).map(|i| (i * 7 % 5) as f32).collect();
            x[10] = f32::NAN;
            let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
            npy::write(&folder.path("logits"), Dtype::F32, 3, &bytes).unwrap();
            folder
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn open(
            &self,
            targets: &[u32],
            groups: Option<&[u32]>,
        ) -> Result<Positions, PositionsError> {
            let paths = ["logits", "targets", "groups"].map(|name| self.path(name));
            integers::write(&paths[1], targets).unwrap();
            integers::write(&paths[2], groups.unwrap_or_default()).unwrap();
            Positions::open(&Files {
                logits: &paths[0],
                declared: Declared::default(),
                targets: &paths[1],
                groups: groups.map(|_| &*paths[2]),
            })
        }
    }

    #[test]
    fn rows_become_digests_each_with_its_token_and_label() {
        let folder = Folder::new();
        let (targets, groups) = ([0, 1, 2, 0, 1, 2], [5, 5, 0, 0, 4095, 5]);
        let read = |rows: &[usize]| {
            let positions = folder.open(&targets, Some(&groups)).unwrap();
            let mut seen = 0;
            let digests = positions.digest(rows, 2, |rows| seen += rows).unwrap();
            assert_eq!(seen, rows.len() as u64);
            digests
        };
        let all = read(&[0, 1, 2, 3, 4, 5]);
        assert_eq!(all.rows.iter().map(|row| row.group).collect::<Vec<_>>(), groups);
        assert_eq!(all.rows[3].digest, Err(RowStatus::Nan));
        // 0 2 4, 1 3 0, 2 4 1: the ranks of tokens 0, 1 and 2.
        let ranks: Vec<_> =
            all.rows[..3].iter().map(|row| row.digest.as_ref().unwrap().rank()).collect();
        assert_eq!(ranks, [2, 0, 2]);
        let some = read(&[2, 0]);
        assert_eq!((&some.rows[0], &some.rows[1]), (&all.rows[2], &all.rows[0]));
        assert_ne!(some.about.logits_sha256, all.about.logits_sha256);
    }

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let folder = Folder::new();
        let said = |targets: &[u32], groups| folder.open(targets, groups).unwrap_err().to_string();
        let whole = [0; 6];
        assert!(said(&[0; 5], None).contains("holds 5 numbers, and there are 6 rows"));
        assert!(
            said(&[0, 0, 3, 0, 0, 0], None).contains("the token of row 2 is 3; allowed: 0 to 2")
        );
        assert!(said(&whole, Some(&[0; 7])).contains("one label a row is needed"));
        assert!(said(&whole, Some(&[0, 4096, 0, 0, 0, 0])).contains("allowed: 0 to 4095"));
    }
}
