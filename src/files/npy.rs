//! Files of logits: `.npy` arrays and raw values.
//!
//! A file is a list of rows of one dtype and one vocabulary, and rows are read when asked for: a file
//! may be larger than memory. What cannot be read twice (a pipe) is kept in memory, up to a bound. What
//! numpy can say and a sampler cannot use is refused by name, with the numpy expression that makes it
//! usable.

mod foreign;
mod header;
pub mod integers;

use header::Header;
use logitd_core::batch::{Dtype, VOCAB_SIZE_MAX};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longer headers are not read. numpy's are below 200 bytes unless the dtype is a structure.
const HEADER_BYTES_MAX: usize = 1 << 16;
/// The magic, the version and the length of the header, at most.
const PREAMBLE_BYTES_MAX: usize = 12;
/// What is taken from a pipe, at most.
const PIPE_BYTES_MAX: u64 = 4 << 30;

/// What a file does not say itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared {
    /// What the values are; for raw files, and for arrays of 16-bit words (bf16 has no numpy dtype).
    pub dtype: Option<Dtype>,
    /// Tokens a row; for raw files, and for arrays that have more columns than there are tokens: the rest of each row
    /// is padding.
    pub vocab_size: Option<u32>,
}

/// An open file of logits.
#[derive(Debug)]
pub struct LogitsFile {
    data: Data,
    dtype: Dtype,
    vocab_size: u32,
    /// Values from row to row, padding among them.
    columns: usize,
    rows: usize,
    /// Where the first row begins.
    start_bytes: u64,
}

/// Where rows are read from.
#[derive(Debug)]
enum Data {
    /// Something that can be read again from any place.
    File(File),
    /// What came through a pipe.
    Memory(Vec<u8>),
}

impl LogitsFile {
    /// Opens a file and checks that it holds whole rows, reading its header only. What is no file on a disk
    /// (`/dev/stdin`, or what a shell makes of `<(..)`) is read to its end.
    pub fn open(path: &Path, declared: Declared) -> Result<Self, NpyError> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut begin = Vec::new();
        (&file).take((PREAMBLE_BYTES_MAX + HEADER_BYTES_MAX) as u64).read_to_end(&mut begin)?;
        // Refused before the rest of a pipe is waited for.
        let array = npy(&begin)?;
        if array.is_none() {
            raw_is_declared(&begin, declared)?;
        }
        let (data, length) = if metadata.is_file() {
            (Data::File(file), metadata.len())
        } else {
            Read::by_ref(&mut file).take(PIPE_BYTES_MAX + 1).read_to_end(&mut begin)?;
            let length = begin.len() as u64;
            if length > PIPE_BYTES_MAX {
                return Err(NpyError::Pipe);
            }
            (Data::Memory(begin), length)
        };
        Self::new(data, length, array, declared)
    }

    /// The same of a file that is in memory already, as a whole.
    pub fn of_bytes(bytes: Vec<u8>, declared: Declared) -> Result<Self, NpyError> {
        let array = npy(&bytes)?;
        if array.is_none() {
            raw_is_declared(&bytes, declared)?;
        }
        let length = bytes.len() as u64;
        Self::new(Data::Memory(bytes), length, array, declared)
    }

    fn new(
        data: Data,
        length: u64,
        array: Option<(Header, usize)>,
        declared: Declared,
    ) -> Result<Self, NpyError> {
        let start_bytes = array.as_ref().map_or(0, |(_, start)| *start as u64);
        let shape = match array {
            Some((header, _)) => shape(&header, declared)?,
            None => raw(length, declared)?,
        };

        let Shape { dtype, rows, columns, vocab_size } = shape;
        if !(1..=u64::from(VOCAB_SIZE_MAX)).contains(&vocab_size) {
            return Err(NpyError::VocabSize(vocab_size));
        }
        if rows == 0 {
            return Err(NpyError::NoRows);
        }
        let row_bytes = columns.checked_mul(dtype.size_bytes() as u64);
        let wanted = row_bytes.and_then(|row_bytes| rows.checked_mul(row_bytes));
        let held = length.saturating_sub(start_bytes);
        if wanted != Some(held) {
            return Err(NpyError::Length { rows, vocab_size: columns, dtype, held });
        }
        let (vocab_size, columns, rows) = (vocab_size as u32, columns as usize, rows as usize);
        Ok(Self { data, dtype, vocab_size, columns, rows, start_bytes })
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
        let stored_bytes = self.columns * self.dtype.size_bytes();
        let offset = self.start_bytes + rows.start as u64 * stored_bytes as u64;
        let bytes = rows.len() * stored_bytes;
        let at = logits.len();
        match &mut self.data {
            Data::File(file) => {
                logits.resize(at + bytes, 0);
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(&mut logits[at..])?;
            }
            Data::Memory(all) => logits.extend_from_slice(&all[offset as usize..][..bytes]),
        }
        let row_bytes = self.row_bytes();
        if row_bytes < stored_bytes {
            for row in 0..rows.len() {
                let from = at + row * stored_bytes;
                logits.copy_within(from..from + row_bytes, at + row * row_bytes);
            }
            logits.truncate(at + rows.len() * row_bytes);
        }
        Ok(())
    }
}

/// Writes rows as a `.npy` file that [`LogitsFile`] and numpy read. bf16 is written as `<u2`.
///
/// # Panics
/// If `logits` is not a whole number of rows.
pub fn write(path: &Path, dtype: Dtype, vocab_size: u32, logits: &[u8]) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    write_to(&mut file, dtype, vocab_size, logits)?;
    file.flush()
}

/// The same, to whatever takes bytes.
///
/// # Panics
/// If `logits` is not a whole number of rows.
pub fn write_to(
    out: &mut impl Write,
    dtype: Dtype,
    vocab_size: u32,
    logits: &[u8],
) -> io::Result<()> {
    let row_bytes = vocab_size as usize * dtype.size_bytes();
    assert!(logits.len().is_multiple_of(row_bytes), "{} bytes of rows", logits.len());
    let descr = match dtype {
        Dtype::F16 => "<f2",
        Dtype::Bf16 => "<u2",
        Dtype::F32 => "<f4",
    };
    let rows = logits.len() / row_bytes;
    write_array_to(out, descr, &format!("({rows}, {vocab_size})"), logits)
}

/// Writes an array of that dtype and shape, in numpy's words.
fn write_array(path: &Path, descr: &str, shape: &str, data: &[u8]) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    write_array_to(&mut file, descr, shape, data)?;
    file.flush()
}

fn write_array_to(out: &mut impl Write, descr: &str, shape: &str, data: &[u8]) -> io::Result<()> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    // The data begins at a multiple of 64: 10 bytes before the header, a newline at its end.
    let length = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&(length as u16).to_le_bytes())?;
    writeln!(out, "{dict:<0$}", length - 1)?;
    out.write_all(data)
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
    /// Something else, which is recognised.
    #[error("{what}, not a .npy file; {way_out}")]
    Foreign {
        /// What it is.
        what: &'static str,
        /// What to do about it.
        way_out: &'static str,
    },
    /// Nothing.
    #[error("is empty; at least one row of logits is needed")]
    Empty,
    /// More than is taken from a pipe.
    #[error(
        "is a pipe of more than {PIPE_BYTES_MAX} bytes, which would have to be kept in memory; write a file, \
         whose rows are read as they are needed"
    )]
    Pipe,
    /// A `.npy` file of an unknown version.
    #[error(".npy version {0}.{1}; known: 1.0, 2.0 and 3.0")]
    Version(u8, u8),
    /// The file ends within its header.
    #[error("is cut off: it ends within its .npy header, after {0} bytes; write or copy it again")]
    HeaderCut(usize),
    /// A header that cannot be understood.
    #[error(
        "its .npy header {0}; that of a plain array has descr, fortran_order (True or False) and shape: save the \
         array again with numpy.save"
    )]
    Header(String),
    /// A dtype of several fields, or no dtype.
    #[error(
        "holds {0}, no plain array; save one field of it as one: \
         numpy.save('logits.npy', x['field'].astype('<f4'))"
    )]
    Structure(String),
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
    /// The caller knows of more tokens than the file has columns.
    #[error(
        "has rows of {held} logits, and --vocab-size is {declared}; allowed: up to {held} (logits beyond it are \
         padding), or leave --vocab-size out"
    )]
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
    columns: u64,
    vocab_size: u64,
}

fn raw(length: u64, declared: Declared) -> Result<Shape, NpyError> {
    let (Some(dtype), Some(vocab_size)) = (declared.dtype, declared.vocab_size) else {
        return Err(NpyError::Undeclared);
    };
    let row_bytes = (u64::from(vocab_size) * dtype.size_bytes() as u64).max(1);
    // Rounded up, so that a row cut off is missed, not dropped.
    let (rows, columns) = (length.div_ceil(row_bytes), u64::from(vocab_size));
    Ok(Shape { dtype, rows, columns, vocab_size: columns })
}

/// Whether a file that is no `.npy` is one of raw rows.
fn raw_is_declared(begin: &[u8], declared: Declared) -> Result<(), NpyError> {
    let is_declared = declared.dtype.is_some() && declared.vocab_size.is_some();
    if let Some(foreign::Foreign { what, way_out }) = foreign::recognise(begin, is_declared) {
        return Err(NpyError::Foreign { what, way_out });
    }
    match begin {
        [] => Err(NpyError::Empty),
        _ if !is_declared => Err(NpyError::Undeclared),
        _ => Ok(()),
    }
}

/// The header of a `.npy` file that begins so, and where its data begin; `None` if it is no such file.
fn npy(begin: &[u8]) -> Result<Option<(Header, usize)>, NpyError> {
    let Some(rest) = begin.strip_prefix(MAGIC) else {
        let is_cut = !begin.is_empty() && MAGIC.starts_with(begin);
        return if is_cut { Err(NpyError::HeaderCut(begin.len())) } else { Ok(None) };
    };
    let cut = || NpyError::HeaderCut(begin.len());
    let (version, rest) = rest.split_at_checked(2).ok_or_else(cut)?;
    let (length, rest) = match *version {
        [1, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        [2 | 3, 0] => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        _ => return Err(NpyError::Version(version[0], version[1])),
    };
    if length > HEADER_BYTES_MAX {
        let text = format!("is {length} bytes long, of which {HEADER_BYTES_MAX} are read at most");
        return Err(NpyError::Header(text));
    }
    let text = rest.get(..length).ok_or_else(cut)?;
    // The first two versions are written in Latin-1.
    let text = match version[0] {
        3 => str::from_utf8(text).map_err(|_| NpyError::Header("is not UTF-8".into()))?.to_owned(),
        _ => text.iter().copied().map(char::from).collect(),
    };
    Ok(Some((header::parse(&text)?, begin.len() - rest.len() + length)))
}

/// The rows of an array.
fn shape(header: &Header, declared: Declared) -> Result<Shape, NpyError> {
    let dtype = dtype(&header.descr, declared.dtype)?;
    let (rows, columns) = match *header.shape {
        [Some(columns)] => (1, columns),
        [Some(rows), Some(columns)] => (rows, columns),
        _ => return Err(NpyError::Dimensions(header.shape_text.clone())),
    };
    // Both orders are the same for a single row, or a single column.
    if header.fortran_order && rows != 1 && columns != 1 {
        return Err(NpyError::FortranOrder);
    }
    match declared.vocab_size {
        Some(declared) if u64::from(declared) > columns => {
            Err(NpyError::VocabSizeDeclared { held: columns, declared })
        }
        declared => {
            let vocab_size = declared.map_or(columns, u64::from);
            Ok(Shape { dtype, rows, columns, vocab_size })
        }
    }
}

fn dtype(descr: &str, declared: Option<Dtype>) -> Result<Dtype, NpyError> {
    // `=` is this machine's order, and no mark is the same; `|` says that there is none to have.
    let name = match descr.strip_prefix(['<', '|']) {
        Some(name) => name,
        None if cfg!(target_endian = "little") => descr.strip_prefix('=').unwrap_or(descr),
        None => descr,
    };
    let own = match name {
        "f2" | "float16" => Dtype::F16,
        "f4" | "float32" => Dtype::F32,
        "u2" | "i2" | "V2" | "uint16" | "int16" | "bfloat16" => {
            return match declared {
                Some(dtype) if dtype.size_bytes() == 2 => Ok(dtype),
                Some(dtype) => Err(NpyError::Dtype { descr: descr.into(), dtype }),
                None => Err(NpyError::Words(descr.into())),
            };
        }
        _ => return Err(NpyError::Descr { descr: descr.into(), way_out: way_out(descr) }),
    };
    match declared {
        Some(dtype) if dtype != own => Err(NpyError::Dtype { descr: descr.into(), dtype }),
        _ => Ok(own),
    }
}

/// How an array of such values becomes one of logits.
fn way_out(descr: &str) -> &'static str {
    let kind = descr.trim_start_matches(['<', '>', '=', '|']);
    match (descr.starts_with('>'), kind.chars().next()) {
        (true, Some('f' | 'i' | 'u' | 'V')) => {
            "these are big-endian: save x.astype(x.dtype.newbyteorder('<'))"
        }
        (_, Some('O')) => "these are pickled Python objects: save numpy.stack(x).astype('<f4')",
        (_, Some('S' | 'U' | 'a' | 'M' | 'm')) => "these are no numbers",
        (_, Some('c')) => "these are complex: save x.real.astype('<f4')",
        _ => "save x.astype('<f4')",
    }
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
    fn columns_beyond_the_vocabulary_are_padding() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let logits: Vec<u8> = (0..3 * 6 * 2).collect();
        write(path.path(), Dtype::F16, 6, &logits).unwrap();
        let declared = |vocab_size| Declared { dtype: None, vocab_size: Some(vocab_size) };
        let mut file = LogitsFile::open(path.path(), declared(4)).unwrap();
        assert_eq!((file.vocab_size(), file.rows(), file.row_bytes()), (4, 3, 8));
        let mut read = vec![99];
        file.read(1..3, &mut read).unwrap();
        assert_eq!(read, [&[99], &logits[12..20], &logits[24..32]].concat());
        let error = LogitsFile::open(path.path(), declared(7)).unwrap_err().to_string();
        assert!(
            error.contains("rows of 6 logits, and --vocab-size is 7; allowed: up to 6"),
            "{error}"
        );
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
            (plain("=f2"), 11, NOTHING, ["2 rows of 3", "11 bytes"]),
            (plain(">u2"), 12, BF16, [">u2", "newbyteorder"]),
            (plain("|O"), 12, NOTHING, ["|O", "numpy.stack"]),
            (plain("<U1"), 24, NOTHING, ["<U1", "no numbers"]),
            (plain("<c8"), 48, NOTHING, ["<c8", "x.real"]),
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
            ("{'shape': (2, 3)}".into(), 12, NOTHING, ["has no descr", "plain array"]),
            (
                "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (2,)}".into(),
                4,
                NOTHING,
                ["[('a', '<f2')]", "save one field"],
            ),
            ("{'descr': '<f2', 'shape': (2, 3)}".into(), 12, NOTHING, ["fortran_order", "plain"]),
            ("{'descr': '<f2', 'fortran_order': False}".into(), 12, NOTHING, ["shape", "plain"]),
        ] {
            let message = message(&header, data, declared);
            assert!(parts.iter().all(|part| message.contains(part)), "{header}: {message}");
        }
    }

    /// What a file of these bytes is said to be.
    fn refused(bytes: &[u8], declared: Declared) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        LogitsFile::open(file.path(), declared).unwrap_err().to_string()
    }

    #[test]
    fn every_version_is_read_and_every_file_may_be_cut_off() {
        let text = header("<f4", "False", "(2L, 3L)");
        let length = text.len() as u32;
        for (version, length) in [
            (1, (length as u16).to_le_bytes().to_vec()),
            (2, length.to_le_bytes().to_vec()),
            (3, length.to_le_bytes().to_vec()),
        ] {
            let begin = [&MAGIC[..], &[version, 0], &length, text.as_bytes()].concat();
            let whole = [&begin[..], &[0; 24]].concat();
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&whole).unwrap();
            assert_eq!(LogitsFile::open(file.path(), NOTHING).unwrap().rows(), 2);
            for end in 1..begin.len() {
                let said = refused(&whole[..end], NOTHING);
                let expected =
                    format!("cut off: it ends within its .npy header, after {end} bytes");
                assert!(said.contains(&expected), "version {version}: {said}");
            }
            let said = refused(&whole[..whole.len() - 1], NOTHING);
            assert!(said.contains("2 rows of 3 f32 logits and 23 bytes of data"), "{said}");
        }
        let newer = [&MAGIC[..], &[1, 1, 0, 0]].concat();
        assert!(refused(&newer, NOTHING).contains("version 1.1; known: 1.0, 2.0 and 3.0"));
        let endless = [&MAGIC[..], &[2, 0], &u32::MAX.to_le_bytes()[..]].concat();
        assert!(refused(&endless, NOTHING).contains("4294967295 bytes long"));
    }

    #[test]
    fn other_files_are_said_to_be_what_they_are() {
        const RAW: Declared = Declared { dtype: Some(Dtype::F16), vocab_size: Some(4) };
        for (begin, part) in [
            (&b"PK\x03\x04-\0\0\0"[..], "zip archive"),
            (b"PK\x05\x06\0\0\0\0", "zip archive"),
            (b"\x1f\x8b\x08\0\0\0\0\0", "compressed"),
            (b"\x28\xb5\x2f\xfd\0\0\0\0", "compressed"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
        ] {
            for declared in [NOTHING, RAW] {
                let said = refused(begin, declared);
                assert!(said.contains(part) && said.contains("not a .npy"), "{said}");
            }
        }
        // Whoever says that these are logits may be right.
        let pickle = b"\x80\x04\x95\0\0\0\0\0";
        assert!(refused(pickle, NOTHING).contains("a Python pickle"));
        let mut raw = tempfile::NamedTempFile::new().unwrap();
        raw.write_all(pickle).unwrap();
        assert_eq!(LogitsFile::open(raw.path(), RAW).unwrap().rows(), 1);
        assert!(refused(b"", NOTHING).contains("is empty"));
        assert!(refused(b"", RAW).contains("is empty"));
        assert!(refused(b"0.5 1.0 2.0", NOTHING).contains("--dtype and --vocab-size"));
    }

    #[cfg(unix)]
    #[test]
    fn what_comes_through_a_pipe_is_read_like_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let bytes = std::fs::read(file(&header("<f2", "False", "(2, 3)"), 12).path()).unwrap();
        let (to, all) = (path.clone(), [&bytes[..bytes.len() - 12], &(0..12).collect::<Vec<u8>>()]);
        let all = all.concat();
        let writer = std::thread::spawn(move || std::fs::write(to, all).unwrap());
        let mut rows = LogitsFile::open(&path, NOTHING).unwrap();
        writer.join().unwrap();
        let mut read = Vec::new();
        rows.read(1..2, &mut read).unwrap();
        rows.read(0..2, &mut read).unwrap();
        assert_eq!(read, [&[6, 7, 8, 9, 10, 11][..], &(0..12).collect::<Vec<u8>>()].concat());
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
