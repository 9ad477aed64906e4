//! The rows that a page can look at: those that the program carries, and those of files that were uploaded.

use crate::files::assets;
use crate::files::npy::{Declared, LogitsFile};
use logitd_core::batch::Dtype;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

/// Rows of a file that are listed; the others go by their numbers.
const LISTED_MAX: usize = 64;
/// Bytes of a file's digest that name it.
const NAME_BYTES: usize = 8;

/// Which row is meant: `3` is a carried one, `0123456789abcdef.2` the third of an uploaded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowName {
    /// The uploaded file, by its digest.
    pub file: Option<String>,
    /// The row, from 0.
    pub row: usize,
}

impl FromStr for RowName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (file, row) = match text.split_once('.') {
            Some((file, row)) => (Some(file.to_owned()), row),
            None => (None, text),
        };
        let row =
            row.parse().map_err(|_| format!("row is {text:?}; allowed: the number of a row"))?;
        Ok(Self { file, row })
    }
}

impl fmt::Display for RowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file}.{}", self.row),
            None => self.row.fmt(f),
        }
    }
}

/// A row as it lies here.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// How the logits are stored.
    pub dtype: Dtype,
    /// How many there are.
    pub vocab_size: u32,
    /// Their bytes.
    pub logits: &'a [u8],
    /// Whether the texts of tokens are known.
    pub carried: bool,
}

/// What a page is told of a row.
#[derive(Debug, Serialize)]
pub struct About {
    row: String,
    kind: String,
    context: String,
    vocab_size: u32,
    dtype: &'static str,
}

/// Files that were uploaded, the newest last.
pub struct Uploads {
    bytes_max: usize,
    files: VecDeque<Upload>,
}

struct Upload {
    name: String,
    dtype: Dtype,
    vocab_size: u32,
    rows: usize,
    logits: Vec<u8>,
}

impl Uploads {
    /// Files of so many bytes together.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, files: VecDeque::new() }
    }

    /// Keeps the rows of a file, in the place of older ones where there is no room, and says what they are.
    pub fn add(&mut self, bytes: Vec<u8>, dtype: Option<Dtype>) -> Result<Vec<About>, String> {
        let digest = digest(&SHA256, &bytes);
        let name = digest.as_ref()[..NAME_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        let declared = Declared { dtype, vocab_size: None };
        let read = |mut file: LogitsFile| {
            let mut logits = Vec::new();
            let rows = file.rows();
            file.read(0..rows, &mut logits)?;
            Ok(Upload { name, dtype: file.dtype(), vocab_size: file.vocab_size(), rows, logits })
        };
        let upload = LogitsFile::of_bytes(bytes, declared).and_then(read);
        let upload = upload.map_err(|error| format!("the file {error}"))?;
        self.files.retain(|file| file.name != upload.name);
        let mut room = self.bytes_max.saturating_sub(upload.logits.len());
        let newest = self.files.iter().rev().take_while(|file| {
            let fits = file.logits.len() <= room;
            room = room.saturating_sub(file.logits.len());
            fits
        });
        let stay = newest.count();
        self.files.drain(..self.files.len() - stay);
        let about = (0..upload.rows.min(LISTED_MAX)).map(|row| upload.about(row)).collect();
        self.files.push_back(upload);
        Ok(about)
    }

    /// The row of that name.
    pub fn view(&self, name: &RowName) -> Result<View<'_>, String> {
        let missing = |rows| format!("row is {name}; allowed: 0 to {}", rows - 1);
        let Some(wanted) = &name.file else {
            let rows = assets::rows();
            let row = rows.get(name.row).ok_or_else(|| missing(rows.len()))?;
            return Ok(View {
                dtype: assets::DTYPE,
                vocab_size: assets::VOCAB_SIZE,
                logits: &row.logits,
                carried: true,
            });
        };
        let file = self.files.iter().find(|file| file.name == *wanted).ok_or_else(|| {
            format!("the file of row {name} is not kept any more; upload it again")
        })?;
        let Upload { dtype, vocab_size, rows, ref logits, .. } = *file;
        let bytes = vocab_size as usize * dtype.size_bytes();
        let logits = logits.chunks_exact(bytes).nth(name.row).ok_or_else(|| missing(rows))?;
        Ok(View { dtype, vocab_size, logits, carried: false })
    }
}

impl Upload {
    fn about(&self, row: usize) -> About {
        About {
            row: RowName { file: Some(self.name.clone()), row }.to_string(),
            kind: "uploaded".into(),
            context: format!("row {row} of {}", self.rows),
            vocab_size: self.vocab_size,
            dtype: self.dtype.name(),
        }
    }
}

/// The carried rows.
pub fn carried() -> Vec<About> {
    let about = |(row, real): (usize, &assets::RealRow)| About {
        row: row.to_string(),
        kind: real.kind.clone(),
        context: real.context.clone(),
        vocab_size: assets::VOCAB_SIZE,
        dtype: assets::DTYPE.name(),
    };
    assets::rows().iter().enumerate().map(about).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::npy::write_to;

    fn file(value: u8, tokens: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let logits = vec![value; tokens as usize * 2];
        write_to(&mut bytes, Dtype::F16, tokens, &logits).unwrap();
        bytes
    }

    #[test]
    fn the_oldest_files_go_first_and_the_same_file_is_kept_once() {
        let mut uploads = Uploads::new(5000);
        let names: Vec<String> = [1, 2, 1, 3]
            .map(|value| uploads.add(file(value, 1000), None).unwrap().remove(0).row)
            .into();
        assert_eq!(names[0], names[2]);
        assert_eq!(uploads.files.len(), 2, "a third has no room");
        let view = |name: &str| uploads.view(&name.parse().unwrap()).map(|view| view.logits[0]);
        assert_eq!((view(&names[0]), view(&names[3])), (Ok(1), Ok(3)));
        assert!(view(&names[1]).unwrap_err().contains("upload it again"));
        let second = names[0].replace(".0", ".1");
        assert_eq!(view(&second).unwrap_err(), format!("row is {second}; allowed: 0 to 0"));
    }

    #[test]
    fn what_is_no_file_of_rows_is_named() {
        let mut uploads = Uploads::new(5000);
        let said = uploads.add(b"PK\x03\x04".to_vec(), None).unwrap_err();
        assert!(said.starts_with("the file ") && said.contains("not a .npy file"), "{said}");
        assert!("x".parse::<RowName>().unwrap_err().contains("row is \"x\""));
        assert!(uploads.view(&"99".parse().unwrap()).unwrap_err().contains("allowed: 0 to 7"));
    }
}
