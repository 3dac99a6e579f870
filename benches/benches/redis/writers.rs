//! Writers that remember what was acknowledged to them.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{Cmd, cmd};
use tokio::task::JoinSet;

const WRITERS: usize = 4;
const BETWEEN: Duration = Duration::from_millis(2);
/// How long what is under way at the end may take.
const LAST: Duration = Duration::from_secs(3);

/// What came of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    /// It provably did not run.
    NotSent,
    /// Nobody knows.
    Unknown,
}

#[derive(Debug, Default)]
struct Told {
    acknowledged: Vec<(Instant, String)>,
    not_sent: u64,
    unknown: u64,
}

/// The writers of one contender.
pub(crate) struct Writers {
    pub(crate) who: &'static str,
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    stopped: Option<Instant>,
    told: Arc<Mutex<Told>>,
}

/// What a fault did to one contender.
#[derive(Debug, Clone)]
pub(crate) struct Outage {
    pub(crate) who: &'static str,
    pub(crate) acknowledged: u64,
    pub(crate) lost: u64,
    pub(crate) not_sent: u64,
    pub(crate) unknown: u64,
    /// The longest time after the fault without an acknowledgement; `None` when none came any more until the end.
    pub(crate) gap: Option<Duration>,
}

impl Writers {
    pub(crate) fn start<F, Fut>(who: &'static str, tag: &'static str, write: F) -> Self
    where
        F: Fn(Cmd) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let mut writers = Self {
            who,
            tasks: JoinSet::new(),
            stop: Arc::default(),
            stopped: None,
            told: Arc::default(),
        };
        for writer in 0..WRITERS {
            let (write, stop, told) = (write.clone(), writers.stop.clone(), writers.told.clone());
            writers.tasks.spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("{tag}:{who}:{writer}:{number}");
                    let mut command = cmd("SET");
                    command.arg(&key).arg(1);
                    let outcome = write(command).await;
                    {
                        let mut told = told.lock().unwrap();
                        match outcome {
                            Outcome::Acknowledged => told.acknowledged.push((Instant::now(), key)),
                            Outcome::NotSent => told.not_sent += 1,
                            Outcome::Unknown => told.unknown += 1,
                        }
                    }
                    tokio::time::sleep(BETWEEN).await;
                }
            });
        }
        writers
    }

    pub(crate) fn count(&self) -> usize {
        self.told.lock().unwrap().acknowledged.len()
    }

    /// Ends them.
    pub(crate) async fn finish(&mut self) {
        self.stopped = Some(Instant::now());
        self.stop.store(true, Ordering::Relaxed);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }

    /// What the fault at that instant did, with what of the acknowledged is among `keys`.
    pub(crate) fn outage(&self, fault: Instant, keys: &HashSet<String>) -> Outage {
        let told = self.told.lock().unwrap();
        let mut times: Vec<Instant> = told.acknowledged.iter().map(|(at, _)| *at).collect();
        times.sort_unstable();
        let mut gap = Duration::ZERO;
        let mut last = fault;
        for at in times.iter().filter(|at| **at > fault) {
            gap = gap.max(at.duration_since(last));
            last = *at;
        }
        // Silence until the end is no gap that ended.
        let stopped = self.stopped.unwrap_or_else(Instant::now);
        let ended = stopped.saturating_duration_since(last) < Duration::from_secs(2);
        Outage {
            who: self.who,
            acknowledged: told.acknowledged.len() as u64,
            lost: told
                .acknowledged
                .iter()
                .filter(|(_, key)| !keys.contains(key))
                .count() as u64,
            not_sent: told.not_sent,
            unknown: told.unknown,
            gap: ended.then_some(gap),
        }
    }
}
