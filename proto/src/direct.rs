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
//! client: 24 bits of length and 8 of a kind, u32 timeout in microseconds (0: none), a request of that length
//! server: u32 length, an answer of that length, with id 0
//! ```
//!
//! | kind | request | answer |
//! |---|---|---|
//! | 0 | SampleRequest | SampleStreamResponse |
//! | 1 | VerifyRequest (to a server whose controls in GetInfo name `verify`) | VerifyStreamResponse |
//!
//! A server that does not know a kind refuses the request, and ends the connection.
//!
//! A connection has one call at a time; whoever wants more in flight opens more of them. Regions are those
//! that the same process has registered. Answers, refusals, deadlines and limits are those of the methods. Closing the
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
/// Bits of a request's length; its kind is above them.
const LENGTH_BITS: u32 = 24;
const LENGTH_MASK: u32 = (1 << LENGTH_BITS) - 1;
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

/// The kind of a `SampleRequest`.
pub const SAMPLE: u8 = 0;
/// The kind of a `VerifyRequest`.
pub const VERIFY: u8 = 1;

/// What comes before a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// What kind of request it is.
    pub kind: u8,
    /// Length of the encoded request: below 2^24.
    pub length: u32,
    /// How long an answer is wanted; 0: as long as it takes.
    pub timeout_us: u32,
}

impl RequestHead {
    /// On the wire.
    pub fn encode(&self) -> [u8; REQUEST_HEAD_BYTES] {
        let mut head = [0; REQUEST_HEAD_BYTES];
        let length = self.length & LENGTH_MASK;
        head[..4].copy_from_slice(&(length | u32::from(self.kind) << LENGTH_BITS).to_le_bytes());
        head[4..].copy_from_slice(&self.timeout_us.to_le_bytes());
        head
    }

    /// From the wire; any bytes are one.
    pub fn decode(head: [u8; REQUEST_HEAD_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let [first, timeout_us] = [word(0), word(4)];
        Self { kind: (first >> LENGTH_BITS) as u8, length: first & LENGTH_MASK, timeout_us }
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
        for kind in [SAMPLE, VERIFY, 255] {
            let head = RequestHead { kind, length: 7, timeout_us: u32::MAX };
            assert_eq!(RequestHead::decode(head.encode()), head);
        }
        let sample = RequestHead { kind: SAMPLE, length: 7, timeout_us: 1 };
        assert_eq!(sample.encode(), [7, 0, 0, 0, 1, 0, 0, 0], "as it was before there were kinds");
    }
}
