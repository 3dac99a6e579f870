//! What a limit costs per call that it lets in, beside tower and tower-resilience.
//!
//! Cases: `concurrency` lets so many in at once; `adaptive` measures as well, and reads the clock twice for that; `rate` counts by key.
//! Each with one thread, and with two that share one layer. `queue` is `concurrency` with a queue in which nobody waits; `body` is the HTTP
//! form, whose place goes back with the body. The services do nothing.
#![allow(missing_docs, clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_benches::{Noop, at_once};
use ha_tower::limit::{AdaptiveConfig, LimitLayer, QueueConfig, RateLimitLayer, Vegas};
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Bytes;
use tower::{Layer, Service};

/// Answers every request at once.
#[derive(Clone)]
struct Http;

impl Service<Request<()>> for Http {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(Empty::new())))
    }
}

fn once<R, S: Service<R>>(service: &mut S, request: R)
where
    S::Error: std::fmt::Debug,
{
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready());
    drop(at_once(service.call(request)).unwrap());
}

/// With one thread, and with two that share the state.
fn one_and_two<S>(group: &mut BenchmarkGroup<'_, WallTime>, case: &str, who: &str, service: S)
where
    S: Service<()> + Clone + Send + Sync + 'static,
    S::Error: std::fmt::Debug,
{
    let mut alone = service.clone();
    group.bench_function(BenchmarkId::new(format!("{case}_threads_1"), who), |b| {
        b.iter(|| once(&mut alone, ()));
    });
    let runtime = tokio::runtime::Handle::current();
    group.bench_function(BenchmarkId::new(format!("{case}_threads_2"), who), |b| {
        b.iter_custom(|calls| {
            let started = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    let mut service = service.clone();
                    let runtime = runtime.clone();
                    scope.spawn(move || {
                        let _inside = runtime.enter();
                        (0..calls.div_ceil(2)).for_each(|_| once(&mut service, ()));
                    });
                }
            });
            started.elapsed()
        });
    });
}

fn limit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();

    one_and_two(&mut group, "none", "ours", Noop);

    let layer = LimitLayer::concurrency(1_000).build().unwrap();
    one_and_two(&mut group, "concurrency", "ours", layer.layer(Noop));
    let layer = tower::limit::ConcurrencyLimitLayer::new(1_000);
    // A clone of tower's layer has a limit of its own; a clone of the service shares it.
    one_and_two(&mut group, "concurrency", "tower", layer.layer(Noop));
    let layer = tower_resilience_bulkhead::BulkheadLayer::builder()
        .max_concurrent_calls(1_000)
        .reject_when_full()
        .build()
        .unwrap();
    one_and_two(
        &mut group,
        "concurrency",
        "tower_resilience",
        layer.layer(Noop),
    );

    let layer = LimitLayer::concurrency(1_000).queue(QueueConfig::default());
    one_and_two(
        &mut group,
        "queue",
        "ours",
        layer.build().unwrap().layer(Noop),
    );

    let config = AdaptiveConfig {
        algorithm: Vegas::default().into(),
        initial: 100,
        ..AdaptiveConfig::default()
    };
    let layer = LimitLayer::adaptive(config).build().unwrap();
    one_and_two(&mut group, "adaptive", "ours", layer.layer(Noop));
    let vegas = tower_resilience_adaptive::Vegas::builder()
        .initial_limit(100)
        // It takes the noise of calls that cost nothing for congestion, and two threads need two places.
        .min_limit(10)
        .build()
        .unwrap();
    let layer = tower_resilience_adaptive::AdaptiveLimiterLayer::new(vegas);
    one_and_two(
        &mut group,
        "adaptive",
        "tower_resilience",
        layer.layer(Noop),
    );

    let layer = RateLimitLayer::builder(1_000_000_000, Duration::from_secs(1))
        .key_by(|(): &()| Some(7u32))
        .build()
        .unwrap();
    one_and_two(&mut group, "rate", "ours", layer.layer(Noop));
    let layer = tower_resilience_ratelimiter::RateLimiterLayer::builder()
        .limit_for_period(1_000_000_000)
        .refresh_period(Duration::from_secs(1))
        .build()
        .unwrap();
    one_and_two(&mut group, "rate", "tower_resilience", layer.layer(Noop));

    let mut service = LimitLayer::concurrency(1_000)
        .http()
        .build()
        .unwrap()
        .layer(Http);
    group.bench_function(BenchmarkId::new("body", "ours"), |b| {
        b.iter(|| once(&mut service, Request::new(())));
    });
    group.finish();
}

criterion_group!(benches, limit);
criterion_main!(benches);
