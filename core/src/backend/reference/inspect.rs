//! What is said of a row beside its tokens: each distribution sorted whole, and looked at from its first token on.

use super::{Kept, status};
use crate::arithmetic::interval::{Interval, nats};
use crate::arithmetic::key::key32;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::{Scale, mass};
use crate::arithmetic::score::score;
use crate::arithmetic::surprisal::surprisal;
use crate::batch::{Draw, Row, RowStatus};
use crate::inspection::{
    Continuation, Continuations, Continue, Distribution, Entropy, Inspect, Inspection, KeptIds,
    Logprobs, Normaliser, TokenLogprob,
};

/// Says what is asked of a row, whose kept tokens and draws are given, or why it has none.
pub fn inspect(
    row: &Row<'_>,
    asked: &Inspect,
    kept: Result<&Kept, RowStatus>,
    draws: &[Draw],
) -> Inspection {
    let draws = if kept.is_ok() { draws } else { &[] };
    let say = |of| match Sorted::new(of, row, kept) {
        Ok(sorted) => sorted.say(of, asked, draws),
        Err(status) => {
            Logprobs { of, status, entropy: Entropy(0.0), drawn: vec![], top: vec![], ids: vec![] }
        }
    };
    let kept_ids = |most: u32| Some(kept_ids(kept.ok()?, row.vocab_size(), most));
    Inspection {
        logprobs: asked.distributions().map(say).collect(),
        kept: asked.kept_ids_max.and_then(kept_ids),
        continuations: asked.continuations.map(|asked| go_on(row, asked, kept)),
    }
}

/// How a row can go on.
fn go_on(row: &Row<'_>, asked: Continue, kept: Result<&Kept, RowStatus>) -> Continuations {
    let failed = |status| Continuations { status, tokens: vec![] };
    let adjusted = match kept {
        Ok(kept) => Sorted::of(candidates(&kept.x), asked.temperature),
        Err(status) => return failed(status),
    };
    let stored = match asked.normaliser {
        Normaliser::Adjusted => None,
        Normaliser::Raw => match Sorted::stored(row, asked.temperature) {
            Ok(stored) => Some(stored),
            Err(status) => return failed(status),
        },
    };
    let Sorted { tokens: all, scale } = stored.as_ref().unwrap_or(&adjusted);
    let max = all[0].1;
    let whole = all.iter().map(|&(_, x)| mass(x, max, *scale)).sum();
    let first = adjusted.tokens.iter().take(asked.count as usize);
    let going_on = first
        .map(|&(token, x)| Continuation { token, score: score(x - max, asked.temperature, whole) });
    Continuations { status: RowStatus::Ok, tokens: going_on.collect() }
}

/// The tokens of a distribution in the total order, with their logits.
struct Sorted {
    tokens: Vec<(u32, f32)>,
    scale: Scale,
}

impl Sorted {
    fn new(
        of: Distribution,
        row: &Row<'_>,
        kept: Result<&Kept, RowStatus>,
    ) -> Result<Self, RowStatus> {
        match of {
            Distribution::Raw => Self::stored(row, 1.0),
            Distribution::Adjusted => {
                let Kept { x, before, .. } = kept?;
                Ok(Self::of(candidates(x), *before))
            }
            Distribution::Sampled => {
                let Kept { y, by_id, temperature, .. } = kept?;
                let tokens = by_id.iter().map(|&(token, _)| (token as u32, y[token]));
                Ok(Self::of(tokens.collect(), *temperature))
            }
        }
    }

    /// Those of the stored logits.
    fn stored(row: &Row<'_>, temperature: f32) -> Result<Self, RowStatus> {
        let x: Vec<f32> = (0..row.vocab_size()).map(|token| row.logit(token)).collect();
        match status(&x) {
            RowStatus::Ok => Ok(Self::of(candidates(&x), temperature)),
            status => Err(status),
        }
    }

    fn of(mut tokens: Vec<(u32, f32)>, temperature: f32) -> Self {
        tokens.sort_by_key(|&(token, x)| (std::cmp::Reverse(key32(x)), token));
        Self { tokens, scale: Scale::new(temperature) }
    }

    fn say(&self, of: Distribution, asked: &Inspect, draws: &[Draw]) -> Logprobs {
        let max = self.tokens[0].1;
        let surprisals = self.tokens.iter().map(|&(_, x)| surprisal(x, max, self.scale));
        let all = surprisals.fold(Interval::default(), Interval::with);
        let at = |i: usize| {
            let (token, x) = self.tokens[i];
            let logprob = logprob(x, max, self.scale, all.mass);
            TokenLogprob { token, rank: i as u32 + 1, logprob }
        };
        let absent = |token| TokenLogprob { token, rank: 0, logprob: f32::NEG_INFINITY };
        // The place of every token that is there.
        let places: std::collections::HashMap<u32, usize> =
            self.tokens.iter().enumerate().map(|(i, &(token, _))| (token, i)).collect();
        let of_token = |token| places.get(&token).map_or(absent(token), |&i| at(i));
        Logprobs {
            of,
            status: RowStatus::Ok,
            entropy: Entropy(nats(all.entropy())),
            drawn: draws.iter().map(|draw| of_token(draw.token)).collect(),
            top: (0..self.tokens.len().min(asked.top as usize)).map(at).collect(),
            ids: asked.ids.iter().map(|&token| of_token(token)).collect(),
        }
    }
}

/// Every token above -inf.
fn candidates(x: &[f32]) -> Vec<(u32, f32)> {
    let all = x.iter().enumerate().map(|(token, &x)| (token as u32, x));
    all.filter(|(_, x)| *x > f32::NEG_INFINITY).collect()
}

fn kept_ids(kept: &Kept, vocab_size: u32, most: u32) -> KeptIds {
    let ids = kept.by_id.iter().map(|&(token, _)| token as u32);
    if ids.len() <= most as usize {
        return KeptIds::Ids(ids.collect());
    }
    let mut words = vec![0; vocab_size.div_ceil(32) as usize];
    ids.for_each(|id| words[id as usize / 32] |= 1 << (id % 32));
    KeptIds::Bitmask(words)
}
