//! What balancing costs per call over a service that does nothing, beside tower's `Balance`.
//!
//! Case names are `<policy>_<endpoints>`. Ours is cloned for each call, as axum does; tower's is not `Clone`, so it is called in
//! place (`tower`) and, as a service that many tasks share has to be, behind a `Buffer` (`tower_buffer`).
//!
//! `<policy>_<endpoints>_work_x<threads>`: the endpoints work for about a microsecond, and one thread or two call at once; the figure is
//! the time until all calls are done over their number, so that two threads show half of one where nothing is in the way.
//!
//! That ours allocates nothing is shown by `ha-tower/tests/no_allocation.rs`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, P2c, Policy, RoundRobin};
use tower::balance::p2c::Balance as TowerBalance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma, PendingRequests};
use tower::{Service, ServiceExt as _};

const SIZES: [usize; 5] = [2, 10, 100, 1_000, 10_000];
// About a microsecond.
const STEPS: u32 = 1_500;

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

/// Works for about a microsecond when its response is polled, on the thread of the caller.
#[derive(Debug, Clone, Copy)]
struct Work;

impl Service<()> for Work {
    type Response = ();
    type Error = Infallible;
    type Future = Worked;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        Worked
    }
}

struct Worked;

impl Future for Worked {
    type Output = Result<(), Infallible>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        // Each step waits for the one before.
        let mut x = 1u64;
        for _ in 0..STEPS {
            x = black_box(x.wrapping_mul(0x2545_f491_4f6c_dd1d));
        }
        Poll::Ready(Ok(()))
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

fn ours<S: Service<(), Error = Infallible> + Copy>(
    n: usize,
    policy: Policy,
    service: S,
) -> Balance<S> {
    let endpoints = (0..n).map(|i| {
        let endpoint: Endpoint = format!("http://host{i}:80").parse().unwrap();
        (endpoint, service)
    });
    let balance = Balance::builder(endpoints).policy(policy).build().unwrap();
    // History for all, as in a process that runs for a while.
    for _ in 0..n * 20 {
        call_clone(&balance);
    }
    balance
}

fn call_clone<S: Service<(), Error = Infallible> + Copy>(balance: &Balance<S>) {
    let mut balance = black_box(balance).clone();
    now_or_panic(balance.call(())).unwrap();
}

fn ewma<S: Copy>(n: usize, service: S) -> impl Iterator<Item = PeakEwma<S>> {
    let each = move |_| {
        PeakEwma::new(
            service,
            Duration::from_millis(30),
            1e10,
            CompleteOnResponse::default(),
        )
    };
    (0..n).map(each)
}

fn pending<S: Copy>(n: usize, service: S) -> impl Iterator<Item = PendingRequests<S>> {
    (0..n).map(move |_| PendingRequests::new(service, CompleteOnResponse::default()))
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
            let balance = ours(n, policy, Noop);
            group.bench_function(BenchmarkId::new(format!("{name}_{n}"), "ours"), |b| {
                b.iter(|| call_clone(&balance));
            });
        }
        // Their discovery drains all its services in one poll, which wants a runtime's budget for none of it.
        in_place!(group, format!("peak_ewma_{n}"), ewma(n, Noop));
        in_place!(group, format!("pending_{n}"), pending(n, Noop));
        behind_buffer!(group, runtime, format!("peak_ewma_{n}"), ewma(n, Noop));
        behind_buffer!(group, runtime, format!("pending_{n}"), pending(n, Noop));
    }
    group.finish();
}

/// Calls ours `calls` times, shared out among threads.
fn from_threads(balance: &Balance<Work>, threads: u64, calls: u64) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..calls.div_ceil(threads)).for_each(|_| call_clone(balance)));
        }
    });
    started.elapsed()
}

/// The same through a `Buffer`, from as many tasks as threads.
macro_rules! from_tasks {
    ($group:expr, $case:expr, $threads:expr, $services:expr) => {{
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads($threads as usize)
            .build()
            .unwrap();
        let buffer = runtime.block_on(async {
            Buffer::new(TowerBalance::new(ServiceList::new::<()>($services)), 1024)
        });
        $group.bench_function(BenchmarkId::new($case, "tower_buffer"), |b| {
            b.iter_custom(|calls| {
                let started = Instant::now();
                let tasks: Vec<_> = (0..$threads)
                    .map(|_| {
                        let mut buffer = buffer.clone();
                        runtime.spawn(async move {
                            for _ in 0..calls.div_ceil($threads) {
                                buffer.ready().await.unwrap().call(()).await.unwrap();
                            }
                        })
                    })
                    .collect();
                runtime.block_on(async {
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
                started.elapsed()
            });
        });
    }};
}

fn threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(20);
    for n in SIZES {
        for threads in [1u64, 2] {
            let case = |policy| format!("{policy}_{n}_work_x{threads}");
            for (policy, name) in [
                (Policy::from(P2c::peak_ewma()), "peak_ewma"),
                (P2c::least_request().into(), "pending"),
            ] {
                let balance = ours(n, policy, Work);
                group.bench_function(BenchmarkId::new(case(name), "ours"), |b| {
                    b.iter_custom(|calls| from_threads(&balance, threads, calls));
                });
            }
            from_tasks!(group, case("peak_ewma"), threads, ewma(n, Work));
            from_tasks!(group, case("pending"), threads, pending(n, Work));
        }
    }
    group.finish();
}

criterion_group!(benches, balance, threads);
criterion_main!(benches);
