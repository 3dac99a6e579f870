//! A layer that can be broken in one way at a time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::util::Oneshot;
use tower::{Layer, Service};

use super::probe::{Injected, Probe};
use super::subject::Body;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    SkipsReadiness,
    CallsAFreshClone,
    ReadiesAnother,
    ClonesReadiness,
    SpawnsTheCall,
    LeaksThePermit,
    BusyPollsReadiness,
    BusyPollsTheCall,
    FlattensTheError,
    RepeatsTheText,
    SwallowsTheError,
    PendsAfterTheEnd,
    CallsAgainAfterTheEnd,
    LocksWhileItCalls,
    LocksWhileItPolls,
    LocksOverTheAwait,
    StatePerApplication,
    SpawnsInLayer,
}

/// How many calls may pass before it answers 503 by itself.
pub(crate) const QUOTA: usize = 2_000;

#[derive(Default)]
pub(crate) struct State {
    calls: AtomicUsize,
    pub(crate) permits: AtomicUsize,
    lock: Mutex<()>,
    turn: tokio::sync::Mutex<()>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _locked = self.lock.lock().unwrap();
        f.debug_struct("State").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(crate) fault: Fault,
    pub(crate) state: Arc<State>,
}

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        let state = Arc::default();
        Self { fault, state }
    }
}

impl Layer<Probe> for Broken {
    type Service = BrokenService;

    fn layer(&self, inner: Probe) -> BrokenService {
        let state = match self.fault {
            Fault::StatePerApplication => Arc::default(),
            _ => Arc::clone(&self.state),
        };
        if self.fault == Fault::SpawnsInLayer {
            drop(tokio::spawn(std::future::pending::<()>()));
        }
        BrokenService {
            inner,
            fault: self.fault,
            state,
            is_ready: false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct BrokenService {
    inner: Probe,
    fault: Fault,
    state: Arc<State>,
    is_ready: bool,
}

impl Clone for BrokenService {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            fault: self.fault,
            state: Arc::clone(&self.state),
            is_ready: self.is_ready && self.fault == Fault::ClonesReadiness,
        }
    }
}

/// The errors of a broken layer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the service failed")]
    Service(#[source] Injected),
    #[error("the service failed: {0}")]
    Repeated(#[source] Injected),
    #[error("failed")]
    Flattened,
}

type Result<T> = std::result::Result<T, Error>;

impl BrokenService {
    fn error(&self, error: Injected) -> Error {
        match self.fault {
            Fault::FlattensTheError => Error::Flattened,
            Fault::RepeatsTheText => Error::Repeated(error),
            _ => Error::Service(error),
        }
    }
}

impl Service<Request<Body>> for BrokenService {
    type Response = Response<Full<Bytes>>;
    type Error = Error;
    type Future = Call;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.fault {
            Fault::SkipsReadiness => return Poll::Ready(Ok(())),
            Fault::ClonesReadiness if self.is_ready => return Poll::Ready(Ok(())),
            Fault::BusyPollsReadiness => cx.waker().wake_by_ref(),
            _ => {}
        }
        let ready = Service::<Request<Body>>::poll_ready(&mut self.inner, cx);
        self.is_ready = ready.is_ready();
        ready.map_err(|error| self.error(error))
    }

    fn call(&mut self, request: Request<Body>) -> Call {
        self.is_ready = false;
        let refused = self.state.calls.fetch_add(1, Ordering::SeqCst) >= QUOTA;
        self.state.permits.fetch_add(1, Ordering::SeqCst);
        let locked = self.fault == Fault::LocksWhileItCalls;
        let guard = locked.then(|| self.state.lock.lock().unwrap());
        let inner: Inner = match self.fault {
            _ if refused => {
                let mut response = Response::default();
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Box::pin(std::future::ready(Ok(response)))
            }
            Fault::CallsAFreshClone => Box::pin(self.inner.clone().call(request)),
            Fault::ReadiesAnother => Box::pin(Oneshot::new(self.inner.clone(), request)),
            Fault::SpawnsTheCall => {
                let call = tokio::spawn(self.inner.call(request));
                Box::pin(async move { call.await.unwrap() })
            }
            Fault::LocksOverTheAwait => {
                let (state, call) = (Arc::clone(&self.state), self.inner.call(request));
                Box::pin(async move {
                    let _turn = state.turn.lock().await;
                    call.await
                })
            }
            _ => Box::pin(self.inner.call(request)),
        };
        drop(guard);
        Call {
            inner,
            service: self.clone(),
            has_ended: false,
            has_permit: true,
        }
    }
}

type Inner =
    Pin<Box<dyn Future<Output = std::result::Result<Response<Full<Bytes>>, Injected>> + Send>>;

pub(crate) struct Call {
    inner: Inner,
    service: BrokenService,
    has_ended: bool,
    has_permit: bool,
}

impl Call {
    fn give_back(&mut self) {
        if std::mem::take(&mut self.has_permit) {
            self.service.state.permits.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.service.fault != Fault::LeaksThePermit {
            self.give_back();
        }
    }
}

impl Future for Call {
    type Output = Result<Response<Full<Bytes>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let fault = self.service.fault;
        match fault {
            Fault::PendsAfterTheEnd if self.has_ended => return Poll::Pending,
            Fault::CallsAgainAfterTheEnd if self.has_ended => {
                self.inner = Box::pin(self.service.inner.call(Request::new(Body::default())));
            }
            Fault::BusyPollsTheCall => cx.waker().wake_by_ref(),
            _ => {}
        }
        let state = Arc::clone(&self.service.state);
        let locked = fault == Fault::LocksWhileItPolls;
        let guard = locked.then(|| state.lock.lock().unwrap());
        let polled = self.inner.as_mut().poll(cx);
        drop(guard);
        let Poll::Ready(result) = polled else {
            return Poll::Pending;
        };
        self.has_ended = true;
        self.give_back();
        Poll::Ready(match result {
            Err(_) if fault == Fault::SwallowsTheError => Ok(Response::default()),
            result => result.map_err(|error| self.service.error(error)),
        })
    }
}
