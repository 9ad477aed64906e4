//! Everything a request can be answered with instead of tokens.

use crate::engine::{Failure, Priority, Refused};
use crate::plane::ShmError;
pub use crate::wire::violations::Violation;
use crate::wire::violations::Violations;
use std::borrow::Cow;
use std::time::Duration;

/// Why a request has no response. [`convert::status`](super::convert::status) is the one table from
/// here to gRPC.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Fields that are wrong, whatever the load; at least one.
    #[error("{}", first_of(listed, *more))]
    Invalid {
        /// The first of them, as many as are told.
        listed: Vec<Violation>,
        /// How many there are besides.
        more: usize,
    },
    /// More than one request may have.
    #[error("{what} is {value}; this server allows {limit} ({}); {way_out}", flag(name))]
    OverLimit {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        value: u64,
        /// How much is allowed.
        limit: u64,
        /// The limit's name in `GetInfo` and the configuration.
        name: &'static str,
        /// What the client can do.
        way_out: &'static str,
    },
    /// The engine did not take it.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The engine took it, and could not answer.
    #[error("{0}")]
    Failed(#[from] Failure),
    /// The slot that a request names gave no logits.
    #[error("{0}")]
    Shm(#[from] ShmError),
    /// The request wants a plane that this connection does not have.
    #[error("slot: shared memory is not offered here; {0}")]
    NoShm(&'static str),
    /// Somebody holds as much as is allowed.
    #[error("{who} has {held} {what}, and {asked} more exceed its {limit} ({}); try again in {} ms",
            flag(name), retry_after.as_millis())]
    Full {
        /// Who: the connection, a token.
        who: Cow<'static, str>,
        /// Of what.
        what: &'static str,
        /// The limit's name in the configuration.
        name: &'static str,
        /// How much is held.
        held: usize,
        /// How much more was asked for.
        asked: usize,
        /// How much may be held.
        limit: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// No token, or not one that is known.
    #[error("{0}; send one of the server's tokens as `authorization: Bearer TOKEN`")]
    Unauthenticated(&'static str),
    /// The request's headers are too large.
    #[error(
        "the headers have {bytes} bytes; this server allows {limit} (--header-bytes-max); send less metadata"
    )]
    HeadersTooLarge {
        /// As HTTP/2 counts them.
        bytes: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Messages are compressed.
    #[error(
        "grpc-encoding is {0:?}; allowed: identity, since logits hardly get smaller; turn the client's compression off"
    )]
    Compressed(String),
    /// The token may not ask for so high a priority.
    #[error(
        "priority: token {token} may ask for {most} at most, and this request asks for {asked}; ask for \
             less, or have `priority={asked}` added to the token's line in the server's --tokens-file"
    )]
    PriorityDenied {
        /// The token's name.
        token: String,
        /// What it asked for.
        asked: Priority,
        /// What it may ask for.
        most: Priority,
    },
    /// The message did not arrive in time.
    #[error("the message did not arrive within {} ms (--receive-timeout)", .0.as_millis())]
    ReceiveTimeout(Duration),
    /// The stream's server is leaving; everything answered so far is all it will answer.
    #[error("the server is shutting down; every request without an answer was not taken")]
    StreamDraining,
    /// The time that the client gave the stream is over.
    #[error("the deadline of the stream has passed; every request without an answer was dropped")]
    StreamDeadline,
    /// The operating system has no random bytes.
    #[error("the operating system gave no seed ({0}); give seeds in the request")]
    NoSeed(String),
}

impl From<Violations<'_>> for Error {
    fn from(wrong: Violations<'_>) -> Self {
        let (listed, more) = wrong.into_parts();
        Self::Invalid { listed, more }
    }
}

impl Error {
    /// One wrong field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        let only = Violation { field: field.into(), description: description.into() };
        Self::Invalid { listed: vec![only], more: 0 }
    }
}

/// `queue_rows_max` as the flag `--queue-rows-max`; limits of the arithmetic have none.
fn flag(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn first_of(violations: &[Violation], more: usize) -> String {
    match violations {
        [] => "invalid request".into(),
        [only] => format!("{}: {}", only.field, only.description),
        [first, rest @ ..] => {
            let more = rest.len() + more;
            format!("{}: {} (and {more} more, see the details)", first.field, first.description)
        }
    }
}
