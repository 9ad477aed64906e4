//! What is asked of rows beside their tokens, as the kernels are told, and what `logitd_inspect` says of it.
//!
//! The kernels answer with integers and bits of logits: sums, ranks, the first tokens in no order, a bitmask. Here
//! logarithms are made of them, by the functions that every backend has them from.

use super::abi::{Batch, Plain, RowDescriptor};
use super::adjust::Change;
use crate::arithmetic::interval::{Interval, nats};
use crate::arithmetic::key::key32;
use crate::arithmetic::logprob;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::plan::Plan;
use crate::batch::{Draw, Outcome, Row, RowStatus};
use crate::inspection::{
    Distribution, Entropy, Inspect, Inspection, KeptIds, Logprobs, TokenLogprob,
};
use std::mem::{offset_of, size_of};

/// Bits of [`InspectDescriptor::flags`].
pub mod flags {
    /// The sums over all tokens at a temperature of 1.
    pub const SUM_RAW: u32 = 1;
    /// The same at the row's temperature.
    pub const SUM_ADJUSTED: u32 = 2;
    /// The same over the kept tokens.
    pub const SUM_SAMPLED: u32 = 4;
    /// Ranks and logits of tokens.
    pub const SAY_TOKENS: u32 = 8;
    /// The bitmask.
    pub const SAY_KEPT: u32 = 16;
}

/// Tokens of a word of a bitmask.
const WORD_TOKENS: usize = 32;

/// What is asked of one row's logits. All addresses are the device's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct InspectDescriptor {
    /// The logits that are looked at, with the scale of the adjusted distribution.
    pub row: RowDescriptor,
    /// Of the tokens that are asked for.
    pub ids: u64,
    /// Of an [`InspectOutcome`], an [`InspectToken`] for each draw and each token asked for, and one for each of the first.
    pub answer: u64,
    /// Of the bitmask.
    pub kept: u64,
    /// The row's place in its launch.
    pub sampled: u32,
    /// [`flags`].
    pub flags: u32,
    /// How many tokens are asked for.
    pub id_count: u32,
    /// How many first tokens.
    pub top: u32,
    /// [`Scale::c`] of a temperature of 1.
    pub raw_c: f32,
    /// [`Scale::dmin`] likewise.
    pub raw_dmin: f32,
}

const _: () = assert!(size_of::<InspectDescriptor>() == 128);
const _: () = assert!(offset_of!(InspectDescriptor, ids) == 80);
const _: () = assert!(offset_of!(InspectDescriptor, sampled) == 104);
const _: () = assert!(offset_of!(InspectDescriptor, raw_c) == 120);
// SAFETY: the fields' sizes add up to the 128 bytes.
unsafe impl Plain for InspectDescriptor {}

/// The argument of `logitd_inspect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InspectBatch {
    /// That of the launch before, with as many rows as are asked about.
    pub batch: Batch,
    /// Device address of `InspectDescriptor[row_count]`.
    pub asked: u64,
}

const _: () = assert!(size_of::<InspectBatch>() == 72);

/// What the kernels say of a row's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InspectOutcome {
    /// Sums of masses, by distribution.
    pub mass: [u64; 3],
    /// Sums of masses times surprisals.
    pub term: [u64; 3],
    /// [`RowStatus`].
    pub status: u32,
    /// Bits of the maximum.
    pub max: u32,
    /// Tokens above -inf.
    pub candidates: u32,
    /// First tokens that are listed.
    pub listed: u32,
}

const _: () = assert!(size_of::<InspectOutcome>() == 64);
const _: () = assert!(offset_of!(InspectOutcome, status) == 48);

/// A token of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InspectToken {
    /// Of a first token, which one it is; of any other, how many come before it.
    pub word: u32,
    /// Bits of its logit; either zero is +0.0.
    pub logit: u32,
}

const _: () = assert!(size_of::<InspectToken>() == 8);

impl InspectToken {
    /// Whether the row has such a token.
    fn is_there(self) -> bool {
        f32::from_bits(self.logit) > f32::NEG_INFINITY
    }
}

/// What is asked of a row: of its logits as they are sampled, and of the stored ones where these are others. 0 is nothing.
pub fn questions(asked: &Inspect, plan: &Plan, change: Option<&Change>) -> [u32; 2] {
    let of = |of: Distribution| asked.of[of as usize];
    let apart = change.is_some_and(|change| !change.is_nothing());
    let raw_here = of(Distribution::Raw) && !apart;
    let greedy = matches!(plan, Plan::Greedy);
    let mut sampled = 0;
    let mut set = |flag, asked| sampled |= if asked { flag } else { 0 };
    set(flags::SUM_ADJUSTED, of(Distribution::Adjusted));
    set(flags::SUM_RAW, raw_here && !(of(Distribution::Adjusted) && scale(plan) == raw_scale()));
    set(flags::SUM_SAMPLED, of(Distribution::Sampled) && !greedy);
    let tokens = raw_here || of(Distribution::Adjusted) || of(Distribution::Sampled);
    set(flags::SAY_TOKENS, tokens);
    set(flags::SAY_KEPT, asked.kept_ids_max.is_some());
    let stored = of(Distribution::Raw) && apart;
    [sampled, if stored { flags::SUM_RAW | flags::SAY_TOKENS } else { 0 }]
}

/// The scale of a row's adjusted distribution.
pub fn scale(plan: &Plan) -> Scale {
    match plan {
        Plan::Greedy => raw_scale(),
        Plan::Draw(chain) => chain.scale,
    }
}

/// The scale of the model's own distribution.
pub fn raw_scale() -> Scale {
    Scale::new(1.0)
}

/// Bytes of an answer to a question that is not nothing.
pub fn answer_bytes(asked: &Inspect, draws: usize) -> usize {
    let tokens = draws + asked.ids.len() + asked.top as usize;
    size_of::<InspectOutcome>() + tokens * size_of::<InspectToken>()
}

/// Bytes of a bitmask of a row's tokens.
pub fn kept_bytes(vocab_size: u32) -> usize {
    (vocab_size as usize).div_ceil(WORD_TOKENS) * size_of::<u32>()
}

/// The answers to both questions, and the bitmask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers<'a> {
    /// Of the logits as they were sampled.
    pub sampled: Option<&'a [u8]>,
    /// Of the stored ones, where these are others.
    pub stored: Option<&'a [u8]>,
    /// The bitmask of the kept tokens.
    pub kept: Option<&'a [u8]>,
}

/// Says what is asked of a row, from what the kernels say. What cannot be is the device's failure.
pub fn inspection(
    row: &Row<'_>,
    asked: &Inspect,
    plan: &Plan,
    outcome: &Outcome,
    draws: &[Draw],
    answers: Answers<'_>,
) -> Result<Inspection, String> {
    let ok = outcome.status == RowStatus::Ok;
    let read = |bytes: Option<&[u8]>, tokens| {
        bytes.map(|bytes| ReadBack::read(row, asked, bytes, tokens)).transpose()
    };
    // As in `questions`: the model's own distribution is asked of the stored logits, where these are others.
    let of_others = asked.distributions().any(|of| of != Distribution::Raw);
    let of_any = asked.distributions().next().is_some();
    let sampled = read(answers.sampled, of_others || of_any && answers.stored.is_none())?;
    let stored = read(answers.stored, true)?;
    let drawn = if ok { draws } else { &[] };
    let mut logprobs = Vec::new();
    for of in asked.distributions() {
        let answer = match (of, &stored) {
            (Distribution::Raw, Some(stored)) => stored,
            _ => sampled.as_ref().ok_or("nothing was asked of it")?,
        };
        logprobs.push(answer.say(of, asked, plan, outcome, drawn)?);
    }
    let kept = match (asked.kept_ids_max, answers.kept) {
        (Some(most), Some(words)) if ok => Some(kept_ids(words, outcome.kept, most)?),
        _ => None,
    };
    Ok(Inspection { logprobs, kept, continuations: None })
}

/// An answer, read.
struct ReadBack {
    outcome: InspectOutcome,
    status: RowStatus,
    /// The draws, then the tokens that were asked for.
    named: Vec<InspectToken>,
    /// In the order.
    first: Vec<InspectToken>,
}

impl ReadBack {
    /// `tokens`: whether it was asked about tokens.
    fn read(row: &Row<'_>, asked: &Inspect, bytes: &[u8], tokens: bool) -> Result<Self, String> {
        let (outcome, all) = bytes.split_at(size_of::<InspectOutcome>());
        let outcome = read_outcome(outcome);
        let status = RowStatus::ALL.into_iter().find(|&s| s as u32 == outcome.status);
        let status = status.ok_or_else(|| {
            format!("it returned the status {}, which there is not", outcome.status)
        })?;
        let (all, _) = all.as_chunks::<{ size_of::<InspectToken>() }>();
        let (named, first) = all.split_at(all.len() - asked.top as usize);
        let listed = if status == RowStatus::Ok { outcome.listed as usize } else { 0 };
        let first =
            first.get(..listed).ok_or("it returned more first tokens than were asked for")?;
        let mut first: Vec<_> = first.iter().map(read_token).collect();
        if let Some(token) = first.iter().find(|token| token.word >= row.vocab_size()) {
            return Err(format!("it returned token {} of {}", token.word, row.vocab_size()));
        }
        first.sort_unstable_by_key(|token| (!key32(f32::from_bits(token.logit)), token.word));
        let named: Vec<_> = named.iter().map(read_token).collect();
        if status == RowStatus::Ok && tokens {
            let wanted = asked.top.min(outcome.candidates) as usize;
            if listed != wanted {
                return Err(format!("it returned {listed} first tokens, of {wanted}"));
            }
            if let Some(token) = named.iter().find(|t| t.is_there() && t.word >= row.vocab_size()) {
                let size = row.vocab_size();
                return Err(format!("it returned the rank {} among {size} tokens", token.word));
            }
        }
        Ok(Self { outcome, status, named, first })
    }

    fn say(
        &self,
        of: Distribution,
        asked: &Inspect,
        plan: &Plan,
        outcome: &Outcome,
        draws: &[Draw],
    ) -> Result<Logprobs, String> {
        let Self { status, .. } = *self;
        if status != RowStatus::Ok {
            let entropy = Entropy::default();
            return Ok(Logprobs { of, status, entropy, drawn: vec![], top: vec![], ids: vec![] });
        }
        let (kept, scale) = match of {
            Distribution::Raw => (u32::MAX, raw_scale()),
            Distribution::Adjusted => (u32::MAX, scale(plan)),
            Distribution::Sampled => (outcome.kept, scale(plan)),
        };
        let sums = self.sums(of, plan, outcome);
        if sums.mass == 0 {
            let InspectOutcome { candidates, .. } = self.outcome;
            return Err(format!(
                "it returned no mass of the distribution {of} ({} kept of {candidates})",
                outcome.kept
            ));
        }
        let max = f32::from_bits(self.outcome.max);
        let logprobs = logprob::Logprobs::new(max, scale, sums.mass);
        let say = |token, rank, logit| match rank {
            1.. if rank <= kept => {
                TokenLogprob { token, rank, logprob: logprobs.of(f32::from_bits(logit)) }
            }
            _ => TokenLogprob { token, rank: 0, logprob: f32::NEG_INFINITY },
        };
        let named = |(token, answer): (u32, &InspectToken)| {
            say(token, if answer.is_there() { answer.word + 1 } else { 0 }, answer.logit)
        };
        let (drawn, ids) = self.named.split_at(self.named.len() - asked.ids.len());
        let first = self.first.iter().zip(1..).take(kept as usize);
        Ok(Logprobs {
            of,
            status,
            entropy: Entropy(nats(sums.entropy())),
            drawn: draws.iter().map(|draw| draw.token).zip(drawn).map(named).collect(),
            top: first.map(|(token, rank)| say(token.word, rank, token.logit)).collect(),
            ids: asked.ids.iter().copied().zip(ids).map(named).collect(),
        })
    }

    /// The sums over a distribution, which may be those of another.
    fn sums(&self, of: Distribution, plan: &Plan, outcome: &Outcome) -> Interval {
        let InspectOutcome { mass, term, candidates, .. } = self.outcome;
        let summed =
            |of: Distribution| Interval { mass: mass[of as usize], term: term[of as usize] };
        match (of, plan) {
            (Distribution::Sampled, Plan::Greedy) => Interval { mass: UNIT, term: 0 },
            (Distribution::Sampled, _) if outcome.kept == candidates => {
                let whole = summed(Distribution::Adjusted);
                if whole.mass > 0 { whole } else { summed(of) }
            }
            (Distribution::Raw, _) if summed(of).mass == 0 => summed(Distribution::Adjusted),
            _ => summed(of),
        }
    }
}

/// The kept tokens: their ids, or the bitmask of more than `most`.
fn kept_ids(words: &[u8], kept: u32, most: u32) -> Result<KeptIds, String> {
    let (words, _) = words.as_chunks();
    let words = words.iter().map(|&word| u32::from_le_bytes(word));
    let count: u32 = words.clone().map(u32::count_ones).sum();
    if count != kept {
        return Err(format!("it returned a bitmask of {count} tokens, of {kept} that are kept"));
    }
    if kept > most {
        return Ok(KeptIds::Bitmask(words.collect()));
    }
    let ids_of = |(first, word): (usize, u32)| {
        let first = (first * WORD_TOKENS) as u32;
        (0..WORD_TOKENS as u32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
    };
    Ok(KeptIds::Ids(words.enumerate().flat_map(ids_of).collect()))
}

fn read_outcome(bytes: &[u8]) -> InspectOutcome {
    let (words, _) = bytes.as_chunks();
    let long = |i: usize| u64::from_le_bytes(words[i]);
    let low = |i: usize| long(i) as u32;
    let high = |i: usize| (long(i) >> 32) as u32;
    InspectOutcome {
        mass: [0, 1, 2].map(long),
        term: [3, 4, 5].map(long),
        status: low(6),
        max: high(6),
        candidates: low(7),
        listed: high(7),
    }
}

fn read_token(bytes: &[u8; size_of::<InspectToken>()]) -> InspectToken {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|at| bytes[i + at]));
    InspectToken { word: word(0), logit: word(4) }
}
