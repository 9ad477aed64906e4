//! Histories that lie in shared memory, read into the requests that name them.

use super::account::Held;
use super::call::Call;
use super::convert;
use super::error::Error;
use super::state::Shared;
use crate::engine::Permit;
use crate::plane::SlotRef;
use logitd_proto::{Adjustments, History, SampleRequest};

/// Bytes of a token.
const TOKEN_BYTES: u64 = 4;
/// Histories up to this size in sum are copied where the call is handled: some 50 us.
const COPY_INLINE_BYTES_MAX: usize = 512 << 10;

/// A history that a request names, checked.
struct Named {
    /// The place of its adjustments.
    set: usize,
    slot: SlotRef,
    prompt_tokens: usize,
}

/// Puts the tokens of every history that lies in shared memory in place of its name, as `prompt` and `output`. The permit,
/// the connection and the token have room for them before they are read; what is returned is held until the answer.
pub async fn read(
    shared: &Shared,
    call: &Call,
    permit: &mut Permit,
    request: &mut SampleRequest,
) -> Result<Vec<Held>, Error> {
    let limit = u64::from(shared.limits.history_tokens_max);
    let named = named(&mut request.adjustments, limit)?;
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
    let read = move || {
        let mut buffer = Vec::new();
        let mut histories = Vec::with_capacity(named.len());
        for Named { set, slot, prompt_tokens } in named {
            let slot = regions.borrow(slot, peer)?;
            if slot.is_on_device() {
                let text = "lies in memory of a device; allowed: memory of the host";
                return Err(invalid(set, "slot", text.into()));
            }
            slot.read(&mut buffer)?;
            let (words, _) = buffer.as_chunks();
            let tokens: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
            histories.push((set, tokens, prompt_tokens));
        }
        Ok(histories)
    };
    let histories = if bytes <= COPY_INLINE_BYTES_MAX {
        read()?
    } else {
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| Error::NoShm("the server is shutting down"))??
    };
    for (set, mut tokens, prompt_tokens) in histories {
        let adjustments = &mut request.adjustments[set];
        adjustments.output = tokens.split_off(prompt_tokens);
        adjustments.prompt = tokens;
    }
    Ok(held)
}

/// Takes the histories that are named out of a request, if they can be some.
fn named(adjustments: &mut [Adjustments], limit: u64) -> Result<Vec<Named>, Error> {
    let mut all = Vec::new();
    for (set, adjustments) in adjustments.iter_mut().enumerate() {
        let Some(History { slot, prompt_tokens }) = adjustments.history.take() else { continue };
        if !adjustments.prompt.is_empty() || !adjustments.output.is_empty() {
            let text = "stands beside prompt and output; allowed: one or the other";
            return Err(Error::invalid(path(set, ""), format!("history {text}")));
        }
        let slot = slot.ok_or_else(|| invalid(set, "slot", "is missing".into()))?;
        let slot = convert::slot(&slot)?;
        let (bytes, tokens) = (slot.length_bytes, slot.length_bytes / TOKEN_BYTES);
        if !bytes.is_multiple_of(TOKEN_BYTES) || tokens > limit {
            let text = format!(
                "is {bytes}; allowed: 4 a token, of up to {limit} tokens (history_tokens_max)"
            );
            return Err(invalid(set, "slot.length_bytes", text));
        }
        if u64::from(prompt_tokens) > tokens {
            let text = format!("is {prompt_tokens}; allowed: up to {tokens}, all of the slot");
            return Err(invalid(set, "prompt_tokens", text));
        }
        all.push(Named { set, slot, prompt_tokens: prompt_tokens as usize });
    }
    Ok(all)
}

fn path(set: usize, field: &str) -> String {
    let dot = if field.is_empty() { "" } else { "." };
    format!("adjustments[{set}].history{dot}{field}")
}

fn invalid(set: usize, field: &str, text: String) -> Error {
    Error::invalid(path(set, field), format!("history.{field} {text}"))
}
