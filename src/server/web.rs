//! Connections that speak HTTP/1, to the ports that are for people and for scrapers: how many at once, and how long.

use super::log::Sparse;
use axum::body::Body;
use axum::response::Response;
use axum::routing::Router;
use http_body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
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
        let doings = Arc::new(Doings::default());
        let stream = Written { stream, doings: Arc::clone(&doings) };
        let (doing, routes) = (Arc::clone(&doings), routes.clone());
        let visit = async move {
            let service = service_fn(move |request| {
                let (answer, asked) = (routes.clone().oneshot(request), Asked::begin(&doing));
                async move {
                    let answer: Response = answer.await?;
                    Ok::<_, Infallible>(answer.map(|body| Told { body, _asked: asked }))
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.ask_timeout)
                .keep_alive(bounds.keep_alive)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(bounds.timeout, connection).await;
        };
        visits.under_way.push_back(Visit { task: tokio::spawn(visit).abort_handle(), doings });
    }
}

/// What a connection is about.
#[derive(Debug, Default)]
struct Doings {
    /// Requests whose answers have not been told.
    asked: AtomicUsize,
    /// Whether something is on its way to the socket.
    is_written_to: AtomicBool,
}

impl Doings {
    fn is_silent(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == 0 && !self.is_written_to.load(Ordering::Relaxed)
    }
}

/// A request, until its answer has been told.
struct Asked(Arc<Doings>);

impl Asked {
    fn begin(doings: &Arc<Doings>) -> Self {
        doings.asked.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(doings))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer: there until its last bytes are on their way to the socket.
struct Told {
    body: Body,
    _asked: Asked,
}

impl http_body::Body for Told {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket that notes whether something is on its way to it: from the first write to the flush after the last.
struct Written {
    stream: TcpStream,
    doings: Arc<Doings>,
}

impl Written {
    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.stream)
    }
}

impl AsyncRead for Written {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Written {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.doings.is_written_to.store(true, Ordering::Relaxed);
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.doings.is_written_to.store(true, Ordering::Relaxed);
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream().poll_flush(cx);
        if flushed.is_ready() {
            self.doings.is_written_to.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
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
    doings: Arc<Doings>,
}

impl Visits {
    fn make_room(&mut self, connections_max: usize) -> bool {
        self.under_way.retain(|visit| !visit.task.is_finished());
        if self.under_way.len() < connections_max {
            return true;
        }
        let silent = |visit: &Visit| visit.doings.is_silent();
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// More than sockets hold.
    const ANSWER_BYTES: usize = 32 << 20;
    const BOUNDS: Bounds = Bounds {
        port: "test's",
        connections_max: 1,
        ask_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        keep_alive: true,
    };

    /// The first line of the answer to a request on a connection of its own; empty where the connection is closed.
    async fn ask(address: std::net::SocketAddr) -> (TcpStream, Vec<u8>) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A connection that was closed as it came may be reset here.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut line = vec![0; 15];
        let read = stream.read_exact(&mut line).await.unwrap_or(0);
        line.truncate(read);
        (stream, line)
    }

    #[tokio::test]
    async fn whoever_reads_an_answer_makes_no_room_before_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/", get(async || vec![b'x'; ANSWER_BYTES]));
        let server = tokio::spawn(serve(listener, routes, BOUNDS));

        let (mut first, line) = ask(address).await;
        assert_eq!(line, b"HTTP/1.1 200 OK");
        assert_eq!(ask(address).await.1, b"", "there is one place, and somebody reads");
        let mut rest = vec![0; ANSWER_BYTES];
        first.read_exact(&mut rest).await.expect("the answer to its end");

        // Silent from the end of its answer on, which may be a moment later than it is read.
        let next = async {
            while ask(address).await.1.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), next).await.expect("it makes room");
        server.abort();
    }
}
