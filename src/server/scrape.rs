//! The port that Prometheus reads [`metrics`] from.

use super::credentials::Credentials;
use super::{metrics, web};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use axum::middleware::map_request;
use axum::response::IntoResponse;
use axum::routing::{Router, get};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// What scrapes may have.
const BOUNDS: web::Bounds = web::Bounds {
    port: "metrics",
    connections_max: 16,
    ask_timeout: Duration::from_secs(5),
    timeout: Duration::from_secs(10),
    keep_alive: false,
};

/// Answers `GET /metrics`, until dropped; with `credentials`, to whoever has a token of theirs.
pub async fn serve(listener: TcpListener, credentials: Option<Arc<Credentials>>) {
    web::serve(listener, routes(credentials), BOUNDS).await;
}

/// Binds the metrics port. From here on there is something to read.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    metrics::install();
    TcpListener::bind(address).await
}

/// What the port answers.
fn routes(credentials: Option<Arc<Credentials>>) -> Router {
    Router::new()
        .route("/metrics", get(text))
        .fallback(nothing_else)
        .method_not_allowed_fallback(nothing_else)
        .layer(map_request(move |request| std::future::ready(admit(&credentials, request))))
}

/// Every metric, as Prometheus reads them.
pub async fn text() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::install().render())
}

async fn nothing_else() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "GET /metrics\n")
}

type Challenge = (StatusCode, [(HeaderName, &'static str); 1], String);

/// Lets a request pass that has a token, where one is needed.
pub fn admit(
    credentials: &Option<Arc<Credentials>>,
    request: Request,
) -> Result<Request, Challenge> {
    let known = credentials.as_ref().map(|credentials| credentials.check(request.headers()));
    match known {
        Some(Err(error)) => {
            Err((StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], format!("{error}\n")))
        }
        _ => Ok(request),
    }
}
