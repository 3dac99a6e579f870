//! What balancing costs per call over a service that does nothing, beside tower's `Balance`.
//!
//! Case names are `<policy>_<endpoints>`. Ours is cloned for each call, as axum does; tower's is not `Clone`, so it is called in
//! place (`tower`) and, as a service that many tasks share has to be, behind a `Buffer` (`tower_buffer`).
#![allow(missing_docs, clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, P2c, Policy, RoundRobin};
use tower::balance::p2c::Balance as TowerBalance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma, PendingRequests};
use tower::{Service, ServiceExt as _};

const SIZES: [usize; 5] = [2, 10, 100, 1_000, 10_000];

#[derive(Debug, Clone, Copy)]
struct Noop;

impl Service<()> for Noop {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

fn now_or_panic<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}

fn ours(n: usize, policy: impl Into<Policy>) -> Balance<Noop> {
    let endpoints = (0..n).map(|i| {
        let endpoint: Endpoint = format!("http://host{i}:80").parse().unwrap();
        (endpoint, Noop)
    });
    Balance::builder(endpoints).policy(policy).build().unwrap()
}

fn ewma(n: usize) -> impl Iterator<Item = PeakEwma<Noop>> {
    let each = |_| {
        PeakEwma::new(
            Noop,
            Duration::from_millis(30),
            1e10,
            CompleteOnResponse::default(),
        )
    };
    (0..n).map(each)
}

fn pending(n: usize) -> impl Iterator<Item = PendingRequests<Noop>> {
    (0..n).map(|_| PendingRequests::new(Noop, CompleteOnResponse::default()))
}

/// `poll_ready`, `call` and the response, in place.
macro_rules! in_place {
    ($group:expr, $case:expr, $services:expr) => {{
        let mut balance = TowerBalance::new(ServiceList::new::<()>($services));
        $group.bench_function(BenchmarkId::new($case, "tower"), |b| {
            b.iter(|| {
                let mut context = Context::from_waker(Waker::noop());
                match Service::<()>::poll_ready(&mut balance, &mut context) {
                    Poll::Ready(Ok(())) => now_or_panic(balance.call(())).unwrap(),
                    _ => panic!("a service that does nothing is ready"),
                }
            });
        });
    }};
}

macro_rules! behind_buffer {
    ($group:expr, $runtime:expr, $case:expr, $services:expr) => {{
        let buffer = $runtime.block_on(async {
            Buffer::new(TowerBalance::new(ServiceList::new::<()>($services)), 1024)
        });
        $group.bench_function(BenchmarkId::new($case, "tower_buffer"), |b| {
            b.to_async($runtime).iter(|| {
                let mut buffer = buffer.clone();
                async move { buffer.ready().await.unwrap().call(()).await.unwrap() }
            });
        });
    }};
}

fn balance(criterion: &mut Criterion) {
    let runtime = &tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(30);
    for n in SIZES {
        for (policy, name) in [
            (Policy::from(P2c::peak_ewma()), "peak_ewma"),
            (P2c::least_request().into(), "pending"),
            (RoundRobin.into(), "round_robin"),
        ] {
            let balance = ours(n, policy);
            // History for all, as in a process that runs for a while.
            for _ in 0..n * 20 {
                now_or_panic(balance.clone().call(())).unwrap();
            }
            group.bench_function(BenchmarkId::new(format!("{name}_{n}"), "ours"), |b| {
                b.iter(|| {
                    let mut balance = black_box(&balance).clone();
                    now_or_panic(balance.call(())).unwrap();
                });
            });
        }
        // Their discovery drains all its services in one poll, which wants a runtime's budget for none of it.
        in_place!(group, format!("peak_ewma_{n}"), ewma(n));
        in_place!(group, format!("pending_{n}"), pending(n));
        behind_buffer!(group, runtime, format!("peak_ewma_{n}"), ewma(n));
        behind_buffer!(group, runtime, format!("pending_{n}"), pending(n));
    }
    group.finish();
}

criterion_group!(benches, balance);
criterion_main!(benches);
