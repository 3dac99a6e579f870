//! What it costs to refuse a request, beside tower.
//!
//! Cases: `error` is the generic form; `http` makes an answer with `Retry-After` and a problem document; `rate` is a 429 whose `Retry-After`
//! is of this key; `queue_full` asks a queue that is full; `not_ready` sheds what the service inside is not ready for.
#![allow(missing_docs, clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Pending, pending};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_benches::at_once;
use ha_tower::limit::{LimitLayer, LoadShedLayer, QueueConfig, RateLimitLayer};
use ha_tower::proxy::Peer;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use tower::{Layer, Service};

/// Never answers.
#[derive(Debug, Clone, Copy)]
struct Stuck;

impl Service<()> for Stuck {
    type Response = ();
    type Error = Infallible;
    type Future = Pending<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        pending()
    }
}

impl Service<Request<()>> for Stuck {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Pending<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        pending()
    }
}

/// Never ready.
#[derive(Debug, Clone, Copy)]
struct Busy;

impl Service<()> for Busy {
    type Response = ();
    type Error = Infallible;
    type Future = Pending<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, (): ()) -> Self::Future {
        pending()
    }
}

/// Asks for what will be refused.
fn refused<R, S: Service<R>>(service: &mut S, request: R) -> Result<S::Response, S::Error> {
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready());
    at_once(service.call(request))
}

fn shed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shed");
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let mut service = LimitLayer::concurrency(1).build().unwrap().layer(Stuck);
    let _held = Service::<()>::call(&mut service, ());
    group.bench_function(BenchmarkId::new("error", "ours"), |b| {
        b.iter(|| refused(&mut service, ()).unwrap_err());
    });
    let queue = QueueConfig {
        capacity: 1,
        ..QueueConfig::default()
    };
    let layer = LimitLayer::concurrency(1).queue(queue).build().unwrap();
    let mut service = layer.layer(Stuck);
    let _held = Service::<()>::call(&mut service, ());
    let _waits = Service::<()>::call(&mut service, ());
    group.bench_function(BenchmarkId::new("queue_full", "ours"), |b| {
        b.iter(|| refused(&mut service, ()).unwrap_err());
    });

    let mut service = LimitLayer::concurrency(1)
        .http()
        .build()
        .unwrap()
        .layer(Stuck);
    let _held = service.call(Request::new(()));
    group.bench_function(BenchmarkId::new("http", "ours"), |b| {
        b.iter(|| refused(&mut service, Request::new(())).unwrap());
    });

    let layer = RateLimitLayer::http(1, Duration::from_secs(3_600))
        .build()
        .unwrap();
    let mut service = layer.layer(Stuck);
    let request = || {
        let mut request = Request::new(());
        request
            .extensions_mut()
            .insert(Peer(([10, 0, 0, 1], 4711).into()));
        request
    };
    let _first = service.call(request());
    group.bench_function(BenchmarkId::new("rate", "ours"), |b| {
        b.iter(|| refused(&mut service, request()).unwrap());
    });

    let mut service = LoadShedLayer::new().layer(Busy);
    group.bench_function(BenchmarkId::new("not_ready", "ours"), |b| {
        b.iter(|| refused(&mut service, ()).unwrap_err());
    });
    let mut service = tower::load_shed::LoadShedLayer::new().layer(Busy);
    group.bench_function(BenchmarkId::new("not_ready", "tower"), |b| {
        b.iter(|| refused(&mut service, ()).unwrap_err());
    });
    group.finish();
}

criterion_group!(benches, shed);
criterion_main!(benches);
