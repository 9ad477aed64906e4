//! Calls without HTTP/2, for clients on the same host whose logits lie in shared memory.
//!
//! With the logits out of the message, what is left of a call is a hundred bytes, and most of its time is
//! spent by HTTP/2 and gRPC on both sides. So a client may connect to the server's control socket (see
//! [`shm`](super::shm)) once more, send a [`Hello`] frame there, and then call on that connection:
//!
//! ```text
//! client: Hello, token_bytes bytes of bearer token
//! server: u32 length of a reason; 0: welcome; otherwise the reason, and the connection ends
//! then, as often as wanted:
//! client: u32 length, u32 timeout in microseconds (0: none), a SampleRequest of that length
//! server: u32 length, a SampleStreamResponse of that length, with id 0
//! ```
//!
//! A connection has one call at a time; whoever wants more in flight opens more of them. Regions are those
//! that the same process has registered. Answers, refusals, deadlines and limits are those of `Sample`. Closing the
//! connection cancels the call.
//!
//! All integers are little-endian.

use super::shm::Register;

/// First bytes of a [`Hello`]: `lgtc`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"lgtc");
/// Version of this protocol.
pub const VERSION: u32 = 1;
/// The longest request: its logits lie elsewhere.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Bytes before a request.
pub const REQUEST_HEAD_BYTES: usize = 8;
/// Bytes before an answer, and before a reason.
pub const ANSWER_HEAD_BYTES: usize = 4;

/// Asks for calls: as long as a [`Register`] frame, and as different in its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Length of the bearer token that follows; 0 where the server wants none.
    pub token_bytes: u32,
}

impl Hello {
    /// The frame.
    pub fn encode(&self) -> [u8; Register::BYTES] {
        let mut frame = [0; Register::BYTES];
        frame[..4].copy_from_slice(&MAGIC.to_le_bytes());
        frame[4..8].copy_from_slice(&VERSION.to_le_bytes());
        frame[8..12].copy_from_slice(&self.token_bytes.to_le_bytes());
        frame
    }

    /// Parses a frame if it is one; the reason says what was expected.
    pub fn decode(frame: &[u8; Register::BYTES]) -> Option<Result<Self, String>> {
        let word =
            |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes"));
        (word(0) == MAGIC).then(|| match word(4) {
            VERSION => Ok(Self { token_bytes: word(8) }),
            other => Err(format!("version {other}, this server speaks {VERSION}")),
        })
    }
}

/// What comes before a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Length of the encoded request.
    pub length: u32,
    /// How long an answer is wanted; 0: as long as it takes.
    pub timeout_us: u32,
}

impl RequestHead {
    /// On the wire.
    pub fn encode(&self) -> [u8; REQUEST_HEAD_BYTES] {
        let mut head = [0; REQUEST_HEAD_BYTES];
        head[..4].copy_from_slice(&self.length.to_le_bytes());
        head[4..].copy_from_slice(&self.timeout_us.to_le_bytes());
        head
    }

    /// From the wire; any bytes are one.
    pub fn decode(head: [u8; REQUEST_HEAD_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        Self { length: word(0), timeout_us: word(4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let hello = Hello { token_bytes: 40 };
        assert_eq!(Hello::decode(&hello.encode()), Some(Ok(hello)));
        let mut other = hello.encode();
        other[4] = 2;
        assert!(Hello::decode(&other).unwrap().unwrap_err().contains("version 2"));
        other[0] = b'x';
        assert_eq!(Hello::decode(&other), None);
        let head = RequestHead { length: 7, timeout_us: u32::MAX };
        assert_eq!(RequestHead::decode(head.encode()), head);
    }
}
