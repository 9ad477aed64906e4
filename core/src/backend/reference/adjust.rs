//! Adjustments as they are defined: a verdict and three numbers for every token, then one formula for all of them.

use crate::adjustments::{Adjustments, AdjustmentsSpec, COUNT_MAX};
use crate::params::{Penalties, Profile, SamplingParams};

/// Adjusts every logit.
pub fn adjust(x: &mut [f32], adjustments: &Adjustments, params: &SamplingParams) {
    let lists = adjustments.lists();
    let output = [&lists.output, adjustments.drafts()].concat();
    let history = [&lists.prompt[..], &output].concat();
    let banned = banned(x, adjustments, &output, &history, params);
    let seen = seen(x.len(), lists, &output, adjustments.drafts());
    let dry = dry_penalties(x.len(), &history, adjustments.breakers(), params);
    for (token, x) in x.iter_mut().enumerate() {
        if banned[token] {
            *x = f32::NEG_INFINITY;
            continue;
        }
        let bias = lists.logit_bias.iter().find(|(id, _)| *id == token as u32);
        let bias = bias.map_or(0.0, |(_, bias)| *bias);
        let penalties = seen[token].zip(params.penalties());
        match params.all_cuts().profile {
            Profile::Sglang => {
                count_off(x, penalties);
                repeat_off(x, penalties);
                add(x, bias);
            }
            _ => {
                add(x, bias);
                repeat_off(x, penalties);
                count_off(x, penalties);
            }
        }
        if let Some(penalty) = dry[token] {
            *x -= penalty;
        }
    }
}

fn add(x: &mut f32, bias: f32) {
    if bias != 0.0 {
        *x += bias;
    }
}

fn repeat_off(x: &mut f32, penalties: Option<(u32, Penalties)>) {
    if let Some((_, Penalties { repetition: r, .. })) = penalties
        && r != 1.0
    {
        *x = if *x > 0.0 { *x / r } else { *x * r };
    }
}

fn count_off(x: &mut f32, penalties: Option<(u32, Penalties)>) {
    let Some((n, Penalties { frequency: f, presence: p, .. })) = penalties else { return };
    if f != 0.0 && n > 0 {
        *x -= f * n as f32;
    }
    if p != 0.0 && n > 0 {
        *x -= p;
    }
}

/// Which tokens are banned.
fn banned(
    x: &[f32],
    adjustments: &Adjustments,
    output: &[u32],
    history: &[u32],
    params: &SamplingParams,
) -> Vec<bool> {
    let lists = adjustments.lists();
    let is_masked = |id: u32| {
        adjustments.allowing().map(|lists| &lists.allowed_bitmask).any(|mask| {
            let word = mask.get(id as usize >> 5).copied().unwrap_or(0);
            !mask.is_empty() && word & (1 << (id & 31)) == 0
        })
    };
    let mut banned: Vec<bool> = (0..x.len() as u32).map(is_masked).collect();
    let mut ban = |id: u32| {
        if let Some(banned) = banned.get_mut(id as usize) {
            *banned = true;
        }
    };
    for lists in adjustments.allowing() {
        if !lists.allowed_ids.is_empty() {
            (0..x.len() as u32).filter(|id| !lists.allowed_ids.contains(id)).for_each(&mut ban);
        }
        lists.banned_ids.iter().copied().for_each(&mut ban);
    }
    for &(id, bias) in &lists.logit_bias {
        if bias == f32::NEG_INFINITY {
            ban(id);
        }
    }
    let of_words = match params.all_cuts().profile {
        Profile::Vllm => output,
        _ => history,
    };
    for word in &lists.bad_words {
        let last = word[word.len() - 1];
        if [of_words, &[last]].concat().ends_with(word) {
            ban(last);
        }
    }
    if let Some(n) = params.no_repeat_ngram() {
        for ngram in history.windows(n) {
            if history.ends_with(&ngram[..n - 1]) {
                ban(ngram[n - 1]);
            }
        }
    }

    let drafts = adjustments.drafts().len() as u32;
    let output_length =
        lists.output_length.map_or(output.len() as u32, |length| length.saturating_add(drafts));
    let is_stop = |token: usize| lists.stop_ids.contains(&(token as u32));
    let is_left = |token: usize| x[token].is_nan() || x[token] > f32::NEG_INFINITY;
    if params.min_tokens() > output_length
        && (0..x.len()).any(|token| !banned[token] && !is_stop(token) && is_left(token))
    {
        (0..x.len()).filter(|&token| is_stop(token)).for_each(|token| banned[token] = true);
    }
    banned
}

/// How often the output holds each token, where the history holds it at all.
fn seen(
    vocab_size: usize,
    lists: &AdjustmentsSpec,
    output: &[u32],
    drafts: &[u32],
) -> Vec<Option<u32>> {
    let once = |tokens: &[u32]| tokens.iter().map(|&id| (id, 1)).collect::<Vec<_>>();
    let pairs: Vec<(u32, u32)> = match lists.counts.is_empty() {
        true => lists.prompt.iter().map(|&id| (id, 0)).chain(once(output)).collect(),
        false => [&lists.counts[..], &once(drafts)].concat(),
    };
    let mut seen = vec![None; vocab_size];
    for (id, n) in pairs {
        if let Some(seen) = seen.get_mut(id as usize) {
            *seen = Some((seen.unwrap_or(0) + n).min(COUNT_MAX));
        }
    }
    seen
}

/// What DRY takes off each token, by comparing every place in the window with its end.
fn dry_penalties(
    vocab_size: usize,
    history: &[u32],
    breakers: &[Vec<u32>],
    params: &SamplingParams,
) -> Vec<Option<f32>> {
    let mut penalties = vec![None; vocab_size];
    let Some(dry) = params.dry() else { return penalties };
    let last_n = if dry.last_n == 0 { history.len() } else { dry.last_n as usize };
    let window = &history[history.len().saturating_sub(last_n)..];
    let n = window.len();
    let ends_here = |end: usize| breakers.iter().any(|breaker| window[..end].ends_with(breaker));
    let limit = (0..=n).rev().find(|&end| ends_here(end)).map_or(n, |end| n - end);

    let mut lengths = vec![0; vocab_size];
    for j in 1..n {
        let backwards = window[..j].iter().rev().zip(window.iter().rev());
        let length = backwards.take_while(|(a, b)| a == b).count().min(limit);
        if let Some(longest) = lengths.get_mut(window[j] as usize) {
            *longest = length.max(*longest);
        }
    }
    let allowed_length = usize::from(dry.allowed_length);
    for (token, &length) in lengths.iter().enumerate() {
        let is_breaker = breakers.iter().any(|breaker| *breaker == [token as u32]);
        if length < allowed_length.max(1) || is_breaker {
            continue;
        }
        let mut w = f64::from(dry.multiplier);
        for _ in allowed_length..length {
            w *= f64::from(dry.base);
            if w > 3e38 {
                w = 3e38;
                break;
            }
        }
        penalties[token] = Some(w as f32);
    }
    penalties
}
