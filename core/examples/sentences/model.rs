//! A language model of counts: after the last words of a text, how likely is each word to come next?
//!
//! An n-gram is n tokens in a row. A model of order 4 looks for the last three tokens of a text in the stories that it has
//! read, and expects what followed there. What it has not seen there may have followed the last two tokens, or the last
//! one: interpolated Kneser-Ney smoothing, which counts for each shorter context not how often a token followed it, but
//! behind how many different tokens it did. (After the word `Gull` comes `Island`, often; after any other word, hardly ever.)
//!
//! Probabilities are integers, shares of [`CERTAIN`], and their logarithms are those of a library in pure Rust. So the
//! logits are the same on every machine, and so is what is sampled from them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The mass of what is certain: what the masses of all tokens add up to.
pub const CERTAIN: u64 = 1 << 60;

/// The token before a paragraph, which ends the one before.
pub const END: &str = "\n";
/// Tokens that end a sentence.
const STOPS: [&str; 3] = [".", "?", "!"];
/// Tokens without a space before them.
const MARKS: [&str; 6] = [".", "?", "!", ",", ";", ":"];

/// Words and punctuation marks, each a token. Ids are in their alphabetical order.
#[derive(Debug)]
pub struct Vocabulary {
    words: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// The words of a text.
    pub fn of(text: &str) -> Self {
        let written = Self::new(split(text).collect());
        // A word that has its capital from the beginning of a sentence is the word without.
        let used = written.encode(text).expect("the words of this text");
        Self::new(used.into_iter().map(|token| written.word(token)).collect())
    }

    fn new(words: BTreeSet<&str>) -> Self {
        let words: Vec<String> = words.into_iter().map(String::from).collect();
        let ids = words.iter().zip(0..).map(|(word, id)| (word.clone(), id)).collect();
        Self { words, ids }
    }

    /// The words and marks, by id.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The token of a word or a mark, as it is written within a sentence.
    fn id(&self, word: &str) -> Option<u32> {
        self.ids.get(word).copied()
    }

    /// The tokens that end a sentence.
    pub fn stops(&self) -> Vec<u32> {
        STOPS.iter().filter_map(|&mark| self.id(mark)).collect()
    }

    /// The tokens of a text, each paragraph's with [`END`] before it. An error is the first word that is not in the
    /// vocabulary.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut begins = true;
        split(text)
            .map(|word| {
                let small = if begins { self.id(&word.to_lowercase()) } else { None };
                begins = word == END || STOPS.contains(&word);
                small.or_else(|| self.id(word)).ok_or_else(|| word.into())
            })
            .collect()
    }

    /// The text of a token.
    pub fn word(&self, token: u32) -> &str {
        &self.words[token as usize]
    }

    /// Tokens as they are written behind another: with a space before each that is no mark, and a capital where a
    /// sentence begins.
    pub fn decode(&self, before: u32, tokens: &[u32]) -> String {
        let mut text = String::new();
        let mut before = self.word(before);
        for word in tokens.iter().map(|&token| self.word(token)).filter(|&word| word != END) {
            if before != END && !MARKS.contains(&word) {
                text.push(' ');
            }
            let begins = before == END || STOPS.contains(&before);
            let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
            text += &if begins { first.to_uppercase() } else { first.into() };
            text += rest;
            before = word;
        }
        text
    }
}

/// The words and marks of a text, in order, and [`END`] before each paragraph. Between paragraphs are empty lines.
fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").flat_map(|paragraph| {
        let parts = paragraph.split_whitespace().flat_map(|part| {
            let word = part.trim_end_matches(|c: char| !c.is_alphanumeric());
            [word, &part[word.len()..]].into_iter().filter(|part| !part.is_empty())
        });
        [END].into_iter().chain(parts)
    })
}

/// What followed a context, and how often.
#[derive(Debug, Default)]
struct Followers {
    counts: Vec<(u32, u64)>,
    sum: u64,
}

/// A model of n-grams up to some order.
#[derive(Debug)]
pub struct Model {
    vocab_size: usize,
    /// By the length of the context.
    followers: Vec<HashMap<Vec<u32>, Followers>>,
}

impl Model {
    /// Reads a text of a vocabulary of so many tokens.
    pub fn learn(text: &[u32], vocab_size: usize, order: usize) -> Self {
        let mut grams: BTreeMap<&[u32], u64> = BTreeMap::new();
        text.windows(order).for_each(|gram| *grams.entry(gram).or_default() += 1);
        let mut followers = vec![];
        for _ in 0..order {
            let mut by_context: HashMap<Vec<u32>, Followers> = HashMap::new();
            let mut shorter: BTreeMap<&[u32], u64> = BTreeMap::new();
            for (gram, count) in grams {
                let (&token, context) = gram.split_last().expect("a token at least");
                let seen = by_context.entry(context.into()).or_default();
                seen.counts.push((token, count));
                seen.sum += count;
                // Another token before it.
                *shorter.entry(&gram[1..]).or_default() += 1;
            }
            followers.insert(0, by_context);
            grams = shorter;
        }
        Self { vocab_size, followers }
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size as u32
    }

    /// The mass of each token after a text. They add up to [`CERTAIN`].
    ///
    /// Each context, the longest first, has what the longer ones have left. It gives a token that was seen `count` times of
    /// `sum` the share `(count - 1/2) / sum` of that; the halves are left for shorter contexts. (A half is less than is usual
    /// for so small a text: it keeps to what the stories say.)
    pub fn masses(&self, text: &[u32]) -> Vec<u64> {
        let mut masses = vec![0; self.vocab_size];
        let mut left = CERTAIN;
        for (length, followers) in self.followers.iter().enumerate().rev() {
            let context = &text[text.len().saturating_sub(length)..];
            let Some(seen) = followers.get(context) else { continue };
            let all = u128::from(left);
            for &(token, count) in &seen.counts {
                let mass = (all * u128::from(2 * count - 1) / u128::from(2 * seen.sum)) as u64;
                masses[token as usize] += mass;
                left -= mass;
            }
        }
        // Anything may follow.
        let even = left / self.vocab_size as u64;
        masses.iter_mut().for_each(|mass| *mass += even);
        masses[0] += left % self.vocab_size as u64;
        masses
    }

    /// The logits after a text, as little-endian f32: the natural logarithm of each token's probability.
    pub fn logits(&self, text: &[u32]) -> Vec<u8> {
        let logit = |mass| libm::log(mass as f64 / CERTAIN as f64) as f32;
        self.masses(text).into_iter().flat_map(|mass| logit(mass).to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STORIES;

    fn bits_a_token(model: &Model, text: &[u32]) -> f64 {
        let bits = |i: usize| {
            let mass = model.masses(&text[..i])[text[i] as usize];
            (CERTAIN as f64 / mass as f64).log2()
        };
        (0..text.len()).map(bits).sum::<f64>() / text.len() as f64
    }

    #[test]
    fn texts_are_written_as_they_were_read() {
        let vocabulary = Vocabulary::of(&STORIES.join("\n"));
        let end = vocabulary.id(END).unwrap();
        for paragraph in STORIES.iter().flat_map(|story| story.trim_end().split("\n\n")) {
            let tokens = vocabulary.encode(paragraph).unwrap();
            assert_eq!(tokens[0], end);
            assert_eq!(vocabulary.decode(end, &tokens), paragraph);
        }
        assert_eq!(vocabulary.encode("The old fisherman"), Err("fisherman".into()));
        // The same word, wherever it stands; a name keeps its capital.
        let twice = vocabulary.encode("The bell. The cat and the bell of Nell. Nell").unwrap();
        assert_eq!((twice[1], twice[4], twice[10]), (twice[7], twice[7], twice[12]));
    }

    #[test]
    fn masses_are_those_of_a_calculation_by_hand() {
        // After b: a twice, c once. Tokens before: two of a (c, b), one of b, one of c.
        let model = Model::learn(&[0, 1, 0, 1, 2, 0, 1, 0], 3, 2);
        let whole = CERTAIN as f64;
        let single = [0, 1, 2].map(|token| {
            let before = [2.0, 1.0, 1.0][token];
            (before - 0.5) / 4.0 + 1.5 / 4.0 / 3.0
        });
        let expected = [1.5 / 3.0 + single[0] / 3.0, single[1] / 3.0, 0.5 / 3.0 + single[2] / 3.0];
        let masses = model.masses(&[1]);
        for (token, &mass) in masses.iter().enumerate() {
            assert!((mass as f64 / whole - expected[token]).abs() < 1e-12, "{token}: {masses:?}");
        }
    }

    #[test]
    fn probabilities_add_up_exactly_and_none_is_zero() {
        let vocabulary = Vocabulary::of(&STORIES.join("\n"));
        let text = vocabulary.encode(&STORIES.join("\n")).unwrap();
        for order in 1..=4 {
            let model = Model::learn(&text, vocabulary.words().len(), order);
            for end in (0..text.len()).step_by(97) {
                // What was read, and what nobody wrote.
                let reversed: Vec<u32> = text[..end].iter().rev().copied().collect();
                for context in [&text[..end], &reversed] {
                    let masses = model.masses(context);
                    assert_eq!(masses.iter().sum::<u64>(), CERTAIN);
                    assert!(!masses.contains(&0));
                }
            }
        }
    }

    #[test]
    fn longer_contexts_know_what_was_read_and_help_with_what_was_not() {
        let vocabulary = Vocabulary::of(&STORIES.join("\n"));
        let read = vocabulary.encode(&STORIES[1..].join("\n")).unwrap();
        let [other, known] = [0, 1].map(|story| vocabulary.encode(STORIES[story]).unwrap());
        let models = [1, 2, 3, 4].map(|n| Model::learn(&read, vocabulary.words().len(), n));
        let of_known = models.each_ref().map(|model| bits_a_token(model, &known));
        assert!(of_known.is_sorted_by(|a, b| a > b), "{of_known:?}");
        let of_other = models.each_ref().map(|model| bits_a_token(model, &other));
        assert!(of_other[1] < of_other[0] - 1.0, "{of_other:?}");
    }

    #[test]
    fn logits_are_the_same_bits_on_every_machine() {
        let vocabulary = Vocabulary::of(&STORIES.join("\n"));
        let text = vocabulary.encode(&STORIES.join("\n")).unwrap();
        let model = Model::learn(&text, vocabulary.words().len(), 4);
        // FNV-1a over many rows.
        let bytes = (0..text.len()).step_by(53).flat_map(|end| model.logits(&text[..end]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        assert_eq!(hash, 5_220_034_349_250_019_642);
    }
}
