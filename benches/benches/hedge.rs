//! What hedging costs per call while every answer comes at once, beside tower and tower-resilience.
//!
//! Cases: `fixed` hedges after a minute, `percentile` after the 95th percentile of recent calls, around a service that does nothing and for a
//! request that costs nothing to copy. tower measures in a histogram behind a lock; tower-resilience knows no percentile.
#![allow(missing_docs, clippy::unwrap_used)]

use std::task::{Context, Waker};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_benches::{Noop, at_once};
use ha_tower::hedge::{Generic, HedgeLayer};
use tower::{Layer, Service};

const MINUTE: Duration = Duration::from_secs(60);

fn call<S: Service<()>>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    case: &str,
    who: &str,
    mut service: S,
) where
    S::Error: std::fmt::Debug,
{
    group.bench_function(BenchmarkId::new(case, who), |b| {
        let mut context = Context::from_waker(Waker::noop());
        b.iter(|| {
            assert!(service.poll_ready(&mut context).is_ready());
            at_once(service.call(())).unwrap()
        });
    });
}

/// As in tower's documentation: everything may be copied.
#[derive(Clone)]
struct TowerPolicy;

impl tower::hedge::Policy<()> for TowerPolicy {
    fn clone_request(&self, (): &()) -> Option<()> {
        Some(())
    }

    fn can_retry(&self, (): &()) -> bool {
        true
    }
}

fn hedge(criterion: &mut Criterion) {
    let timers = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = timers.enter();
    let mut group = criterion.benchmark_group("hedge");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));

    let ours = || HedgeLayer::of(Generic::when(|(): &()| true));
    let fixed = ours().after(MINUTE).build().unwrap();
    call(&mut group, "fixed", "ours", fixed.layer(Noop));
    let measured = ours().build().unwrap();
    call(&mut group, "percentile", "ours", measured.layer(Noop));
    let tower = tower::hedge::Hedge::new(Noop, TowerPolicy, 50, 0.95, MINUTE);
    call(&mut group, "percentile", "tower", tower);
    let resilience = tower_resilience_hedge::HedgeLayer::builder()
        .delay(MINUTE)
        .max_hedged_attempts(1)
        .build();
    call(
        &mut group,
        "fixed",
        "tower_resilience",
        resilience.layer(Noop),
    );
    group.finish();
}

criterion_group!(benches, hedge);
criterion_main!(benches);
