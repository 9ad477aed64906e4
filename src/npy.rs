//! Files of logits: `.npy` arrays and raw values.
//!
//! A file is a list of rows of one dtype and one vocabulary, and rows are read when asked for: a file
//! may be larger than memory. What numpy can say and a sampler cannot use is refused by name, with
//! the numpy expression that makes it usable.

use crate::batch::{Dtype, VOCAB_SIZE_MAX};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longer headers are not read. numpy's are below 200 bytes unless the dtype is a structure.
const HEADER_BYTES_MAX: usize = 1 << 16;

/// What a file does not say itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared {
    /// What the values are; for raw files, and for arrays of 16-bit words (bf16 has no numpy dtype).
    pub dtype: Option<Dtype>,
    /// Tokens a row; for raw files. A `.npy` file has to agree with it.
    pub vocab_size: Option<u32>,
}

/// An open file of logits.
#[derive(Debug)]
pub struct LogitsFile {
    file: File,
    dtype: Dtype,
    vocab_size: u32,
    rows: usize,
    /// Where the first row begins.
    start_bytes: u64,
}

impl LogitsFile {
    /// Opens a file and checks that it holds whole rows, reading its header only.
    pub fn open(path: &Path, declared: Declared) -> Result<Self, NpyError> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut magic = Vec::new();
        (&file).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        let shape = if magic == MAGIC { npy(&mut file, declared)? } else { raw(length, declared)? };
        let start_bytes = if magic == MAGIC { file.stream_position()? } else { 0 };

        let Shape { dtype, rows, vocab_size } = shape;
        if !(1..=u64::from(VOCAB_SIZE_MAX)).contains(&vocab_size) {
            return Err(NpyError::VocabSize(vocab_size));
        }
        if rows == 0 {
            return Err(NpyError::NoRows);
        }
        let wanted = rows.checked_mul(vocab_size * dtype.size_bytes() as u64);
        let held = length.saturating_sub(start_bytes);
        if wanted != Some(held) {
            return Err(NpyError::Length { rows, vocab_size, dtype, held });
        }
        Ok(Self { file, dtype, vocab_size: vocab_size as u32, rows: rows as usize, start_bytes })
    }

    /// How the logits are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Tokens a row.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The number of rows, 1 or more.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes a row.
    pub fn row_bytes(&self) -> usize {
        self.vocab_size as usize * self.dtype.size_bytes()
    }

    /// Appends some rows to `logits`.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn read(&mut self, rows: Range<usize>, logits: &mut Vec<u8>) -> io::Result<()> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "{rows:?} of {}", self.rows);
        let at = logits.len();
        logits.resize(at + rows.len() * self.row_bytes(), 0);
        let offset = self.start_bytes + rows.start as u64 * self.row_bytes() as u64;
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(&mut logits[at..])
    }
}

/// Writes rows as a `.npy` file that [`LogitsFile`] and numpy read. bf16 is written as `<u2`.
///
/// # Panics
/// If `logits` is not a whole number of rows.
pub fn write(path: &Path, dtype: Dtype, vocab_size: u32, logits: &[u8]) -> io::Result<()> {
    let row_bytes = vocab_size as usize * dtype.size_bytes();
    assert!(logits.len().is_multiple_of(row_bytes), "{} bytes of rows", logits.len());
    let descr = match dtype {
        Dtype::F16 => "<f2",
        Dtype::Bf16 => "<u2",
        Dtype::F32 => "<f4",
    };
    let rows = logits.len() / row_bytes;
    let dict = format!(
        "{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {vocab_size}), }}"
    );
    // The data begins at a multiple of 64: 10 bytes before the header, a newline at its end.
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    let mut file = io::BufWriter::new(File::create(path)?);
    file.write_all(MAGIC)?;
    file.write_all(&[1, 0])?;
    file.write_all(&(length as u16).to_le_bytes())?;
    writeln!(file, "{dict:<0$}", length - 1)?;
    file.write_all(logits)?;
    file.flush()
}

/// Why a file is not rows of logits.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No `.npy` file, and not described as raw.
    #[error("not a .npy file; for a raw file of rows give --dtype and --vocab-size")]
    Undeclared,
    /// A `.npy` file of an unknown version.
    #[error(".npy version {0}; known: 1, 2 and 3")]
    Version(u8),
    /// A header that cannot be understood.
    #[error(
        "its .npy header {0}; a .npy of a plain array, as numpy.save writes it, has a short one \
         with descr, fortran_order and shape"
    )]
    Header(&'static str),
    /// Values that are no logits.
    #[error("holds {descr}; accepted: <f2 (f16), <f4 (f32), or bf16 as <u2, <i2 or V2; {way_out}")]
    Descr {
        /// numpy's name of the dtype.
        descr: String,
        /// What to do about it.
        way_out: &'static str,
    },
    /// 16-bit words that could be two things.
    #[error("holds 16-bit words ({0}); say what they are: --dtype bf16 (or f16)")]
    Words(String),
    /// The file and the caller disagree about the dtype.
    #[error("holds {descr}, which is not --dtype {dtype}; leave --dtype out")]
    Dtype {
        /// numpy's name of the dtype.
        descr: String,
        /// What was declared.
        dtype: Dtype,
    },
    /// Columns first.
    #[error("is in Fortran order; rows have to be contiguous: save numpy.ascontiguousarray(x)")]
    FortranOrder,
    /// Not a row, and not a list of rows.
    #[error(
        "has the shape {0}; accepted: [rows, vocab_size] or [vocab_size]: save \
         x.reshape(-1, x.shape[-1])"
    )]
    Dimensions(String),
    /// The file and the caller disagree about the vocabulary.
    #[error("has rows of {held} tokens, not of --vocab-size {declared}; leave --vocab-size out")]
    VocabSizeDeclared {
        /// Of the file.
        held: u64,
        /// Of the caller.
        declared: u32,
    },
    /// No token, or too many.
    #[error("has a vocab_size of {0}; allowed: 1 to {VOCAB_SIZE_MAX}")]
    VocabSize(u64),
    /// No rows.
    #[error("holds no rows; at least one is needed")]
    NoRows,
    /// Too short, or too long.
    #[error(
        "{rows} rows of {vocab_size} {dtype} logits and {held} bytes of data do not go together; the \
         file was cut off, or holds something else"
    )]
    Length {
        /// Rows it should hold.
        rows: u64,
        /// Tokens a row.
        vocab_size: u64,
        /// Of its values.
        dtype: Dtype,
        /// Bytes of data in the file.
        held: u64,
    },
}

struct Shape {
    dtype: Dtype,
    rows: u64,
    vocab_size: u64,
}

fn raw(length: u64, declared: Declared) -> Result<Shape, NpyError> {
    let (Some(dtype), Some(vocab_size)) = (declared.dtype, declared.vocab_size) else {
        return Err(NpyError::Undeclared);
    };
    let row_bytes = (u64::from(vocab_size) * dtype.size_bytes() as u64).max(1);
    // Rounded up, so that a row cut off is missed, not dropped.
    Ok(Shape { dtype, rows: length.div_ceil(row_bytes), vocab_size: u64::from(vocab_size) })
}

/// Reads the header that follows the magic; the file is left at the first row.
fn npy(file: &mut File, declared: Declared) -> Result<Shape, NpyError> {
    let mut version = [0; 2];
    file.read_exact(&mut version)?;
    let length = match version[0] {
        1 => {
            let mut length = [0; 2];
            file.read_exact(&mut length)?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            file.read_exact(&mut length)?;
            u32::from_le_bytes(length) as usize
        }
        other => return Err(NpyError::Version(other)),
    };
    if length > HEADER_BYTES_MAX {
        return Err(NpyError::Header("is longer than 65,536 bytes"));
    }
    let mut header = vec![0; length];
    file.read_exact(&mut header)?;
    let header = str::from_utf8(&header).map_err(|_| NpyError::Header("is not text"))?;

    let descr = value(header, "descr").and_then(quoted).ok_or(NpyError::Descr {
        descr: "a structure, or nothing named".into(),
        way_out: "save one plain array",
    })?;
    let dtype = dtype(descr, declared.dtype)?;
    let fortran = value(header, "fortran_order").ok_or(NpyError::Header("has no fortran_order"))?;
    let text = value(header, "shape")
        .and_then(|rest| rest.strip_prefix('(')?.split_once(')'))
        .ok_or(NpyError::Header("has no shape"))?
        .0;
    let shape: Option<Vec<u64>> =
        text.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect();
    let (rows, vocab_size) = match shape.as_deref() {
        Some(&[vocab_size]) => (1, vocab_size),
        Some(&[rows, vocab_size]) => (rows, vocab_size),
        _ => return Err(NpyError::Dimensions(format!("({text})"))),
    };
    // Both orders are the same for a single row.
    if fortran.starts_with("True") && rows != 1 {
        return Err(NpyError::FortranOrder);
    }
    match declared.vocab_size {
        Some(declared) if u64::from(declared) != vocab_size => {
            Err(NpyError::VocabSizeDeclared { held: vocab_size, declared })
        }
        _ => Ok(Shape { dtype, rows, vocab_size }),
    }
}

fn dtype(descr: &str, declared: Option<Dtype>) -> Result<Dtype, NpyError> {
    let own = match descr {
        "<f2" => Dtype::F16,
        "<f4" => Dtype::F32,
        "<u2" | "<i2" | "<V2" | "|V2" => {
            return match declared {
                Some(dtype) if dtype.size_bytes() == 2 => Ok(dtype),
                Some(dtype) => Err(NpyError::Dtype { descr: descr.into(), dtype }),
                None => Err(NpyError::Words(descr.into())),
            };
        }
        other => {
            let way_out = if other.starts_with('>') {
                "save x.astype(x.dtype.newbyteorder('<'))"
            } else {
                "save x.astype('<f4')"
            };
            return Err(NpyError::Descr { descr: other.into(), way_out });
        }
    };
    match declared {
        Some(dtype) if dtype != own => Err(NpyError::Dtype { descr: descr.into(), dtype }),
        _ => Ok(own),
    }
}

/// What follows a key of the header, which is a Python dictionary.
fn value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let rest = ['\'', '"'].iter().find_map(|quote| {
        let at = header.find(&format!("{quote}{key}{quote}"))?;
        Some(&header[at + key.len() + 2..])
    })?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(rest: &str) -> Option<&str> {
    let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    rest[1..].split_once(quote).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this header and this many bytes of data.
    fn file(header: &str, data: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"\x93NUMPY\x01\x00").unwrap();
        file.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(&vec![0; data]).unwrap();
        file
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    fn message(header: &str, data: usize, declared: Declared) -> String {
        LogitsFile::open(file(header, data).path(), declared).unwrap_err().to_string()
    }

    const NOTHING: Declared = Declared { dtype: None, vocab_size: None };
    const BF16: Declared = Declared { dtype: Some(Dtype::Bf16), vocab_size: None };

    #[test]
    fn what_is_written_is_read() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let logits: Vec<u8> = (0..3 * 5 * 4).collect();
        for dtype in Dtype::ALL {
            let vocab_size = 5 * 4 / dtype.size_bytes() as u32;
            write(path.path(), dtype, vocab_size, &logits).unwrap();
            let declared = if dtype == Dtype::Bf16 { BF16 } else { NOTHING };
            let mut file = LogitsFile::open(path.path(), declared).unwrap();
            assert_eq!((file.dtype(), file.vocab_size(), file.rows()), (dtype, vocab_size, 3));
            let mut read = Vec::new();
            file.read(2..3, &mut read).unwrap();
            file.read(0..2, &mut read).unwrap();
            assert_eq!(read, [&logits[40..], &logits[..40]].concat());
        }
    }

    #[test]
    fn one_dimension_is_one_row_in_either_order() {
        for fortran in ["True", "False"] {
            let file = file(&header("<f2", fortran, "(7,)"), 14);
            let file = LogitsFile::open(file.path(), NOTHING).unwrap();
            assert_eq!((file.rows(), file.vocab_size()), (1, 7));
        }
    }

    #[test]
    fn words_are_bf16_when_said_so() {
        for descr in ["<u2", "<i2", "|V2", "<V2"] {
            let header = header(descr, "False", "(2, 3)");
            assert_eq!(LogitsFile::open(file(&header, 12).path(), BF16).unwrap().rows(), 2);
            assert!(message(&header, 12, NOTHING).contains("--dtype bf16"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_way_out() {
        let plain = |descr| header(descr, "False", "(2, 3)");
        for (header, data, declared, parts) in [
            (plain("<f8"), 48, NOTHING, ["<f8", "astype('<f4')"]),
            (plain(">f2"), 12, NOTHING, [">f2", "newbyteorder"]),
            (plain("<f2"), 12, BF16, ["<f2", "leave --dtype out"]),
            (plain("<f2"), 11, NOTHING, ["2 rows of 3", "11 bytes"]),
            (plain("<f2"), 13, NOTHING, ["2 rows of 3", "13 bytes"]),
            (header("<f2", "True", "(2, 3)"), 12, NOTHING, ["Fortran", "ascontiguousarray"]),
            (header("<f2", "False", "(2, 3, 1)"), 12, NOTHING, ["(2, 3, 1)", "reshape"]),
            (header("<f2", "False", "()"), 2, NOTHING, ["()", "[vocab_size]"]),
            (header("<f2", "False", "(-1, 3)"), 2, NOTHING, ["(-1, 3)", "[vocab_size]"]),
            (header("<f2", "False", "(0, 3)"), 0, NOTHING, ["no rows", "at least one"]),
            (header("<f2", "False", "(3, 0)"), 0, NOTHING, ["vocab_size of 0", "1 to 1048576"]),
            (header("<f2", "False", "(1048577,)"), 2, NOTHING, ["1048577", "1 to 1048576"]),
            (
                header("<f4", "False", "(18446744073709551615, 4)"),
                2,
                NOTHING,
                ["18446744073709551615", "2 bytes"],
            ),
            ("{'shape': (2, 3)}".into(), 12, NOTHING, ["a structure", "plain array"]),
            (
                "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (2,)}".into(),
                4,
                NOTHING,
                ["a structure", "plain array"],
            ),
            ("{'descr': '<f2', 'shape': (2, 3)}".into(), 12, NOTHING, ["fortran_order", "plain"]),
            ("{'descr': '<f2', 'fortran_order': False}".into(), 12, NOTHING, ["shape", "plain"]),
        ] {
            let message = message(&header, data, declared);
            assert!(parts.iter().all(|part| message.contains(part)), "{header}: {message}");
        }
    }

    #[test]
    fn raw_files_need_to_be_described() {
        let mut raw = tempfile::NamedTempFile::new().unwrap();
        raw.write_all(&[0; 24]).unwrap();
        let open = |dtype, vocab_size| LogitsFile::open(raw.path(), Declared { dtype, vocab_size });
        assert!(matches!(open(Some(Dtype::F16), None), Err(NpyError::Undeclared)));
        assert!(matches!(open(None, Some(3)), Err(NpyError::Undeclared)));
        assert_eq!(open(Some(Dtype::Bf16), Some(3)).unwrap().rows(), 4);
        assert!(matches!(open(Some(Dtype::F32), Some(5)), Err(NpyError::Length { .. })));
        assert!(matches!(open(Some(Dtype::F32), Some(0)), Err(NpyError::VocabSize(0))));
    }
}
