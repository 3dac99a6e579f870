//! The rows that pingora adds to `balance_memory`: allocations per `select`, and bytes per backend, without health checks.

use std::alloc::System;

use ha_benches::SIZES;
use ha_benches::memory::{Rows, allocations_per_call, held};
use ha_benches_peers::{NAME, balancer, select};
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Random, RoundRobin};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> std::io::Result<()> {
    let mut rows = Rows::default();
    for n in SIZES {
        count::<RoundRobin>(&mut rows, "round_robin", n);
        count::<Random>(&mut rows, "random", n);
    }
    rows.finish()
}

fn count<S>(rows: &mut Rows, policy: &str, n: usize)
where
    S: BackendSelection<Iter: BackendIter> + 'static,
{
    let (balancer, bytes) = held(|| balancer::<S>(n));
    let allocations = allocations_per_call(|| select(&balancer, b""));
    rows.add(policy, n, NAME, allocations, bytes);
}
