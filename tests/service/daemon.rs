//! The daemon as its operator meets it: the real binary, its signals, logs, metrics and traces.

use crate::harness::daemon::{Daemon, refused};
use crate::harness::{expected, request, until};
use logitd_client::{Client, Error};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_asked_to_stop_under_load_answers_everything_and_exits_0() {
    for signal in ["TERM", "INT"] {
        let mut daemon = Daemon::start(&["--device=cpu"]).await;
        let answered = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for salt in 0..4 {
            let client = Client::connect(daemon.target()).await.unwrap();
            let answered = Arc::clone(&answered);
            clients.spawn(async move {
                let request = request(4, 500, salt);
                loop {
                    match client.sample(request.clone()).await {
                        Ok(response) => assert_eq!(response.rows, expected(&request)),
                        Err(error) => break error,
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until("the load is on", || answered.load(Ordering::Relaxed) > 50).await;
        daemon.signal(signal);
        assert_eq!(daemon.exit_code().await, Some(0));
        assert!(daemon.log_has("drained"), "{}", daemon.log());
        for error in clients.join_all().await {
            let Error::Status(status) = &error else { panic!("{error}") };
            assert_eq!(status.code(), Code::Unavailable, "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_daemon_at_once() {
    let mut daemon = Daemon::start(&["--drain-delay=60s"]).await;
    daemon.signal("TERM");
    daemon.logged("draining").await;
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(128 + 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemons_socket_is_removed_and_a_dead_ones_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logitd.sock");
    let listen = format!("--listen=unix:{}", path.display());
    let mut first = Daemon::start(&[&listen]).await;
    first.signal("KILL");
    assert_eq!(first.exit_code().await, None, "killed");
    assert!(path.exists(), "it could not clean up");

    let mut second = Daemon::start(&[&listen]).await;
    let client = Client::connect(second.target()).await.unwrap();
    let request = request(2, 100, 1);
    assert_eq!(client.sample(request.clone()).await.unwrap().rows, expected(&request));
    assert!(refused(&[&listen]).contains("somebody else listens"));
    second.signal("TERM");
    assert_eq!(second.exit_code().await, Some(0));
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_come_from_flags_variables_and_a_file_in_this_order() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("logitd.toml");
    std::fs::write(&file, "request_rows_max = 3\nstream_requests_max = 3\nqueue_rows_max = 300\n")
        .unwrap();
    let config = format!("--config={}", file.display());
    let flags = [config.as_str(), "--request-rows-max=5"];
    let variables = [("LOGITD_STREAM_REQUESTS_MAX", "4"), ("LOGITD_REQUEST_ROWS_MAX", "4")];
    let daemon = Daemon::start_with(&flags, &variables).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    let limits = client.info().await.unwrap().limits.unwrap();
    assert_eq!(limits.request_rows_max, 5, "the flag");
    assert_eq!(limits.stream_requests_max, 4, "the variable");
    assert_eq!(limits.queue_rows_max, 300, "the file");
    assert_eq!(limits.connection_streams_max, 128, "the default");
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("logitd.toml");
    std::fs::write(&file, "que_rows_max = 3\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("127.0.0.1:{}", taken.local_addr().unwrap().port());
    let _held = std::net::TcpListener::bind(&taken);
    for (flags, words) in [
        (vec![format!("--config={}", file.display())], "que_rows_max"),
        (vec!["--listen=0.0.0.0:0".into()], "--insecure"),
        (vec!["--listen=nowhere".into()], "unix:PATH"),
        (vec!["--queue-rows-max=0".into()], "--queue-rows-max"),
        (vec!["--receive-timeout=5".into()], "--receive-timeout"),
        (vec!["--tls-cert=x".into()], "--tls-key"),
        (vec![format!("--listen={taken}")], taken.as_str()),
        (vec![format!("--metrics-listen={taken}")], "--metrics-listen"),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let said = refused(&flags);
        assert!(said.contains(words), "{flags:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_right_when_idle_and_under_load() {
    let daemon = Daemon::start(&["--metrics-listen=127.0.0.1:0"]).await;
    let idle = daemon.scrape().await;
    assert!(idle.contains("logitd_device_up{device=\"cpu\"} 1"), "{idle}");

    let client = Client::connect(daemon.target()).await.unwrap();
    let mut load = JoinSet::new();
    for salt in 0..4 {
        let client = client.clone();
        load.spawn(async move {
            for i in 0..25 {
                client.sample(request(3, 100, salt * 100 + i)).await.unwrap();
            }
            let mut stream = client.stream().await.unwrap();
            stream.send(request(1, 100, salt)).await.unwrap();
            stream.receive().await.unwrap().unwrap().1.unwrap();
            let mut wrong = request(1, 100, salt);
            wrong.dtype = 0;
            client.sample(wrong).await.unwrap_err();
        });
    }
    while let Some(done) = load.join_next().await {
        done.unwrap();
        // Scraped while the others go on.
        assert!(daemon.scrape().await.contains("logitd_requests_total"));
    }
    let text = daemon.scrape().await;
    let value = |name: &str| crate::harness::daemon::value(&text, name);
    assert_eq!(value("logitd_requests_total{code=\"OK\"}"), 104.0, "{text}");
    assert_eq!(value("logitd_requests_total{code=\"INVALID_ARGUMENT\"}"), 4.0);
    assert_eq!(value("logitd_rows_total{status=\"OK\",device=\"cpu\"}"), 304.0);
    assert_eq!(value("logitd_bytes_total{plane=\"inline\"}"), 304.0 * 200.0);
    assert_eq!(value("logitd_batch_rows_sum"), 304.0);
    assert_eq!(value("logitd_batch_rows_count"), value("logitd_batches_total"));
    assert_eq!(value("logitd_request_seconds_count"), 108.0, "{text}");
    assert_eq!(value("logitd_request_seconds_bucket{le=\"+Inf\"}"), 108.0);
    assert_eq!(value("logitd_queue_rows"), 0.0);
    assert_eq!(value("logitd_parity_mismatches_total"), 0.0);
    for histogram in ["logitd_queue_wait_seconds", "logitd_copy_seconds", "logitd_compute_seconds"]
    {
        assert!(value(&format!("{histogram}_count")) > 0.0, "{histogram}");
        assert!(text.contains(&format!("# TYPE {histogram} histogram")), "{histogram}");
        assert!(text.contains(&format!("# HELP {histogram} ")), "{histogram}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_seeds_nor_tokens_nor_logits_are_ever_logged() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "hush-hush-hush Ann\n").unwrap();
    let flags = [format!("--tokens-file={}", tokens.display())];
    let variables = [("RUST_LOG", "trace")];
    let mut daemon = Daemon::start_with(&[&flags[0]], &variables).await;
    let client = Client::builder(daemon.target()).token("hush-hush-hush").connect().await.unwrap();
    let mut request = request(1, 64, 1);
    request.params[0].seed = Some(7_777_123_456_789);
    client.sample(request.clone()).await.unwrap();
    let mut stream = client.stream().await.unwrap();
    stream.send(request.clone()).await.unwrap();
    stream.receive().await.unwrap().unwrap().1.unwrap();
    request.params[0].temperature = Some(-1.0);
    client.sample(request.clone()).await.unwrap_err();
    daemon.signal("TERM");
    daemon.exit_code().await;
    let log = daemon.log();
    assert!(log.contains("Ann"), "the token's name is logged");
    // Four logits in a row, as any Debug would show them, and the same in hex.
    let bytes: Vec<String> = request.logits[..8].iter().map(u8::to_string).collect();
    let hex: String = request.logits[..8].iter().map(|b| format!("{b:02x}")).collect();
    for secret in ["7777123456789", "hush", &bytes.join(", "), &hex] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_in_the_log_and_in_the_collector() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let (collector, endpoint) = Collector::start().await;
    let mut daemon = Daemon::start_with(&[&endpoint], &[("RUST_LOG", "debug")]).await;
    let raw = crate::harness::raw::Raw::connect(daemon.target().split_once("://").unwrap().1).await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let body = crate::harness::raw::framed(&request(5, 20, 1));
    raw.call("Sample", &[("traceparent", &parent)], body).await.assert_code(Code::Ok, &[]);
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(daemon.log_has(TRACE), "{}", daemon.log());

    // Sent at the latest when the daemon leaves.
    let spans = collector.0.lock().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let call = spans.iter().find(|span| span.name == "call").expect("the call's span");
    assert_eq!(hex(&call.trace_id), TRACE);
    assert_eq!(hex(&call.parent_span_id), PARENT);
    let keys: Vec<_> = call.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    for key in ["method", "rows", "code"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_trace_is_in_the_collector_and_not_in_the_log() {
    let (collector, endpoint) = Collector::start().await;
    let mut daemon = Daemon::start(&[&endpoint]).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    client.sample(request(5, 20, 1)).await.unwrap();
    let mut stream = client.stream().await.unwrap();
    stream.send(request(5, 20, 1)).await.unwrap();
    stream.receive().await.unwrap().unwrap().1.unwrap();
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(!daemon.log_has("call{"), "{}", daemon.log());
    let spans = collector.0.lock().unwrap();
    let count = |name| spans.iter().filter(|span| span.name == name).count();
    assert_eq!((count("call"), count("request")), (2, 1), "{spans:?}");
}

/// Keeps the spans that are sent to it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// With the flag that has a daemon send there.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("--otlp-endpoint=http://{}", listener.local_addr().unwrap());
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (collector, endpoint)
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|r| r.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_collector_does_not_keep_the_daemon() {
    let mut daemon = Daemon::start(&["--otlp-endpoint=http://127.0.0.1:1"]).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    client.sample(request(1, 10, 1)).await.unwrap();
    let begun = Instant::now();
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20));
}
