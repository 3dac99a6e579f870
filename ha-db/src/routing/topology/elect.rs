//! Which cluster is ours, which node is its primary, and what each of the others is good for.

use super::{Class, Node, Sighting, Topology};
use crate::routing::history::{Cover, survives};
use crate::routing::lsn::Position;
use crate::routing::role::{NoPrimary, Role};

impl Topology {
    pub(super) fn adopt_system_id(&mut self) {
        if self.system_id.is_some() {
            return;
        }
        let ids = || {
            self.nodes
                .iter()
                .filter_map(|node| Some(node.last?.system_id))
        };
        let votes = |id| ids().filter(|other| *other == id).count();
        let Some(best) = ids().max_by_key(|id| votes(*id)) else {
            return;
        };
        let present = || self.nodes.iter().filter(|node| node.present);
        let all_reported = present().all(|node| node.reported);
        let undisputed = ids().all(|id| id == best || votes(id) < votes(best));
        if votes(best) * 2 > present().count() || (all_reported && undisputed) {
            self.system_id = Some(best);
        }
    }

    pub(super) fn elect(&self) -> Result<usize, NoPrimary> {
        let Some(ours) = self.system_id else {
            let mut ids = self
                .nodes
                .iter()
                .filter_map(|node| Some(node.last?.system_id));
            let first = ids.next();
            let disputed = ids.any(|id| Some(id) != first);
            return Err(if disputed {
                NoPrimary::SystemIdDispute
            } else {
                NoPrimary::NothingKnown
            });
        };
        let mut candidates = (0..self.nodes.len()).filter(|index| {
            contends(&self.nodes[*index], Some(ours), self.timeline)
                && self.same_as(*index).is_none()
        });
        match (candidates.next(), candidates.next()) {
            (Some(index), None) if self.has_silent_rival(index) || self.is_behind_log(index) => {
                Err(NoPrimary::Tie)
            }
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => Err(NoPrimary::Tie),
            (None, _) if self.nodes.iter().all(|node| node.last.is_none()) => {
                Err(NoPrimary::NothingKnown)
            }
            (None, _) => Err(NoPrimary::NotFound),
        }
    }

    /// Whether another has tied with this one and has only become unreachable since: it may still take writes.
    fn has_silent_rival(&self, index: usize) -> bool {
        self.nodes.iter().any(|rival| {
            let same = (rival.last.zip(self.nodes[index].last))
                .is_some_and(|(rival, own)| rival.same_server(&own));
            !rival.reachable && rival.tied == Some(self.timeline) && !same
        })
    }

    /// Whether it stands before what another one had written on this timeline: then it writes another branch of it.
    fn is_behind_log(&self, index: usize) -> bool {
        let last = self.nodes[index].last;
        self.elected.is_some_and(|(elected, timeline)| {
            elected != index
                && timeline == self.timeline
                && last.is_some_and(|last| last.lsn < self.tip)
        })
    }

    /// The first reachable node that leads to the same server.
    pub(super) fn same_as(&self, index: usize) -> Option<usize> {
        let own = self.nodes[index].last?;
        self.nodes[..index].iter().position(|other| {
            other.reachable && other.last.is_some_and(|other| other.same_server(&own))
        })
    }

    pub(super) fn role(&self, index: usize) -> Role {
        let node = &self.nodes[index];
        let Some(last) = node.last.filter(|_| node.reachable) else {
            return Role::Unreachable;
        };
        if self.system_id != Some(last.system_id) {
            return Role::Foreign;
        }
        if self.same_as(index).is_some() {
            return Role::Duplicate;
        }
        if !last.in_recovery {
            return if self.primary == Ok(index) {
                Role::Primary
            } else {
                Role::StalePrimary
            };
        }
        let Some(timeline) = node.timeline else {
            return Role::Unproven;
        };
        if node.doubtful {
            return Role::Unproven;
        }
        // What it has received it will show, before the next probe tells.
        let lsn = last
            .received
            .map_or(last.lsn, |received| received.max(last.lsn));
        let at = Position { timeline, lsn };
        match survives(at, self.timeline, self.history.as_deref()) {
            Cover::Yes | Cover::NotYet => Role::Replica,
            Cover::Lost(_) => Role::Diverged,
            Cover::Unprovable => Role::Unproven,
        }
    }

    /// Whether a primary that does not answer is known to be none any more, or not to be the only one.
    fn is_outbid(&self, index: usize) -> bool {
        match self.primary {
            Ok(_) | Err(NoPrimary::Tie) => true,
            Err(_) => self.nodes[index].timeline < Some(self.timeline),
        }
    }

    pub(super) fn reclassify(&mut self, index: usize) {
        let class = match self.role(index) {
            Role::Primary => Class::Primary,
            Role::Replica => Class::Replica,
            // Another node has taken over, or may have: what still runs here must not go on.
            Role::Unreachable
                if self.nodes[index].class == Class::Primary && self.is_outbid(index) =>
            {
                Class::Refused
            }
            Role::Unreachable | Role::Unproven => return,
            _ if self.system_id.is_none() => return,
            _ => Class::Refused,
        };
        let node = &mut self.nodes[index];
        let old = std::mem::replace(&mut node.class, class);
        if old == class || old == Class::Unknown {
            return;
        }
        // A session lives no longer than its server's life, within which a standby can only become a primary: the server is one for all
        // of its sessions before it says so to any, and what it had replayed it still has.
        if (old, class) == (Class::Replica, Class::Primary) {
            return;
        }
        node.generation += 1;
        // Everybody's lease has lost its ground; that of a new primary is new.
        if class != Class::Primary {
            node.cut = node.generation;
        }
    }
}

/// Whether a node can be seen to take writes on this timeline of this cluster.
pub(super) fn contends(node: &Node, system_id: Option<u64>, timeline: u32) -> bool {
    let takes_writes = |last: Sighting| !last.in_recovery && Some(last.system_id) == system_id;
    node.reachable && node.timeline == Some(timeline) && node.last.is_some_and(takes_writes)
}
