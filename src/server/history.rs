//! Histories that lie in shared memory, read into the requests that name them.

use super::budget::Held;
use super::call::Call;
use super::convert;
use super::error::Error;
use super::run;
use super::state::Shared;
use crate::engine::Permit;
use crate::plane::SlotRef;
use logitd_proto::{Adjustments, History};

/// Bytes of a token.
const TOKEN_BYTES: u64 = 4;
/// Histories up to this size in sum are copied where the call is handled: some 50 us.
const COPY_INLINE_BYTES_MAX: usize = 512 << 10;

/// A history that a request names, checked.
struct Named<'a, P> {
    /// The adjustments that it belongs to, and their place.
    adjustments: &'a mut Adjustments,
    place: P,
    slot: SlotRef,
    prompt_tokens: usize,
}

/// The place of a set of a list.
pub fn of_list(set: usize) -> String {
    format!("adjustments[{set}]")
}

/// Puts the tokens of every history that lies in shared memory in place of its name, as `prompt` and `output`, in these
/// adjustments of a request, each with its place. The permit, the connection and the token have room for them before they
/// are read; what is returned is held until the answer.
pub async fn read<'a, P: Copy>(
    shared: &Shared,
    call: &Call,
    permit: &mut Permit,
    adjustments: impl Iterator<Item = (P, &'a mut Adjustments)>,
    path: fn(P) -> String,
) -> Result<Vec<Held>, Error> {
    let limit = u64::from(shared.limits.history_tokens_max);
    let named = named(adjustments, path, limit)?;
    if named.is_empty() {
        return Ok(vec![]);
    }
    let shm = shared.shm.as_ref().ok_or(Error::NoShm("the server has no --shm socket"))?;
    let peer = call.peer.ok_or(Error::NoShm("call over the server's Unix socket"))?;
    let bytes: u64 = named.iter().map(|one| one.slot.length_bytes).sum();
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let held = call.hold(bytes)?;
    permit.resize(permit.rows(), permit.bytes().saturating_add(bytes))?;
    let regions = shm.regions.clone();
    let slots: Vec<SlotRef> = named.iter().map(|one| one.slot).collect();
    // An error of a slot that is on a device names the history by its place in the list.
    let read = move || {
        let mut buffer = Vec::new();
        let mut histories = Vec::with_capacity(slots.len());
        for (i, slot) in slots.into_iter().enumerate() {
            let slot = regions.borrow(slot, peer)?;
            if slot.is_on_device() {
                return Ok(Err(i));
            }
            slot.read(&mut buffer)?;
            let (words, _) = buffer.as_chunks();
            let tokens: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
            histories.push(tokens);
        }
        Ok::<_, Error>(Ok(histories))
    };
    let histories = run::checked(bytes <= COPY_INLINE_BYTES_MAX, read).await?;
    let histories = histories.map_err(|i| {
        let text = "lies in memory of a device; allowed: memory of the host";
        invalid(&path(named[i].place), "slot", text.into())
    })?;
    for (Named { adjustments, prompt_tokens, .. }, mut tokens) in named.into_iter().zip(histories) {
        adjustments.output = tokens.split_off(prompt_tokens);
        adjustments.prompt = tokens;
    }
    Ok(held)
}

/// Takes the histories that are named out of a request, if they can be some.
fn named<'a, P: Copy>(
    adjustments: impl Iterator<Item = (P, &'a mut Adjustments)>,
    path: fn(P) -> String,
    limit: u64,
) -> Result<Vec<Named<'a, P>>, Error> {
    let mut all = Vec::new();
    for (place, adjustments) in adjustments {
        let Some(History { slot, prompt_tokens }) = adjustments.history.take() else { continue };
        if !adjustments.prompt.is_empty() || !adjustments.output.is_empty() {
            let text = "stands beside prompt and output; allowed: one or the other";
            return Err(Error::invalid(
                format!("{}.history", path(place)),
                format!("history {text}"),
            ));
        }
        let slot = slot.ok_or_else(|| invalid(&path(place), "slot", "is missing".into()))?;
        let slot = convert::slot(&slot)?;
        let (bytes, tokens) = (slot.length_bytes, slot.length_bytes / TOKEN_BYTES);
        if !bytes.is_multiple_of(TOKEN_BYTES) || tokens > limit {
            let text = format!(
                "is {bytes}; allowed: 4 a token, of up to {limit} tokens (history_tokens_max)"
            );
            return Err(invalid(&path(place), "slot.length_bytes", text));
        }
        if u64::from(prompt_tokens) > tokens {
            let text = format!("is {prompt_tokens}; allowed: up to {tokens}, all of the slot");
            return Err(invalid(&path(place), "prompt_tokens", text));
        }
        all.push(Named { adjustments, place, slot, prompt_tokens: prompt_tokens as usize });
    }
    Ok(all)
}

fn invalid(path: &str, field: &str, text: String) -> Error {
    Error::invalid(format!("{path}.history.{field}"), format!("history.{field} {text}"))
}
