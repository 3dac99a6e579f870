//! Counts instead of time: allocations per pick (with a clone per call), and bytes of the heap per endpoint, beside tower's `Balance`.
//!
//! - `pick_<policy>_<endpoints>`: allocations of one call to a service that does nothing.
//! - `memory_per_endpoint_<policy>_<endpoints>`: what a balancer holds on the heap after it has served, over its endpoints. Ours includes
//!   each endpoint's address and key, its breaker and its latency; tower's has neither address nor breaker.
#![allow(missing_docs, clippy::unwrap_used)]

mod ours;
mod theirs;

use std::alloc::System;

use ha_benches::memory::{Rows, allocations_per_call, held};
use ha_benches::{Noop, SIZES};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tower::{BoxError, Service};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> std::io::Result<()> {
    let mut rows = Rows::default();
    for n in SIZES {
        for (name, policy) in ours::policies(n) {
            let (balance, bytes) = held(|| ours::seasoned(n, policy, Noop));
            let allocations = allocations_per_call(|| ours::call_clone(&balance));
            rows.add(name, n, ours::NAME, allocations, bytes);
        }
        tower(&mut rows, "peak_ewma", n, || theirs::ewma(n, Noop));
        tower(&mut rows, "pending", n, || theirs::pending(n, Noop));
    }
    rows.finish()
}

fn tower<S>(rows: &mut Rows, policy: &str, n: usize, make: impl FnOnce() -> S)
where
    S: Service<(), Error = BoxError>,
{
    let (mut balance, bytes) = held(|| {
        let mut balance = make();
        theirs::ready(&mut balance);
        balance
    });
    let allocations = allocations_per_call(|| theirs::call(&mut balance));
    rows.add(policy, n, theirs::NAME, allocations, bytes);
}
