//! What routing looks at: a snapshot of what is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::history::{Cover, History, covers, survives};
use super::lsn::{Lsn, Position};
use super::role::{NoPrimary, Role};

/// A position further than this past everything that has been written was not made by this cluster: no server writes 64
/// GiB between two probes.
const IMPLAUSIBLE: u64 = 64 << 30;

/// What is known at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) epoch: u64,
    pub(crate) system_id: Option<u64>,
    pub(crate) timeline: u32,
    pub(crate) history: Option<Arc<History>>,
    /// The newest position that a primary was seen to have flushed.
    pub(crate) tip: Lsn,
    pub(crate) primary: Result<usize, NoPrimary>,
    pub(crate) nodes: Vec<NodeView>,
}

/// One node of a [`View`].
#[derive(Debug, Clone)]
pub(crate) struct NodeView {
    pub(crate) role: Role,
    pub(crate) reachable: bool,
    /// In the region of whoever asks.
    pub(crate) near: bool,
    pub(crate) generation: u64,
    /// Connections of generations below this one must end now.
    pub(crate) cut: u64,
    pub(crate) timeline: Option<u32>,
    /// How far a standby is known to be on that timeline.
    pub(crate) timeline_limit: Lsn,
    pub(crate) lsn: Option<Lsn>,
    pub(crate) started: Option<i64>,
    pub(crate) system_id: Option<u64>,
    /// A standby that receives nothing: it has no upstream, or cannot reach it.
    pub(crate) cut_off: bool,
    /// Followed one of two that tied, and it cannot be told which.
    pub(crate) doubtful: bool,
    /// Of a [`Role::Duplicate`], the node that stands for both.
    pub(crate) same_as: Option<usize>,
    /// The newest known replayed position; shared by all snapshots of one life on one timeline.
    pub(crate) proof: Arc<AtomicU64>,
    pub(crate) ejected: bool,
    pub(crate) lag: Option<Duration>,
    /// When the node certainly had everything.
    pub(crate) fresh_at: Option<Instant>,
}

impl NodeView {
    /// The timeline of what a standby has replayed up to here, when it does not say so itself: past what it had received when it
    /// last did, it may follow another by now.
    pub(crate) fn timeline_at(&self, lsn: Lsn) -> Option<u32> {
        self.timeline.filter(|_| lsn <= self.timeline_limit)
    }

    /// What the node is known to have replayed.
    pub(crate) fn replayed(&self) -> Option<Position> {
        let lsn = Lsn(self.proof.load(Ordering::Acquire));
        self.timeline.map(|timeline| Position { timeline, lsn })
    }
}

/// What a client's positions are worth here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Stands,
    /// Nobody can tell whether a failover cut it off: only the primary may serve it.
    Unprovable,
    Foreign {
        ours: u64,
    },
    Implausible(Position),
    /// What was written is gone; this is the end of what was kept.
    Lost(Position),
}

impl View {
    /// Judges what a client says that it has written and seen in the cluster `system_id`.
    pub(crate) fn judge(&self, system_id: u64, written: Position, seen: Position) -> Verdict {
        let Some(ours) = self.system_id else {
            return Verdict::Stands;
        };
        if system_id != ours {
            return Verdict::Foreign { ours };
        }
        for position in [written, seen] {
            // A newer timeline than ours is news, not nonsense.
            let known = self.tip.0 > 0 && position.timeline <= self.timeline;
            if known && position.lsn.0 > self.tip.0.saturating_add(IMPLAUSIBLE) {
                return Verdict::Implausible(position);
            }
        }
        match survives(written, self.timeline, self.history.as_deref()) {
            Cover::Lost(kept) => Verdict::Lost(kept),
            Cover::Unprovable => Verdict::Unprovable,
            Cover::Yes | Cover::NotYet => Verdict::Stands,
        }
    }

    /// Whether a node is known to show everything up to `need`: what it has replayed is only ever more than what is known.
    pub(crate) fn proven(&self, index: usize, need: Position) -> bool {
        self.nodes[index]
            .replayed()
            .is_some_and(|at| covers(need, at, self.history.as_deref()) == Cover::Yes)
    }
}
