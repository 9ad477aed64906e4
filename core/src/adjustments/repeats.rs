//! What the order of a history forbids or makes dearer: n-grams, bad words, and DRY's repetitions.

/// Tokens that would end an n-gram which the history holds already.
pub fn ngram_ends(history: &[u32], n: usize) -> impl Iterator<Item = u32> {
    let end = &history[history.len().saturating_sub(n - 1)..];
    // A history shorter than n - 1 has no n-gram.
    history.windows(n).filter(move |ngram| ngram[..n - 1] == *end).map(move |ngram| ngram[n - 1])
}

/// Tokens that would end a bad word.
pub fn bad_ends(history: &[u32], bad_words: &[Vec<u32>]) -> impl Iterator<Item = u32> {
    let ends = bad_words.iter().filter_map(|word| word.split_last());
    ends.filter(|(_, head)| history.ends_with(head)).map(|(&last, _)| last)
}

/// Memory for [`Repetitions`].
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    reversed: Vec<u32>,
    lengths: Vec<u32>,
}

/// The repetitions that a next token would go on with.
///
/// For each place in the window: how long is what stands before it and also at the window's end? Read backwards, that
/// is the length of the common prefix of the whole and of one of its suffixes, so one Z-function tells all of them. No
/// repetition reaches across a breaker.
pub struct Repetitions<'a> {
    /// The window, from its end to its beginning.
    reversed: &'a [u32],
    /// Of each suffix of that, the length of what it has in common with the whole.
    lengths: &'a [u32],
    length_max: u32,
}

impl<'a> Repetitions<'a> {
    /// Those of a window, the last tokens of a history.
    pub fn of(window: &[u32], breakers: &[Vec<u32>], buffers: &'a mut Buffers) -> Self {
        let Buffers { reversed, lengths } = buffers;
        reversed.clear();
        reversed.extend(window.iter().rev());
        z_function(reversed, lengths);
        Self { reversed, lengths, length_max: since_breaker(reversed, breakers) as u32 }
    }

    /// Each token that has followed what stands at the end, with the length of that; tokens may come again.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        let lengths = self.lengths.iter().map(|&length| length.min(self.length_max));
        self.reversed.iter().copied().zip(lengths.skip(1))
    }
}

/// `lengths[i]`: how many first elements `all` and `all[i..]` have in common.
///
/// What matched furthest, `all[start..end]`, is a prefix of `all`; so within it the lengths are known from there, and
/// only what ends at `end` has to be compared further: every comparison that matches moves `end`.
fn z_function(all: &[u32], lengths: &mut Vec<u32>) {
    lengths.clear();
    lengths.resize(all.len(), all.len() as u32);
    let (mut start, mut end) = (0, 0);
    for i in 1..all.len() {
        let known = if i < end { (lengths[i - start] as usize).min(end - i) } else { 0 };
        let matching = all[known..].iter().zip(&all[i + known..]).take_while(|(a, b)| a == b);
        let length = if i + known < end { known } else { known + matching.count() };
        lengths[i] = length as u32;
        if i + length > end {
            (start, end) = (i, i + length);
        }
    }
}

/// How many tokens follow the last end of a breaker; all, where there is none.
///
/// Breakers are read backwards too, and sorted: those that begin with the same tokens stand together, and a walk back
/// from a place narrows them down, a token at a time.
fn since_breaker(reversed: &[u32], breakers: &[Vec<u32>]) -> usize {
    let mut sorted: Vec<Vec<u32>> = breakers.to_vec();
    sorted.iter_mut().for_each(|breaker| breaker.reverse());
    sorted.sort_unstable();
    let ends_at = |place: usize| begins_with_one(&reversed[place..], &sorted);
    (0..reversed.len()).find(|&place| ends_at(place)).unwrap_or(reversed.len())
}

fn begins_with_one(tokens: &[u32], mut sorted: &[Vec<u32>]) -> bool {
    for (depth, token) in tokens.iter().enumerate() {
        let start = sorted.partition_point(|breaker| breaker[depth] < *token);
        let end = sorted.partition_point(|breaker| breaker[depth] <= *token);
        sorted = &sorted[start..end];
        match sorted.first() {
            None => return false,
            // The shortest of those with the same beginning is the first.
            Some(breaker) if breaker.len() == depth + 1 => return true,
            Some(_) => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_of_ngrams() {
        let ends = |history: &[u32], n| ngram_ends(history, n).collect::<Vec<_>>();
        assert_eq!(ends(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(ends(&[1, 1, 1], 2), [1, 1]);
        assert_eq!(ends(&[5, 6], 1), [5, 6]);
        assert_eq!(ends(&[1, 2], 4), [0; 0]);
        assert_eq!(ends(&[], 1), [0; 0]);
    }

    proptest! {
        #[test]
        fn lengths_are_those_of_comparing_every_suffix(
            window in proptest::collection::vec(0u32..3, 0..40),
            breakers in proptest::collection::vec(proptest::collection::vec(0u32..3, 1..5), 0..3),
        ) {
            let n = window.len();
            let limit = (0..=n)
                .rev()
                .find(|&end| breakers.iter().any(|breaker| window[..end].ends_with(breaker)))
                .map_or(n, |end| n - end);
            let length = |j: usize| {
                (1..=j).take_while(|&l| window[..j].ends_with(&window[n - l..])).count().min(limit)
            };
            let expected: Vec<(u32, u32)> =
                (1..n).rev().map(|j| (window[j], length(j) as u32)).collect();
            let mut buffers = Buffers::default();
            let found = Repetitions::of(&window, &breakers, &mut buffers);
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        }
    }
}
