//! A bounded, closed-loop driver: a fixed number of clients, each with at most one call under way, at no more than a
//! given rate, with latencies that can be asked for any window of the run.
//!
//! Closed means that a slow service slows its clients down, as people do; a call that comes late is not made up for by a
//! burst afterwards. To find what a service can bear at a fixed arrival rate, use an open-loop tool instead.
//!
//! ```
//! use ha_testbed::load::{Call, Load, Outcome};
//! use std::time::Duration;
//!
//! struct Reader;
//! impl Call for Reader {
//!     async fn call(&mut self) -> Outcome {
//!         // … one request …
//!         Outcome::Ok
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let load = Load::clients(4).rate(400.0).deadline(Duration::from_secs(2));
//! let run = load.start(|_client| Reader);
//! run.wait_calls(20, Duration::from_secs(5)).await.expect("20 calls within 5 s");
//! let report = run.stop().await;
//! assert_eq!(report.failed + report.timed_out, 0);
//! println!("p99 {:?}", report.latency.quantile(0.99));
//! # }
//! ```

mod histogram;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use histogram::{Histogram, Series};

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It did what it should.
    Ok,
    /// It did not.
    Failed,
}

/// One client: asked again and again, never twice at once.
pub trait Call: Send + 'static {
    /// Makes one call. Dropped when the deadline passes or the run is stopped past its grace.
    fn call(&mut self) -> impl Future<Output = Outcome> + Send;
}

/// How hard to drive.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    clients: usize,
    rate: Option<f64>,
    deadline: Duration,
}

impl Load {
    /// `clients` clients, each with one call under way at a time; no limit of the rate; 10 s for a call.
    ///
    /// # Panics
    /// When `clients` is zero.
    pub fn clients(clients: usize) -> Self {
        assert!(clients > 0, "a load of zero clients is none");
        Self {
            clients,
            rate: None,
            deadline: Duration::from_secs(10),
        }
    }

    /// At most `per_second` calls per second over all clients, spread evenly.
    ///
    /// # Panics
    /// When the rate is not a positive finite number.
    #[must_use]
    pub fn rate(mut self, per_second: f64) -> Self {
        assert!(
            per_second.is_finite() && per_second > 0.0,
            "a rate of {per_second} is none"
        );
        self.rate = Some(per_second);
        self
    }

    /// How long one call may take before it is dropped and counted as timed out.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the clients made by `make`, which is given their numbers from zero.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start<C: Call>(self, mut make: impl FnMut(usize) -> C) -> Run {
        let start = Instant::now();
        let (progress, watching) = watch::channel(0_u64);
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(start)),
            progress,
        });
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for client in 0..self.clients {
            let every = self
                .rate
                .map(|rate| Duration::from_secs_f64(self.clients as f64 / rate));
            let first = every.map_or(start, |every| {
                start + every.mul_f64(client as f64 / self.clients as f64)
            });
            let driver = Driver {
                first,
                every,
                deadline: self.deadline,
            };
            tasks.spawn(driver.run(make(client), Arc::clone(&shared), stopping.clone()));
        }
        Run {
            start,
            deadline: self.deadline,
            shared,
            progress: watching,
            stop,
            tasks,
        }
    }
}

/// A load that runs. Dropping it ends the clients where they are; [`Run::stop`] lets them finish their calls.
#[derive(Debug)]
pub struct Run {
    start: Instant,
    deadline: Duration,
    shared: Arc<Shared>,
    progress: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// What a load has done.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Calls that ended well.
    pub ok: u64,
    /// Calls that ended badly.
    pub failed: u64,
    /// Calls that were dropped at their deadline.
    pub timed_out: u64,
    /// How long the calls took, those that timed out with the deadline.
    pub latency: Histogram,
    /// The same by time.
    pub series: Series,
}

impl Run {
    /// When it started.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// What it has done so far.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// Waits until `calls` calls have ended.
    ///
    /// # Errors
    /// When `deadline` passes before; how many there were.
    pub async fn wait_calls(&self, calls: u64, deadline: Duration) -> Result<(), u64> {
        let mut progress = self.progress.clone();
        let reached = progress.wait_for(|done| *done >= calls);
        match tokio::time::timeout(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(*self.progress.borrow()),
        }
    }

    /// Starts no further call, waits for those under way (at most the deadline of a call) and reports.
    pub async fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(self.deadline, all).await;
        self.shared.report()
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    progress: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    ok: u64,
    failed: u64,
    timed_out: u64,
    series: Series,
}

impl State {
    fn new(start: Instant) -> Self {
        Self {
            ok: 0,
            failed: 0,
            timed_out: 0,
            series: Series::starting(start.into_std()),
        }
    }
}

impl Shared {
    fn report(&self) -> Report {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            ok,
            failed,
            timed_out,
            ..
        } = *state;
        let series = state.series.clone();
        Report {
            ok,
            failed,
            timed_out,
            latency: series.total(),
            series,
        }
    }

    fn record(&self, outcome: Option<Outcome>, ended: Instant, took: Duration) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Some(Outcome::Ok) => state.ok += 1,
                Some(Outcome::Failed) => state.failed += 1,
                None => state.timed_out += 1,
            }
            state.series.record(ended.into_std(), took);
        }
        self.progress.send_modify(|done| *done += 1);
    }
}

struct Driver {
    first: Instant,
    every: Option<Duration>,
    deadline: Duration,
}

impl Driver {
    async fn run<C: Call>(
        self,
        mut client: C,
        shared: Arc<Shared>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut next = self.first;
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep_until(next) => {}
            }
            let began = Instant::now();
            let outcome = tokio::time::timeout(self.deadline, client.call())
                .await
                .ok();
            let ended = Instant::now();
            shared.record(outcome, ended, ended - began);
            match self.every {
                // A late call moves the schedule: closed loop, no bursts.
                Some(every) => next = (next + every).max(ended),
                None => {
                    next = ended;
                    // A call that never waits would otherwise keep its worker for itself.
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
