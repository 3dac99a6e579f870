//! What a node can be, and why there may be no primary.

use serde::Serialize;

/// Why there is no primary to write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoPrimary {
    /// No node has answered a probe yet.
    NothingKnown,
    /// No reachable node of the newest timeline accepts writes.
    NotFound,
    /// Two nodes of the newest timeline accept writes; choosing one would split the data. It lasts until one of them is seen to be
    /// something else or is removed: that one of them became unreachable does not say who is right.
    Tie,
    /// The nodes belong to different database clusters and neither has a majority; pin one with
    /// [`Builder::system_id`](crate::postgres::Builder::system_id).
    SystemIdDispute,
    /// This client's token is of a newer timeline than every primary that is known: what accepts writes is stale.
    StaleForToken,
}

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
    /// A standby that has received more than the primary's timeline kept of its own: its rows may be phantoms, it gets nothing.
    Diverged,
    /// A standby of which it cannot be told whether it has diverged: gets nothing. Grant `pg_monitor` to the user,
    /// and `EXECUTE` on `pg_read_file(text, bigint, bigint, boolean)`; or two primaries share its timeline.
    Unproven,
    /// Belongs to another database cluster: gets nothing.
    Foreign,
    /// The same server as a node that was given before it, under another name: gets nothing.
    Duplicate,
    /// Did not answer the last probe, or has not answered any.
    Unreachable,
}

/// A node, in the life in which it served something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) node: usize,
    pub(crate) generation: u64,
}
