//! What retrying costs per call while nothing fails, beside tower and tower-resilience, each with its budget.
//!
//! Cases: `call` is policy and budget around a service that does nothing, for a request that costs nothing to copy, with one thread
//! and with two that share one layer. `head_0` and `head_4` are an HTTP request with so many fields that may be sent again, so that its
//! head is copied; `head_not_copied` is one that may not: the peers copy that, too. `none`
//! there is the service without a layer.
#![allow(missing_docs, clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main,
};
use ha_benches::{Noop, at_once};
use ha_tower::retry::RetryLayer;
use ha_tower::retry::generic::OnError;
use http::{Method, Request, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use tower::retry::Policy;
use tower::retry::budget::{Budget, TpsBudget};
use tower::{Layer, Service};

/// Answers every request at once.
#[derive(Clone)]
struct Http;

impl<B> Service<Request<B>> for Http {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Empty::new())))
    }
}

/// As tower's documentation has it: errors are retried, each success is counted.
#[derive(Clone)]
struct TowerPolicy(Arc<TpsBudget>);

impl<Req: Clone, Res, E> Policy<Req, Res, E> for TowerPolicy {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Res, E>) -> Option<Self::Future> {
        if result.is_ok() {
            self.0.deposit();
            return None;
        }
        self.0.withdraw().then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

fn tower_layer() -> tower::retry::RetryLayer<TowerPolicy> {
    tower::retry::RetryLayer::new(TowerPolicy(Arc::default()))
}

fn resilience_layer<Req, Res, E>() -> tower_resilience_retry::RetryLayer<Req, Res, E>
where
    Req: Clone + Send + 'static,
{
    let budget = tower_resilience_retry::RetryBudgetBuilder::new();
    tower_resilience_retry::RetryLayer::<Req, Res, E>::builder()
        .max_attempts(3)
        .exponential_backoff(Duration::from_millis(25))
        .budget(budget.aimd().build().unwrap())
        .build()
}

fn once<S: Service<Req>, Req>(service: &mut S, request: Req) -> S::Response
where
    S::Error: std::fmt::Debug,
{
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready());
    at_once(service.call(request)).unwrap()
}

/// The calls are shared by the threads.
fn call<S>(group: &mut BenchmarkGroup<'_, WallTime>, who: &str, service: &S)
where
    S: Service<(), Error = Infallible> + Clone + Send + Sync,
{
    for threads in [1, 2] {
        let case = format!("call_threads_{threads}");
        group.bench_function(BenchmarkId::new(case, who), |b| {
            b.iter_custom(|calls| {
                let started = Instant::now();
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        let mut service = service.clone();
                        scope.spawn(move || {
                            for _ in 0..calls.div_ceil(threads) {
                                once(&mut service, ());
                            }
                        });
                    }
                });
                started.elapsed()
            });
        });
    }
}

fn request(method: &Method, fields: usize) -> Request<Empty<Bytes>> {
    let names = ["host", "user-agent", "accept", "x-request-id"];
    let mut request = Request::builder()
        .method(method.clone())
        .uri("http://app/x");
    for name in &names[..fields] {
        request = request.header(*name, "a value of some length");
    }
    request.body(Empty::new()).unwrap()
}

fn head<S>(group: &mut BenchmarkGroup<'_, WallTime>, who: &str, mut service: S)
where
    S: Service<Request<Empty<Bytes>>, Error = Infallible>,
{
    for (case, method, fields) in [
        ("head_0", Method::GET, 0),
        ("head_4", Method::GET, 4),
        ("head_not_copied", Method::CONNECT, 4),
    ] {
        group.bench_function(BenchmarkId::new(case, who), |b| {
            b.iter_batched(
                || request(&method, fields),
                |request| once(&mut service, request),
                BatchSize::SmallInput,
            );
        });
    }
}

fn retry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("retry");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));

    call(
        &mut group,
        "ours",
        &RetryLayer::generic(OnError).layer(Noop),
    );
    call(&mut group, "tower", &tower_layer().layer(Noop));
    call(
        &mut group,
        "tower_resilience",
        &resilience_layer().layer(Noop),
    );

    head(&mut group, "none", Http);
    head(&mut group, "ours", RetryLayer::http().layer(Http));
    head(&mut group, "tower", tower_layer().layer(Http));
    head(
        &mut group,
        "tower_resilience",
        resilience_layer().layer(Http),
    );
    group.finish();
}

criterion_group!(benches, retry);
criterion_main!(benches);
