//! The balancer over services that are no upstream: plain functions, HTTP clients, `tonic` channels. Each gives everyone its share
//! and avoids who fails; who ignores failures shows what that is worth.
#![allow(clippy::unwrap_used)]

mod function;
mod grpc;
mod http_client;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ha_tower::breaker;

/// Whether each of three endpoints fails now.
type Fails = [Arc<AtomicBool>; 3];
type Tally = BTreeMap<String, usize>;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn never_trips() -> breaker::Config {
    let mut config = breaker::Config::default();
    config.consecutive_failures = u32::MAX;
    config.minimum_calls = u32::MAX;
    config
}

/// Makes 90 calls while all is well, and 90 after the last endpoint began to fail.
async fn before_and_after(fails: &Fails, call: impl AsyncFn() -> Option<String>) -> [Tally; 2] {
    let mut tallies = [Tally::new(), Tally::new()];
    for (tally, failing) in tallies.iter_mut().zip([false, true]) {
        fails[2].store(failing, Ordering::Relaxed);
        for _ in 0..90 {
            let name = call().await.unwrap_or_else(|| "failed".to_owned());
            *tally.entry(name).or_default() += 1;
        }
    }
    tallies
}

/// By turn: each its share, then five failures in a row open the breaker, and none goes there again.
fn assert_left_alone([well, after]: &[Tally; 2]) {
    assert_eq!(well.values().collect::<Vec<_>>(), [&30; 3], "{well:?}");
    assert_eq!((after["failed"], after.get("c")), (5, None), "{after:?}");
}

/// The same without an eye for failures: the dead one keeps its third.
fn assert_keeps_its_share([well, after]: &[Tally; 2]) {
    assert_eq!(well.values().collect::<Vec<_>>(), [&30; 3], "{well:?}");
    assert_eq!(after["failed"], 30, "{after:?}");
}
