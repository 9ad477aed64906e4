//! The door of the sampler service: every call passes here before any of its body is read.
//!
//! It knows who calls, until when an answer is wanted, and counts how every call ended. What it found
//! goes on with the request as its [`Call`].

use super::account::Account;
use super::call::Call;
use super::envelope::Arity;
use super::error::Error;
use super::frames::{Admissions, Bounds, Gate, Messages};
use super::intake::{self, RequestFields};
use super::line::Lane;
use super::metrics::{self, RequestWatch};
use super::service::Sampler;
use super::state::Shared;
use super::{convert, telemetry};
use crate::engine::GroupId;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use logitd_proto::sampler_service_server::SamplerServiceServer;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;
use tracing::Instrument;

/// A message that carries no work is a question, and small.
const QUESTION_BYTES_MAX: usize = 4 << 10;

/// The sampler service behind its door.
#[derive(Clone)]
pub struct Admission {
    shared: Arc<Shared>,
    inner: SamplerServiceServer<Sampler>,
}

impl Admission {
    /// Guards the sampler of this server.
    pub fn new(shared: Arc<Shared>) -> Self {
        // Sizes are checked in `frames`, by name and before the payload is read.
        let inner = SamplerServiceServer::new(Sampler::new(Arc::clone(&shared)))
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self { shared, inner }
    }

    fn call_of(&self, request: &Request<Body>) -> Result<Call, Error> {
        let headers = request.headers();
        let peer = request.extensions().get().copied();
        let account = request.extensions().get().cloned();
        let open = || Account::open(GroupId::default(), &self.shared.limits, Lane::nowhere());
        let account = account.unwrap_or_else(open);
        let token = self.shared.credentials.check(headers)?;
        let deadline = timeout(headers)?.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(Call { deadline, token, peer, account, admissions: Admissions::default() })
    }
}

impl NamedService for Admission {
    const NAME: &'static str = <SamplerServiceServer<Sampler> as NamedService>::NAME;
}

impl Service<Request<Body>> for Admission {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let watch = (method.watch)();
        let call = match self.call_of(&request) {
            Ok(call) => call,
            Err(error) => {
                let status = convert::status(&error);
                watch.done(status.code());
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        let span = telemetry::span(method.name, request.headers(), call.token.as_deref());
        let active = self.shared.active.token();

        let (mut parts, body) = request.into_parts();
        let admissions = call.admissions.clone();
        let gate = method.gate(&self.shared, &call);
        parts.extensions.insert(call);
        let body = Messages::new(body, gate, method.shape, method.fields, admissions);
        let answer = self.inner.call(Request::from_parts(parts, Body::new(body)));
        let call_span = span.clone();
        let work = async move {
            let response = answer.await?;
            let code = code(&response);
            call_span.record("code", metrics::code_name(code));
            tracing::debug!("answered");
            watch.done(code);
            // The call lasts until its answer has left.
            Ok(response.map(|body| Body::new(ActiveBody { body, _active: active })))
        };
        Box::pin(work.instrument(span))
    }
}

/// The body of an answer: its call is active as long as it lives.
struct ActiveBody {
    body: Body,
    _active: TaskTrackerToken,
}

impl http_body::Body for ActiveBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// What must be known of a method before it runs.
#[derive(Clone, Copy)]
struct Method {
    name: &'static str,
    shape: Arity,
    /// Where the logits of its requests are.
    fields: &'static RequestFields,
    /// Begins to count the call, where it is a request; a stream's requests are counted one by one.
    watch: fn() -> RequestWatch,
    /// Whether its messages carry work, and need permits.
    works: bool,
}

impl Method {
    fn of(path: &str) -> Self {
        let question = |name| Self {
            name,
            shape: Arity::Unary,
            fields: intake::SAMPLE,
            watch: RequestWatch::begin_quiet,
            works: false,
        };
        let works = |name, shape, fields, watch| Self { name, shape, fields, watch, works: true };
        let quiet: fn() -> RequestWatch = RequestWatch::begin_quiet;
        let sample: fn() -> RequestWatch = RequestWatch::begin;
        let evaluate: fn() -> RequestWatch = RequestWatch::begin_evaluation;
        match path.rsplit('/').next() {
            Some("Sample") => works("Sample", Arity::Unary, intake::SAMPLE, sample),
            Some("SampleStream") => works("SampleStream", Arity::Stream, intake::SAMPLE, quiet),
            Some("Evaluate") => works("Evaluate", Arity::Unary, intake::EVALUATE, evaluate),
            Some("EvaluateStream") => {
                works("EvaluateStream", Arity::Stream, intake::EVALUATE, quiet)
            }
            Some("Verify") => works("Verify", Arity::Unary, intake::VERIFY, sample),
            Some("VerifyStream") => works("VerifyStream", Arity::Stream, intake::VERIFY, quiet),
            Some("BeamStep") => works("BeamStep", Arity::Unary, intake::BEAM_STEP, sample),
            Some("GetInfo") => question("GetInfo"),
            _ => question("unknown"),
        }
    }

    /// Where its messages find room, and what they must stay within. A server that has no room, or no
    /// device, still says what it is.
    fn gate(self, shared: &Shared, call: &Call) -> Gate {
        let gate = shared.gate(call);
        if self.works {
            return gate;
        }
        let message_bytes_max = shared.bounds.message_bytes_max.min(QUESTION_BYTES_MAX);
        Gate { rooms: None, bounds: Bounds { message_bytes_max, ..gate.bounds }, ..gate }
    }
}

fn code(response: &Response<Body>) -> tonic::Code {
    // An error is all headers; anything else has begun to answer.
    response.extensions().get::<Status>().map_or_else(
        || {
            Status::from_header_map(response.headers())
                .map_or(tonic::Code::Ok, |status| status.code())
        },
        Status::code,
    )
}

/// The `grpc-timeout` header: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let wrong = || {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Error::invalid(
            "grpc-timeout",
            format!("is {value:?}; allowed: 1 to 8 digits and H, M, S, m, u or n"),
        )
    };
    let (digits, unit) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_at_checked(text.len().checked_sub(1)?))
        .ok_or_else(wrong)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            timeout(&HeaderMap::from_iter([(
                "grpc-timeout".parse().unwrap(),
                text.parse().unwrap(),
            )]))
        };
        assert_eq!(read("1H").unwrap(), Some(Duration::from_secs(3600)));
        assert_eq!(read("15m").unwrap(), Some(Duration::from_millis(15)));
        assert_eq!(read("99999999n").unwrap(), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        for wrong in ["", "S", "5", "123456789S", "-1S", "1.5S", "1s", "+1S"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
