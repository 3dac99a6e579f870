//! pingora's load balancer, set up the same way for each bench here.

use std::net::SocketAddr;

use pingora_load_balancing::LoadBalancer;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};

/// The column of the results.
pub const NAME: &str = "pingora";
// What pingora's own proxies pass; the first backend is healthy here and taken.
const ITERATIONS: usize = 256;

/// The addresses of so many endpoints, the same as in our own benches of hashing.
pub fn addresses(n: usize) -> impl Iterator<Item = SocketAddr> {
    (0..n).map(|i| SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 3000)))
}

/// A load balancer over so many backends of weight 1.
pub fn balancer<S>(n: usize) -> LoadBalancer<S>
where
    S: BackendSelection<Iter: BackendIter> + 'static,
{
    LoadBalancer::try_from_iter(addresses(n)).expect("addresses need no look-up")
}

/// One pick, whose backend is dropped as a request drops it when it ends.
pub fn select<S>(balancer: &LoadBalancer<S>, key: &[u8])
where
    S: BackendSelection<Iter: BackendIter> + 'static,
{
    let backend = balancer.select(key, ITERATIONS);
    assert!(std::hint::black_box(backend).is_some());
}
