//! What can go wrong, as a client sees it.

use logitd_proto::StreamError;
use std::error::Error as _;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The target, or an option that does not go with it.
    #[error("{0}")]
    Target(String),
    /// There is no connection.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// What was connected to.
        target: String,
        /// What the system said.
        reason: String,
    },
    /// Memory could not be shared.
    #[error("cannot share memory over {control}: {reason}")]
    Region {
        /// The control socket.
        control: String,
        /// What the server or the system said.
        reason: String,
    },
    /// The server's answer is an error.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    /// A chunk of a batch has no answer.
    #[error("rows {first_row} to {}: {error}", first_row + rows.saturating_sub(1))]
    Chunk {
        /// Its first row in the batch. Rows that the error names count from here.
        first_row: u64,
        /// How many it has.
        rows: u64,
        /// Why.
        error: Box<Error>,
    },
    /// The server is too old for a field of the request, which it would leave out without a word. Nothing was sent.
    #[error(
        "{field} needs a server with arithmetic version {needed}, and this one has {version}; use a newer server, or \
         leave the field out"
    )]
    Version {
        /// The field's path in the request.
        field: String,
        /// The version that came with the field.
        needed: u32,
        /// The server's.
        version: u32,
    },
    /// The server does not name a field of the request among its controls, and would leave it out without a word.
    /// Nothing was sent.
    #[error(
        "{field} is not among the controls that this server knows (GetInfo); use a newer server, or leave the field out"
    )]
    Control {
        /// The field's path in the request.
        field: String,
    },
    /// The stream is over: the other side has ended it, or is gone.
    #[error("the stream is closed")]
    Closed,
}

impl Error {
    /// The gRPC code: the server's, or UNAVAILABLE where the connection was lost.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            Self::Chunk { error, .. } => error.code(),
            _ => None,
        }
    }

    /// When to try again: said by a server that has no room at present.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(status) => status.get_details_retry_info()?.retry_delay,
            Self::Chunk { error, .. } => error.retry_after(),
            _ => None,
        }
    }

    /// Whether another server, or this one later, may well answer what this one did not: it was not reached, left, or
    /// had no room.
    pub fn is_of_the_server(&self) -> bool {
        let of_the_server =
            [Code::Unavailable, Code::ResourceExhausted, Code::Cancelled, Code::Unknown];
        match self {
            Self::Status(status) => of_the_server.contains(&status.code()),
            Self::Chunk { error, .. } => error.is_of_the_server(),
            Self::Connect { .. } | Self::Closed => true,
            _ => false,
        }
    }

    /// The wrong fields, each with what is allowed.
    pub fn violations(&self) -> Vec<(String, String)> {
        let status = match self {
            Self::Chunk { error, .. } => return error.violations(),
            Self::Status(status) => status,
            _ => return vec![],
        };
        let Some(bad_request) = status.get_details_bad_request() else { return vec![] };
        bad_request.field_violations.into_iter().map(|v| (v.field, v.description)).collect()
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A lost connection comes as one of several codes, depending on how far the call was. For a caller it
        // is one thing, and sampling again is harmless.
        let status = match lost_connection(&status) {
            Some(reason) => Status::unavailable(format!("the connection was lost: {reason}")),
            None => status,
        };
        Self::Status(Box::new(status))
    }
}

impl From<StreamError> for Error {
    fn from(error: StreamError) -> Self {
        let StreamError { code, message, status_details } = error;
        Status::with_details(Code::from(code), message, status_details).into()
    }
}

/// What happened, where the status was made by the transport and not by the server.
fn lost_connection(status: &Status) -> Option<String> {
    let chain: Vec<_> = std::iter::successors(status.source(), |error| (*error).source()).collect();
    let lost = chain.iter().any(|error| error.is::<hyper::Error>());
    lost.then(|| chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(": "))
}
