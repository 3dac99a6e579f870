//! The innermost service: it does what it is told and writes down what is done to it.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Extensions, Request, Response, StatusCode};
use http_body_util::Full;
use tower::Service;

/// When an instance is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Always,
    /// Pending once before each call, and woken at once.
    SecondTime,
    /// So many instances at a time: who is ready holds a place until its call has ended or it is dropped.
    Places(usize),
    Never,
    Fails,
}

/// What a call brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Answer(u16),
    Fail,
    /// Pending until [`Probe::release`], then 200.
    Hold,
}

/// Where the hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    PollReady,
    Call,
    Poll,
}

pub(crate) const PLACES: [Place; 3] = [Place::PollReady, Place::Call, Place::Poll];

/// The error of the probe, with the number of the call that failed. Readiness fails with 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Injected(pub(crate) usize);

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "injected into call {}", self.0)
    }
}

impl Error for Injected {}

type Hook = Arc<dyn Fn() + Send + Sync>;
type Visit = Arc<dyn Fn(&Extensions) + Send + Sync>;

#[derive(Default)]
struct Plan {
    readiness: Option<Readiness>,
    steps: VecDeque<Step>,
    otherwise: Option<Step>,
    hook: Option<(Place, Hook)>,
    visit: Option<Visit>,
    waiting: Vec<Waker>,
    released: bool,
}

/// What was done to all instances.
#[derive(Default)]
pub(crate) struct Record {
    instances: AtomicUsize,
    alive: AtomicUsize,
    ready_polls: AtomicUsize,
    calls: AtomicUsize,
    unready_calls: AtomicUsize,
    live: AtomicUsize,
    begun: AtomicUsize,
    polls: AtomicUsize,
    places: AtomicUsize,
    /// Whether a future that has ended gives its outcome again instead of panicking.
    repeats: AtomicUsize,
}

struct Shared {
    plan: Mutex<Plan>,
    record: Record,
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hook(&self, place: Place) {
        let hook = {
            let mut plan = self.plan();
            match &plan.hook {
                Some((at, _)) if *at == place => plan.hook.take(),
                _ => None,
            }
        };
        if let Some((_, hook)) = hook {
            hook();
        }
    }
}

/// A place under [`Readiness::Places`].
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.record.places.fetch_sub(1, Ordering::SeqCst);
        let waiting = std::mem::take(&mut self.0.plan().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// An instance. A clone is another instance, which has to become ready itself.
pub(crate) struct Probe {
    shared: Arc<Shared>,
    id: usize,
    ready: bool,
    asked: bool,
    held: Option<Held>,
}

impl Probe {
    pub(crate) fn new() -> Self {
        Self::instance(Arc::new(Shared {
            plan: Mutex::default(),
            record: Record::default(),
        }))
    }

    fn instance(shared: Arc<Shared>) -> Self {
        let id = shared.record.instances.fetch_add(1, Ordering::SeqCst);
        shared.record.alive.fetch_add(1, Ordering::SeqCst);
        Self {
            shared,
            id,
            ready: false,
            asked: false,
            held: None,
        }
    }

    pub(crate) fn readiness(&self, readiness: Readiness) {
        self.shared.plan().readiness = Some(readiness);
    }

    /// The next calls bring these, and all later ones the last of them.
    pub(crate) fn plan(&self, steps: &[Step]) {
        let mut plan = self.shared.plan();
        plan.steps = steps.iter().copied().collect();
        plan.otherwise = steps.last().copied();
        plan.released = false;
    }

    /// Ends all calls that are held, and those to come.
    pub(crate) fn release(&self) {
        let waiting = {
            let mut plan = self.shared.plan();
            plan.released = true;
            std::mem::take(&mut plan.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Runs `hook` once, at the next time that something comes to `place`.
    pub(crate) fn hook(&self, place: Place, hook: impl Fn() + Send + Sync + 'static) {
        self.shared.plan().hook = Some((place, Arc::new(hook)));
    }

    /// Runs `visit` with what each request carries for handlers.
    pub(crate) fn visit(&self, visit: impl Fn(&Extensions) + Send + Sync + 'static) {
        self.shared.plan().visit = Some(Arc::new(visit));
    }

    /// Whether the hook is still to run.
    pub(crate) fn is_hooked(&self) -> bool {
        self.shared.plan().hook.is_some()
    }

    /// Lets futures that have ended give their outcome again.
    pub(crate) fn repeat_outcomes(&self, repeats: bool) {
        let repeats = usize::from(repeats);
        self.shared.record.repeats.store(repeats, Ordering::SeqCst);
    }

    /// How many instances there are beside this one.
    pub(crate) fn others(&self) -> usize {
        self.shared.record.alive.load(Ordering::SeqCst) - 1
    }

    pub(crate) fn ready_polls(&self) -> usize {
        self.shared.record.ready_polls.load(Ordering::SeqCst)
    }

    pub(crate) fn calls(&self) -> usize {
        self.shared.record.calls.load(Ordering::SeqCst)
    }

    /// Calls of an instance that had not said that it is ready.
    pub(crate) fn unready_calls(&self) -> usize {
        self.shared.record.unready_calls.load(Ordering::SeqCst)
    }

    /// Futures that have neither ended nor been dropped.
    pub(crate) fn live(&self) -> usize {
        self.shared.record.live.load(Ordering::SeqCst)
    }

    /// Those of them that were polled.
    pub(crate) fn begun(&self) -> usize {
        self.shared.record.begun.load(Ordering::SeqCst)
    }

    /// How often futures were polled.
    pub(crate) fn polls(&self) -> usize {
        self.shared.record.polls.load(Ordering::SeqCst)
    }

    /// Places taken under [`Readiness::Places`].
    pub(crate) fn places(&self) -> usize {
        self.shared.record.places.load(Ordering::SeqCst)
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self::instance(Arc::clone(&self.shared))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.record.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("id", &self.id).finish()
    }
}

impl<B> Service<Request<B>> for Probe {
    type Response = Response<Full<Bytes>>;
    type Error = Injected;
    type Future = Call;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Injected>> {
        self.shared.hook(Place::PollReady);
        let record = &self.shared.record;
        record.ready_polls.fetch_add(1, Ordering::SeqCst);
        let mut plan = self.shared.plan();
        match plan.readiness.unwrap_or(Readiness::Always) {
            Readiness::Always => {}
            Readiness::SecondTime if self.ready || self.asked => {}
            Readiness::SecondTime => {
                self.asked = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Readiness::Places(_) if self.held.is_some() => {}
            Readiness::Places(most) => {
                if record.places.load(Ordering::SeqCst) >= most {
                    plan.waiting.push(cx.waker().clone());
                    return Poll::Pending;
                }
                record.places.fetch_add(1, Ordering::SeqCst);
                self.held = Some(Held(Arc::clone(&self.shared)));
            }
            Readiness::Never => return Poll::Pending,
            Readiness::Fails => return Poll::Ready(Err(Injected(0))),
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Call {
        self.shared.hook(Place::Call);
        let visit = self.shared.plan().visit.clone();
        if let Some(visit) = visit {
            visit(request.extensions());
        }
        let record = &self.shared.record;
        let number = record.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if !std::mem::take(&mut self.ready) {
            record.unready_calls.fetch_add(1, Ordering::SeqCst);
        }
        self.asked = false;
        let step = {
            let mut plan = self.shared.plan();
            plan.steps.pop_front().or(plan.otherwise)
        };
        record.live.fetch_add(1, Ordering::SeqCst);
        Call {
            live: Some(Live {
                shared: Arc::clone(&self.shared),
                begun: false,
                _held: self.held.take(),
            }),
            shared: Arc::clone(&self.shared),
            step: step.unwrap_or(Step::Answer(200)),
            number,
        }
    }
}

/// A call that has not ended.
struct Live {
    shared: Arc<Shared>,
    begun: bool,
    _held: Option<Held>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.record.live.fetch_sub(1, Ordering::SeqCst);
        let begun = usize::from(self.begun);
        self.shared.record.begun.fetch_sub(begun, Ordering::SeqCst);
    }
}

/// The way of one call to its outcome.
pub(crate) struct Call {
    live: Option<Live>,
    shared: Arc<Shared>,
    step: Step,
    number: usize,
}

impl Future for Call {
    type Output = Result<Response<Full<Bytes>>, Injected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(live) = &mut self.live
            && !std::mem::replace(&mut live.begun, true)
        {
            live.shared.record.begun.fetch_add(1, Ordering::SeqCst);
        }
        let record = &self.shared.record;
        record.polls.fetch_add(1, Ordering::SeqCst);
        assert!(
            self.live.is_some() || record.repeats.load(Ordering::SeqCst) > 0,
            "the probe's future was polled after completion"
        );
        self.shared.hook(Place::Poll);
        let status = match self.step {
            Step::Answer(status) => status,
            Step::Fail => {
                self.live = None;
                return Poll::Ready(Err(Injected(self.number)));
            }
            Step::Hold => {
                let mut plan = self.shared.plan();
                if !plan.released {
                    plan.waiting.push(cx.waker().clone());
                    return Poll::Pending;
                }
                200
            }
        };
        self.live = None;
        let mut response = Response::new(Full::from("answer"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Poll::Ready(Ok(response))
    }
}
