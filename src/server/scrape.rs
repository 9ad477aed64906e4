//! The port that Prometheus reads [`metrics`] from.

use super::credentials::Credentials;
use super::log::Sparse;
use super::metrics;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use axum::middleware::map_request;
use axum::routing::{Router, get};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tower::ServiceExt;

/// Scrapes at once. One more takes the place of the oldest that has not asked, or is closed as it comes.
const SCRAPES_MAX: usize = 16;
/// How long a connection to the metrics port may take to ask.
const SCRAPE_ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a scrape may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers `GET /metrics`, until dropped; with `credentials`, to whoever has a token of theirs.
pub async fn serve(listener: TcpListener, credentials: Option<Arc<Credentials>>) {
    let routes = routes(metrics::install(), credentials);
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
        let routes = routes.clone();
        let scrape = async move {
            let service = service_fn(move |request| {
                asks.store(true, Ordering::Relaxed);
                routes.clone().oneshot(request)
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

/// What the port answers.
fn routes(handle: &'static PrometheusHandle, credentials: Option<Arc<Credentials>>) -> Router {
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    Router::new()
        .route("/metrics", get(async move || (text, handle.render())))
        .fallback(nothing_else)
        .method_not_allowed_fallback(nothing_else)
        .layer(map_request(move |request| std::future::ready(admit(&credentials, request))))
}

async fn nothing_else() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "GET /metrics\n")
}

type Challenge = (StatusCode, [(HeaderName, &'static str); 1], String);

/// Lets a request pass that has a token, where one is needed.
fn admit(credentials: &Option<Arc<Credentials>>, request: Request) -> Result<Request, Challenge> {
    let known = credentials.as_ref().map(|credentials| credentials.check(request.headers()));
    match known {
        Some(Err(error)) => {
            Err((StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], format!("{error}\n")))
        }
        _ => Ok(request),
    }
}
