//! What all of these tests need: writers that remember what was acknowledged to them, and a look at what has become of it.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ha_db::redis::Connection;
use ha_testbed::redis::{Cluster, Node};
use redis::{Cmd, Value, cmd};
use tokio::task::JoinSet;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// More than any single command may take: its deadline of 500 ms, and room for a busy machine.
pub(crate) const STUCK: Duration = Duration::from_secs(5);
/// Slot of `{foo}`.
pub(crate) const SLOT: u16 = 12_182;

const WRITERS: usize = 4;

pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A connection as it is by default, ready.
pub(crate) async fn connect(url: &str) -> Connection {
    let connection = Connection::from_url(url).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    connection
}

pub(crate) fn address(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].addr().to_string()
}

/// A frozen or replaced master is one to itself until somebody tells it otherwise.
pub(crate) async fn demoted(node: &Node) {
    eventually("the old master is a replica", async || {
        let role: Vec<Value> = node.command(&cmd("ROLE")).await.unwrap_or_default();
        role.first() == Some(&Value::BulkString(b"slave".to_vec()))
    })
    .await;
}

/// What became of the writes of some writers.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// When each was begun, and its key.
    pub(crate) acknowledged: Vec<(Instant, String)>,
    pub(crate) refused: Vec<String>,
    /// The longest that one took.
    pub(crate) longest: Duration,
}

/// Four writers, each of which sets one fresh key after the other.
pub(crate) struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
}

impl Writers {
    /// `set` gets the number of the writer and the command; the keys begin with `tag`.
    pub(crate) fn start<F, Fut>(tag: &'static str, set: F) -> Self
    where
        F: Fn(usize, Cmd) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let mut writers = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            told: Arc::default(),
        };
        for writer in 0..WRITERS {
            let set = set.clone();
            let (stop, told) = (writers.stop.clone(), writers.told.clone());
            writers.tasks.spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("{tag}:{writer}:{number}");
                    let mut command = cmd("SET");
                    command.arg(&key).arg(1);
                    let start = Instant::now();
                    let done = set(writer, command).await;
                    {
                        let mut told = told.lock().unwrap();
                        told.longest = told.longest.max(start.elapsed());
                        match done {
                            Ok(()) => told.acknowledged.push((start, key)),
                            Err(error) => told.refused.push(error),
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        writers
    }

    pub(crate) fn ours(tag: &'static str, connection: &Connection) -> Self {
        let connection = connection.clone();
        Self::start(tag, move |_, command| {
            let connection = connection.clone();
            async move {
                let done = connection.run::<()>(&command).await;
                done.map_err(|error| format!("{error:?}"))
            }
        })
    }

    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// How many writes have been acknowledged.
    pub(crate) fn count(&self) -> usize {
        self.told().acknowledged.len()
    }

    pub(crate) async fn goes_on(&self) {
        let before = self.count();
        eventually("writes go on", async || self.count() > before + 20).await;
    }

    pub(crate) async fn finish(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        // A bare link to a node that is gone or frozen would wait for ever.
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STUCK, all).await;
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.told())
    }
}

/// Which of the acknowledged keys this node does not have.
pub(crate) async fn lost(node: &Node, told: &Told) -> Vec<(Instant, String)> {
    let keys: Vec<String> = node.command(cmd("KEYS").arg("*")).await.unwrap();
    let keys: HashSet<&str> = keys.iter().map(String::as_str).collect();
    let missing = told
        .acknowledged
        .iter()
        .filter(|(_, key)| !keys.contains(key.as_str()));
    missing.cloned().collect()
}
