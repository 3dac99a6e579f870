//! What balancing costs per call, beside tower's `Balance`; `peers` adds pingora's to the same rows.
//!
//! Ours is cloned for each call, as axum does, and has no breakers, because the peers have none; `ours_breaker` is the default, with one for each
//! endpoint. Tower's is not `Clone`, so it is called in place (`tower`) and, as a service that many
//! tasks share has to be, behind a `Buffer` (`tower_buffer`), which is cloned for each call too.
//!
//! - `<policy>_<endpoints>`: one caller, endpoints that do nothing. The policies that hash get another key with each call, a number at
//!   random, and keep their bound on the load. Rendezvous, which looks at every endpoint, is left out at 10,000.
//! - `<policy>_<endpoints>_threads_<threads>_tasks_<tasks>`: endpoints that work for about a microsecond, called by that many tasks on a
//!   runtime with that many threads; the figure is the time until all calls are done over their number, so that two threads
//!   show half of one where nothing is in the way.
//! - `update_weight_<endpoints>`: one endpoint of so many gets another weight. Ours and pingora's find out from a whole new set which
//!   one; tower's, which has no weights, is told which one and replaces it.
#![allow(missing_docs, clippy::unwrap_used)]

mod ours;
mod theirs;

use std::convert::Infallible;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main,
};
use futures_util::stream::poll_fn;
use ha_benches::{Crowd, Noop, SIZES, Work};
use ha_core::endpoint::Weight;
use ha_tower::balance::{P2c, Policy};
use ha_tower::breaker;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tower::balance::p2c::Balance as TowerBalance;
use tower::buffer::Buffer;
use tower::discover::Change;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::{BoxError, Service, ServiceExt as _};

const MANY: usize = 10_000;
const BUFFER: usize = 1_024;
const BUFFERED: &str = "tower_buffer";
const GUARDED: &str = "ours_breaker";

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn one_caller(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(30);
    for n in SIZES {
        for (name, policy) in ours::policies(n) {
            let balance = ours::seasoned(n, policy, Noop);
            group.bench_function(BenchmarkId::new(format!("{name}_{n}"), ours::NAME), |b| {
                b.iter(|| ours::call_clone(&balance));
            });
        }
        let (ewma, pending) = (format!("peak_ewma_{n}"), format!("pending_{n}"));
        for (case, policy) in [(&ewma, P2c::peak_ewma()), (&pending, P2c::least_request())] {
            let breaker = Some(breaker::Config::default());
            let balance = ours::season(ours::with(n, policy.into(), breaker, Noop), n);
            group.bench_function(BenchmarkId::new(case, GUARDED), |b| {
                b.iter(|| ours::call_clone(&balance));
            });
        }
        in_place(&mut group, &ewma, theirs::ewma(n, Noop));
        in_place(&mut group, &pending, theirs::pending(n, Noop));
        behind_buffer(&mut group, &runtime, &ewma, theirs::ewma(n, Noop));
        behind_buffer(&mut group, &runtime, &pending, theirs::pending(n, Noop));
    }
    group.finish();
}

fn in_place(group: &mut Group<'_>, case: &str, mut balance: impl Service<(), Error = BoxError>) {
    group.bench_function(BenchmarkId::new(case, theirs::NAME), |b| {
        b.iter(|| theirs::call(&mut balance));
    });
}

type Buffered<S> = Buffer<(), <S as Service<()>>::Future>;

fn buffered<S>(runtime: &Runtime, balance: S) -> Buffered<S>
where
    S: Service<(), Error = BoxError, Future: Send> + Send + 'static,
{
    runtime.block_on(async { Buffer::new(balance, BUFFER) })
}

fn behind_buffer<S>(group: &mut Group<'_>, runtime: &Runtime, case: &str, balance: S)
where
    S: Service<(), Error = BoxError, Future: Send> + Send + 'static,
{
    let buffer = buffered(runtime, balance);
    group.bench_function(BenchmarkId::new(case, BUFFERED), |b| {
        b.to_async(runtime)
            .iter(|| async { buffer.clone().oneshot(()).await.unwrap() });
    });
}

fn crowds(criterion: &mut Criterion) {
    let crowds = Crowd::all().unwrap();
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(600));
    group.sample_size(15);
    for n in SIZES {
        for crowd in &crowds {
            for (name, policy) in ours::policies(n) {
                ours_in_crowd(&mut group, crowd, (name, policy), n);
            }
            let (ewma, pending) = (crowd.case("peak_ewma", n), crowd.case("pending", n));
            buffer_in_crowd(&mut group, crowd, &ewma, theirs::ewma(n, Work));
            buffer_in_crowd(&mut group, crowd, &pending, theirs::pending(n, Work));
        }
    }
    group.finish();
}

fn ours_in_crowd(group: &mut Group<'_>, crowd: &Crowd, (name, policy): (&str, Policy), n: usize) {
    let balance = ours::seasoned(n, policy, Work);
    in_crowd(group, crowd, &crowd.case(name, n), ours::NAME, balance);
}

fn buffer_in_crowd<S>(group: &mut Group<'_>, crowd: &Crowd, case: &str, balance: S)
where
    S: Service<(), Response = (), Error = BoxError, Future: Send> + Send + 'static,
{
    let buffer = buffered(crowd.runtime(), balance);
    in_crowd(group, crowd, case, BUFFERED, buffer);
}

fn in_crowd<S>(group: &mut Group<'_>, crowd: &Crowd, case: &str, who: &str, service: S)
where
    S: Service<(), Response = (), Error: std::fmt::Debug, Future: Send> + Clone + Send + 'static,
{
    let call = move || {
        let service = service.clone();
        async move { service.oneshot(()).await.unwrap() }
    };
    group.bench_function(BenchmarkId::new(case, who), |b| {
        b.iter_custom(|calls| crowd.time(calls, call.clone()));
    });
}

fn updates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    group.sample_size(20);
    let case = format!("update_weight_{MANY}");

    for (name, policy) in ours::policies(MANY) {
        let balance = ours::balance(MANY, policy, Noop);
        let mut weights = [2, 1].map(|w| Weight::new(w).unwrap()).into_iter().cycle();
        let set = ours::endpoints(MANY);
        let mut changed = || {
            let mut set = set.clone();
            let endpoint = set[MANY / 2].clone();
            set[MANY / 2] = endpoint.with_weight(weights.next().unwrap_or(Weight::ONE));
            set
        };
        let case = format!("{case}_{name}");
        group.bench_function(BenchmarkId::new(&case, ours::NAME), |b| {
            b.iter_batched(
                &mut changed,
                |set| balance.update(set, |_| Noop).unwrap(),
                BatchSize::LargeInput,
            );
        });
    }

    let (tell, mut told) = mpsc::unbounded_channel();
    let changes =
        poll_fn(move |context| told.poll_recv(context).map(|c| c.map(Ok::<_, Infallible>)));
    let mut balance = TowerBalance::new(changes);
    let insert = |key: usize| {
        let service = PendingRequests::new(Noop, CompleteOnResponse::default());
        tell.send(Change::Insert(key, service)).unwrap();
    };
    (0..MANY).for_each(insert);
    theirs::ready(&mut balance);
    group.bench_function(
        BenchmarkId::new(format!("{case}_pending"), theirs::NAME),
        |b| {
            b.iter(|| {
                insert(MANY / 2);
                theirs::ready(&mut balance);
            });
        },
    );
    group.finish();
}

criterion_group!(benches, one_caller, crowds, updates);
criterion_main!(benches);
