//! Where requests go, and what comes back instead of an answer.

use super::message::{Request, Response};
pub use crate::wire::code::Code;
use std::future::Future;
use std::time::Duration;

/// Something that answers requests: a server, several, or a test's idea of one.
pub trait Target: Send + Sync + 'static {
    /// Sends request number `index` and waits for its answer. Dropped when the time for it is over.
    fn send(
        &self,
        index: u64,
        request: Request,
    ) -> impl Future<Output = Result<Response, Failure>> + Send;
}

/// What came instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub code: Code,
    /// For people.
    pub message: String,
    /// How long a server that had no room says to wait before the request is sent again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure with this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }
}
