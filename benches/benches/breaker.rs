//! What a circuit breaker costs per call while all is well, beside recloser and tower-resilience.
//!
//! Cases: `admit_and_record` is the breaker alone, with `now` passed in; `with_clock` reads the clock twice as a caller
//! without one has to; `service` is a whole layer over a service that does nothing.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_benches::{Noop, at_once};
use ha_core::breaker::{Breaker, Config, Outcome};
use ha_tower::balance::Any;
use ha_tower::breaker::BreakerLayer;
use tower::{Layer, Service};

fn once<S: Service<()>>(service: &mut S)
where
    S::Error: std::fmt::Debug,
{
    let mut context = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut context).is_ready());
    drop(at_once(service.call(())).unwrap());
}

fn breaker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("breaker");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));

    let start = Instant::now();
    let ours = Breaker::new(Config::default(), start).unwrap();
    let now = start + Duration::from_secs(3);
    group.bench_function(BenchmarkId::new("admit_and_record", "ours"), |b| {
        b.iter(|| {
            let now = black_box(now);
            let permit = ours.try_admit(now).unwrap();
            ours.record(permit, Outcome::Success, now, 0.0)
        });
    });
    group.bench_function(BenchmarkId::new("with_clock", "ours"), |b| {
        b.iter(|| {
            let permit = ours.try_admit(Instant::now()).unwrap();
            ours.record(permit, Outcome::Success, Instant::now(), 0.0)
        });
    });

    let recloser = recloser::Recloser::default();
    // It reads no clock while closed, so one figure stands for both cases.
    for case in ["admit_and_record", "with_clock"] {
        group.bench_function(BenchmarkId::new(case, "recloser"), |b| {
            b.iter(|| recloser.call(|| black_box(Ok::<(), ()>(()))).unwrap());
        });
    }

    let mut service = BreakerLayer::new(Config::default(), Any)
        .unwrap()
        .layer(Noop);
    group.bench_function(BenchmarkId::new("service", "ours"), |b| {
        b.iter(|| once(&mut service))
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
    group.finish();
}

criterion_group!(benches, breaker);
criterion_main!(benches);
