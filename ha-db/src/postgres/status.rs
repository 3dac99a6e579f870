//! What the router knows, for dashboards and logs.

use std::time::Duration;

use serde::Serialize;

use super::error::NoPrimary;
use super::lsn::Lsn;

/// What a node is, as far as this router may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Role {
    /// Takes writes.
    Primary,
    /// A standby that may serve reads.
    Replica,
    /// Accepts writes on a timeline that has been left, or shares the newest with another: gets nothing.
    StalePrimary,
    /// A standby that went past the point where the primary's timeline left its own: its rows may be phantoms, it gets nothing.
    Diverged,
    /// A standby of which it cannot be told whether it has diverged: gets nothing. Grant `pg_monitor` to the user,
    /// and `EXECUTE` on `pg_read_file(text, bigint, bigint, boolean)`.
    Unproven,
    /// Belongs to another database cluster: gets nothing.
    Foreign,
    /// Did not answer the last probe, or has not answered any.
    Unreachable,
}

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
