use std::convert::Infallible;
use std::hint::black_box;

use ha_benches::at_once;
use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, P2c, Policy, RoundRobin};
use tower::Service;

pub(crate) const NAME: &str = "ours";

pub(crate) fn policies() -> [(&'static str, Policy); 3] {
    [
        ("peak_ewma", P2c::peak_ewma().into()),
        ("pending", P2c::least_request().into()),
        ("round_robin", RoundRobin.into()),
    ]
}

pub(crate) fn endpoints(n: usize) -> Vec<Endpoint> {
    (0..n)
        .map(|i| format!("http://host{i}:80").parse().unwrap())
        .collect()
}

pub(crate) fn balance<S: Copy>(n: usize, policy: Policy, service: S) -> Balance<S> {
    let endpoints = endpoints(n).into_iter().map(|endpoint| (endpoint, service));
    Balance::builder(endpoints).policy(policy).build().unwrap()
}

/// With a history for all endpoints, as in a process that runs for a while.
pub(crate) fn seasoned<S>(n: usize, policy: Policy, service: S) -> Balance<S>
where
    S: Service<(), Error = Infallible> + Copy,
{
    let balance = balance(n, policy, service);
    for _ in 0..n * 20 {
        call_clone(&balance);
    }
    balance
}

/// One request as axum makes it: on a clone of its own.
pub(crate) fn call_clone<S>(balance: &Balance<S>)
where
    S: Service<(), Error = Infallible> + Copy,
{
    let mut balance = black_box(balance).clone();
    at_once(balance.call(())).unwrap();
}
