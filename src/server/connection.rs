//! From sockets to HTTP/2: accepting, TLS, limits and keepalive.

use super::account::{Account, Budget};
use super::listen::{Connection, Listener};
use super::unread::{self, Answer, CallTasks, Patience};
use super::{convert, metrics};
use crate::api;
use crate::config::{Config, ConnectionConfig};
use crate::engine::GroupId;
use crate::plane::shm::Peer;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// The part of what is left of all windows that one connection gets at most: one of so many.
const WINDOW_PART: usize = 16;
/// The least window, however many connections there are: that of HTTP/2 itself.
const WINDOW_BYTES_MIN: usize = (64 << 10) - 1;
/// The smallest limit that HTTP/2 has for a frame.
const FRAME_BYTES_MIN: usize = 16 << 10;
/// Calls that a client may begin and cancel before the server has looked at them, in places for calls. Who
/// cancels all that it has, and begins as many anew, has done no wrong.
const RESETS_PART: usize = 2;
/// Resets for a client's errors in a connection's whole life, in places for calls. Frames that were under way to
/// calls which have been refused count as such.
const LOCAL_RESETS_PART: usize = 32;

/// What all connections of a server have in common.
pub struct Connections {
    limits: ConnectionConfig,
    account_limits: api::Limits,
    routes: Routes,
    /// Of answers that are awaited or unread.
    answers: Arc<Budget>,
    windows: Windows,
    patience: Arc<Patience>,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
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
        answers: Arc<Budget>,
        patience: Arc<Patience>,
    ) -> Self {
        let limits = config.connections.clone();
        Self {
            routes,
            tls,
            places: Arc::new(Semaphore::new(limits.connections_max)),
            windows: Windows::new(limits.window_bytes_max),
            account_limits: convert::limits(config),
            limits,
            answers,
            patience,
            killed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts until the server drains; then the socket is closed.
    pub async fn accept(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.patience.draining.cancelled() => return,
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
                match timeout(self.limits.handshake_timeout, tls.accept(connection)).await {
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

    /// HTTP/2 for one connection, with a window of so many bytes for all it sends.
    fn http(&self, account: Arc<Account>, window: usize) -> http2::Builder<CallTasks> {
        let limits = &self.limits;
        // Validated to fit.
        let u32 = |bytes: usize| bytes as u32;
        let wanted = limits.connection_window_bytes;
        let window = window.max(WINDOW_BYTES_MIN.min(wanted));
        // A frame is kept until all of it is here, in a window or not.
        let part = |bytes: usize| (bytes as u64 * window as u64 / wanted as u64) as usize;
        let mut http = http2::Builder::new(CallTasks::new(account, Arc::clone(&self.patience)));
        http.timer(TokioTimer::new())
            .max_frame_size(u32(part(limits.frame_bytes_max).max(FRAME_BYTES_MIN)))
            .initial_stream_window_size(u32(part(limits.stream_window_bytes).max(1)))
            .initial_connection_window_size(u32(window))
            .max_concurrent_streams(limits.connection_streams_max)
            .max_pending_accept_reset_streams(RESETS_PART * limits.connection_streams_max as usize)
            .max_local_error_reset_streams(
                LOCAL_RESETS_PART * limits.connection_streams_max as usize,
            )
            .max_header_list_size(u32(limits.header_bytes_max))
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        http
    }

    async fn speak_http(
        &self,
        io: Watched<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
        received: &AtomicUsize,
        peer: Option<Peer>,
        address: GroupId,
    ) {
        let account = Account::open(address, &self.account_limits);
        let window = self.windows.grant(self.limits.connection_window_bytes);
        let http = self.http(Arc::clone(&account), window.bytes);
        let of = Arc::clone(&account);
        let answers = Arc::clone(&self.answers);
        let routes = (self.routes.clone())
            .map_request(move |request: http::Request<_>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Arc::clone(&of));
                if let Some(peer) = peer {
                    request.extensions_mut().insert(peer);
                }
                request
            })
            .map_response(move |response: http::Response<_>| {
                response.map(|body| Answer::new(body, Arc::clone(&answers)))
            });
        let mut connection = std::pin::pin!(
            http.serve_connection(TokioIo::new(io), TowerToHyperService::new(routes))
        );
        let mut draining = std::pin::pin!(self.patience.draining.cancelled());
        let mut stuck = std::pin::pin!(unread::stuck(&account, &self.patience));
        let mut silent = std::pin::pin!(tokio::time::sleep(self.limits.handshake_timeout));
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
                () = &mut stuck => {
                    metrics::answer_cut();
                    tracing::debug!("connection ended: nothing of its answers was read");
                    return;
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

/// Windows of HTTP/2, which bound what a connection may send before any of it has found room.
struct Windows {
    left: Mutex<usize>,
}

/// A connection's window, given back when dropped.
struct Window<'a> {
    bytes: usize,
    windows: &'a Windows,
}

impl Windows {
    fn new(bytes_max: usize) -> Self {
        Self { left: Mutex::new(bytes_max) }
    }

    /// As much as is wanted, of a part of what is left: the first connections get all they want, and many get
    /// less each, but nobody takes the others' windows with a few connections.
    fn grant(&self, wanted: usize) -> Window<'_> {
        let mut left = self.lock();
        let bytes = wanted.min(*left / WINDOW_PART);
        *left -= bytes;
        drop(left);
        Window { bytes, windows: self }
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        *self.windows.lock() += self.bytes;
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
