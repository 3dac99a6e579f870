//! What is true of a read, by the store's own knowledge.

use std::time::{Duration, Instant};

use super::run::Run;
use super::world::Place;

impl Run {
    /// Whether two branches of one number were both seen to be written, or could be: then nothing tells them apart.
    pub(super) fn split(&self, branch: usize, other: usize) -> bool {
        let timeline = |branch: usize| self.world.branches[branch].timeline;
        let mut ways = self.world.way(branch);
        ways.any(|on| {
            let mut theirs = self.world.way(other);
            theirs.any(|their| on != their && timeline(on) == timeline(their))
        })
    }

    pub(super) fn check_own(&mut self, client: usize, index: usize) {
        let head = self.world.head(index);
        for mark in self.clients[client].marks.clone() {
            for (lsn, own) in [(mark.own, true), (mark.seen, false)] {
                let place = Place {
                    branch: mark.branch,
                    lsn,
                };
                if lsn == 0 || self.world.has(head, place) {
                    continue;
                }
                let behind = self.world.kept(head.branch, place)
                    || self.world.way(mark.branch).any(|on| on == head.branch);
                if self.split(head.branch, mark.branch) {
                    self.counts.split += 1;
                } else if behind {
                    self.counts.stale += 1;
                } else if own && !mark.told {
                    self.counts.unreported += 1;
                }
            }
        }
    }

    /// A read that was asked for at `asked`.
    pub(super) fn check_bound(&mut self, index: usize, bound: Duration, asked: Instant) {
        let head = self.world.head(index);
        let before = |at: &Instant| asked.saturating_duration_since(*at) > bound;
        let due = self.commits.partition_point(|(_, at)| before(at));
        // The latest ones cover those before them.
        for (place, _) in &self.commits[due.saturating_sub(20)..due] {
            let missing = !self.world.has(head, *place) && self.world.kept(head.branch, *place);
            if missing && !self.split(head.branch, place.branch) {
                // Of two of one number that were never seen at once, nobody can tell that a replica follows the other.
                let primary = self
                    .view
                    .primary
                    .map(|index| self.world.servers[index].branch);
                let other = primary.is_ok_and(|primary| self.split(primary, head.branch));
                self.counts.split += u64::from(other);
                self.counts.late += u64::from(!other);
                return;
            }
        }
    }

    pub(super) fn check_phantom(&mut self, index: usize) {
        let Ok(primary) = self.view.primary else {
            return;
        };
        let kept = self.world.servers[primary].branch;
        let head = self.world.head(index);
        // Nobody could know what they became since they were last heard of: both may follow a newer one by now.
        let still = self.world.timeline_of(primary) == self.view.timeline
            && self.world.timeline_of(index) <= self.view.timeline;
        if still && !self.world.kept(kept, head) && !self.split(kept, head.branch) {
            self.counts.phantom += 1;
        }
    }
}
