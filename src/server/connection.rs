//! From sockets to HTTP/2: accepting, TLS, limits and keepalive.

use super::listen::{Connection, Listener};
use super::metrics;
use crate::config::Config;
use crate::engine::{ConnectionId, GroupId};
use crate::plane::shm::Peer;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;

/// How long to wait when the system has no more file descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a client may keep sending to a connection that is over.
const LINGER: Duration = Duration::from_secs(1);

/// The least a client sends before it has spoken HTTP/2: the preface and an empty SETTINGS frame.
const FIRST_BYTES: usize = 24 + 9;

/// What all connections of a server have in common.
pub struct Connections {
    http: http2::Builder<TokioExecutor>,
    routes: Routes,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    handshake_timeout: Duration,
    /// Finish what has begun, begin nothing new.
    pub draining: CancellationToken,
    /// Stop at once.
    pub killed: CancellationToken,
    /// One a connection.
    pub tasks: TaskTracker,
}

impl Connections {
    /// Serves `routes` on connections that stay within these limits.
    pub fn new(
        config: &Config,
        routes: Routes,
        tls: Option<TlsAcceptor>,
        draining: CancellationToken,
    ) -> Self {
        let limits = &config.connections;
        // Validated to fit.
        let window = |bytes: usize| bytes as u32;
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_frame_size(window(limits.frame_bytes_max))
            .initial_stream_window_size(window(limits.stream_window_bytes))
            .initial_connection_window_size(window(limits.connection_window_bytes))
            .max_concurrent_streams(limits.connection_streams_max)
            .max_header_list_size(window(limits.header_bytes_max))
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        Self {
            http,
            routes,
            tls,
            places: Arc::new(Semaphore::new(limits.connections_max)),
            handshake_timeout: limits.handshake_timeout,
            draining,
            killed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts until the server drains; then the socket is closed.
    pub async fn accept(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.draining.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(connection) => self.admit(connection),
                // The client left before it was accepted.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, address = %listener.address, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, connection: Connection) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            metrics::connection_refused();
            tracing::warn!("connection refused: --connections-max are open");
            return;
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let killed = this.killed.clone();
            killed.run_until_cancelled(this.serve(connection)).await;
            drop(place);
        });
    }

    async fn serve(&self, connection: Connection) {
        let address = connection.group();
        match (&self.tls, connection) {
            (Some(tls), connection @ Connection::Tcp(_)) => {
                match timeout(self.handshake_timeout, tls.accept(connection)).await {
                    Ok(Ok(io)) => self.serve_http(io, None, address).await,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake timed out"),
                }
            }
            (_, connection) => {
                let peer = connection.peer();
                self.serve_http(connection, peer, address).await;
            }
        }
    }

    /// `peer` is who the kernel says is at the other end, which it says of Unix sockets only.
    async fn serve_http(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Option<Peer>,
        address: GroupId,
    ) {
        let (watched, watch) = Watched::new(io);
        self.speak_http(watched, &watch.received, peer, address).await;
        if let Ok(io) = watch.released.await {
            linger(io).await;
        }
    }

    async fn speak_http(
        &self,
        io: Watched<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
        received: &AtomicUsize,
        peer: Option<Peer>,
        address: GroupId,
    ) {
        let id = ConnectionId::next();
        let routes = self.routes.clone().map_request(move |request: http::Request<_>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(id);
            request.extensions_mut().insert(address);
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            request
        });
        let mut connection = std::pin::pin!(
            self.http.serve_connection(TokioIo::new(io), TowerToHyperService::new(routes))
        );
        let mut draining = std::pin::pin!(self.draining.cancelled());
        let mut silent = std::pin::pin!(tokio::time::sleep(self.handshake_timeout));
        let (mut leaving, mut spoken) = (false, false);
        loop {
            tokio::select! {
                result = &mut connection => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = &mut draining, if !leaving => {
                    connection.as_mut().graceful_shutdown();
                    leaving = true;
                }
                () = &mut silent, if !spoken => {
                    spoken = received.load(Ordering::Relaxed) >= FIRST_BYTES;
                    if !spoken {
                        tracing::debug!("connection said nothing");
                        return;
                    }
                }
            }
        }
    }
}

/// Says goodbye, and reads past what the client still sends. Closing on unread bytes would reset the
/// connection, and a reset makes the client forget answers that it has not read yet.
async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let read = async {
        let _ = io.shutdown().await;
        let mut rest = [0; 4096];
        while io.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    };
    let _ = timeout(LINGER, read).await;
}

/// Counts the bytes received, and is given back when HTTP is done with it.
struct Watched<T> {
    /// There until dropped.
    io: Option<T>,
    received: Arc<AtomicUsize>,
    release: Option<oneshot::Sender<T>>,
}

/// The other end of a [`Watched`].
struct Watch<T> {
    received: Arc<AtomicUsize>,
    released: oneshot::Receiver<T>,
}

impl<T> Watched<T> {
    fn new(io: T) -> (Self, Watch<T>) {
        let (release, released) = oneshot::channel();
        let received = Arc::new(AtomicUsize::new(0));
        let watch = Watch { received: Arc::clone(&received), released };
        (Self { io: Some(io), received, release: Some(release) }, watch)
    }
}

impl<T: Unpin> Watched<T> {
    fn io(&mut self) -> Pin<&mut T> {
        Pin::new(self.io.as_mut().expect("there until dropped"))
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        if let (Some(io), Some(release)) = (self.io.take(), self.release.take()) {
            let _ = release.send(io);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = self.io().poll_read(cx, buf);
        self.received.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
