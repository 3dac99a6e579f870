//! What the router knows, for dashboards and logs.

use std::time::Duration;

use serde::Serialize;

use super::lsn::Lsn;
use super::problem::Problem;
use super::role::{NoPrimary, Role};

/// A snapshot of the router's knowledge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Grows with every change of the primary.
    pub epoch: u64,
    /// The database cluster, once it is known.
    pub system_id: Option<u64>,
    /// The name of the node that takes writes.
    pub primary: Option<String>,
    /// Why no node takes writes.
    pub no_primary: Option<NoPrimary>,
    /// Every configured node, in the order in which they were given.
    pub nodes: Vec<NodeStatus>,
}

/// One node of a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    /// The configured name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Whether the last probe was answered.
    pub reachable: bool,
    /// Its timeline, when it could be learnt.
    pub timeline: Option<u32>,
    /// What a primary has flushed, or a standby has replayed.
    pub lsn: Option<Lsn>,
    /// How far a standby is behind, in milliseconds. `None` when unknown, which counts as too much.
    #[serde(rename = "lag_ms", serialize_with = "as_millis")]
    pub lag: Option<Duration>,
    /// Whether a standby is left out of reads because it is, or lately was, too far behind.
    pub ejected: bool,
    /// Connections that are lent now.
    pub in_use: usize,
    /// What an operator should mend.
    pub problem: Option<Problem>,
}

fn as_millis<S: serde::Serializer>(
    lag: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match lag {
        Some(lag) => serializer.serialize_some(&(lag.as_secs_f64() * 1e3)),
        None => serializer.serialize_none(),
    }
}
