//! Why memory is not taken, or not read.

/// Why memory was not taken or not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShmError {
    /// The descriptor is not what it must be.
    #[error("the descriptor cannot be shared: {0}")]
    Descriptor(String),
    /// The geometry is impossible.
    #[error("{0}")]
    Layout(String),
    /// A quota is used up.
    #[error("{what} would be {asked}; the limit is {limit} ({flag})")]
    Quota {
        /// What there would be too much of.
        what: &'static str,
        /// With this request.
        asked: u64,
        /// Without.
        limit: u64,
        /// The flag that raises the limit.
        flag: &'static str,
    },
    /// No region has this id, or it is not this peer's: the two look the same.
    #[error("no such region; register the memory on the control socket of this process first")]
    UnknownRegion,
    /// The slot or its length is out of range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Bounds {
        /// `slot` or `length_bytes`.
        field: &'static str,
        /// What was asked.
        value: u64,
        /// What could have been.
        allowed: String,
    },
    /// The slot is on loan for another request.
    #[error(
        "slot {0} is still in use by an earlier request; wait for its answer or use another slot"
    )]
    Busy(u32),
    /// The header does not say what the request says, before or after it was read.
    #[error(
        "slot {slot} has generation {found}, the request names {asked}; write a slot only while \
             no request that names it is unanswered"
    )]
    Generation {
        /// The slot.
        slot: u32,
        /// In its header.
        found: u64,
        /// In the request.
        asked: u64,
    },
    /// There is no memory of a device.
    #[error("{0}")]
    Device(String),
    /// A slot in memory of a device was used with this generation, or a higher one.
    #[error(
        "slot {slot} was answered with generation {used}, the request names {asked}; name a higher one than \
             before whenever the slot was written"
    )]
    Used {
        /// The slot.
        slot: u32,
        /// The highest so far.
        used: u64,
        /// In the request.
        asked: u64,
    },
    /// Memory of a device that is gone.
    #[error("{0}")]
    Lost(String),
}
