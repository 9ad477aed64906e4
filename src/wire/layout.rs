//! How the rows of a request lie in its logits.

use logitd_core::batch::{Dtype, VOCAB_SIZE_MAX};
use logitd_proto::RowLayout;

/// How the rows of a request lie in its logits.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// Whole rows.
    Whole(RowLayout),
    /// Rows of a few tokens.
    Candidates {
        /// How many.
        rows: usize,
    },
}

impl Layout {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Self::Whole(layout) => layout.rows,
            Self::Candidates { rows } => rows,
        }
    }
}

/// How logits are stored.
pub fn dtype(value: i32) -> Result<Dtype, String> {
    let allowed = "DTYPE_F16 (1), DTYPE_BF16 (2), DTYPE_F32 (3)";
    super::row::dtype(value).ok_or_else(|| format!("is {value}; allowed: {allowed}"))
}

/// Tokens a row.
pub fn vocab_size(value: u32) -> Result<usize, String> {
    match value {
        1..=VOCAB_SIZE_MAX => Ok(value as usize),
        _ => Err(format!("is {value}; allowed: 1 to {VOCAB_SIZE_MAX}")),
    }
}

/// Whether rows of so many tokens can begin so many logits apart.
pub fn row_stride(value: u32, vocab_size: usize) -> Result<(), String> {
    match value {
        0 => Ok(()),
        stride if stride as usize >= vocab_size => Ok(()),
        stride => Err(format!(
            "is {stride}; allowed: 0 (rows without padding), or vocab_size, {vocab_size}, and more"
        )),
    }
}

/// How rows lie in so many bytes.
pub fn row_layout(
    bytes: usize,
    dtype: Dtype,
    vocab_size: usize,
    stride: u32,
    count: Option<u32>,
) -> Result<RowLayout, String> {
    let size = dtype.size_bytes();
    RowLayout::of(bytes, vocab_size as u32, stride, size).ok_or_else(|| {
        let count = match count {
            None => "one or more".into(),
            Some(rows) => rows.to_string(),
        };
        let apart = match stride {
            0 => String::new(),
            _ => format!(", {} bytes from row to row (row_stride {stride})", stride as usize * size),
        };
        format!(
            "has {bytes} bytes; allowed: {count} rows of {} bytes ({vocab_size} {dtype} logits){apart}",
            vocab_size * size
        )
    })
}

/// Whether there are as many rows as the sender says.
pub fn as_many(
    given: Option<u32>,
    layout: Layout,
    dtype: Dtype,
    vocab_size: usize,
) -> Result<(), String> {
    let rows = layout.count();
    let given = match given {
        None => return Ok(()),
        Some(0) => return Err("is 0; allowed: the number of rows, 1 or more, or nothing".into()),
        Some(given) => given as usize,
    };
    match layout {
        _ if given == rows => Ok(()),
        Layout::Candidates { .. } => {
            Err(format!("is {given}, and candidates.counts has {rows}; allowed: the same number"))
        }
        Layout::Whole(RowLayout { row_bytes, .. }) => {
            let (bytes, logits) = (rows * row_bytes, given * vocab_size);
            let cause = match bytes.is_multiple_of(logits) {
                true => format!(
                    "as {given} rows they have {} bytes a logit, and {dtype} has {}: is dtype right?",
                    bytes / logits,
                    dtype.size_bytes()
                ),
                false => "are dtype and vocab_size right?".into(),
            };
            Err(format!(
                "is {given}, and logits has {rows} ({bytes} bytes, {vocab_size} {dtype} logits a row); {cause}"
            ))
        }
    }
}
