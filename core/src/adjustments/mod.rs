//! Adjustments: what is done to single logits of a row before it is sampled.
//!
//! What somebody asks for is an [`AdjustmentsSpec`]: bans, biases and what is known of the row's history. Its
//! [`parse`](AdjustmentsSpec::parse) is the only way to [`Adjustments`], which are valid for a row of so many tokens.
//! The coefficients (penalties, DRY's, `no_repeat_ngram`, `min_tokens`) are [parameters](crate::params). Both together
//! come to [`changes`]: which tokens are banned, and which get another logit.
//!
//! Per token, in f32, each operation rounded once, in this order; what is at its default is not applied at all:
//!
//! 1. banned: the logit is -inf, whatever it was (NaN too), and nothing else is applied;
//! 2. bias: `x + b`;
//! 3. repetition penalty of a token in the history: `x / r` above 0, else `x * r`;
//! 4. frequency penalty of a token that the output holds n times, `x - f * n`, then presence penalty, `x - p`;
//! 5. DRY: `x - penalty`.

pub mod changes;
mod repeats;

use crate::params::SamplingParams;
use std::collections::HashSet;
use std::sync::Arc;

/// The most banned tokens, and the most biases, of a row. More are a bitmask.
pub const BANS_MAX: usize = 4096;
/// The most stop tokens of a row.
pub const STOP_IDS_MAX: usize = 128;
/// The most bad words of a row.
pub const BAD_WORDS_MAX: usize = 1024;
/// The most tokens of a bad word.
pub const BAD_WORD_TOKENS_MAX: usize = 64;
/// The most breakers of DRY.
pub const BREAKERS_MAX: usize = 256;
/// The most tokens of a breaker.
pub const BREAKER_TOKENS_MAX: usize = 16;
/// Biases are at most so far from 0, or -inf.
pub const BIAS_MAX: f32 = 1e4;
/// The most times that a token can have been seen.
pub const COUNT_MAX: u32 = 1 << 24;

/// Adjustments of a row as somebody asked for them. What is empty is not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdjustmentsSpec {
    /// Bit `i % 32` of word `i / 32` is 1 where token i is allowed. Missing words are 0, further ones are ignored.
    pub allowed_bitmask: Vec<u32>,
    /// All other tokens are banned.
    pub allowed_ids: Vec<u32>,
    /// Tokens that are banned.
    pub banned_ids: Vec<u32>,
    /// Sequences that must not come to be: the last token is banned where the history ends in those before it.
    pub bad_words: Vec<Vec<u32>>,
    /// What `min_tokens` bans. Tokens that there are not are ignored.
    pub stop_ids: Vec<u32>,
    /// Added to the logits of these tokens; -inf bans. No token twice.
    pub logit_bias: Vec<(u32, f32)>,
    /// The history's first part. Tokens that there are not stay between their neighbours, and have no logit.
    pub prompt: Vec<u32>,
    /// The history's second part: what was sampled so far.
    pub output: Vec<u32>,
    /// What `min_tokens` compares with, instead of the length of `output`.
    pub output_length: Option<u32>,
    /// Tokens of the history with how often the output holds them (0: the prompt alone does), for the penalties instead
    /// of `prompt` and `output`. No token twice.
    pub counts: Vec<(u32, u32)>,
    /// Sequences across which no repetition reaches, as DRY sees it.
    pub breakers: Vec<Vec<u32>>,
}

/// How much of a history a row can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of prompt and output together.
    pub history_tokens_max: usize,
    /// Different tokens that a row's counts or history, or its allowed_ids, can name.
    pub adjusted_tokens_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { history_tokens_max: 1 << 20, adjusted_tokens_max: 1 << 16 }
    }
}

/// Valid adjustments of a row. Made by [`AdjustmentsSpec::parse`]; a copy shares what they hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adjustments {
    lists: Arc<AdjustmentsSpec>,
    breakers: Breakers,
    /// What is allowed and banned in this row of a sequence, beside what `lists` has for all of them.
    of_row: Option<Arc<AdjustmentsSpec>>,
    drafts: Drafts,
}

/// Tokens that the output goes on with, up to one row of a sequence whose rows share the list.
#[derive(Clone, Debug, Default)]
struct Drafts {
    tokens: Arc<[u32]>,
    count: usize,
}

impl PartialEq for Drafts {
    fn eq(&self, other: &Self) -> bool {
        self.tokens[..self.count] == other.tokens[..other.count]
    }
}

/// DRY's breakers: repetitions do not reach across them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Breakers(Arc<Vec<Vec<u32>>>);

/// What is wrong with adjustments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {description}")]
pub struct AdjustmentsError {
    /// The field, by its name in the API, with the index of what is wrong: `logit_bias[3]`.
    pub field: String,
    /// What it is, and what is allowed.
    pub description: String,
}

impl AdjustmentsSpec {
    /// Checks everything; an error for each field that is wrong.
    pub fn parse(
        mut self,
        vocab_size: u32,
        limits: Limits,
    ) -> Result<Adjustments, Vec<AdjustmentsError>> {
        self.allowed_bitmask.truncate(vocab_size.div_ceil(32) as usize);
        let checks = [
            self.check_ids(
                "allowed_ids",
                &self.allowed_ids,
                limits.adjusted_tokens_max,
                vocab_size,
            ),
            self.check_ids("banned_ids", &self.banned_ids, BANS_MAX, vocab_size),
            self.check_bad_words(vocab_size),
            at_most("stop_ids", self.stop_ids.len(), STOP_IDS_MAX, "tokens"),
            self.check_biases(vocab_size),
            self.check_history(limits),
            self.check_counts(limits.adjusted_tokens_max),
        ];
        let mut wrong: Vec<_> = checks.into_iter().filter_map(Result::err).collect();
        match Breakers::parse(std::mem::take(&mut self.breakers)) {
            Ok(breakers) if wrong.is_empty() => {
                return Ok(Adjustments {
                    lists: Arc::new(self),
                    breakers,
                    ..Adjustments::default()
                });
            }
            Ok(_) => {}
            Err(error) => wrong.push(error),
        }
        Err(wrong)
    }

    fn check_ids(&self, field: &str, ids: &[u32], most: usize, vocab_size: u32) -> Checked {
        at_most(field, ids.len(), most, "tokens; more are an allowed_bitmask")?;
        ids.iter()
            .enumerate()
            .try_for_each(|(i, &id)| below(vocab_size, id, || format!("{field}[{i}]")))
    }

    fn check_bad_words(&self, vocab_size: u32) -> Checked {
        sequences("bad_words", &self.bad_words, BAD_WORDS_MAX, BAD_WORD_TOKENS_MAX)?;
        for (i, word) in self.bad_words.iter().enumerate() {
            for (j, &id) in word.iter().enumerate() {
                below(vocab_size, id, || format!("bad_words[{i}][{j}]"))?;
            }
        }
        Ok(())
    }

    fn check_biases(&self, vocab_size: u32) -> Checked {
        at_most("logit_bias", self.logit_bias.len(), BANS_MAX, "biases")?;
        for (i, &(id, bias)) in self.logit_bias.iter().enumerate() {
            below(vocab_size, id, || format!("logit_bias[{i}]"))?;
            if !(bias.abs() <= BIAS_MAX || bias == f32::NEG_INFINITY) {
                let allowed = format!("-{BIAS_MAX} to {BIAS_MAX}, or -inf, which bans");
                return wrong(format!("logit_bias[{i}]"), format!("is {bias}; allowed: {allowed}"));
            }
        }
        once("logit_bias", self.logit_bias.iter().map(|(id, _)| *id))
    }

    fn check_history(&self, limits: Limits) -> Checked {
        let tokens = self.prompt.len() + self.output.len();
        if tokens > limits.history_tokens_max {
            let most = limits.history_tokens_max;
            return wrong(
                "prompt".into(),
                format!(
                    "and output have {tokens} tokens; allowed: {most} (history_tokens_max); send the last ones, or counts"
                ),
            );
        }
        // So many can only be too many different ones where there are so many.
        if tokens > limits.adjusted_tokens_max {
            let different: HashSet<u32> = self.prompt.iter().chain(&self.output).copied().collect();
            let what = "different tokens, of prompt and output (adjusted_tokens_max)";
            at_most("prompt", different.len(), limits.adjusted_tokens_max, what)?;
        }
        Ok(())
    }

    fn check_counts(&self, most: usize) -> Checked {
        at_most("counts", self.counts.len(), most, "tokens (adjusted_tokens_max)")?;
        for (i, &(_, count)) in self.counts.iter().enumerate() {
            if count > COUNT_MAX {
                let description = format!("has a count of {count}; allowed: 0 to {COUNT_MAX}");
                return wrong(format!("counts[{i}]"), description);
            }
        }
        once("counts", self.counts.iter().map(|(id, _)| *id))
    }

    /// Bytes that all of it but the breakers takes in memory.
    pub fn bytes(&self) -> usize {
        let words: usize =
            self.bad_words.iter().map(|word| size_of_val(word) + word.len() * 4).sum();
        let ids = [&self.allowed_bitmask, &self.allowed_ids, &self.banned_ids, &self.stop_ids];
        let ids = ids.into_iter().chain([&self.prompt, &self.output]).map(Vec::len).sum::<usize>();
        words + ids * 4 + (self.logit_bias.len() + self.counts.len()) * 8
    }
}

impl Adjustments {
    /// The same at a later row of the sequence: the output goes on with the first `count` of these tokens.
    pub fn with_drafts(self, tokens: &Arc<[u32]>, count: usize) -> Self {
        Self { drafts: Drafts { tokens: Arc::clone(tokens), count }, ..self }
    }

    /// The same with the bitmask, the allowed and the banned ids of one row beside those of its sequence.
    pub fn with_row(self, of_row: Option<&Self>) -> Self {
        Self { of_row: of_row.map(|of_row| Arc::clone(&of_row.lists)), ..self }
    }

    /// The lists that say what is allowed and banned: a token has to be allowed by each.
    pub fn allowing(&self) -> impl Iterator<Item = &AdjustmentsSpec> {
        std::iter::once(&*self.lists).chain(self.of_row.as_deref())
    }

    /// The second part of the history: the output, and the drafts that it goes on with.
    pub fn output(&self) -> impl Iterator<Item = u32> + Clone {
        self.lists.output.iter().chain(self.drafts()).copied()
    }

    /// The whole history.
    pub fn history(&self) -> impl Iterator<Item = u32> + Clone {
        self.lists.prompt.iter().copied().chain(self.output())
    }

    /// What `min_tokens` compares with.
    pub fn output_length(&self) -> u32 {
        let given = self.lists.output_length.unwrap_or(self.lists.output.len() as u32);
        given.saturating_add(self.drafts.count as u32)
    }

    /// What the output goes on with.
    pub fn drafts(&self) -> &[u32] {
        &self.drafts.tokens[..self.drafts.count]
    }

    /// The lists that they are made of, all but the breakers: those of the sequence, where it is a row of one.
    pub fn lists(&self) -> &AdjustmentsSpec {
        &self.lists
    }

    /// Whether the lists of both are the same memory.
    pub fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lists, &other.lists)
    }

    /// DRY's breakers.
    pub fn breakers(&self) -> &[Vec<u32>] {
        &self.breakers.0
    }

    /// Whether the breakers of both are the same memory.
    pub fn shares_breakers_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.breakers.0, &other.breakers.0)
    }

    /// Bytes that the breakers take in memory.
    pub fn breaker_bytes(&self) -> usize {
        self.breakers().iter().map(|breaker| size_of_val(breaker) + breaker.len() * 4).sum()
    }

    /// The same with these breakers.
    pub fn with_breakers(self, breakers: Breakers) -> Self {
        Self { breakers, ..self }
    }

    /// Whether the parameters ask for nothing that these lists cannot tell: what needs the order of the tokens is
    /// nothing that counts have.
    pub fn check_with(&self, params: &SamplingParams) -> Result<(), AdjustmentsError> {
        let lists = self.lists();
        if lists.counts.is_empty() || !lists.prompt.is_empty() || !lists.output.is_empty() {
            return Ok(());
        }
        let in_order = [
            ("dry.multiplier", params.dry().is_some()),
            ("no_repeat_ngram", params.no_repeat_ngram().is_some()),
            ("bad_words", lists.bad_words.iter().any(|word| word.len() > 1)),
        ];
        match in_order.iter().find(|(_, asked)| *asked) {
            None => Ok(()),
            Some((control, _)) => wrong(
                "counts".into(),
                format!(
                    "stand in place of a history, and {control} needs the order of its tokens; give prompt and output \
                     too, or leave {control} out"
                ),
            ),
        }
    }
}

impl Breakers {
    /// Checks the number of the sequences and of their tokens.
    pub fn parse(breakers: Vec<Vec<u32>>) -> Result<Self, AdjustmentsError> {
        sequences("dry.breakers", &breakers, BREAKERS_MAX, BREAKER_TOKENS_MAX)?;
        Ok(Self(Arc::new(breakers)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

type Checked = Result<(), AdjustmentsError>;

fn wrong<T>(field: String, description: String) -> Result<T, AdjustmentsError> {
    Err(AdjustmentsError { field, description })
}

fn at_most(field: &str, count: usize, most: usize, what: &str) -> Checked {
    if count > most {
        return wrong(field.into(), format!("has {count}; allowed: up to {most} {what}"));
    }
    Ok(())
}

fn below(vocab_size: u32, id: u32, field: impl FnOnce() -> String) -> Checked {
    if id >= vocab_size {
        return wrong(field(), format!("is token {id}; allowed: below vocab_size, {vocab_size}"));
    }
    Ok(())
}

fn once(field: &str, ids: impl Iterator<Item = u32>) -> Checked {
    let mut seen = HashSet::new();
    for (i, id) in ids.enumerate() {
        if !seen.insert(id) {
            let description = format!("is token {id} again; allowed: each token once");
            return wrong(format!("{field}[{i}]"), description);
        }
    }
    Ok(())
}

fn sequences(field: &str, all: &[Vec<u32>], most: usize, tokens_max: usize) -> Checked {
    at_most(field, all.len(), most, "sequences")?;
    match all.iter().position(|sequence| !(1..=tokens_max).contains(&sequence.len())) {
        None => Ok(()),
        Some(i) => {
            let tokens = all[i].len();
            wrong(
                format!("{field}[{i}]"),
                format!("has {tokens} tokens; allowed: 1 to {tokens_max}"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamsSpec;

    fn errors(change: impl FnOnce(&mut AdjustmentsSpec)) -> Vec<String> {
        let mut spec = AdjustmentsSpec::default();
        change(&mut spec);
        let limits = Limits { history_tokens_max: 9, adjusted_tokens_max: 5 };
        match spec.parse(40, limits) {
            Ok(_) => vec![],
            Err(errors) => errors.iter().map(AdjustmentsError::to_string).collect(),
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        for (said, errors) in [
            (
                "allowed_ids[1] is token 40; allowed: below vocab_size, 40",
                errors(|s| s.allowed_ids = vec![0, 40]),
            ),
            ("banned_ids[0] is token 41", errors(|s| s.banned_ids = vec![41])),
            ("banned_ids has 4097; allowed: up to 4096", errors(|s| s.banned_ids = vec![0; 4097])),
            (
                "bad_words[1] has 0 tokens; allowed: 1 to 64",
                errors(|s| s.bad_words = vec![vec![1], vec![]]),
            ),
            ("bad_words[0][1] is token 99", errors(|s| s.bad_words = vec![vec![1, 99]])),
            ("bad_words[0] has 65 tokens", errors(|s| s.bad_words = vec![vec![1; 65]])),
            ("stop_ids has 129", errors(|s| s.stop_ids = vec![1; 129])),
            (
                "logit_bias[0] is NaN; allowed: -10000 to 10000, or -inf",
                errors(|s| s.logit_bias = vec![(1, f32::NAN)]),
            ),
            ("logit_bias[0] is inf", errors(|s| s.logit_bias = vec![(1, f32::INFINITY)])),
            ("logit_bias[1] is token 1 again", errors(|s| s.logit_bias = vec![(1, 0.5), (1, 1.0)])),
            (
                "prompt and output have 10 tokens; allowed: 9 (history_tokens_max)",
                errors(|s| s.prompt = vec![0; 10]),
            ),
            (
                "prompt has 6; allowed: up to 5 different tokens",
                errors(|s| s.output = (0..6).collect()),
            ),
            (
                "counts has 6; allowed: up to 5 tokens",
                errors(|s| s.counts = (0..6).map(|i| (i, 1)).collect()),
            ),
            ("counts[0] has a count of 16777217", errors(|s| s.counts = vec![(1, COUNT_MAX + 1)])),
            ("counts[1] is token 7 again", errors(|s| s.counts = vec![(7, 1), (7, 2)])),
        ] {
            assert!(errors.len() == 1 && errors[0].starts_with(said), "{said}: {errors:?}");
        }
        let two = errors(|s| (s.banned_ids, s.logit_bias) = (vec![40], vec![(40, 0.0)]));
        assert_eq!(two.len(), 2, "{two:?}");
        assert_eq!(
            errors(|s| s.output = vec![0, 99, 0, 0, 0, 0]),
            [""; 0],
            "a token that there is not"
        );
        assert!(
            Breakers::parse(vec![vec![1; 17]]).is_err() && Breakers::parse(vec![vec![]]).is_err()
        );
    }

    #[test]
    fn what_needs_an_order_is_refused_where_there_are_counts_alone() {
        let counts = AdjustmentsSpec { counts: vec![(1, 1)], ..Default::default() };
        let said = |spec: &AdjustmentsSpec, change: fn(&mut ParamsSpec)| {
            let mut params = ParamsSpec::default();
            change(&mut params);
            let adjustments = spec.clone().parse(40, Limits::default()).unwrap();
            let checked = adjustments.check_with(&params.parse(|| 0).unwrap());
            checked.map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert_eq!(said(&counts, |s| s.repetition_penalty = 2.0), "");
        assert!(
            said(&counts, |s| s.no_repeat_ngram = 2).contains("no_repeat_ngram needs the order")
        );
        assert!(said(&counts, |s| s.dry_multiplier = 2.0).contains("dry.multiplier needs"));
        let words = AdjustmentsSpec { bad_words: vec![vec![1], vec![1, 2]], ..counts.clone() };
        assert!(said(&words, |_| ()).contains("bad_words needs"));
        let both = AdjustmentsSpec { prompt: vec![1], ..words };
        assert_eq!(said(&both, |s| s.no_repeat_ngram = 2), "");
    }
}
