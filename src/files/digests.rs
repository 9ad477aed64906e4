//! Files of digests: what remains of rows when token ids are dropped. What sets of parameters
//! come to over these rows is a function of it.
//!
//! ```text
//! "logitd digests 1\n"
//! u32 length, JSON: rows, vocab_size, dtype, logits_sha256, references_sha256, groups (names), origin
//! a row:  u32 length, a zlib stream of: status, label, rank, values, a gap for each value, a count for each value
//! ```
//!
//! Lengths are little-endian. The numbers of a row are in groups of seven bits, the lowest first, each but the last with
//! the highest bit set. A gap is how many keys ([`key`](logitd_core::arithmetic::key), of 16 bits or 32) lie between a
//! value and the one before, the first counted from the greatest key; values fall.

use half::{bf16, f16};
use logitd_core::arithmetic::key::{bits16, key16, key32, value32};
use logitd_core::batch::{Dtype, RowStatus, VOCAB_SIZE_MAX};
use logitd_core::evaluate::cpu::Digested;
use logitd_core::evaluate::digest::Digest;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use zlib_rs::{DeflateConfig, InflateConfig, ReturnCode};

const MAGIC: &[u8] = b"logitd digests 1\n";
/// Longer headers are not read.
const HEADER_BYTES_MAX: u32 = 1 << 20;
/// Bytes of a number, at most.
const NUMBER_BYTES_MAX: usize = 5;
/// A row unpacked, at most: two numbers a token, and what stands before them.
const ROW_BYTES_MAX: usize = (VOCAB_SIZE_MAX as usize * 2 + 4) * NUMBER_BYTES_MAX;

/// What a file says of all its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// How many there are.
    pub rows: u64,
    /// Tokens of each.
    pub vocab_size: u32,
    /// How the logits were stored: `f16`, `bf16` or `f32`.
    pub dtype: String,
    /// SHA-256 of the logits, row after row as they were stored, in hex.
    pub logits_sha256: String,
    /// SHA-256 of the references, each a little-endian u32, in hex.
    pub references_sha256: String,
    /// What labels are called, by label; empty where nobody said.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Where the rows come from, for people.
    #[serde(default)]
    pub origin: String,
}

impl About {
    /// How the logits were stored.
    pub fn dtype(&self) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.name() == self.dtype)
    }
}

/// Rows that were read, and what is said of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Digests {
    /// Of all of them.
    pub about: About,
    /// Each with its label.
    pub rows: Vec<Digested>,
}

impl Digests {
    /// Writes a file.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let dtype = self.about.dtype().expect("a dtype by its name");
        let about = serde_json::to_vec(&self.about)?;
        to.write_all(MAGIC)?;
        to.write_all(&(about.len() as u32).to_le_bytes())?;
        to.write_all(&about)?;
        let (mut row_bytes, mut packed) = (Vec::new(), Vec::new());
        for row in &self.rows {
            row_bytes.clear();
            encode(row, dtype, &mut row_bytes);
            packed.resize(zlib_rs::compress_bound(row_bytes.len()), 0);
            let config = DeflateConfig { level: 9, ..DeflateConfig::default() };
            let (packed, code) = zlib_rs::compress_slice(&mut packed, &row_bytes, config);
            assert_eq!(code, ReturnCode::Ok, "there is room for the worst");
            to.write_all(&(packed.len() as u32).to_le_bytes())?;
            to.write_all(packed)?;
        }
        to.flush()
    }

    /// Reads a file to its end.
    pub fn read(mut from: impl Read) -> Result<Self, DigestsError> {
        let mut magic = [0; MAGIC.len()];
        read_exact(&mut from, &mut magic, DigestsError::Foreign)?;
        if magic != *MAGIC {
            return Err(DigestsError::Foreign);
        }
        let length = read_length(&mut from, DigestsError::Cut(0))?;
        if length > HEADER_BYTES_MAX {
            return Err(DigestsError::Header(format!("is {length} bytes long")));
        }
        let mut about = vec![0; length as usize];
        read_exact(&mut from, &mut about, DigestsError::Cut(0))?;
        let about: About = serde_json::from_slice(&about)
            .map_err(|error| DigestsError::Header(error.to_string()))?;
        let dtype = about
            .dtype()
            .ok_or_else(|| DigestsError::Header(format!("has dtype {}", about.dtype)))?;
        if !(1..=VOCAB_SIZE_MAX).contains(&about.vocab_size) {
            return Err(DigestsError::Header(format!("has vocab_size {}", about.vocab_size)));
        }
        let (mut rows, mut packed, mut row_bytes) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..about.rows {
            let length = read_length(&mut from, DigestsError::Cut(row))? as usize;
            if length > zlib_rs::compress_bound(ROW_BYTES_MAX) {
                return Err(DigestsError::Row(row));
            }
            packed.resize(length, 0);
            read_exact(&mut from, &mut packed, DigestsError::Cut(row))?;
            unpack(&packed, &mut row_bytes).ok_or(DigestsError::Row(row))?;
            let decoded = decode(&row_bytes, dtype, about.vocab_size);
            rows.push(decoded.ok_or(DigestsError::Row(row))?);
        }
        if from.read(&mut [0])? > 0 {
            return Err(DigestsError::Longer(about.rows));
        }
        Ok(Self { about, rows })
    }
}

/// Unpacks a stream of unknown length, within what a row can have.
fn unpack(packed: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let mut room = packed.len() * 4 + 1024;
    loop {
        into.resize(room.min(ROW_BYTES_MAX), 0);
        let (whole, code) = zlib_rs::decompress_slice(into, packed, InflateConfig::default());
        let length = whole.len();
        match code {
            ReturnCode::Ok => {
                into.truncate(length);
                return Some(());
            }
            ReturnCode::BufError if room < ROW_BYTES_MAX => room *= 4,
            _ => return None,
        }
    }
}

fn encode(row: &Digested, dtype: Dtype, to: &mut Vec<u8>) {
    let status = row.digest.as_ref().err().copied().unwrap_or(RowStatus::Ok);
    number(status as u32, to);
    number(row.group, to);
    let Ok(digest) = &row.digest else { return };
    number(digest.rank(), to);
    number(digest.values().len() as u32, to);
    let mut last = key_max(dtype);
    for &value in digest.values() {
        let key = key(dtype, value);
        number(last - key, to);
        last = key;
    }
    digest.counts().iter().for_each(|&count| number(count, to));
}

/// `None` where it is no row of so many tokens.
fn decode(mut from: &[u8], dtype: Dtype, vocab_size: u32) -> Option<Digested> {
    let from = &mut from;
    let status = take(from)?;
    let group = take(from)?;
    let status = RowStatus::ALL.into_iter().find(|known| *known as u32 == status)?;
    if status != RowStatus::Ok {
        return from.is_empty().then_some(Digested { digest: Err(status), group });
    }
    let (rank, values) = (take(from)?, take(from)? as usize);
    if values > vocab_size as usize {
        return None;
    }
    let mut key = key_max(dtype);
    let values = (0..values).map(|_| {
        key = key.checked_sub(take(from)?)?;
        Some(value(dtype, key))
    });
    let values: Box<[f32]> = values.collect::<Option<_>>()?;
    let counts: Box<[u32]> = values.iter().map(|_| take(from)).collect::<Option<_>>()?;
    let digest = Digest::new(vocab_size, rank, values, counts)?;
    from.is_empty().then_some(Digested { digest: Ok(digest), group })
}

/// Bytes in hex, as the hashes of a file are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_max(dtype: Dtype) -> u32 {
    if dtype == Dtype::F32 { u32::MAX } else { u16::MAX.into() }
}

/// The key of a value that the dtype has.
fn key(dtype: Dtype, value: f32) -> u32 {
    match dtype {
        Dtype::F16 => key16(f16::from_f32(value).to_bits()).into(),
        Dtype::Bf16 => key16(bf16::from_f32(value).to_bits()).into(),
        Dtype::F32 => key32(value),
    }
}

fn value(dtype: Dtype, key: u32) -> f32 {
    match dtype {
        Dtype::F16 => f16::from_bits(bits16(key as u16)).to_f32(),
        Dtype::Bf16 => bf16::from_bits(bits16(key as u16)).to_f32(),
        Dtype::F32 => value32(key),
    }
}

fn number(mut n: u32, to: &mut Vec<u8>) {
    while n >= 0x80 {
        to.push(n as u8 | 0x80);
        n >>= 7;
    }
    to.push(n as u8);
}

fn take(from: &mut &[u8]) -> Option<u32> {
    let mut n = 0u64;
    for i in 0..NUMBER_BYTES_MAX {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        n |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return n.try_into().ok();
        }
    }
    None
}

fn read_length(from: &mut impl Read, cut: DigestsError) -> Result<u32, DigestsError> {
    let mut length = [0; 4];
    read_exact(from, &mut length, cut)?;
    Ok(u32::from_le_bytes(length))
}

fn read_exact(from: &mut impl Read, to: &mut [u8], cut: DigestsError) -> Result<(), DigestsError> {
    from.read_exact(to).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => cut,
        _ => error.into(),
    })
}

/// Why a file is not digests.
#[derive(Debug, thiserror::Error)]
pub enum DigestsError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else.
    #[error(
        "is no file of digests, as `logitd digest` writes them; rows of logits are given as --logits"
    )]
    Foreign,
    /// A header that cannot be understood.
    #[error("its header {0}; make the file again with `logitd digest`")]
    Header(String),
    /// The file ends early.
    #[error("is cut off at row {0}; make or copy it again")]
    Cut(u64),
    /// A row that is none.
    #[error("row {0} is damaged; make or copy the file again")]
    Row(u64),
    /// There is something behind the last row.
    #[error("goes on after its {0} rows; make or copy it again")]
    Longer(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(dtype: Dtype, rows: u64, vocab_size: u32) -> About {
        About {
            rows,
            vocab_size,
            dtype: dtype.name().into(),
            logits_sha256: "ab".into(),
            references_sha256: "cd".into(),
            groups: vec!["prose".into()],
            origin: String::new(),
        }
    }

    fn digests(dtype: Dtype) -> Digests {
        let row = |rank, values: &[f32], counts: &[u32], group| {
            let digest = Digest::new(1 << 20, rank, values.into(), counts.into()).unwrap();
            Digested { digest: Ok(digest), group }
        };
        let rows = vec![
            row(3, &[2.5, 0.0, -1.5], &[1, 300, 70_000], 0),
            Digested { digest: Err(RowStatus::Nan), group: 4095 },
            row(0, &[-0.25], &[1 << 20], 7),
        ];
        Digests { about: about(dtype, 3, 1 << 20), rows }
    }

    #[test]
    fn files_read_back_as_they_were_written() {
        for dtype in Dtype::ALL {
            let written = digests(dtype);
            let mut file = Vec::new();
            written.write(&mut file).unwrap();
            assert_eq!(Digests::read(&file[..]).unwrap(), written, "{dtype}");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_is_refused() {
        let mut file = Vec::new();
        digests(Dtype::F16).write(&mut file).unwrap();
        for end in 0..file.len() {
            let error = Digests::read(&file[..end]).unwrap_err();
            assert!(
                matches!(error, DigestsError::Cut(_) | DigestsError::Foreign),
                "{end}: {error}"
            );
        }
        let longer = [&file[..], &[0]].concat();
        assert!(matches!(Digests::read(&longer[..]).unwrap_err(), DigestsError::Longer(3)));
        // No byte of a row can be another without notice, but for bits that say nothing: each stream has its sum.
        let (rows, mut refused) = (file.len() - 40, 0);
        for at in rows..file.len() {
            let mut wrong = file.clone();
            wrong[at] ^= 0x10;
            let read = Digests::read(&wrong[..]);
            refused += u32::from(read.is_err());
            assert!(read.is_err() || read.unwrap() == digests(Dtype::F16), "{at}");
        }
        assert!(refused > 30, "{refused}");
        assert!(matches!(Digests::read(&b"\x93NUMPY"[..]).unwrap_err(), DigestsError::Foreign));
    }

    #[test]
    fn a_row_of_another_vocabulary_is_refused() {
        let mut few = digests(Dtype::F16);
        few.about.vocab_size = 1000;
        let mut file = Vec::new();
        few.write(&mut file).unwrap();
        assert!(matches!(Digests::read(&file[..]).unwrap_err(), DigestsError::Row(0)));
    }
}
