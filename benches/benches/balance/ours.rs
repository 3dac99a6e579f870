use std::convert::Infallible;
use std::hint::black_box;

use ha_benches::at_once;
use ha_core::endpoint::Endpoint;
use ha_tower::balance::{
    Any, Balance, HashKey, Keyed, Maglev, P2c, Policy, Random, Rendezvous, RingHash, RoundRobin,
};
use ha_tower::breaker;
use tower::Service;

pub(crate) const NAME: &str = "ours";

/// Its requests have a random key each, for the policies that hash one.
pub(crate) type Ours<S> = Balance<S, Keyed<Any, fn(&()) -> Option<u64>>>;

// It looks at every endpoint for a pick, and is not made for more.
const MOST_FOR_RENDEZVOUS: usize = 1_000;

/// All policies that are made for so many endpoints.
pub(crate) fn policies(n: usize) -> Vec<(&'static str, Policy)> {
    let key = HashKey::from_protocol;
    let mut policies = vec![
        ("peak_ewma", P2c::peak_ewma().into()),
        ("pending", P2c::least_request().into()),
        ("round_robin", RoundRobin.into()),
        ("random", Random.into()),
        ("ring_hash", RingHash::new(key()).into()),
        ("maglev", Maglev::new(key()).into()),
    ];
    if n <= MOST_FOR_RENDEZVOUS {
        policies.push(("rendezvous", Rendezvous::new(key()).into()));
    }
    policies
}

pub(crate) fn endpoints(n: usize) -> Vec<Endpoint> {
    (0..n)
        .map(|i| format!("http://host{i}:80").parse().unwrap())
        .collect()
}

/// Without breakers, which the peers do not have.
pub(crate) fn balance<S: Copy>(n: usize, policy: Policy, service: S) -> Ours<S> {
    with(n, policy, None, service)
}

pub(crate) fn with<S: Copy>(
    n: usize,
    policy: Policy,
    breaker: Option<breaker::Config>,
    service: S,
) -> Ours<S> {
    let endpoints = endpoints(n).into_iter().map(|endpoint| (endpoint, service));
    let key: fn(&()) -> _ = |()| Some(fastrand::u64(..));
    Balance::builder(endpoints)
        .policy(policy)
        .breaker(breaker)
        .protocol(Keyed::new(Any, key))
        .build()
        .unwrap()
}

/// With a history for all endpoints, as in a process that runs for a while.
pub(crate) fn seasoned<S>(n: usize, policy: Policy, service: S) -> Ours<S>
where
    S: Service<(), Error = Infallible> + Copy,
{
    season(balance(n, policy, service), n)
}

/// Gives all endpoints a history.
pub(crate) fn season<S>(balance: Ours<S>, n: usize) -> Ours<S>
where
    S: Service<(), Error = Infallible> + Copy,
{
    for _ in 0..n * 20 {
        call_clone(&balance);
    }
    balance
}

/// One request as axum makes it: on a clone of its own.
pub(crate) fn call_clone<S>(balance: &Ours<S>)
where
    S: Service<(), Error = Infallible> + Copy,
{
    let mut balance = black_box(balance).clone();
    at_once(balance.call(())).unwrap();
}
