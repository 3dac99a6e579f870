//! What routing looks at: a snapshot of what is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::history::{Cover, History, covers, survives};
use super::lsn::{Lsn, Position};
use super::read::Known;
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
    /// Judges what a client says that it has written and seen in the cluster `system_id`, and how much of it that is.
    ///
    /// An acknowledged write whose position was never learnt lies past `written`, and nobody knows how far. After a promotion it cannot be
    /// shown to have survived, so it counts as lost: what is gone and not told is worse than what is told and not gone.
    pub(crate) fn judge(
        &self,
        system_id: u64,
        written: Position,
        seen: Position,
        known: Known,
    ) -> Verdict {
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
            Cover::Yes | Cover::NotYet => {
                let left = known == Known::Part && written.timeline < self.timeline;
                let cut = self.history.as_deref().filter(|_| left);
                let cut = cut.and_then(|history| history.switch_of(written.timeline));
                cut.map_or(Verdict::Stands, |lsn| {
                    let timeline = written.timeline;
                    Verdict::Lost(Position { timeline, lsn })
                })
            }
        }
    }

    /// Whether a node is known to show everything up to `need`: what it has replayed is only ever more than what is known.
    pub(crate) fn proven(&self, index: usize, need: Position) -> bool {
        self.nodes[index]
            .replayed()
            .is_some_and(|at| covers(need, at, self.history.as_deref()) == Cover::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_write_of_unknown_position_counts_as_lost_after_a_promotion_and_not_before() {
        let view = |timeline, history: Option<&str>| View {
            epoch: 1,
            system_id: Some(7),
            timeline,
            history: history.map(|text| Arc::new(History::parse(timeline, text))),
            tip: Lsn(0x90),
            primary: Ok(0),
            nodes: Vec::new(),
        };
        let at = |timeline, lsn| Position {
            timeline,
            lsn: Lsn(lsn),
        };
        let cut = Some("1\t0/80\tx\n");
        let seen = Position::default();
        let judge = |view: &View, known| view.judge(7, at(1, 0x70), seen, known);
        assert_eq!(judge(&view(1, None), Known::Part), Verdict::Stands);
        assert_eq!(judge(&view(2, None), Known::Part), Verdict::Unprovable);
        assert_eq!(
            judge(&view(2, cut), Known::Part),
            Verdict::Lost(at(1, 0x80))
        );
        // The control: its positions alone say that all of it is there. So they do of what was promised to nobody.
        for known in [Known::All, Known::Acknowledged] {
            assert_eq!(judge(&view(2, cut), known), Verdict::Stands);
        }
        // A first write has no position at all, and is known by its timeline.
        let first = view(2, cut).judge(7, at(1, 0), seen, Known::Part);
        assert_eq!(first, Verdict::Lost(at(1, 0x80)));
        let none = view(2, cut).judge(7, Position::default(), seen, Known::Part);
        assert_eq!(none, Verdict::Stands);
    }
}
