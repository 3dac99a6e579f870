//! Writers that remember what became of every write.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ha_testbed::redis::Node;
use redis::cmd;
use tokio::task::JoinSet;

const WRITERS: usize = 4;
const BETWEEN: Duration = Duration::from_millis(5);
/// How long what is under way at the end may take.
const LAST: Duration = Duration::from_secs(3);
/// How many keys are asked for at a time.
const BATCH: usize = 1000;

/// What came of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    /// It provably did not run.
    NotSent,
    /// It may have been applied.
    Unknown,
}

#[derive(Debug)]
struct Write {
    key: String,
    told: Instant,
    outcome: Outcome,
}

/// The writers of one contender.
pub(crate) struct Writers {
    pub(crate) who: &'static str,
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<Write>>>,
}

/// What a fault did to one contender.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outage {
    pub(crate) who: &'static str,
    pub(crate) acknowledged: u64,
    /// Acknowledged, and gone.
    pub(crate) lost: u64,
    pub(crate) not_sent: u64,
    pub(crate) unknown: u64,
    /// Those of the unknown ones that are there.
    pub(crate) unknown_applied: u64,
    /// Applied more than once, whatever was said of them.
    pub(crate) twice: u64,
    /// The longest time without an acknowledgement, from the last one before the fault on; `None` when none came once all was over.
    pub(crate) gap: Option<Duration>,
}

impl Writers {
    /// `write` increments the key that it is given.
    pub(crate) fn start<F, Fut>(who: &'static str, tag: &'static str, write: F) -> Self
    where
        F: Fn(String) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let mut writers = Self {
            who,
            tasks: JoinSet::new(),
            stop: Arc::default(),
            writes: Arc::default(),
        };
        for writer in 0..WRITERS {
            let (write, stop) = (write.clone(), Arc::clone(&writers.stop));
            let writes = Arc::clone(&writers.writes);
            writers.tasks.spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("{tag}:{who}:{writer}:{number}");
                    let outcome = write(key.clone()).await;
                    let told = Instant::now();
                    writes.lock().unwrap().push(Write { key, told, outcome });
                    tokio::time::sleep(BETWEEN).await;
                }
            });
        }
        writers
    }

    /// How many have been acknowledged since then.
    pub(crate) fn acknowledged_since(&self, then: Instant) -> usize {
        let writes = self.writes.lock().unwrap();
        let late = writes.iter().rev().take_while(|write| write.told > then);
        late.filter(|write| write.outcome == Outcome::Acknowledged)
            .count()
    }

    /// Ends them. What does not end in time is dropped, and counts for nothing.
    pub(crate) async fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }

    /// What the fault at that instant did, by what `master` has when it is `over`.
    pub(crate) async fn outage(&self, fault: Instant, over: Instant, master: &Node) -> Outage {
        let writes = std::mem::take(&mut *self.writes.lock().unwrap());
        let mut outage = Outage {
            who: self.who,
            gap: gap(&writes, fault, over),
            ..Outage::default()
        };
        for batch in writes.chunks(BATCH) {
            let mut read = cmd("MGET");
            batch.iter().for_each(|write| {
                read.arg(&write.key);
            });
            let values: Vec<Option<u64>> = master.command(&read).await.unwrap();
            for (write, value) in batch.iter().zip(values) {
                let times = value.unwrap_or(0);
                outage.twice += u64::from(times > 1);
                match write.outcome {
                    Outcome::Acknowledged => {
                        outage.acknowledged += 1;
                        outage.lost += u64::from(times == 0);
                    }
                    Outcome::NotSent => {
                        outage.not_sent += 1;
                        assert_eq!(times, 0, "{} was said not to have run", write.key);
                    }
                    Outcome::Unknown => {
                        outage.unknown += 1;
                        outage.unknown_applied += u64::from(times > 0);
                    }
                }
            }
        }
        outage
    }
}

fn gap(writes: &[Write], fault: Instant, over: Instant) -> Option<Duration> {
    let acknowledged = writes
        .iter()
        .filter(|write| write.outcome == Outcome::Acknowledged);
    let mut times: Vec<Instant> = acknowledged.map(|write| write.told).collect();
    times.sort_unstable();
    let first = times.partition_point(|told| *told < fault);
    let from = times[first.saturating_sub(1)..].iter();
    let longest = from.clone().zip(from.skip(1)).map(|(a, b)| *b - *a).max();
    longest.filter(|_| times.last().is_some_and(|last| *last > over))
}
