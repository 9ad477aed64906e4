//! Answers that their clients have not read: counted until the last byte has left, and not for ever.
//!
//! HTTP/2 lets a client open a window of no bytes, ask, and never read. What it then costs is bounded here. Each
//! answer's bytes carry their room ([`Piece`]) until the transport has written or dropped them, and each call's
//! task ([`CallTasks`]) looks at what of its answer is unread: where nothing of it moves for the stall timeout,
//! or all of it has not moved within the grace of a drain, the task is dropped, and the transport resets the stream.
//!
//! The transport forgets a call once it has the call's trailers, and nothing can reset it from then on. So the
//! trailers wait here until the bytes before them have left ([`CountedBody`]), unless little on the connection is unread:
//! then they go at once, which saves a small call a second write. A connection that takes none of what is so
//! left is cut off whole ([`stuck`]).

use super::account::Account;
use super::budget::{Budget, Held};
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Unread bytes of a connection whose trailers need not wait.
const LOOSE_BYTES_MAX: usize = 64 << 10;

/// How long clients are waited for, and for how many of them that was too short.
#[derive(Debug)]
pub struct Patience {
    /// An answer may go unread for so long.
    pub stall: Duration,
    /// The same while the server drains.
    pub grace: Duration,
    /// Finish what has begun, begin nothing new.
    pub draining: CancellationToken,
    /// So does a message that has begun and does not end: from here on it is waited for no more.
    pub over: CancellationToken,
    /// Calls that were cut off with their answers unread, while the server drained.
    pub unread: AtomicUsize,
    /// Calls that were refused because they had not ended their messages when the grace was over.
    pub unended: AtomicUsize,
}

impl Patience {
    /// Nobody has been waited for yet.
    pub fn new(stall: Duration, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            stall,
            grace,
            draining: CancellationToken::new(),
            over: CancellationToken::new(),
            unread: AtomicUsize::new(0),
            unended: AtomicUsize::new(0),
        })
    }

    /// Resolves when the server has drained for so long that nobody is waited for any more.
    pub async fn leaving(&self) {
        self.draining.cancelled().await;
        tokio::time::sleep(self.grace).await;
    }
}

tokio::task_local! {
    /// That of the call whose task this is.
    static UNREAD: Arc<Unread>;
}

/// What of a call's answer the transport has and the client has not taken.
#[derive(Debug)]
struct Unread {
    account: Arc<Account>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: usize,
    /// Since when there have been any.
    since: Instant,
    /// When some were last taken.
    moved: Instant,
    /// The trailers have gone before the bytes have.
    loose: bool,
    /// The trailers' task, which waits for the bytes to leave.
    waiting: Option<Waker>,
}

impl Unread {
    fn new(account: Arc<Account>) -> Arc<Self> {
        let now = Instant::now();
        let state = State { bytes: 0, since: now, moved: now, loose: false, waiting: None };
        Arc::new(Self { account, state: Mutex::new(state) })
    }

    fn any(&self) -> bool {
        self.lock().bytes > 0
    }

    /// Since when there are unread bytes, and when some were last taken; of now where there are none.
    fn times(&self) -> (Instant, Instant) {
        let state = self.lock();
        if state.bytes > 0 { (state.since, state.moved) } else { (Instant::now(), Instant::now()) }
    }

    fn add(&self, bytes: usize) {
        self.account.unread.fetch_add(bytes, Ordering::Relaxed);
        let mut state = self.lock();
        if state.bytes == 0 {
            state.since = Instant::now();
            state.moved = state.since;
        }
        state.bytes += bytes;
    }

    fn remove(&self, bytes: usize) {
        self.account.unread.fetch_sub(bytes, Ordering::Relaxed);
        self.account.taken.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        state.bytes -= bytes;
        state.moved = Instant::now();
        if state.loose {
            self.account.loose.fetch_sub(bytes, Ordering::Relaxed);
        }
        let waiting = (state.bytes == 0).then(|| state.waiting.take()).flatten();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Whether the trailers may go: what is before them has left, or is little.
    fn may_end(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        if state.bytes == 0 {
            return true;
        }
        let loose = &self.account.loose;
        let bytes = state.bytes;
        let more = |held: usize| held.checked_add(bytes).filter(|&held| held <= LOOSE_BYTES_MAX);
        state.loose = loose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !state.loose {
            state.waiting = Some(cx.waker().clone());
        }
        state.loose
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of an answer, with the room that they take. They are unread until they are advanced past or dropped.
pub struct Piece {
    bytes: Bytes,
    unread: Arc<Unread>,
    _room: [Held; 2],
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.unread.remove(count);
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(into)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.unread.remove(self.bytes.len());
        }
    }
}

/// The body of an answer, counted as the transport takes it.
pub struct CountedBody {
    body: tonic::body::Body,
    unread: Arc<Unread>,
    budget: Arc<Budget>,
    /// Given by the body, and waiting.
    trailers: Option<HeaderMap>,
}

impl CountedBody {
    /// Of the call whose task this is ([`CallTasks`]); its bytes take room of `budget` and of the connection.
    pub fn new(body: tonic::body::Body, budget: Arc<Budget>) -> Self {
        Self { body, unread: UNREAD.with(Arc::clone), budget, trailers: None }
    }

    fn piece(&self, bytes: Bytes) -> Piece {
        let unread = Arc::clone(&self.unread);
        unread.add(bytes.len());
        let budgets = [&unread.account.answers, &self.budget];
        let room = budgets.map(|budget| budget.charge(bytes.len()));
        Piece { bytes, unread, _room: room }
    }
}

impl Body for CountedBody {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        if self.trailers.is_none() {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            match frame.into_trailers() {
                Ok(trailers) => self.trailers = Some(trailers),
                Err(frame) => {
                    let frame = frame.map_data(|bytes| self.piece(bytes));
                    return Poll::Ready(Some(Ok(frame)));
                }
            }
        }
        if !self.unread.may_end(cx) {
            return Poll::Pending;
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.trailers.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Starts the tasks of a connection's calls, and ends those whose answers are not read.
#[derive(Clone)]
pub struct CallTasks {
    account: Arc<Account>,
    patience: Arc<Patience>,
}

impl CallTasks {
    /// Of a connection.
    pub fn new(account: Arc<Account>, patience: Arc<Patience>) -> Self {
        Self { account, patience }
    }
}

impl<F> hyper::rt::Executor<F> for CallTasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, call: F) {
        let unread = Unread::new(Arc::clone(&self.account));
        tokio::spawn(run(call, unread, Arc::clone(&self.patience)));
    }
}

/// Runs a call's task to its end, or until its answer has been unread for too long.
async fn run(call: impl Future, unread: Arc<Unread>, patience: Arc<Patience>) {
    let mut call = pin!(UNREAD.scope(Arc::clone(&unread), call));
    // There while something is unread: most calls are done before they need it.
    let mut outstayed: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    poll_fn(|cx| {
        if call.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !unread.any() {
            outstayed = None;
            return Poll::Pending;
        }
        let begin = || Box::pin(outstays(Arc::clone(&unread), Arc::clone(&patience))) as Pin<_>;
        outstayed.get_or_insert_with(begin).as_mut().poll(cx)
    })
    .await;
}

/// Resolves when an answer has been unread for too long.
async fn outstays(unread: Arc<Unread>, patience: Arc<Patience>) {
    let stalls = async {
        loop {
            let (_, moved) = unread.times();
            let stall = moved + patience.stall;
            if stall <= Instant::now() {
                return;
            }
            sleep_until(stall).await;
        }
    };
    let leaves = async {
        patience.draining.cancelled().await;
        let draining = Instant::now();
        loop {
            let (since, _) = unread.times();
            let end = since.max(draining) + patience.grace;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    };
    tokio::select! {
        biased;
        () = leaves => {
            patience.unread.fetch_add(1, Ordering::Relaxed);
        }
        () = stalls => {}
    }
    super::metrics::answer_cut();
    tracing::debug!(connection = ?unread.account.source.connection, "an answer was not read; its call is cut off");
}

/// Resolves when a connection has taken nothing of what is unread on it, although the calls that could be cut
/// off have been.
pub async fn stuck(account: &Account, patience: &Patience) {
    let mut before = None;
    loop {
        tokio::time::sleep(patience.stall).await;
        let taken = account.taken.load(Ordering::Relaxed);
        let unread = account.unread.load(Ordering::Relaxed) > 0;
        if unread && before == Some(taken) {
            return;
        }
        before = unread.then_some(taken);
    }
}
