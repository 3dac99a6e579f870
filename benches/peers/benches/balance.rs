//! The rows that pingora adds to `balance`: its `select`, which ends when a backend is known: no call, no count of what is in flight.
//!
//! The cases are described there.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main,
};
use ha_benches::{Crowd, SIZES, at_once, work};
use ha_benches_peers::{NAME, addresses, balancer, select};
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Random, RoundRobin};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};

const MANY: usize = 10_000;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn one_caller(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    group.sample_size(30);
    for n in SIZES {
        picks::<RoundRobin>(&mut group, "round_robin", n);
        picks::<Random>(&mut group, "random", n);
    }
    group.finish();
}

fn picks<S>(group: &mut Group<'_>, policy: &str, n: usize)
where
    S: BackendSelection<Iter: BackendIter> + 'static,
{
    let balancer = balancer::<S>(n);
    group.bench_function(BenchmarkId::new(format!("{policy}_{n}"), NAME), |b| {
        b.iter(|| select(&balancer, b""));
    });
}

fn crowds(criterion: &mut Criterion) {
    let crowds = Crowd::all().expect("threads");
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(600));
    group.sample_size(15);
    for n in SIZES {
        for crowd in &crowds {
            in_crowd::<RoundRobin>(&mut group, crowd, "round_robin", n);
            in_crowd::<Random>(&mut group, crowd, "random", n);
        }
    }
    group.finish();
}

fn in_crowd<S>(group: &mut Group<'_>, crowd: &Crowd, policy: &str, n: usize)
where
    S: BackendSelection<Iter: BackendIter> + Send + Sync + 'static,
    S::Config: Send + Sync,
{
    let balancer = Arc::new(balancer::<S>(n));
    let call = move || {
        let balancer = balancer.clone();
        async move {
            select(&balancer, b"");
            work();
        }
    };
    group.bench_function(BenchmarkId::new(crowd.case(policy, n), NAME), |b| {
        b.iter_custom(|calls| crowd.time(calls, call.clone()));
    });
}

/// Gives the set that was put here last, once.
#[derive(Clone, Default)]
struct Next(Arc<Mutex<BTreeSet<Backend>>>);

impl Next {
    fn put(&self, set: BTreeSet<Backend>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = set;
    }
}

#[async_trait]
impl ServiceDiscovery for Next {
    async fn discover(&self) -> pingora_error::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let set = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((set, HashMap::new()))
    }
}

fn updates(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("balance");
    group.warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    group.sample_size(20);
    update::<RoundRobin>(&mut group, "round_robin");
    update::<Random>(&mut group, "random");
    group.finish();
}

fn update<S>(group: &mut Group<'_>, policy: &str)
where
    S: BackendSelection<Iter: BackendIter> + 'static,
{
    let next = Next::default();
    let balancer = LoadBalancer::<S>::from_backends(Backends::new(Box::new(next.clone())));
    let set = |weight| -> BTreeSet<Backend> {
        let backend = |(i, address): (usize, std::net::SocketAddr)| {
            let weight = if i == MANY / 2 { weight } else { 1 };
            Backend::new_with_weight(&address.to_string(), weight).expect("an address")
        };
        addresses(MANY).enumerate().map(backend).collect()
    };
    let mut sets = [set(1), set(2)].into_iter().cycle();
    let mut put = || next.put(sets.next().unwrap_or_default());
    let case = format!("update_weight_{MANY}_{policy}");
    group.bench_function(BenchmarkId::new(case, NAME), |b| {
        b.iter_batched(
            &mut put,
            |()| at_once(balancer.update()).expect("a set is there"),
            // The set waits in one place: the next must not be put there before this one is taken.
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, one_caller, crowds, updates);
criterion_main!(benches);
