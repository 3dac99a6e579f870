//! What one slow server of three costs everybody: our edge beside HAProxy and nginx, on real sockets.
//!
//! Three servers sleep for 1 ms and answer; then one of them sleeps for 100 ms. Closed loop: 32 connections that ask again as
//! soon as they are answered. Open loop: random arrivals at 40 % of what the slowest contender bears. At last the slow one
//! recovers, and the time is taken until it has nine tenths of its share again. Clients, proxy and servers have one thread each.
//!
//! `cargo xtask bench tail` runs it; `cargo bench -p ha-benches --bench tail -- ours nginx` runs those alone whose names have one of these
//! words in them.
#![allow(missing_docs, clippy::unwrap_used)]

mod backends;
mod contenders;
mod generator;
mod report;
mod thread;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backends::Backends;
use contenders::Contender;
use generator::Tally;
use ha_benches::Arguments;
use report::Report;
use tokio::task::JoinSet;

const COUNT: usize = 3;
const SLOW: usize = 2;
const FAST_DELAY: Duration = Duration::from_millis(1);
const SLOW_DELAY: Duration = Duration::from_millis(100);
const CONNECTIONS: usize = 32;
const OPEN_SHARE: f64 = 0.4;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(5);
/// How long a recovery is watched.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(measure(&arguments))?;
    print!("{report}");
    arguments.write(report.rows())
}

async fn measure(arguments: &Arguments) -> io::Result<Report> {
    let mut contenders = contenders::all();
    contenders.retain(|contender| arguments.want(contender.name));
    let mut report = Report::default();
    for contender in &contenders {
        println!("closed loop, {CONNECTIONS} connections: {}", contender.name);
        let bench = Bench::start(contender).await?;
        report.add("closed_healthy", contender.name, bench.closed().await);
        bench.slow_down();
        report.add("closed_one_slow", contender.name, bench.closed().await);
        let recovery = bench.recover().await;
        report.recovered(contender.name, recovery);
    }
    let rate = OPEN_SHARE * report.least_throughput("closed_healthy");
    for contender in &contenders {
        println!("open loop, {rate:.0} per second: {}", contender.name);
        let bench = Bench::start(contender).await?;
        report.add("open_healthy", contender.name, bench.open(rate).await);
        bench.slow_down();
        report.add("open_one_slow", contender.name, bench.open(rate).await);
    }
    Ok(report)
}

/// One contender before fresh servers.
struct Bench {
    backends: Backends,
    address: SocketAddr,
    _running: contenders::Running,
}

impl Bench {
    async fn start(contender: &Contender) -> io::Result<Self> {
        let backends = Backends::start(COUNT, FAST_DELAY)?;
        let running = contender.start(backends.addresses()).await?;
        Ok(Self {
            backends,
            address: running.address,
            _running: running,
        })
    }

    async fn closed(&self) -> Measured {
        self.shared(generator::closed(
            self.address,
            CONNECTIONS,
            WARM_UP,
            MEASURE,
        ))
        .await
    }

    async fn open(&self, rate: f64) -> Measured {
        self.shared(generator::open(self.address, rate, WARM_UP, MEASURE))
            .await
    }

    /// The run, and which part of all answers came from the server that is or will be slow.
    async fn shared(&self, run: impl Future<Output = Tally>) -> Measured {
        let before = self.backends.served();
        let tally = run.await;
        Measured {
            slow_share: share(&before, &self.backends.served()),
            tally,
        }
    }

    fn slow_down(&self) {
        self.backends.set_delay(SLOW, SLOW_DELAY);
    }

    /// The time until the slow one, fast again, answers nine tenths of its share of one second.
    async fn recover(&self) -> Option<Duration> {
        const WINDOW: Duration = Duration::from_secs(1);
        self.backends.set_delay(SLOW, FAST_DELAY);
        let start = Instant::now();
        // Ends with this function.
        let mut load = JoinSet::new();
        load.spawn(generator::closed(
            self.address,
            CONNECTIONS,
            Duration::ZERO,
            PATIENCE,
        ));
        let mut before = self.backends.served();
        let mut recovered = None;
        while recovered.is_none() && start.elapsed() < PATIENCE {
            tokio::time::sleep(WINDOW).await;
            let after = self.backends.served();
            if share(&before, &after) >= 0.9 / COUNT as f64 {
                recovered = Some(start.elapsed());
            }
            before = after;
        }
        recovered
    }
}

/// One run, the warm-up not counted but in the share.
pub(crate) struct Measured {
    pub(crate) tally: Tally,
    pub(crate) slow_share: f64,
}

/// Which part of the answers between two looks came from [`SLOW`].
fn share(before: &[u64], after: &[u64]) -> f64 {
    let answered = |i: usize| (after[i] - before[i]) as f64;
    let all: f64 = (0..COUNT).map(answered).sum();
    answered(SLOW) / all
}
