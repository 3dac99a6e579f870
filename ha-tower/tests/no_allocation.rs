//! The pick allocates nothing, however many endpoints there are. One test to a file: the counters are the process's.
#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::convert::Infallible;
use std::future::{Future as _, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ha_core::endpoint::{Endpoint, Weight};
use ha_core::hash::hash_key;
use ha_tower::balance::{
    Any, Balance, HashKey, Keyed, Maglev, P2c, Policy, Random, Rendezvous, RingHash, RoundRobin,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::Service;

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Debug, Clone)]
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

type Protocol = Keyed<Any, fn(&()) -> Option<u64>>;

fn calls(balance: &Balance<Noop, Protocol>, n: usize) {
    for _ in 0..n {
        let mut clone = balance.clone();
        let call = pin!(clone.call(()));
        assert!(
            call.poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        );
    }
}

#[test]
fn picking_and_calling_allocates_nothing() {
    for policy in [
        Policy::from(RoundRobin),
        P2c::peak_ewma().into(),
        P2c::least_request().into(),
        Random.into(),
        RingHash::new(HashKey::from_protocol()).into(),
        Maglev::new(HashKey::from_protocol()).into(),
        Rendezvous::new(HashKey::from_protocol()).into(),
        RingHash::new(HashKey::from_protocol()).unbounded().into(),
    ] {
        for n in [1u32, 2, 10, 1_000] {
            let endpoints = (0..n).map(|i| {
                let endpoint: Endpoint = format!("http://host{i}").parse().unwrap();
                (endpoint.with_weight(Weight::new(i % 3 + 1).unwrap()), Noop)
            });
            let balance = Balance::builder(endpoints)
                .policy(policy.clone())
                .protocol(Protocol::new(Any, |()| Some(hash_key(b"user"))))
                .build()
                .unwrap();
            // Thread-locals are made by the first call.
            calls(&balance, 10);
            let region = Region::new(GLOBAL);
            calls(&balance, 10_000);
            let change = region.change();
            // The test harness' own threads may allocate a little; one allocation per call would be 10,000.
            assert!(
                change.allocations < 50,
                "{policy:?}, {n} endpoints: {change:?}"
            );
        }
    }
}
