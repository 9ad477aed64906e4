//! From sockets to HTTP/2: accepting, TLS, limits, keepalive, and the end of connections that nobody uses.

use super::account::Account;
use super::authority::Rewriter;
use super::budget::Budget;
use super::credentials::Credentials;
use super::front::{Front, WAY_OUT};
use super::line::Lane;
use super::listen::{Connection, Listener};
use super::log::Sparse;
use super::places::{Origin, Places};
use super::unread::{self, CallTasks, CountedBody, Patience};
use super::{convert, metrics, telemetry};
use crate::config::{Address, Config, ConnectionConfig};
use crate::engine::GroupId;
use crate::plane::Peer;
use bytes::{BufMut, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use logitd_proto as api;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

/// How long to wait when the system has no more file descriptors or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a client may keep sending to a connection that is over.
const LINGER: Duration = Duration::from_secs(1);

/// The least a client sends before it has spoken HTTP/2: the preface and an empty SETTINGS frame.
const FIRST_BYTES: usize = PREFACE.len() + 9;

/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Headers are refused in words up to so many times `--header-bytes-max`; the HTTP/2 library refuses larger ones, by
/// a code of HTTP.
const HEADER_BYTES_TOLD: usize = 4;

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
    front: Front,
    credentials: Arc<Credentials>,
    places: Arc<Places>,
    /// Of answers that are awaited or unread.
    answers: Arc<Budget>,
    windows: Windows,
    patience: Arc<Patience>,
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
        credentials: Arc<Credentials>,
        answers: Arc<Budget>,
        patience: Arc<Patience>,
    ) -> Self {
        let limits = config.connections.clone();
        let unix = config.listen.iter().any(|address| matches!(address, Address::Unix(_)));
        let per_address_max = config.connections_per_address_max();
        Self {
            front: Front::new(routes, Arc::clone(&credentials), limits.header_bytes_max),
            credentials,
            places: Arc::new(Places::new(limits.connections_max, per_address_max, unix)),
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
                Ok((connection, origin)) => self.admit(connection, origin),
                // The client left before it was accepted.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    static FAILED: Sparse = Sparse::new();
                    if let Some(suppressed) = FAILED.pass() {
                        let address = &listener.address;
                        tracing::warn!(%error, %address, suppressed, "cannot accept connections");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, connection: Connection, origin: Origin) {
        let place = match self.places.take(origin) {
            Ok(place) => place,
            Err(full) => {
                static REFUSED: Sparse = Sparse::new();
                metrics::connection_refused();
                if let Some(suppressed) = REFUSED.pass() {
                    tracing::warn!(?origin, suppressed, "connection refused: {}", full.reason());
                }
                return;
            }
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let killed = this.killed.clone();
            killed.run_until_cancelled(this.serve(connection, origin)).await;
            drop(place);
        });
    }

    async fn serve(&self, connection: Connection, origin: Origin) {
        let address = connection.group();
        match (self.credentials.tls(), connection) {
            (Some(tls), connection @ Connection::Tcp(_)) => {
                match timeout(self.limits.handshake_timeout, tls.accept(connection)).await {
                    Ok(Ok(io)) => self.serve_http(io, origin, None, address).await,
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake timed out"),
                }
            }
            (_, connection) => {
                let peer = connection.peer();
                self.serve_http(connection, origin, peer, address).await;
            }
        }
    }

    /// `peer` is who the kernel says is at the other end, which it says of Unix sockets only.
    async fn serve_http(
        &self,
        mut io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Origin,
        peer: Option<Peer>,
        address: GroupId,
    ) {
        let patience = self.limits.handshake_timeout;
        let first = match timeout(patience, first_bytes(&mut io)).await {
            Ok(Ok(first)) => first,
            Ok(Err(error)) => return tracing::debug!(%error, "connection ended"),
            Err(_) => return tracing::debug!("connection said nothing"),
        };
        if is_http1(&first) {
            tracing::debug!("connection speaks HTTP/1");
            let answer = http1_answer();
            if let Ok(Ok(())) = timeout(patience, io.write_all(answer.as_bytes())).await {
                linger(io).await;
            }
            return;
        }
        let rewriter = (origin == Origin::Unix).then(Rewriter::default);
        let (watched, watch) = Watched::new(io, first, rewriter);
        self.speak_http(watched, &watch.received, origin, peer, address).await;
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
            .max_header_list_size(u32(limits.header_bytes_max * HEADER_BYTES_TOLD))
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        http
    }

    async fn speak_http(
        &self,
        io: Watched<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
        received: &AtomicUsize,
        origin: Origin,
        peer: Option<Peer>,
        address: GroupId,
    ) {
        let (connection_window, stream_window) =
            (self.limits.connection_window_bytes, self.limits.stream_window_bytes);
        let lane = Lane::new(connection_window, stream_window);
        let account = Account::open(address, &self.account_limits, lane);
        let window = self.windows.grant(connection_window);
        let http = self.http(Arc::clone(&account), window.bytes);
        let activity = Arc::new(Activity::default());
        let call = {
            let (account, activity) = (Arc::clone(&account), Arc::clone(&activity));
            let (front, answers) = (self.front.clone(), Arc::clone(&self.answers));
            move |request| {
                let (front, account) = (front.clone(), Arc::clone(&account));
                let (in_flight, answers) = (InFlight::begin(&activity), Arc::clone(&answers));
                async move {
                    let response = front.call(request, peer, account).await?;
                    Ok::<_, Infallible>(response.map(|body| Counted {
                        body: CountedBody::new(body, answers),
                        _in_flight: in_flight,
                    }))
                }
            }
        };
        let service = TowerToHyperService::new(tower::service_fn(call));
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(io), service));
        let mut draining = std::pin::pin!(self.patience.draining.cancelled());
        let mut stuck = std::pin::pin!(unread::stuck(&account, &self.patience));
        let mut silent = std::pin::pin!(tokio::time::sleep(self.limits.handshake_timeout));
        let idle_timeout = self.limits.connection_idle_timeout;
        let mut idle = std::pin::pin!(tokio::time::sleep(idle_timeout));
        let (mut leaving, mut spoken, mut sent_away) = (false, false, false);
        loop {
            let progress = std::future::poll_fn(|cx| {
                let ended = connection.as_mut().poll(cx);
                report_reset(origin);
                ended
            });
            tokio::select! {
                result = progress => {
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
                () = &mut idle, if !idle_timeout.is_zero() => {
                    let next = match activity.idle_for() {
                        None => idle_timeout,
                        Some(_) if sent_away => {
                            tracing::debug!("an idle connection did not go");
                            return;
                        }
                        Some(time) if time < idle_timeout => idle_timeout - time,
                        Some(_) => {
                            metrics::connection_idle();
                            connection.as_mut().graceful_shutdown();
                            sent_away = true;
                            self.limits.handshake_timeout
                        }
                    };
                    idle.as_mut().reset(Instant::now() + next);
                }
            }
        }
    }
}

/// What a client sends first: as much as tells HTTP/2 from anything else.
async fn first_bytes(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut first = Vec::with_capacity(PREFACE.len());
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let missing = PREFACE.len() - first.len();
        if io.read_buf(&mut (&mut first).limit(missing)).await? == 0 {
            break;
        }
    }
    Ok(first.into())
}

/// Whether it looks like the method of a request.
fn is_http1(first: &[u8]) -> bool {
    !PREFACE.starts_with(first) && first.first().is_some_and(u8::is_ascii_uppercase)
}

fn http1_answer() -> String {
    format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{WAY_OUT}",
        WAY_OUT.len()
    )
}

/// Says that the HTTP/2 library has just reset a call on this connection for its headers, if it has: nobody else
/// hears of it.
fn report_reset(origin: Origin) {
    static RESET: Sparse = Sparse::new();
    if let Some(reason) = telemetry::take_reset()
        && let Some(suppressed) = RESET.pass()
    {
        tracing::warn!(?origin, reason, suppressed, "a call was reset");
    }
}

/// Which calls a connection has.
#[derive(Debug)]
struct Activity {
    calls: AtomicUsize,
    /// When the last of them ended, or the connection began.
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { calls: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }
}

impl Activity {
    /// How long there has been no call, where there is none.
    fn idle_for(&self) -> Option<Duration> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (self.calls.load(Ordering::Relaxed) == 0).then(|| last.elapsed())
    }
}

/// A call that is not over.
#[derive(Debug)]
struct InFlight(Arc<Activity>);

impl InFlight {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
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

/// The body of an answer: its call is in flight as long as it lives.
struct Counted {
    body: CountedBody,
    _in_flight: InFlight,
}

impl Body for Counted {
    type Data = <CountedBody as Body>::Data;
    type Error = <CountedBody as Body>::Error;

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
    /// Received, and not yet passed on.
    first: Bytes,
    /// Where authorities may be paths.
    rewriter: Option<Rewriter>,
    received: Arc<AtomicUsize>,
    release: Option<oneshot::Sender<T>>,
}

/// The other end of a [`Watched`].
struct Watch<T> {
    received: Arc<AtomicUsize>,
    released: oneshot::Receiver<T>,
}

impl<T> Watched<T> {
    /// `first` has been read from `io`.
    fn new(io: T, first: Bytes, rewriter: Option<Rewriter>) -> (Self, Watch<T>) {
        let (release, released) = oneshot::channel();
        let received = Arc::new(AtomicUsize::new(0));
        let watch = Watch { received: Arc::clone(&received), released };
        let (io, release) = (Some(io), Some(release));
        (Self { io, first, rewriter, received, release }, watch)
    }
}

impl<T: Unpin> Watched<T> {
    fn io(&mut self) -> Pin<&mut T> {
        Pin::new(self.io.as_mut().expect("there until dropped"))
    }
}

impl<T: AsyncRead + Unpin> Watched<T> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let held = self.rewriter.as_mut().and_then(|rewriter| rewriter.held());
            buf.put_slice(held.as_slice());
            let seen = buf.filled().len();
            let read = self.poll_raw(cx, buf);
            let Some(rewriter) = &mut self.rewriter else { return read };
            if buf.filled().len() > seen {
                let done = rewriter.rewrite(&mut buf.filled_mut()[before..], seen - before);
                buf.set_filled(before + done);
            } else if let (Some(byte), Poll::Pending) = (held, &read) {
                rewriter.hold(byte);
                buf.set_filled(before);
            }
            // Nothing at all would be the end.
            if buf.filled().len() > before || rewriter.holds_nothing() || !read.is_ready() {
                return read;
            }
        }
    }

    fn poll_raw(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return self.io().poll_read(cx, buf);
        }
        let most = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(most));
        Poll::Ready(Ok(()))
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
        let result = self.poll_bytes(cx, buf);
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
