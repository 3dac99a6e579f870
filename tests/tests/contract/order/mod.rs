//! What goes wrong in the orders of layers that look right, each beside the order that is right. `docs/layer-order.md` names
//! every test here.

mod client;
mod server;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ha_tower::timeout::TIMEOUT_MS;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt};

use super::laws::get;
use super::subject::Body;

const HANGS: u64 = u64::MAX;

/// A service that takes so many milliseconds for its n-th call, counted from 1, and answers with this status.
#[derive(Clone, Debug)]
struct Backend {
    calls: Arc<AtomicUsize>,
    /// The time that each call was told to be left, in milliseconds.
    told: Arc<Mutex<Vec<u64>>>,
    does: fn(usize) -> (u64, u16),
}

impl Backend {
    fn new(does: fn(usize) -> (u64, u16)) -> Self {
        Self {
            calls: Arc::default(),
            told: Arc::default(),
            does,
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, E>> + Send>>;

impl<B> Service<Request<B>> for Backend {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answering<Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(left) = request.headers().get(TIMEOUT_MS) {
            let left = left.to_str().unwrap().parse().unwrap();
            self.told.lock().unwrap().push(left);
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let (millis, status) = (self.does)(number);
        Box::pin(async move {
            if millis == HANGS {
                return std::future::pending().await;
            }
            sleep(Duration::from_millis(millis)).await;
            let mut response = Response::new(Full::from("answer"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(response)
        })
    }
}

/// An attempt that took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("the attempt took too long")]
struct Late;

/// One second for an attempt, as an [`Upstream`](ha_tower::upstream::Upstream) has it inside.
#[derive(Clone, Copy, Debug)]
struct AttemptTimeout;

#[derive(Clone, Debug)]
struct Attempt<S>(S);

impl<S> Layer<S> for AttemptTimeout {
    type Service = Attempt<S>;

    fn layer(&self, inner: S) -> Attempt<S> {
        Attempt(inner)
    }
}

impl<S, B, R> Service<Request<B>> for Attempt<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = Late;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, Late>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Late>> {
        self.0.poll_ready(cx).map_err(|_| Late)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = self.0.call(request);
        Box::pin(async move {
            let ended = timeout(Duration::from_secs(1), call).await;
            ended.ok().and_then(Result::ok).ok_or(Late)
        })
    }
}

/// The status of one request, if it has an answer, and the time that it took.
async fn send<S, R>(service: &S) -> (Option<u16>, Duration)
where
    S: Service<Request<Body>, Response = Response<R>> + Clone,
{
    let begun = Instant::now();
    let answer = service.clone().oneshot(get()).await;
    let status = answer.ok().map(|answer| answer.status().as_u16());
    (status, begun.elapsed())
}

/// How many of so many requests, one after the other, are answered with 200.
async fn served<S, R>(service: &S, requests: usize) -> usize
where
    S: Service<Request<Body>, Response = Response<R>> + Clone,
{
    let mut served = 0;
    for _ in 0..requests {
        served += usize::from(send(service).await.0 == Some(200));
    }
    served
}
