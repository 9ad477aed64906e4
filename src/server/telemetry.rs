//! Logs and traces. Nothing here ever sees seeds or logits.

use super::auth::Token;
use crate::config::{LogFormat, TelemetryConfig};
use http::HeaderMap;
use tracing::Span;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Logs go to stderr from here on, as RUST_LOG says (default `info`).
pub fn install(config: &TelemetryConfig) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => {
            EnvFilter::try_new(&text).map_err(|e| format!("RUST_LOG is {text:?}: {e}"))?
        }
        _ => EnvFilter::new("info"),
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|e| format!("cannot install the log: {e}"))
}

/// The span of a call. A W3C `traceparent` makes it part of the caller's trace.
pub fn span(method: &'static str, headers: &HeaderMap, token: Option<&Token>) -> Span {
    let span = tracing::info_span!(
        "call",
        method,
        trace_id = tracing::field::Empty,
        token = tracing::field::Empty
    );
    if let Some(trace_id) = trace_id(headers) {
        span.record("trace_id", trace_id);
    }
    if let Some(token) = token {
        span.record("token", token.name());
    }
    span
}

/// The trace id of a `traceparent` header: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = parent.split('-');
    let (_version, trace_id) = (parts.next()?, parts.next()?);
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    (trace_id.len() == 32 && trace_id.bytes().all(hex)).then_some(trace_id)
}
