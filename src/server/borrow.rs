//! Slots that requests name, on loan.

use super::call::Call;
use super::convert::{self, Lent};
use super::error::Error;
use super::run;
use super::state::Shared;
use crate::engine::Permit;
use bytes::Bytes;
use logitd_core::batch::Loan;
use logitd_proto::{Plane, SlotRef};
use std::sync::Arc;

/// Slots up to this size are copied where the call is handled: some 50 us. Larger ones would hold up
/// the calls behind them.
const COPY_INLINE_BYTES_MAX: usize = 512 << 10;

/// What became of the slot that a request names.
pub enum Slot {
    /// It names none.
    None,
    /// Its logits are sampled where they lie.
    Lent(Lent),
    /// Its logits were copied into the request. The loan is settled when that has its answer.
    Copied(Arc<dyn Loan>),
}

impl Slot {
    /// What is sampled where it lies, and what is to be settled.
    pub fn split(self) -> (Option<Lent>, Option<Arc<dyn Loan>>) {
        match self {
            Self::Lent(lent) => (Some(lent), None),
            Self::Copied(loan) => (None, Some(loan)),
            Self::None => (None, None),
        }
    }
}

/// Takes the slot that a request with so many parameter sets names on loan, and says in what memory it lies. Where its
/// logits are needed again after the answer, to record it or to verify it, they are copied instead, and take the place
/// of bytes on the wire.
pub async fn borrow(
    shared: &Shared,
    call: &Call,
    permit: &mut Permit,
    slot: &mut Option<SlotRef>,
    logits: &mut Bytes,
    sets: usize,
) -> Result<(Plane, Slot), Error> {
    let Some(slot) = slot.take() else { return Ok((Plane::Inline, Slot::None)) };
    if !logits.is_empty() {
        let bytes = logits.len();
        let text = format!("has {bytes} bytes beside a slot; allowed: one or the other");
        return Err(Error::invalid("logits", text));
    }
    let shm = shared.shm.as_ref().ok_or(Error::NoShm("the server has no --shm socket"))?;
    let peer = call.peer.ok_or(Error::NoShm("call over the server's Unix socket"))?;
    let slot = convert::slot(&slot)?;
    let bytes = usize::try_from(slot.length_bytes).unwrap_or(usize::MAX);
    // Parameter sets are small on the wire and take their permits before anything is done for them.
    permit.resize(sets, bytes)?;
    let slot = shm.regions.borrow(slot, peer)?;
    let plane = match slot.is_on_device() {
        false => Plane::SharedMemory,
        true => Plane::DeviceMemory,
    };
    if !shm.copy {
        let bytes = slot.length_bytes();
        return Ok((plane, Slot::Lent(Lent { loan: Arc::new(slot), bytes })));
    }
    let pool = shared.pool.clone();
    let read = move || {
        let mut buffer = pool.take(slot.length_bytes());
        slot.read(&mut buffer.data)?;
        Ok((buffer, Arc::new(slot)))
    };
    let is_small = plane == Plane::SharedMemory && bytes <= COPY_INLINE_BYTES_MAX;
    let (buffer, loan) = run::checked(is_small, read).await?;
    *logits = buffer.freeze();
    Ok((plane, Slot::Copied(loan)))
}
