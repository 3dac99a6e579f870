//! The faults, each on servers of its own.

use std::time::{Duration, Instant};

use ha_testbed::redis::{Cluster, MASTER_NAME, Node, Redis};
use redis::{Value, cmd};

use crate::contenders;
use crate::writers::Outage;

const DEADLINE: Duration = Duration::from_secs(60);
/// Slot of `{foo}`.
const SLOT: u16 = 12_182;
const FROZEN: Duration = Duration::from_secs(14);
/// What is acknowledged to each before the fault.
const BEFORE: usize = 300;
/// What is acknowledged to those that go on once it is over, and how long those are waited for that do not.
const AFTER: usize = 50;
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    SentinelKill,
    SentinelStop,
    SentinelFailover,
    ClusterKill,
    ClusterStop,
    ClusterFailover,
    ClusterMove,
}

pub(crate) const ALL: &[Fault] = &[
    Fault::SentinelKill,
    Fault::SentinelStop,
    Fault::SentinelFailover,
    Fault::ClusterKill,
    Fault::ClusterStop,
    Fault::ClusterFailover,
    Fault::ClusterMove,
];

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SentinelKill => "sentinel_kill_9",
            Self::SentinelStop => "sentinel_sigstop_14_s",
            Self::SentinelFailover => "sentinel_failover",
            Self::ClusterKill => "cluster_kill_9",
            Self::ClusterStop => "cluster_sigstop_14_s",
            Self::ClusterFailover => "cluster_failover",
            Self::ClusterMove => "cluster_slot_moves_3_times",
        }
    }

    fn is_sentinel(self) -> bool {
        matches!(
            self,
            Self::SentinelKill | Self::SentinelStop | Self::SentinelFailover
        )
    }
}

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The version of the servers, and what the fault did to each.
pub(crate) async fn run(fault: Fault) -> (String, Vec<Outage>) {
    let builder = if fault.is_sentinel() {
        Redis::sentinel(3)
    } else {
        Redis::cluster(6)
    };
    let cluster = builder.start().await.unwrap();
    let started = Instant::now();
    let mut all = if fault.is_sentinel() {
        contenders::at_sentinel(&cluster).await
    } else {
        contenders::in_cluster(&cluster).await
    };
    let everybody = |since, count| {
        let mut each = all.iter();
        each.all(|writers| writers.acknowledged_since(since) >= count)
    };
    eventually("all write", async || everybody(started, BEFORE)).await;
    let begun = Instant::now();
    let master = inflict(fault, &cluster).await;
    let over = Instant::now();
    while !everybody(over, AFTER) && over.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for writers in &mut all {
        writers.finish().await;
    }
    let master = &cluster.nodes[master];
    let mut outages = Vec::new();
    for writers in &all {
        outages.push(writers.outage(begun, over, master).await);
    }
    (version(master).await, outages)
}

async fn version(node: &Node) -> String {
    let info: String = node.command(cmd("INFO").arg("server")).await.unwrap();
    let mut lines = info.lines();
    let version = lines.find_map(|line| line.strip_prefix("redis_version:"));
    version.unwrap_or("unknown").to_owned()
}

/// Does it, and returns who is the master when it is over.
async fn inflict(fault: Fault, cluster: &Cluster) -> usize {
    let old = if fault.is_sentinel() {
        cluster.master().await.unwrap()
    } else {
        cluster.owner(SLOT).await.unwrap()
    };
    let begun = Instant::now();
    match fault {
        Fault::SentinelKill | Fault::ClusterKill => cluster.nodes[old].kill().await.unwrap(),
        Fault::SentinelStop | Fault::ClusterStop => cluster.nodes[old].freeze().unwrap(),
        Fault::SentinelFailover => {
            let mut failover = cmd("SENTINEL");
            failover.arg("FAILOVER").arg(MASTER_NAME);
            let _: () = cluster.sentinels[1].command(&failover).await.unwrap();
        }
        Fault::ClusterFailover => {
            let replica = cluster.replicas_of(old).await.unwrap()[0];
            cluster.failover_to(replica).await.unwrap();
        }
        Fault::ClusterMove => {
            for hop in 1..=3 {
                cluster.migrate_slot(SLOT, (old + hop) % 3).await.unwrap();
            }
            return cluster.owner(SLOT).await.unwrap();
        }
    }
    let new = if fault.is_sentinel() {
        cluster.wait_master_other_than(old, DEADLINE).await.unwrap()
    } else {
        cluster
            .wait_owner_other_than(SLOT, old, DEADLINE)
            .await
            .unwrap()
    };
    if matches!(fault, Fault::SentinelStop | Fault::ClusterStop) {
        tokio::time::sleep(FROZEN.saturating_sub(begun.elapsed())).await;
        cluster.nodes[old].thaw().unwrap();
    }
    if !matches!(fault, Fault::SentinelKill | Fault::ClusterKill) {
        eventually("the old master is a replica", async || {
            let role: Vec<Value> = cluster.nodes[old]
                .command(&cmd("ROLE"))
                .await
                .unwrap_or_default();
            role.first() == Some(&Value::BulkString(b"slave".to_vec()))
        })
        .await;
    }
    new
}
