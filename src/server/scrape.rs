//! The port that Prometheus reads [`metrics`] from.

use super::credentials::Credentials;
use super::log::Sparse;
use super::metrics;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Scrapes at once. One more takes the place of the oldest that has not asked, or is closed as it comes.
const SCRAPES_MAX: usize = 16;
/// How long a connection to the metrics port may take to ask.
const SCRAPE_ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a scrape may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers `GET /metrics`, until dropped; with `credentials`, to whoever has a token of theirs.
pub async fn serve(listener: TcpListener, credentials: Option<Arc<Credentials>>) {
    let handle = metrics::install();
    let mut scrapes = Scrapes::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                static FAILED: Sparse = Sparse::new();
                if let Some(suppressed) = FAILED.pass() {
                    tracing::warn!(%error, suppressed, "cannot accept on the metrics port");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if !scrapes.make_room() {
            continue;
        }
        let asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&asked);
        let credentials = credentials.clone();
        let scrape = async move {
            let service = hyper::service::service_fn(move |request| {
                asks.store(true, Ordering::Relaxed);
                answer(handle, credentials.clone(), request)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(SCRAPE_ASK_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(SCRAPE_TIMEOUT, connection).await;
        };
        scrapes.under_way.push_back(Scrape { task: tokio::spawn(scrape).abort_handle(), asked });
    }
}

/// Connections to the metrics port. One that has not asked for anything makes room for one that may.
#[derive(Default)]
struct Scrapes {
    /// The oldest first.
    under_way: VecDeque<Scrape>,
}

struct Scrape {
    task: AbortHandle,
    asked: Arc<AtomicBool>,
}

impl Scrapes {
    fn make_room(&mut self) -> bool {
        self.under_way.retain(|scrape| !scrape.task.is_finished());
        if self.under_way.len() < SCRAPES_MAX {
            return true;
        }
        let silent = |scrape: &Scrape| !scrape.asked.load(Ordering::Relaxed);
        let Some(oldest) = self.under_way.iter().position(silent) else { return false };
        if let Some(scrape) = self.under_way.remove(oldest) {
            scrape.task.abort();
        }
        true
    }
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        self.under_way.iter().for_each(|scrape| scrape.task.abort());
    }
}

/// Binds the metrics port. From here on there is something to read.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    metrics::install();
    TcpListener::bind(address).await
}

async fn answer(
    handle: &'static PrometheusHandle,
    credentials: Option<Arc<Credentials>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let known = credentials.map_or(Ok(None), |credentials| credentials.check(request.headers()));
    let (status, content_type, body) = match (known, request.method(), request.uri().path()) {
        (Err(error), ..) => (StatusCode::UNAUTHORIZED, "text/plain", format!("{error}\n")),
        (Ok(_), &Method::GET, "/metrics") => {
            (StatusCode::OK, "text/plain; version=0.0.4", handle.render())
        }
        _ => (StatusCode::NOT_FOUND, "text/plain", "GET /metrics\n".into()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let content_type = http::HeaderValue::from_static(content_type);
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    if status == StatusCode::UNAUTHORIZED {
        let challenge = http::HeaderValue::from_static("Bearer");
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
    }
    Ok(response)
}
