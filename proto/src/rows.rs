//! Where the rows of a request lie, and the request with some of them only.

use super::{Candidates, Dtype, SampleRequest};
use std::ops::Range;

/// Bytes of a candidate's token, and of a row's number of candidates.
const WORD_BYTES: usize = 4;

/// Rows of one length, one after another, with padding between them or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// How many there are, one or more.
    pub rows: usize,
    /// Bytes of a row's logits.
    pub row_bytes: usize,
    /// Bytes from the start of a row to the start of the next.
    pub stride_bytes: usize,
}

impl RowLayout {
    /// The rows of so many bytes; `None` if these are no rows. `row_stride` is counted in logits, 0 for rows without
    /// padding. The last row may have its padding or not.
    pub fn of(bytes: usize, vocab_size: u32, row_stride: u32, logit_bytes: usize) -> Option<Self> {
        let stride = if row_stride == 0 { vocab_size } else { row_stride };
        let in_bytes = |logits: u32| usize::try_from(logits).ok()?.checked_mul(logit_bytes);
        let (row_bytes, stride_bytes) = (in_bytes(vocab_size)?, in_bytes(stride)?);
        if row_bytes == 0 || stride_bytes < row_bytes || bytes == 0 {
            return None;
        }
        let rest = bytes % stride_bytes;
        let rows = bytes / stride_bytes + usize::from(rest > 0);
        (rest == 0 || rest == row_bytes).then_some(Self { rows, row_bytes, stride_bytes })
    }

    /// Where a row's logits are, in bytes.
    pub fn row(&self, row: usize) -> Range<usize> {
        let start = row * self.stride_bytes;
        start..start + self.row_bytes
    }

    /// Where one or more rows are, in bytes, with the padding between them.
    pub fn rows(&self, rows: Range<usize>) -> Range<usize> {
        self.row(rows.start).start..self.row(rows.end - 1).end
    }
}

/// Where the rows of a request lie that has its logits itself.
#[derive(Clone, Debug)]
pub struct RequestRows(Layout);

#[derive(Clone, Debug)]
enum Layout {
    /// All of them as long as each other.
    Whole { layout: RowLayout, tokens: u64 },
    /// Where each row's candidates end, and a logit's bytes.
    Candidates { ends: Vec<usize>, size: usize },
}

impl RequestRows {
    /// `None` if the logits are not rows.
    pub fn of(request: &SampleRequest) -> Option<Self> {
        let size = match Dtype::try_from(request.dtype).ok()? {
            Dtype::Unspecified => return None,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::F32 => 4,
        };
        let bytes = request.logits.len();
        let Some(Candidates { counts, tokens }) = &request.candidates else {
            let layout = RowLayout::of(bytes, request.vocab_size, request.row_stride, size)?;
            return Some(Self(Layout::Whole { layout, tokens: request.vocab_size.into() }));
        };
        let (counts, rest) = counts.as_chunks::<WORD_BYTES>();
        let mut total = 0usize;
        let mut ends = Vec::with_capacity(counts.len());
        for count in counts {
            total = total.checked_add(u32::from_le_bytes(*count) as usize)?;
            ends.push(total);
        }
        let rows = !ends.is_empty()
            && rest.is_empty()
            && total.checked_mul(WORD_BYTES) == Some(tokens.len())
            && total.checked_mul(size) == Some(bytes);
        rows.then_some(Self(Layout::Candidates { ends, size }))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.0 {
            Layout::Whole { layout, .. } => layout.rows,
            Layout::Candidates { ends, .. } => ends.len(),
        }
    }

    /// Tokens of a row.
    pub fn tokens(&self, row: usize) -> u64 {
        match &self.0 {
            Layout::Whole { tokens, .. } => *tokens,
            Layout::Candidates { ends, .. } => candidates(ends, &(row..row + 1)).len() as u64,
        }
    }

    /// Bytes of a row in a message.
    pub fn bytes(&self, row: usize) -> u64 {
        match &self.0 {
            Layout::Whole { layout, .. } => layout.stride_bytes as u64,
            Layout::Candidates { ends, size } => {
                let candidates = candidates(ends, &(row..row + 1)).len();
                (candidates * (WORD_BYTES + size) + WORD_BYTES) as u64
            }
        }
    }

    /// The request with these rows only, one or more, and all else as it is.
    pub fn cut(&self, request: &SampleRequest, rows: Range<usize>) -> SampleRequest {
        let scaled = |range: &Range<usize>, bytes| range.start * bytes..range.end * bytes;
        let count = request.rows.map(|_| rows.len() as u32);
        let mut cut = SampleRequest { rows: count, ..request.clone() };
        match &self.0 {
            Layout::Whole { layout, .. } => cut.logits = request.logits.slice(layout.rows(rows)),
            Layout::Candidates { ends, size } => {
                let range = candidates(ends, &rows);
                cut.logits = request.logits.slice(scaled(&range, *size));
                cut.candidates = request.candidates.as_ref().map(|whole| Candidates {
                    counts: whole.counts.slice(scaled(&rows, WORD_BYTES)),
                    tokens: whole.tokens.slice(scaled(&range, WORD_BYTES)),
                });
            }
        }
        cut
    }
}

/// Which candidates these rows (one or more) have.
fn candidates(ends: &[usize], rows: &Range<usize>) -> Range<usize> {
    let start = if rows.start == 0 { 0 } else { ends[rows.start - 1] };
    start..ends[rows.end - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_next_to_each_other_or_a_stride_apart() {
        let of = |bytes, vocab_size, row_stride| RowLayout::of(bytes, vocab_size, row_stride, 2);
        let plain = of(60, 10, 0).unwrap();
        assert_eq!((plain.rows, plain.row(2), plain.rows(1..3)), (3, 40..60, 20..60));
        assert_eq!(of(60, 10, 10), Some(plain));
        let padded = of(72, 10, 12).unwrap();
        assert_eq!((padded.rows, padded.row(2), padded.rows(1..3)), (3, 48..68, 24..68));
        assert_eq!(of(68, 10, 12), Some(padded), "without the last row's padding");
        assert_eq!(of(20, 10, 12).unwrap().rows, 1);
    }

    #[test]
    fn other_bytes_are_no_rows() {
        for (bytes, vocab_size, row_stride) in
            [(0, 10, 0), (61, 10, 0), (70, 10, 12), (48, 10, 9), (48, 0, 0), (48, 0, 12)]
        {
            let layout = RowLayout::of(bytes, vocab_size, row_stride, 2);
            assert_eq!(layout, None, "{bytes} {vocab_size} {row_stride}");
        }
    }
}
