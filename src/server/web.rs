//! Connections that speak HTTP/1, to the ports that are for people and for scrapers: how many at once, and how long.

use super::log::Sparse;
use axum::routing::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tower::ServiceExt;

/// What connections to a port may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The port's name in the log.
    pub port: &'static str,
    /// Connections at once. One more takes the place of the oldest that asks for nothing, or is closed as it comes.
    pub connections_max: usize,
    /// How long a connection may take to ask, and to ask again.
    pub ask_timeout: Duration,
    /// How long a connection may be there.
    pub timeout: Duration,
    /// Whether it may ask again.
    pub keep_alive: bool,
}

/// Answers whoever comes, until dropped.
pub async fn serve(listener: TcpListener, routes: Router, bounds: Bounds) {
    let mut visits = Visits::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                static FAILED: Sparse = Sparse::new();
                if let Some(suppressed) = FAILED.pass() {
                    let port = bounds.port;
                    tracing::warn!(%error, suppressed, "cannot accept on the {port} port");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if !visits.make_room(bounds.connections_max) {
            continue;
        }
        // Answers are small, and each is wanted now.
        let _ = stream.set_nodelay(true);
        let asks = Arc::new(AtomicBool::new(false));
        let asking = Arc::clone(&asks);
        let routes = routes.clone();
        let visit = async move {
            let service = service_fn(move |request| {
                asking.store(true, Ordering::Relaxed);
                let (answer, asking) = (routes.clone().oneshot(request), Arc::clone(&asking));
                async move {
                    let answer = answer.await;
                    asking.store(!bounds.keep_alive, Ordering::Relaxed);
                    answer
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.ask_timeout)
                .keep_alive(bounds.keep_alive)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(bounds.timeout, connection).await;
        };
        visits.under_way.push_back(Visit { task: tokio::spawn(visit).abort_handle(), asks });
    }
}

/// Connections to a port. One that asks for nothing makes room for one that may.
#[derive(Default)]
struct Visits {
    /// The oldest first.
    under_way: VecDeque<Visit>,
}

struct Visit {
    task: AbortHandle,
    asks: Arc<AtomicBool>,
}

impl Visits {
    fn make_room(&mut self, connections_max: usize) -> bool {
        self.under_way.retain(|visit| !visit.task.is_finished());
        if self.under_way.len() < connections_max {
            return true;
        }
        let silent = |visit: &Visit| !visit.asks.load(Ordering::Relaxed);
        let Some(oldest) = self.under_way.iter().position(silent) else { return false };
        if let Some(visit) = self.under_way.remove(oldest) {
            visit.task.abort();
        }
        true
    }
}

impl Drop for Visits {
    fn drop(&mut self) {
        self.under_way.iter().for_each(|visit| visit.task.abort());
    }
}
