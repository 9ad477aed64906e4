//! The part of the API that is not protobuf: how a client on the same host hands over memory.
//!
//! A client makes a memfd of `slot_count * slot_stride_bytes` bytes, seals it against shrinking and
//! growing, connects to the server's control socket (a Unix stream socket) and sends a [`Register`]
//! frame with the descriptor attached (`SCM_RIGHTS`). The server answers with a [`Registered`] frame:
//! an unguessable id, good on this connection's host for this user for as long as the connection
//! lives, or the reason why not. Closing the connection takes all of its regions away.
//!
//! Where the server asks for tokens, the client first sends an [`Authorize`] frame and its token, without a
//! descriptor, and goes on without waiting: what is wrong with the token is the answer to the first [`Register`].
//! A connection that holds no region is closed when it is silent for the server's `--handshake-timeout`; one that
//! holds any may be silent for ever.
//!
//! A region is an array of slots. A slot is a [`SLOT_HEADER_BYTES`] header, whose first eight bytes
//! are the *generation*, followed by logits. To use a slot, write the logits, then store a generation
//! that the slot has not had before (release order), then name `{region, slot, generation,
//! length_bytes}` in a request. The slot is the server's until the answer has come. The server checks
//! the generation before and after it reads: a slot that was rewritten meanwhile is refused.
//!
//! # Memory of a device
//!
//! A frame can ask for a region in the memory of the server's CUDA device `n` instead ([`Register::device`]). Then
//! no descriptor comes with it: the server allocates, and answers with the descriptor of the allocation
//! attached (`cuMemImportFromShareableHandle` takes it, as `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`), its size,
//! which is what `cuMemMap` must be given, and the device's UUID, since the client may number devices
//! differently. It begins with zeros.
//!
//! Its slots lie as in any region, and logits begin behind the same header, but of the header nothing is read:
//! the server remembers the highest generation of each slot that was answered, and refuses one that is not
//! higher. Logits must have been written when the request is sent: the stream that writes them has been
//! synchronized. The server copies each row once, on the device, and samples the copy; a client that writes while its
//! request is unanswered gets the answer to a mixture.
//!
//! All integers are little-endian.

/// First bytes of every frame: `lgtd`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"lgtd");
/// Version of this layout.
pub const VERSION: u32 = 1;
/// Bytes before the logits of a slot.
pub const SLOT_HEADER_BYTES: usize = 64;
/// A slot's stride is a multiple of this.
pub const SLOT_ALIGN_BYTES: usize = 64;
/// The longest bearer token.
pub const TOKEN_BYTES_MAX: usize = 256;
/// Bytes of a region's id.
pub const REGION_ID_BYTES: usize = 16;

/// What a client sends: 24 bytes, with the memfd attached unless it asks for memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Header and logits of one slot.
    pub slot_stride_bytes: u64,
    /// Slots in the region.
    pub slot_count: u32,
    /// The number of the server's CUDA device whose memory it is to be in. On the wire one more, and 0 where the
    /// client brings the memory.
    pub device: Option<u32>,
}

impl Register {
    /// Bytes on the wire.
    pub const BYTES: usize = 24;

    /// The frame.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut frame = [0; Self::BYTES];
        frame[..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..8].copy_from_slice(&VERSION.to_le_bytes());
        frame[8..16].copy_from_slice(&self.slot_stride_bytes.to_le_bytes());
        frame[16..20].copy_from_slice(&self.slot_count.to_le_bytes());
        let device = self.device.map_or(0, |device| device.saturating_add(1));
        frame[20..24].copy_from_slice(&device.to_le_bytes());
        frame
    }

    /// Parses a frame; the reason says what was expected.
    pub fn decode(frame: &[u8; Self::BYTES]) -> Result<Self, String> {
        let word =
            |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
        if word(0) != MAGIC {
            return Err(format!("the frame starts with {:#010x}, not {MAGIC:#010x}", word(0)));
        }
        if word(4) != VERSION {
            return Err(format!("version {}, this server speaks {VERSION}", word(4)));
        }
        let stride = frame[8..16].try_into().expect("eight bytes");
        Ok(Self {
            slot_stride_bytes: u64::from_le_bytes(stride),
            slot_count: word(16),
            device: word(20).checked_sub(1),
        })
    }
}

/// Says who is there: as long as a [`Register`] frame, and as different in its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorize {
    /// Length of the bearer token that follows, up to [`TOKEN_BYTES_MAX`].
    pub token_bytes: u32,
}

impl Authorize {
    /// First bytes of the frame: `lgta`.
    pub const MAGIC: u32 = u32::from_le_bytes(*b"lgta");

    /// The frame.
    pub fn encode(&self) -> [u8; Register::BYTES] {
        let mut frame = [0; Register::BYTES];
        frame[..4].copy_from_slice(&Self::MAGIC.to_le_bytes());
        frame[4..8].copy_from_slice(&VERSION.to_le_bytes());
        frame[8..12].copy_from_slice(&self.token_bytes.to_le_bytes());
        frame
    }

    /// Parses a frame if it is one; the reason says what was expected.
    pub fn decode(frame: &[u8; Register::BYTES]) -> Option<Result<Self, String>> {
        let word =
            |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
        (word(0) == Self::MAGIC).then(|| match (word(4), word(8)) {
            (VERSION, token_bytes) if token_bytes as usize <= TOKEN_BYTES_MAX => {
                Ok(Self { token_bytes })
            }
            (VERSION, token_bytes) => {
                Err(format!("the token has {token_bytes} bytes; allowed: up to {TOKEN_BYTES_MAX}"))
            }
            (other, _) => Err(format!("version {other}, this server speaks {VERSION}")),
        })
    }
}

/// What the server answers: 16 bytes of id and four zeros, and for memory of a device an [`Allocation`]; or 16
/// zeros, a u32 length, and that many bytes of reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The region's id.
    Accepted([u8; REGION_ID_BYTES]),
    /// The region's id, and the memory that was made for it. Its descriptor is attached.
    Allocated([u8; REGION_ID_BYTES], Allocation),
    /// Why there is none. At most [`Self::REASON_BYTES_MAX`] bytes.
    Refused(String),
}

impl Registered {
    /// What every answer begins with: the id, and the length of the reason.
    pub const HEAD_BYTES: usize = REGION_ID_BYTES + 4;
    /// Longest reason on the wire.
    pub const REASON_BYTES_MAX: usize = 512;

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Accepted(id) => [id.as_slice(), &[0; 4]].concat(),
            Self::Allocated(id, allocation) => {
                [id.as_slice(), &[0; 4], &allocation.encode()].concat()
            }
            Self::Refused(reason) => {
                let mut end = reason.len().min(Self::REASON_BYTES_MAX);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                let length = (end as u32).to_le_bytes();
                [&[0; REGION_ID_BYTES], length.as_slice(), &reason.as_bytes()[..end]].concat()
            }
        }
    }
}

/// Memory of a device that the server has made: 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// All of it: the slots, rounded up to what the device allocates at once.
    pub bytes: u64,
    /// The device's UUID.
    pub uuid: [u8; 16],
}

impl Allocation {
    /// Bytes on the wire.
    pub const BYTES: usize = 24;

    /// The end of the frame.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut frame = [0; Self::BYTES];
        frame[..8].copy_from_slice(&self.bytes.to_le_bytes());
        frame[8..].copy_from_slice(&self.uuid);
        frame
    }

    /// Parses it; any bytes are one.
    pub fn decode(frame: &[u8; Self::BYTES]) -> Self {
        let (bytes, uuid) = frame.split_at(8);
        Self {
            bytes: u64::from_le_bytes(bytes.try_into().expect("eight bytes")),
            uuid: uuid.try_into().expect("sixteen bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let register = Register { slot_stride_bytes: 1 << 33, slot_count: 7, device: None };
        assert_eq!(Register::decode(&register.encode()), Ok(register));
        assert_eq!(register.encode()[20..], [0; 4], "as clients send it that know no devices");
        for device in [0, 1, u32::MAX - 1].map(Some) {
            let register = Register { device, ..register };
            assert_eq!(Register::decode(&register.encode()), Ok(register));
        }
        let mut old = register.encode();
        old[4] = 9;
        assert!(Register::decode(&old).unwrap_err().contains("version 9"));
        assert!(Register::decode(&[0; 24]).unwrap_err().contains("starts with"));
    }

    #[test]
    fn who_is_there_is_no_registration() {
        let authorize = Authorize { token_bytes: 40 };
        assert_eq!(Authorize::decode(&authorize.encode()), Some(Ok(authorize)));
        assert!(Register::decode(&authorize.encode()).is_err());
        let register = Register { slot_stride_bytes: 128, slot_count: 1, device: None };
        assert_eq!(Authorize::decode(&register.encode()), None);
        let long = Authorize { token_bytes: 257 };
        assert!(Authorize::decode(&long.encode()).unwrap().unwrap_err().contains("257"));
    }

    #[test]
    fn an_allocation_stands_behind_the_id() {
        let allocation = Allocation { bytes: 6 << 20, uuid: *b"0123456789abcdef" };
        let frame = Registered::Allocated([7; 16], allocation).encode();
        let (head, rest) = frame.split_at(Registered::HEAD_BYTES);
        assert_eq!(head, Registered::Accepted([7; 16]).encode());
        assert_eq!(Allocation::decode(rest.try_into().unwrap()), allocation);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = Registered::Refused("é".repeat(400)).encode();
        assert_eq!(frame.len(), 20 + Registered::REASON_BYTES_MAX);
        assert!(std::str::from_utf8(&frame[20..]).is_ok());
    }
}
