//! Balances over plain functions: no network, no HTTP, any request and any answer.
//!
//! ```console
//! $ cargo run -p balance-examples --bin function
//! ```
//!
//! Three exchanges quote prices in turn. One closes: it fails five calls, then its breaker is open and nobody asks it any more.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ha_core::endpoint::{Endpoint, Weight};
use ha_tower::balance::{Balance, RoundRobin};
use tower::{BoxError, Service, ServiceExt, service_fn};

type Quote = (&'static str, u64);

fn exchange(
    name: &'static str,
    open: &Arc<AtomicBool>,
) -> impl Service<u64, Response = Quote, Error = io::Error, Future: Send> + Clone {
    let open = open.clone();
    service_fn(move |amount: u64| {
        let open = open.load(Ordering::Relaxed);
        let quote = open.then_some((name, amount * 42));
        async move { quote.ok_or_else(|| io::Error::other("closed")) }
    })
}

/// Who answered how many of 120 calls.
async fn tally<S>(exchanges: &Balance<S>) -> BTreeMap<&'static str, u32>
where
    S: Service<u64, Response = Quote, Error = io::Error> + Clone,
{
    let mut tally = BTreeMap::new();
    for amount in 0..120 {
        // Always ready and cheap to clone, so that many tasks can share it.
        let quote = exchanges.clone().oneshot(amount).await;
        *tally.entry(quote.map_or("failed", |q| q.0)).or_default() += 1;
    }
    tally
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // An endpoint has a key, a weight and an address; a function needs no address.
    let endpoint = |key: &str, weight| -> Result<_, BoxError> {
        let nowhere: Endpoint = "http://localhost".parse()?;
        Ok(nowhere.with_key(key).with_weight(Weight::new(weight)?))
    };
    let [always, north] = [(); 2].map(|()| Arc::new(AtomicBool::new(true)));
    let exchanges = Balance::builder([
        (endpoint("north", 1)?, exchange("north", &north)),
        (endpoint("south", 1)?, exchange("south", &always)),
        (endpoint("west", 2)?, exchange("west", &always)),
    ])
    .policy(RoundRobin)
    .build()?;
    println!("all open, west weighs twice: {:?}", tally(&exchanges).await);
    north.store(false, Ordering::Relaxed);
    println!("north closes: {:?}", tally(&exchanges).await);
    println!("and is left alone: {:?}", tally(&exchanges).await);
    Ok(())
}
