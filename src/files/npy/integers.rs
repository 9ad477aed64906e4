//! Arrays of whole numbers: tokens, labels.

use super::{HEADER_BYTES_MAX, NpyError, PREAMBLE_BYTES_MAX, npy};
use std::io;
use std::path::Path;

/// Longer files are not read: they would be kept in memory.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Reads a `.npy` file of one number a row, of any integer dtype. None may be below 0 or beyond 32 bits.
pub fn read(path: &Path) -> Result<Vec<u32>, IntegersError> {
    let length = std::fs::metadata(path).map_err(NpyError::from)?.len();
    if length > FILE_BYTES_MAX {
        return Err(IntegersError::Long(length));
    }
    let bytes = std::fs::read(path).map_err(NpyError::from)?;
    let begin = &bytes[..bytes.len().min(PREAMBLE_BYTES_MAX + HEADER_BYTES_MAX)];
    let (header, start) = npy(begin)?.ok_or(IntegersError::Foreign)?;
    let rows = match *header.shape {
        [Some(rows)] | [Some(rows), Some(1)] => rows,
        _ => return Err(IntegersError::Shape(header.shape_text)),
    };
    let Some((signed, size)) = integer(&header.descr) else {
        return Err(IntegersError::Descr(header.descr));
    };
    let data = &bytes[start..];
    if rows.checked_mul(size as u64) != Some(data.len() as u64) {
        return Err(IntegersError::Length { rows, size, held: data.len() });
    }
    let number = |(row, bytes): (usize, &[u8])| {
        let mut wide = [if signed && bytes[size - 1] >> 7 == 1 { 0xff } else { 0 }; 8];
        wide[..size].copy_from_slice(bytes);
        let wide = u64::from_le_bytes(wide);
        u32::try_from(wide).map_err(|_| match signed {
            true => IntegersError::Value { row, value: (wide as i64).into() },
            false => IntegersError::Value { row, value: wide.into() },
        })
    };
    data.chunks_exact(size).enumerate().map(number).collect()
}

/// Whether an integer dtype has a sign, and its bytes.
fn integer(descr: &str) -> Option<(bool, usize)> {
    let name = descr.strip_prefix(['<', '|', '=']).unwrap_or(descr);
    let (kind, size) = name.split_at_checked(1)?;
    let size: usize = size.parse().ok().filter(|size| [1, 2, 4, 8].contains(size))?;
    match kind {
        "i" => Some((true, size)),
        "u" => Some((false, size)),
        _ => None,
    }
}

/// Writes numbers as a `.npy` file of u32.
pub fn write(path: &Path, numbers: &[u32]) -> io::Result<()> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    super::write_array(path, "<u4", &format!("({},)", numbers.len()), &bytes)
}

/// Why a file is not numbers.
#[derive(Debug, thiserror::Error)]
pub enum IntegersError {
    /// The file or its header cannot be read.
    #[error(transparent)]
    Npy(#[from] NpyError),
    /// No `.npy` file.
    #[error("not a .npy file; save whole numbers with numpy.save('next.npy', x.astype('<u4'))")]
    Foreign,
    /// More than is read.
    #[error(
        "has {0} bytes, and {FILE_BYTES_MAX} are read at most; it should hold one whole number a row"
    )]
    Long(u64),
    /// No number a row.
    #[error("has the shape {0}; accepted: [rows], one whole number a row: save x.reshape(-1)")]
    Shape(String),
    /// No integers.
    #[error(
        "holds {0}; accepted: whole numbers of 8 to 64 bits, little-endian, with or without a sign: save \
         x.astype('<u4')"
    )]
    Descr(String),
    /// Too short, or too long.
    #[error(
        "{rows} numbers of {size} bytes and {held} bytes of data do not go together; the file was cut off, or holds something else"
    )]
    Length {
        /// Numbers it should hold.
        rows: u64,
        /// Bytes of each.
        size: usize,
        /// Bytes of data in the file.
        held: usize,
    },
    /// A number out of range.
    #[error("row {row} is {value}; allowed: 0 to 4294967295")]
    Value {
        /// Where it stands.
        row: usize,
        /// What it is.
        value: i128,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, shape: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        super::super::write_array(file.path(), descr, shape, data).unwrap();
        file
    }

    #[test]
    fn every_integer_dtype_is_read() {
        for (descr, size) in [
            ("|i1", 1),
            ("|u1", 1),
            ("<i2", 2),
            ("<u2", 2),
            ("<i4", 4),
            ("<u4", 4),
            ("<i8", 8),
            ("<u8", 8),
        ] {
            let data: Vec<u8> =
                [3u64, 0, 127].iter().flat_map(|n| n.to_le_bytes()[..size].to_vec()).collect();
            for shape in ["(3,)", "(3, 1)"] {
                assert_eq!(read(file(descr, shape, &data).path()).unwrap(), [3, 0, 127], "{descr}");
            }
        }
        let out = tempfile::NamedTempFile::new().unwrap();
        write(out.path(), &[7, u32::MAX]).unwrap();
        assert_eq!(read(out.path()).unwrap(), [7, u32::MAX]);
    }

    #[test]
    fn what_is_no_list_of_numbers_is_refused_with_a_way_out() {
        let said = |descr, shape, data: &[u8]| {
            read(file(descr, shape, data).path()).unwrap_err().to_string()
        };
        assert!(said("<i8", "(1,)", &(-1i64).to_le_bytes()).contains("row 0 is -1; allowed"));
        assert!(said("<u8", "(1,)", &u64::MAX.to_le_bytes()).contains("18446744073709551615"));
        assert!(said("<f4", "(1,)", &[0; 4]).contains("holds <f4; accepted: whole numbers"));
        assert!(said(">i4", "(1,)", &[0; 4]).contains(">i4"));
        assert!(said("<i4", "(2, 2)", &[0; 16]).contains("(2, 2); accepted: [rows]"));
        assert!(said("<i4", "(3,)", &[0; 8]).contains("3 numbers of 4 bytes and 8 bytes of data"));
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "1\n2\n").unwrap();
        assert!(read(text.path()).unwrap_err().to_string().contains("not a .npy file"));
    }
}
