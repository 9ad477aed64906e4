//! Logs and traces. Nothing here ever sees seeds or logits.
//!
//! A call is a span. A W3C `traceparent` makes it part of its caller's trace: the trace id is in every
//! log line of the call, and with `--otlp-endpoint` the span is sent to a collector as the caller's
//! child.

use super::auth::Token;
use super::log;
use crate::config::{LogFormat, TelemetryConfig};
use crate::wire::names::nearest;
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::io::IsTerminal;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Span, Subscriber, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterFn, LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// What is logged where `RUST_LOG` says nothing. The HTTP/2 library warns of what any stranger can do.
const DEFAULT_FILTER: &str = "info,h2=error";

/// How long a process that ends waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Keeps telemetry going; dropping it sends what has not been sent, traces and log lines.
#[must_use = "traces are sent as long as this lives"]
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// From here on logs go to stderr as RUST_LOG says (default: [`DEFAULT_FILTER`]), panics among them, and traces to the collector, if
/// there is one. Call it once, within a Tokio runtime.
pub fn install(config: &TelemetryConfig) -> Result<Telemetry, String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => {
            filter(&text).map_err(|e| format!("RUST_LOG is {text:?}: {e}"))?
        }
        _ => filter(DEFAULT_FILTER)?,
    };
    // Colour is for people: no escapes in a file or a journal.
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let writer = log::stderr().map_err(|e| format!("cannot start the log: {e}"))?;
    let lines = fmt::layer().with_writer(move || writer.clone()).with_ansi(colour);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let traces = config.otlp_endpoint.as_deref().map(tracer_provider).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("logitd"))
            .with_filter(FilterFn::new(is_exported).with_max_level_hint(LevelFilter::DEBUG))
    });
    tracing_subscriber::registry()
        .with(
            Resets.with_filter(
                FilterFn::new(Resets::are_said).with_max_level_hint(LevelFilter::DEBUG),
            ),
        )
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|e| format!("cannot install the log: {e}"))?;
    // What the standard library does instead is to write to stderr, and wait for whoever reads it.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
    Ok(Telemetry { traces })
}

/// Waits for the last lines of a process that ends at once.
pub fn flush() {
    log::flush(LAST_LINES);
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads the directives of RUST_LOG: `LEVEL`, `TARGET` or `TARGET=LEVEL`, with commas between them. The filters
/// by span and field that some programs know need a regular-expression engine, which is much to build
/// for a log with two kinds of span.
fn filter(text: &str) -> Result<Targets, String> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|d| !d.is_empty()).collect();
    if let Some(directive) = directives.iter().find(|d| d.contains(['[', ']', '{', '}'])) {
        return Err(format!(
            "{directive:?} filters by span or field, which this log cannot; there are LEVEL, TARGET and \
             TARGET=LEVEL, as in info,logitd::server=debug,h2=warn"
        ));
    }
    // A word alone is taken for a target, of which nothing is known; one that is nearly a level is a slip.
    for word in directives.iter().filter(|directive| !directive.contains(['=', ':'])) {
        let written = word.to_lowercase();
        if let Some(level) = nearest(&written, LEVELS).filter(|level| *level != written) {
            return Err(format!("{word:?} is no level; did you mean {level}?"));
        }
    }
    directives.join(",").parse::<Targets>().map_err(|error| error.to_string())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
        flush();
    }
}

thread_local! {
    /// Why the HTTP/2 library has reset a call, on the thread where it has.
    static RESET: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Why the HTTP/2 library has reset a call for its headers, on this thread and since this was asked last. It does so
/// before anybody else sees the call, and says it in its own log only, at level DEBUG.
pub fn take_reset() -> Option<String> {
    RESET.take()
}

/// Notes what [`take_reset`] takes.
struct Resets;

impl Resets {
    /// The module where it is said; it says little else.
    fn are_said(metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && metadata.target() == "h2::server"
            && *metadata.level() == Level::DEBUG
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Resets {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if let Message(message) = message
            && message.starts_with("malformed headers")
        {
            RESET.set(Some(message));
        }
    }
}

/// An event's message, or as much of it as a line in the log can have.
struct Message(String);

impl Message {
    const CHARS_MAX: usize = 256;
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
            self.0 = self.0.chars().take(Self::CHARS_MAX).collect();
        }
    }
}

fn tracer_provider(endpoint: &str) -> Result<SdkTracerProvider, String> {
    if !endpoint.starts_with("http://") {
        return Err(format!(
            "--otlp-endpoint {endpoint}: write http://HOST:PORT, as in http://127.0.0.1:4317"
        ));
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|e| format!("--otlp-endpoint {endpoint}: {e}"))?;
    let resource = Resource::builder().with_service_name("logitd").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Our own spans only, since the exporter's would beget more of themselves; and what they have to say.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with("logitd");
    ours && (metadata.is_span() || *metadata.level() <= Level::INFO)
}

/// The span of a call. Keeping one costs a tenth of a small call, and all it does is to stand before the
/// lines that are logged within it, so one that belongs to no trace is there for lines of that level only
/// (DEBUG), and for the collector.
pub fn span(method: &'static str, headers: &HeaderMap, token: Option<&Token>) -> Span {
    macro_rules! call {
        ($level:ident) => {
            tracing::span!(
                Level::$level,
                "call",
                method,
                trace_id = field::Empty,
                token = field::Empty,
                rows = field::Empty,
                code = field::Empty,
            )
        };
    }
    let traced = headers.contains_key("traceparent");
    let span = if traced { call!(INFO) } else { call!(DEBUG) };
    if traced {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        let context = parent.span().span_context().clone();
        if context.is_valid() {
            span.record("trace_id", field::display(context.trace_id()));
            // Fails only where spans are not sent anywhere.
            let _ = span.set_parent(parent);
        }
    }
    if let Some(token) = token {
        span.record("token", token.name());
    }
    span
}

/// The span of a request on a stream, within the span of its call and there whenever that one is.
pub fn request_span(call: &Span, id: u64) -> Span {
    macro_rules! request {
        ($level:ident) => {
            tracing::span!(Level::$level, "request", id, rows = field::Empty, code = field::Empty)
        };
    }
    match call.metadata() {
        Some(call) if *call.level() == Level::INFO => request!(INFO),
        _ => request!(DEBUG),
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_levels_of_targets() {
        let of = |text: &str, target: &str, level: Level| {
            filter(text).unwrap().would_enable(target, &level)
        };
        for text in ["info,h2=warn", "h2=WARN, INFO,", "3,h2=2"] {
            assert!(of(text, "logitd::server", Level::INFO), "{text}");
            assert!(!of(text, "logitd::server", Level::DEBUG), "{text}");
            assert!(of(text, "h2::codec", Level::WARN), "{text}");
            assert!(!of(text, "h2::codec", Level::INFO), "{text}");
        }
        assert!(of("logitd", "logitd::engine", Level::TRACE), "a target alone: all that it says");
        assert!(!of("logitd=off,info", "logitd::engine", Level::ERROR));
        assert!(!of("logitd::engine=debug", "h2", Level::ERROR), "what is not named is off");
    }

    #[test]
    fn a_directive_that_cannot_work_is_refused_by_name() {
        for text in
            ["info,[call]=debug", "logitd[request{id=5}]=trace", "a[{rows}]", "[{a,b}]=info"]
        {
            let error = filter(text).unwrap_err();
            assert!(
                error.contains("by span or field") && error.contains("TARGET=LEVEL"),
                "{error}"
            );
        }
        for text in ["logitd=loud", "a=b=c"] {
            assert!(filter(text).is_err(), "{text}");
        }
        for text in ["debugg", "h2=warn,inf", "trce"] {
            let error = filter(text).unwrap_err();
            assert!(error.contains("is no level; did you mean"), "{text}: {error}");
        }
    }
}
