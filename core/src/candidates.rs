//! Rows given by their candidates: a few tokens of each, for callers that have the first N already.
//!
//! A row of N candidates is sampled as a dense row of N logits, in ascending order of their tokens, by any
//! backend; the indices in its result are then tokens again by the same list. Backends are told the tokens
//! ([`Row::with_ids`](crate::batch::Row::with_ids)) for the noise of a race, which belongs to them, and know nothing
//! else of candidates.
//!
//! **Why these are the bits of the whole row**, where the candidates hold the first `top_k` tokens of its
//! total order (all tokens above -inf, if it has fewer), and `top_k` is 1 to N:
//!
//! 1. Index i is below index j exactly if token i is below token j, so ties break alike, and the first k
//!    candidates are the first k tokens of the row. `M`, `n_k` and every `x` among them are the same.
//! 2. A mass depends on `x`, `M` and the temperature. `W_k` sums the first `n_k` alone, so top_p's target
//!    and `n_p` are the same. What min_p would keep beyond `n_k` is cut by `n_k`. So are the kept tokens.
//! 3. The random bits depend on seed, position and draw, and the token is found among the kept ones by
//!    ascending token, which is ascending index. In a race, each kept token has the noise of its own id, and of equals
//!    the lower token wins, which is the lower index. The logprob depends on its `x`, `M` and the kept mass.
//!
//! Cuts behind top_k are given its k tokens and nothing else; those that look at all tokens, or keep what equals the k-th, are
//! not for candidates.
//!
//! Greedy rows need only the first token of the order (but those with the cuts of llama.cpp, which are not for candidates), and with every token of the vocabulary as a
//! candidate there is nothing to be said. All else could depend on a logit that is not there:
//! [`are_enough`] tells.

use crate::arithmetic::key::key32;
use crate::batch::Dtype;
use bytes::Bytes;
use half::{bf16, f16};
use std::ops::Range;

/// Bytes of a token, and of a row's number of candidates.
const WORD_BYTES: usize = 4;

/// A row of candidates, its tokens ascending.
#[derive(Clone, Debug)]
pub struct CandidateRow {
    /// A logit a candidate, little-endian.
    pub logits: Bytes,
    /// What the indices of its result stand for.
    pub tokens: TokenList,
}

/// The tokens of a row's candidates, ascending, none twice.
#[derive(Clone, Debug)]
pub struct TokenList(Bytes);

impl TokenList {
    /// The token of a candidate.
    ///
    /// # Panics
    /// If there is no such candidate.
    pub fn token(&self, index: u32) -> u32 {
        word(&self.0, index as usize)
    }

    /// The tokens, as [`Row::with_ids`](crate::batch::Row::with_ids) takes them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Which candidate a token is, if it is one.
    pub fn index(&self, token: u32) -> Option<u32> {
        let (tokens, _) = self.0.as_chunks();
        let found = tokens.binary_search_by_key(&token, |bytes| u32::from_le_bytes(*bytes));
        found.ok().map(|index| index as u32)
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.0.len() / WORD_BYTES
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl CandidateRow {
    /// The row with all of its vocabulary, as if every other logit were -inf: another row with the same
    /// answer, where the candidates [are enough](are_enough).
    pub fn to_dense(&self, dtype: Dtype, vocab_size: u32) -> Vec<u8> {
        let size = dtype.size_bytes();
        let lowest = match dtype {
            Dtype::F16 => f16::NEG_INFINITY.to_le_bytes().to_vec(),
            Dtype::Bf16 => bf16::NEG_INFINITY.to_le_bytes().to_vec(),
            Dtype::F32 => f32::NEG_INFINITY.to_le_bytes().to_vec(),
        };
        let mut row = lowest.repeat(vocab_size as usize);
        for (index, logit) in self.logits.chunks_exact(size).enumerate() {
            let token = self.tokens.token(index as u32) as usize;
            row[token * size..][..size].copy_from_slice(logit);
        }
        row
    }
}

/// What is wrong with a request's candidates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct CandidatesError {
    /// The field's path in the request.
    pub field: &'static str,
    /// Where, what, and what is allowed.
    pub description: String,
}

/// Whether a row's answer depends on nothing but its candidates.
pub fn are_enough(candidates: usize, vocab_size: usize, temperature: f32, top_k: u32) -> bool {
    let cut = top_k >= 1 && top_k as usize <= candidates;
    temperature == 0.0 || cut || candidates == vocab_size
}

/// How many rows these counts are of.
pub fn row_count(counts: &[u8]) -> Result<usize, CandidatesError> {
    if counts.is_empty() || !counts.len().is_multiple_of(WORD_BYTES) {
        let bytes = counts.len();
        return wrong(COUNTS, format!("has {bytes} bytes; allowed: 4 a row, at least one row"));
    }
    Ok(counts.len() / WORD_BYTES)
}

/// Cuts a request's candidates into rows, where they lie if the tokens of every row ascend, and in
/// memory of their own otherwise. An error for each row that is wrong, or one for the whole.
pub fn rows(
    dtype: Dtype,
    vocab_size: u32,
    counts: &[u8],
    tokens: &Bytes,
    logits: &Bytes,
) -> Result<Vec<CandidateRow>, Vec<CandidatesError>> {
    let ranges = ranges(dtype, vocab_size, counts, tokens.len(), logits.len())?;
    let ascend = |row: &Range<usize>| ascends(&tokens[in_words(row)]);
    let (tokens, logits) = match ranges.iter().all(ascend) {
        true => (tokens.clone(), logits.clone()),
        false => sorted(dtype, &ranges, tokens, logits),
    };
    let wrong: Vec<_> = (ranges.iter().enumerate())
        .filter_map(|(row, range)| check(row, &tokens[in_words(range)], vocab_size).err())
        .collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let size = dtype.size_bytes();
    let row = |range: Range<usize>| CandidateRow {
        logits: logits.slice(range.start * size..range.end * size),
        tokens: TokenList(tokens.slice(in_words(&range))),
    };
    Ok(ranges.into_iter().map(row).collect())
}

/// The first `n` tokens (1 or more) of a row of logits in the total order, ascending, and their logits:
/// little-endian, as a request takes them. NaN come before all else, so that the row's status shows in
/// its candidates.
///
/// # Panics
/// If `logits` are not whole, `n` is 0, or there are fewer logits.
pub fn top(dtype: Dtype, logits: &[u8], n: usize) -> (Vec<u8>, Vec<u8>) {
    let size = dtype.size_bytes();
    assert!(logits.len().is_multiple_of(size), "whole logits");
    let mut order: Vec<u64> = logits
        .chunks_exact(size)
        .map(|bytes| widen(dtype, bytes))
        .enumerate()
        .map(|(token, x)| u64::from(if x.is_nan() { 0 } else { !key32(x) }) << 32 | token as u64)
        .collect();
    assert!((1..=order.len()).contains(&n), "{n} candidates of {} tokens", order.len());
    order.select_nth_unstable(n - 1);
    let mut tokens: Vec<u32> = order[..n].iter().map(|&entry| entry as u32).collect();
    tokens.sort_unstable();
    let logit = |&token: &u32| &logits[token as usize * size..][..size];
    let logits = tokens.iter().flat_map(logit).copied().collect();
    (tokens.iter().flat_map(|token| token.to_le_bytes()).collect(), logits)
}

const COUNTS: &str = "candidates.counts";
const TOKENS: &str = "candidates.tokens";

fn wrong<T>(field: &'static str, description: String) -> Result<T, CandidatesError> {
    Err(CandidatesError { field, description })
}

fn widen(dtype: Dtype, bytes: &[u8]) -> f32 {
    match *bytes {
        [a, b] if dtype == Dtype::F16 => f16::from_le_bytes([a, b]).to_f32(),
        [a, b] => bf16::from_le_bytes([a, b]).to_f32(),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => unreachable!("a logit has two or four bytes"),
    }
}

fn word(words: &[u8], index: usize) -> u32 {
    let bytes = &words[index * WORD_BYTES..][..WORD_BYTES];
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn words(bytes: &[u8]) -> impl ExactSizeIterator<Item = u32> {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    bytes.chunks_exact(WORD_BYTES).map(word)
}

fn in_words(range: &Range<usize>) -> Range<usize> {
    range.start * WORD_BYTES..range.end * WORD_BYTES
}

fn ascends(tokens: &[u8]) -> bool {
    words(tokens).zip(words(tokens).skip(1)).all(|(a, b)| a < b)
}

/// Which candidates each row has, if their numbers are possible and fit what is there.
fn ranges(
    dtype: Dtype,
    vocab_size: u32,
    counts: &[u8],
    token_bytes: usize,
    logit_bytes: usize,
) -> Result<Vec<Range<usize>>, Vec<CandidatesError>> {
    row_count(counts).map_err(|error| vec![error])?;
    let impossible: Vec<_> = (words(counts).enumerate())
        .filter(|(_, count)| !(1..=vocab_size).contains(count))
        .map(|(row, count)| {
            let allowed = format!("allowed: 1 to {vocab_size} (vocab_size)");
            let description = format!("row {row} has {count} candidates; {allowed}");
            CandidatesError { field: COUNTS, description }
        })
        .collect();
    if !impossible.is_empty() {
        return Err(impossible);
    }
    // Below 2^63: as many counts of 2^20 do not fit any message.
    let total: u64 = words(counts).map(u64::from).sum();
    let unfit = [(TOKENS, token_bytes, WORD_BYTES), ("logits", logit_bytes, dtype.size_bytes())];
    let unfit: Vec<_> = (unfit.into_iter())
        .filter(|&(_, bytes, size)| bytes as u64 != total * size as u64)
        .map(|(field, bytes, size)| {
            let allowed = total * size as u64;
            let each = format!("{size} for each of {total} candidates");
            let description = format!("has {bytes} bytes; allowed: {allowed}, {each}");
            CandidatesError { field, description }
        })
        .collect();
    if !unfit.is_empty() {
        return Err(unfit);
    }
    let mut start = 0;
    let range = |count: u32| {
        let range = start..start + count as usize;
        start = range.end;
        range
    };
    Ok(words(counts).map(range).collect())
}

/// Tokens and logits with each row's tokens ascending.
fn sorted(dtype: Dtype, ranges: &[Range<usize>], tokens: &[u8], logits: &[u8]) -> (Bytes, Bytes) {
    let size = dtype.size_bytes();
    let mut all = (Vec::with_capacity(tokens.len()), Vec::with_capacity(logits.len()));
    let mut order: Vec<u64> = Vec::new();
    for range in ranges {
        order.clear();
        let row = words(&tokens[in_words(range)]).zip(range.clone());
        order.extend(row.map(|(token, at)| u64::from(token) << 32 | at as u64));
        order.sort_unstable();
        for &entry in &order {
            let (token, at) = ((entry >> 32) as u32, entry as u32 as usize);
            all.0.extend_from_slice(&token.to_le_bytes());
            all.1.extend_from_slice(&logits[at * size..][..size]);
        }
    }
    (all.0.into(), all.1.into())
}

/// Whether the sorted tokens of a row are tokens, each once.
fn check(row: usize, tokens: &[u8], vocab_size: u32) -> Result<(), CandidatesError> {
    let greatest = word(tokens, tokens.len() / WORD_BYTES - 1);
    if greatest >= vocab_size {
        let allowed = format!("allowed: 0 to {} (vocab_size {vocab_size})", vocab_size - 1);
        return wrong(TOKENS, format!("row {row} has token {greatest}; {allowed}"));
    }
    let mut pairs = words(tokens).zip(words(tokens).skip(1));
    if let Some((twice, _)) = pairs.find(|(a, b)| a == b) {
        return wrong(TOKENS, format!("row {row} has token {twice} twice; allowed: each once"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn le(words: &[u32]) -> Bytes {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn logits(values: &[f32]) -> Bytes {
        values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
    }

    fn parse(n: &[u32], tokens: &[u32]) -> Result<Vec<CandidateRow>, String> {
        let values: Vec<f32> = tokens.iter().map(|&token| token as f32).collect();
        rows(Dtype::F16, 100, &le(n), &le(tokens), &logits(&values)).map_err(|errors| {
            errors.iter().map(CandidatesError::to_string).collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn rows_come_out_ascending_whatever_their_order() {
        for tokens in [[3, 7, 99, 2, 50], [7, 99, 3, 50, 2]] {
            let rows = parse(&[3, 2], &tokens).unwrap();
            for (row, tokens) in rows.iter().zip([&[3, 7, 99][..], &[2, 50]]) {
                let values: Vec<f32> = tokens.iter().map(|&token| token as f32).collect();
                assert_eq!(row.tokens.0, le(tokens));
                assert_eq!(row.logits, logits(&values));
            }
        }
    }

    #[test]
    fn tokens_that_ascend_are_not_copied() {
        let tokens = le(&[1, 2, 0]);
        let rows = rows(Dtype::F16, 9, &le(&[2, 1]), &tokens, &logits(&[0.0; 3])).unwrap();
        assert_eq!(rows[0].tokens.0.as_ptr(), tokens.as_ptr());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_row_value_and_limit() {
        for (n, tokens, expected) in [
            (
                &[][..],
                &[][..],
                "candidates.counts: has 0 bytes; allowed: 4 a row, at least one row",
            ),
            (
                &[1, 0],
                &[1],
                "candidates.counts: row 1 has 0 candidates; allowed: 1 to 100 (vocab_size)",
            ),
            (
                &[101],
                &[1],
                "candidates.counts: row 0 has 101 candidates; allowed: 1 to 100 (vocab_size)",
            ),
            (
                &[2, 2],
                &[1, 2, 3],
                "candidates.tokens: has 12 bytes; allowed: 16, 4 for each of 4 candidates\n\
                 logits: has 6 bytes; allowed: 8, 2 for each of 4 candidates",
            ),
            (
                &[1, 2, 2],
                &[1, 100, 2, 5, 5],
                "candidates.tokens: row 1 has token 100; allowed: 0 to 99 (vocab_size 100)\n\
                 candidates.tokens: row 2 has token 5 twice; allowed: each once",
            ),
            (
                &[1],
                &[u32::MAX],
                "candidates.tokens: row 0 has token 4294967295; allowed: 0 to 99 (vocab_size 100)",
            ),
        ] {
            assert_eq!(parse(n, tokens).unwrap_err(), expected);
        }
        let error = row_count(&[0; 6]).unwrap_err();
        assert_eq!(error.description, "has 6 bytes; allowed: 4 a row, at least one row");
    }

    #[test]
    fn the_first_tokens_are_those_of_the_total_order() {
        let row = |x: &[f32]| logits(x);
        let first = |x: &[f32], n| top(Dtype::F16, &row(x), n).0;
        // A tie at the border goes to the lower token, and zeros tie.
        assert_eq!(first(&[1.0, 3.0, 1.0, 2.0, 1.0], 3), le(&[0, 1, 3]));
        assert_eq!(first(&[-0.0, 0.0, -1.0, 0.0], 2), le(&[0, 1]));
        assert_eq!(first(&[f32::NEG_INFINITY, -5.0], 1), le(&[1]));
        // What decides the status is in.
        assert_eq!(first(&[9.0, f32::INFINITY, 8.0, f32::NAN], 2), le(&[1, 3]));
        assert_eq!(first(&[9.0, f32::INFINITY, 8.0, f32::NAN], 1), le(&[3]));
        let (_, values) = top(Dtype::F32, &[0, 0, 128, 63, 0, 0, 0, 64], 1);
        assert_eq!(values, 2f32.to_le_bytes());
    }

    #[test]
    fn the_dense_row_has_the_candidates_and_nothing_else() {
        let row = &parse(&[2], &[4, 1]).unwrap()[0];
        let low = f32::NEG_INFINITY;
        let expected = logits(&[low, 1.0, low, low, 4.0, low]);
        assert_eq!(row.to_dense(Dtype::F16, 6), expected);
    }

    #[test]
    fn what_could_depend_on_other_logits_is_told() {
        assert!(are_enough(1, 100, 0.0, 0));
        assert!(are_enough(50, 100, 1.0, 50));
        assert!(!are_enough(50, 100, 1.0, 51));
        assert!(!are_enough(50, 100, 1.0, 0));
        assert!(are_enough(100, 100, 1.0, 0));
        assert!(are_enough(100, 100, 1.0, 200));
    }
}
