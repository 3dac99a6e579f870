//! What a circuit breaker costs per call while all is well, beside recloser, failsafe and tower-resilience.
//!
//! Cases: `admit_and_record` is the breaker alone, with `now` passed in; `with_clock` is what a caller without a clock reading pays;
//! `slow_calls` is ours with slow calls counted, which needs two clock readings. `service` is a whole layer over a service that does nothing, and
//! `service_http` the form of it that answers by itself. `refused` is a call while open. `threads_1` and `threads_2` are the breaker alone, shared by
//! so many threads, and `work_threads_1` and `work_threads_2` a layer over a service that works for about a microsecond: time per call of all
//! threads together, so that two threads that do not hinder each other show half of what one does.
#![allow(missing_docs, clippy::unwrap_used)]

use std::future::Future as _;
use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use failsafe::CircuitBreaker as _;
use ha_benches::{Noop, Work, at_once};
use ha_core::breaker::{Breaker, Config, Outcome, SlowCalls};
use ha_tower::balance::Any;
use ha_tower::breaker::BreakerLayer;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, Response};
use tower::{Layer, Service};

fn once<S: Service<()>>(service: &mut S)
where
    S::Error: std::fmt::Debug,
{
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready());
    drop(at_once(service.call(())).unwrap());
}

/// As [`once`], for a service that makes its callers wait for each other.
fn until_done<S: Service<()>>(service: &mut S)
where
    S::Error: std::fmt::Debug,
{
    let mut context = Context::from_waker(Waker::noop());
    while service.poll_ready(&mut context).is_pending() {
        std::hint::spin_loop();
    }
    let mut call = std::pin::pin!(service.call(()));
    while call.as_mut().poll(&mut context).is_pending() {
        std::hint::spin_loop();
    }
}

/// How long so many threads take for so many calls, each with a thing of its own to call.
fn on_threads<C: FnMut() + Send + 'static>(
    threads: u64,
    calls: u64,
    caller: impl Fn() -> C,
) -> Duration {
    let barrier = Arc::new(std::sync::Barrier::new(threads as usize + 1));
    let running: Vec<_> = (0..threads)
        .map(|thread| {
            let (barrier, mut call) = (barrier.clone(), caller());
            let share = (calls + thread) / threads;
            std::thread::spawn(move || {
                barrier.wait();
                for _ in 0..share {
                    call();
                }
            })
        })
        .collect();
    let started = Instant::now();
    barrier.wait();
    for thread in running {
        thread.join().unwrap();
    }
    started.elapsed()
}

fn scaling<C: FnMut() + Send + 'static>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    case: &str,
    who: &str,
    caller: impl Fn() -> C,
) {
    for threads in [1, 2] {
        let id = BenchmarkId::new(format!("{case}threads_{threads}"), who);
        group.bench_function(id, |b| {
            b.iter_custom(|calls| on_threads(threads, calls, &caller));
        });
    }
}

fn alone(group: &mut BenchmarkGroup<'_, WallTime>) {
    let start = Instant::now();
    let now = start + Duration::from_secs(3);
    let ours = Arc::new(Breaker::new(Config::default(), start).unwrap());
    group.bench_function(BenchmarkId::new("admit_and_record", "ours"), |b| {
        b.iter(|| {
            let now = black_box(now);
            let permit = ours.try_admit(now).unwrap();
            ours.record(permit, Outcome::Success, now, 0.0)
        });
    });
    group.bench_function(BenchmarkId::new("with_clock", "ours"), |b| {
        b.iter(|| {
            let permit = ours.try_admit_with(Instant::now).unwrap();
            ours.succeed(permit, Instant::now)
        });
    });
    let mut config = Config::default();
    config.slow_calls = Some(SlowCalls::over(Duration::from_secs(1)));
    let slow = Breaker::new(config, start).unwrap();
    group.bench_function(BenchmarkId::new("slow_calls", "ours"), |b| {
        b.iter(|| {
            let started = Instant::now();
            let permit = slow.try_admit(started).unwrap();
            let now = Instant::now();
            slow.record_timed(permit, Outcome::Success, now - started, now, 0.0)
        });
    });
    let open = Breaker::new(Config::default(), start).unwrap();
    open.force_open();
    group.bench_function(BenchmarkId::new("refused", "ours"), |b| {
        b.iter(|| open.try_admit(black_box(now)).unwrap_err());
    });
    scaling(group, "", "ours", || {
        let breaker = ours.clone();
        move || {
            let permit = breaker.try_admit_with(Instant::now).unwrap();
            breaker.succeed(permit, Instant::now);
        }
    });

    // They take no time, so one figure stands for both cases.
    let recloser = Arc::new(recloser::Recloser::default());
    let failsafe = Arc::new(failsafe::Config::new().build());
    for case in ["admit_and_record", "with_clock"] {
        group.bench_function(BenchmarkId::new(case, "recloser"), |b| {
            b.iter(|| recloser.call(|| black_box(Ok::<(), ()>(()))).unwrap());
        });
        group.bench_function(BenchmarkId::new(case, "failsafe"), |b| {
            b.iter(|| failsafe.call(|| black_box(Ok::<(), ()>(()))).unwrap());
        });
    }
    scaling(group, "", "recloser", || {
        let breaker = recloser.clone();
        move || breaker.call(|| black_box(Ok::<(), ()>(()))).unwrap()
    });
    scaling(group, "", "failsafe", || {
        let breaker = failsafe.clone();
        move || breaker.call(|| black_box(Ok::<(), ()>(()))).unwrap()
    });
}

fn layers(group: &mut BenchmarkGroup<'_, WallTime>) {
    let layer = BreakerLayer::new(Config::default(), Any).unwrap();
    let mut service = layer.layer(Noop);
    group.bench_function(BenchmarkId::new("service", "ours"), |b| {
        b.iter(|| once(&mut service))
    });
    let service = layer.layer(Work);
    scaling(group, "work_", "ours", || {
        let mut service = service.clone();
        move || until_done(&mut service)
    });

    let mut service = BreakerLayer::http(Config::default())
        .unwrap()
        .layer(Answers);
    let mut context = Context::from_waker(Waker::noop());
    group.bench_function(BenchmarkId::new("service_http", "ours"), |b| {
        b.iter(|| {
            assert!(service.poll_ready(&mut context).is_ready());
            at_once(service.call(Request::new(()))).unwrap()
        });
    });

    let layer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let mut service = layer.layer(Noop);
    group.bench_function(BenchmarkId::new("service", "tower_resilience"), |b| {
        b.iter(|| once(&mut service));
    });
    let service = layer.layer(Work);
    let runtime = runtime.handle();
    scaling(group, "work_", "tower_resilience", || {
        let (mut service, runtime) = (service.clone(), runtime.clone());
        move || {
            let _inside = runtime.enter();
            until_done(&mut service);
        }
    });
}

/// Answers every request with nothing.
#[derive(Clone)]
struct Answers;

impl Service<Request<()>> for Answers {
    type Response = Response<Empty<Bytes>>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut Context<'_>,
    ) -> std::task::Poll<Result<(), std::convert::Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::new(Empty::new())))
    }
}

fn breaker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("breaker");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    alone(&mut group);
    layers(&mut group);
    group.finish();
}

criterion_group!(benches, breaker);
criterion_main!(benches);
