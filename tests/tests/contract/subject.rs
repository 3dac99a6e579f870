//! A layer under test without its types, and the means to drive it by its wake-ups alone.

use std::cell::Cell;
use std::error::Error;
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use ha_tower::problem::LocalReply;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service};

use super::probe::Probe;

pub(crate) type Body = Full<Bytes>;
pub(crate) type Outcome = Result<Answer, Box<dyn Error + Send + Sync>>;
type Called = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// More virtual time than any call here takes.
const LIMIT: Duration = Duration::from_secs(60);
/// More polls at one moment than anything is worth.
const MOST_POLLS: usize = 100;

/// A response. Its body is held until it is dropped.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) is_local: bool,
    _body: Box<dyn Send>,
}

/// What a service of this workspace is for whoever uses it: clonable, `Send`, `Sync`, with an error that has a type.
trait Erased: Send + Sync {
    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Box<dyn Error + Send + Sync>>>;
    fn call(&mut self, request: Request<Body>) -> Called;
    fn another(&self) -> Box<dyn Erased>;
    fn debug(&self) -> String;
}

impl<S, R> Erased for S
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Debug + Send + Sync + 'static,
    S::Error: Error + Send + Sync + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Box<dyn Error + Send + Sync>>> {
        Service::poll_ready(self, cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Called {
        Box::pin(Transparent(Box::pin(Service::call(self, request))))
    }

    fn another(&self) -> Box<dyn Erased> {
        Box::new(self.clone())
    }

    fn debug(&self) -> String {
        format!("{self:?}")
    }
}

/// Passes every poll on, also those after the end: what happens then is the layer's.
struct Transparent<F>(Pin<Box<F>>);

impl<F, R, E> Future for Transparent<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Send + 'static,
    E: Error + Send + Sync + 'static,
{
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.0.as_mut().poll(cx).map(|result| {
            let (head, body) = result?.into_parts();
            Ok(Answer {
                status: head.status,
                is_local: head.extensions.get::<LocalReply>().is_some(),
                _body: Box::new(body),
            })
        })
    }
}

/// A service under test.
pub(crate) struct Subject(Box<dyn Erased>);

impl Clone for Subject {
    fn clone(&self) -> Self {
        Self(self.0.another())
    }
}

impl Subject {
    fn new<S, R>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<R>> + Clone + Debug + Send + Sync + 'static,
        S::Error: Error + Send + Sync + 'static,
        S::Future: Send + 'static,
        R: Send + 'static,
    {
        Self(Box::new(service))
    }

    pub(crate) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Box<dyn Error + Send + Sync>>> {
        self.0.poll_ready(cx)
    }

    pub(crate) fn call(&mut self, request: Request<Body>) -> Called {
        self.0.call(request)
    }

    pub(crate) fn debug(&self) -> String {
        self.0.debug()
    }

    /// Drives it until it is ready.
    pub(crate) async fn ready(
        &mut self,
    ) -> Result<Result<(), Box<dyn Error + Send + Sync>>, String> {
        let ready = Driven::new(poll_fn(|cx| self.poll_ready(cx)));
        ready.finish("becoming ready").await
    }

    /// One request, driven to its outcome.
    pub(crate) async fn exchange(&mut self, request: Request<Body>) -> Result<Outcome, String> {
        if let Err(error) = self.ready().await? {
            return Ok(Err(error));
        }
        Driven::new(self.call(request)).finish("a call").await
    }
}

/// One layer around a probe.
pub(crate) struct Bed {
    apply: Box<dyn Fn() -> Subject>,
    permits: Option<Box<dyn Fn() -> usize>>,
    counter: Option<Box<dyn Fn() -> usize>>,
}

impl Bed {
    /// A bed whose layer must be what axum asks of a layer.
    pub(crate) fn layer<L, R>(probe: &Probe, layer: L) -> Self
    where
        L: Layer<Probe> + Clone + Debug + Send + Sync + 'static,
        L::Service:
            Service<Request<Body>, Response = Response<R>> + Clone + Debug + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Error: Error + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send + 'static,
        R: Send + 'static,
    {
        let probe = probe.clone();
        Self {
            apply: Box::new(move || Subject::new(layer.layer(probe.clone()))),
            permits: None,
            counter: None,
        }
    }

    /// A bed of something that is no layer: applied twice, it is cloned.
    pub(crate) fn service<S, R>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<R>> + Clone + Debug + Send + Sync + 'static,
        S::Error: Error + Send + Sync + 'static,
        S::Future: Send + 'static,
        R: Send + 'static,
    {
        Self {
            apply: Box::new(move || Subject::new(service.clone())),
            permits: None,
            counter: None,
        }
    }

    /// With a count of what the layer itself has given out.
    pub(crate) fn permits(mut self, count: impl Fn() -> usize + 'static) -> Self {
        self.permits = Some(Box::new(count));
        self
    }

    /// With something else that the layer counts.
    pub(crate) fn counter(mut self, count: impl Fn() -> usize + 'static) -> Self {
        self.counter = Some(Box::new(count));
        self
    }

    pub(crate) fn apply(&self) -> Subject {
        (self.apply)()
    }

    pub(crate) fn counts_permits(&self) -> bool {
        self.permits.is_some()
    }

    /// What the layer has counted.
    pub(crate) fn counted(&self) -> usize {
        self.counter.as_ref().map_or(0, |count| count())
    }

    /// What the layer has given out and not got back.
    pub(crate) fn given_out(&self) -> usize {
        self.permits.as_ref().map_or(0, |count| count())
    }
}

/// Wake-ups, counted and remembered until the next poll.
#[derive(Default)]
struct Wakes {
    pending: AtomicUsize,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.pending.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future that is polled when it was woken and at no other time.
pub(crate) struct Driven<F> {
    future: Pin<Box<F>>,
    wakes: Arc<Wakes>,
    waker: Waker,
    polls: usize,
}

impl<F: Future> Driven<F> {
    pub(crate) fn new(future: F) -> Self {
        let wakes = Arc::new(Wakes {
            pending: AtomicUsize::new(1),
        });
        Self {
            future: Box::pin(future),
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
            polls: 0,
        }
    }

    /// How often it was polled.
    pub(crate) fn polls(&self) -> usize {
        self.polls
    }

    /// Polls it whether it was woken or not.
    pub(crate) fn poll_once(&mut self) -> Poll<F::Output> {
        self.polls += 1;
        let mut cx = Context::from_waker(&self.waker);
        self.future.as_mut().poll(&mut cx)
    }

    /// Polls it for as long as it is woken.
    pub(crate) fn turn(&mut self) -> Poll<F::Output> {
        for _ in 0..MOST_POLLS {
            if self.wakes.pending.swap(0, Ordering::SeqCst) == 0 {
                break;
            }
            if let Poll::Ready(output) = self.poll_once() {
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    }

    /// Drives it until something holds; it must not end before.
    pub(crate) async fn until(&mut self, holds: impl Fn() -> bool) -> bool {
        for _ in 0..5_000 {
            if holds() {
                return true;
            }
            if self.during(Duration::from_millis(1)).await.is_some() {
                return false;
            }
        }
        false
    }

    /// Drives it for so long, or to its end.
    pub(crate) async fn during(&mut self, limit: Duration) -> Option<F::Output> {
        let begun = tokio::time::Instant::now();
        let mut step = Duration::from_millis(1);
        loop {
            if let Poll::Ready(output) = self.turn() {
                return Some(output);
            }
            if begun.elapsed() >= limit {
                return None;
            }
            pass(step).await;
            // Fine steps at first; what takes seconds is not asked every millisecond.
            if begun.elapsed() > Duration::from_secs(2) {
                step = Duration::from_millis(20);
            }
        }
    }

    /// Drives it to its end, which has to come.
    pub(crate) async fn finish(mut self, what: &str) -> Result<F::Output, String> {
        let output = self.during(LIMIT).await;
        output.ok_or_else(|| format!("{what} did not end within {LIMIT:?}"))
    }
}

thread_local!(static REAL: Cell<bool> = const { Cell::new(false) });

/// Whether the test of this thread runs in real time, because what it tests has sockets, or in time that stands still.
pub(crate) fn time_is_real(real: bool) {
    REAL.set(real);
}

pub(crate) fn is_real_time() -> bool {
    REAL.get()
}

/// Lets time pass, and tasks that were spawned run.
pub(crate) async fn pass(time: Duration) {
    if is_real_time() {
        tokio::time::sleep(time).await;
    } else {
        tokio::time::advance(time).await;
        settle().await;
    }
}

/// Lets tasks that were spawned run.
pub(crate) async fn settle() {
    if is_real_time() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// Waits until it holds: some turns of the runtime, or as long as sockets take.
pub(crate) async fn eventually(holds: impl Fn() -> bool) -> bool {
    let turns = if is_real_time() { 2_000 } else { 3 };
    for _ in 0..turns {
        if holds() {
            return true;
        }
        settle().await;
    }
    holds()
}
