//! Where two answers differ in what they say of a row beside its tokens.

use crate::wire::inspection::kept_tokens;
use crate::wire::row::inspection;
use logitd_core::inspection::{Inspection, KeptIds, Logprobs, TokenLogprob};
use logitd_proto::RowResult;

/// The field that differs, and what each says. Kept tokens are compared as tokens: whether they are a list or a bitmask
/// is a setting of the server.
pub(super) fn difference(a: &RowResult, b: &RowResult) -> Option<(&'static str, String, String)> {
    let (a, b) = match (inspection(a), inspection(b)) {
        (Ok(a), Ok(b)) => (a, b),
        (a, b) if a == b => return None,
        (a, b) => return Some(("logprobs", outline(a), outline(b))),
    };
    if a.logprobs != b.logprobs {
        let at = a.logprobs.iter().zip(&b.logprobs).position(|(a, b)| a != b);
        let (a, b) = match at {
            Some(at) => first_differing(&a.logprobs[at], &b.logprobs[at]),
            None => (outline(Ok::<_, String>(a)), outline(Ok::<_, String>(b))),
        };
        return Some(("logprobs", a, b));
    }
    let tokens = |kept: Option<KeptIds>| kept.map(|kept| kept_tokens(&kept));
    let (a, b) = (tokens(a.kept), tokens(b.kept));
    (a != b).then(|| {
        ("kept_ids", shown_kept(a.as_deref(), b.as_deref()), shown_kept(b.as_deref(), a.as_deref()))
    })
}

/// Which distributions there are, or what is wrong with them.
fn outline(found: Result<Inspection, impl ToString>) -> String {
    match found {
        Ok(found) if found.logprobs.is_empty() => "none".into(),
        Ok(found) => {
            let names = found.logprobs.iter().map(|one| one.of.name());
            names.collect::<Vec<_>>().join(", ")
        }
        Err(error) => error.to_string(),
    }
}

/// What each says of a distribution, up to where they differ.
fn first_differing(a: &Logprobs, b: &Logprobs) -> (String, String) {
    if (a.of, a.status, a.entropy) != (b.of, b.status, b.entropy) {
        return (shown(a), shown(b));
    }
    let lists = |one: &Logprobs| {
        [("drawn", one.drawn.clone()), ("top", one.top.clone()), ("ids", one.ids.clone())]
    };
    for ((name, a_list), (_, b_list)) in lists(a).into_iter().zip(lists(b)) {
        let length = a_list.len().max(b_list.len());
        if let Some(i) = (0..length).find(|&i| a_list.get(i) != b_list.get(i)) {
            let one = |list: &[TokenLogprob]| {
                format!("{} {name}[{i}] {}", a.of, shown_token(list.get(i)))
            };
            return (one(&a_list), one(&b_list));
        }
    }
    (shown(a), shown(b))
}

fn shown(one: &Logprobs) -> String {
    let bits = one.entropy.0.to_bits();
    format!("{} {}, entropy {} ({bits:#010x})", one.of, one.status, one.entropy.0)
}

fn shown_token(one: Option<&TokenLogprob>) -> String {
    let Some(TokenLogprob { token, rank, logprob }) = one else { return "absent".into() };
    format!("token {token}, rank {rank}, logprob {logprob} ({:#010x})", logprob.to_bits())
}

/// How many there are, and the first that the other does not have at that place.
fn shown_kept(own: Option<&[u32]>, other: Option<&[u32]>) -> String {
    let Some(own) = own else { return "absent".into() };
    let other = other.unwrap_or_default();
    match (0..own.len()).find(|&i| own.get(i) != other.get(i)) {
        Some(i) => format!("{} tokens, at place {i} token {}", own.len(), own[i]),
        None => format!("{} tokens", own.len()),
    }
}
