//! A snapshot for health pages and logs.

use serde::Serialize;

use super::follow::Reason;

/// What a [`Connection`](super::Connection) knows and does right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// `host:port` of the master in use; `None` while there is none, and in a cluster, which has several.
    pub master: Option<String>,
    /// The Sentinels' configuration epoch of that master, or the highest of the cluster's masters; 0 without either.
    pub epoch: u64,
    /// How many times a connection to a master was made, the first included.
    pub connects: u64,
    /// How many times the master's address changed, or a master of the cluster lost all its slots to another.
    pub switches: u64,
    /// Why the last node was given up.
    pub last_reason: Option<Reason>,
    /// Why the last try to find and connect the master failed; `None` while connected.
    pub last_failure: Option<String>,
    /// Commands that wait for a master.
    pub waiting: usize,
    /// Commands that were sent and have no answer yet.
    pub in_flight: usize,
    /// Commands that ended as [`Error::NotSent`](super::Error::NotSent).
    pub not_sent: u64,
    /// Commands that ended as [`Error::Unknown`](super::Error::Unknown).
    pub unknown: u64,
    /// The Sentinels, in the configured order; empty without.
    pub sentinels: Vec<SentinelStatus>,
    /// The nodes of the cluster; empty without.
    pub nodes: Vec<NodeStatus>,
}

/// One node of a cluster as seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NodeStatus {
    /// `host:port`.
    pub address: String,
    /// It is a master, not a replica.
    pub master: bool,
    /// How many slots it has.
    pub slots: usize,
    /// It is connected. Replicas never are.
    pub connected: bool,
    /// Why it was given up last.
    pub last_reason: Option<Reason>,
    /// Why the last try to connect it failed; `None` while connected.
    pub last_failure: Option<String>,
}

/// One Sentinel as seen from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SentinelStatus {
    /// `host:port`.
    pub address: String,
    /// Its announcements arrive.
    pub subscribed: bool,
    /// The master it named last; `None` when its last answer failed.
    pub master: Option<String>,
}
