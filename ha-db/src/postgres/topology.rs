//! Which node is what: pure rules over what probes have seen. No driver, no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::NoPrimary;
use super::history::{Cover, History, survives};
use super::lag::{Gate, Ring};
use super::lsn::{Lsn, Position};
use super::status::Role;

/// One answered probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) system_id: u64,
    pub(crate) in_recovery: bool,
    /// Exact: a primary's own, or what a standby's receiver follows.
    pub(crate) timeline: Option<u32>,
    /// A standby is on this timeline or a later one.
    pub(crate) timeline_floor: Option<u32>,
    /// Flushed by a primary, replayed by a standby.
    pub(crate) lsn: Lsn,
    pub(crate) received: Option<Lsn>,
    /// When the postmaster started, in microseconds since 1970.
    pub(crate) started: i64,
}

/// How the rules are set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) max_lag: Duration,
    pub(crate) readmit_after: u32,
    pub(crate) cut_after: Duration,
    pub(crate) system_id: Option<u64>,
}

/// What connections of a node are good for; it changes only when they must not be used for it any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Unknown,
    Primary,
    Replica,
    Refused,
}

#[derive(Debug)]
struct Node {
    last: Option<Sighting>,
    reported: bool,
    reachable: bool,
    unreachable_since: Option<Instant>,
    timeline: Option<u32>,
    /// How far a standby may replay before its timeline has to be confirmed again.
    timeline_limit: Lsn,
    proof: Arc<AtomicU64>,
    gate: Gate,
    class: Class,
    generation: u64,
    cut: u64,
    /// Its connections have been cut because it does not answer.
    given_up: bool,
}

impl Node {
    fn new() -> Self {
        Self {
            last: None,
            reported: false,
            reachable: false,
            unreachable_since: None,
            timeline: None,
            timeline_limit: Lsn(0),
            proof: Arc::default(),
            gate: Gate::default(),
            class: Class::Unknown,
            generation: 0,
            cut: 0,
            given_up: false,
        }
    }
}

/// What the router knows.
#[derive(Debug)]
pub(crate) struct Topology {
    rules: Rules,
    nodes: Vec<Node>,
    system_id: Option<u64>,
    timeline: u32,
    history: Option<Arc<History>>,
    ring: Ring,
    tip: Lsn,
    epoch: u64,
    elected: Option<(usize, u32)>,
    primary: Result<usize, NoPrimary>,
}

/// What routing looks at: a snapshot.
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
    pub(crate) generation: u64,
    /// Connections of generations below this one must end now.
    pub(crate) cut: u64,
    pub(crate) timeline: Option<u32>,
    pub(crate) lsn: Option<Lsn>,
    pub(crate) started: Option<i64>,
    /// The newest known replayed position; shared by all snapshots of one life on one timeline.
    pub(crate) proof: Arc<AtomicU64>,
    pub(crate) ejected: bool,
    pub(crate) lag: Option<Duration>,
    /// When the node certainly had everything.
    pub(crate) fresh_at: Option<Instant>,
}

impl NodeView {
    /// What the node is known to have replayed.
    pub(crate) fn replayed(&self) -> Option<Position> {
        let lsn = Lsn(self.proof.load(Ordering::Acquire));
        self.timeline.map(|timeline| Position { timeline, lsn })
    }
}

impl Topology {
    pub(crate) fn new(nodes: usize, rules: Rules) -> Self {
        Self {
            rules,
            nodes: std::iter::repeat_with(Node::new).take(nodes).collect(),
            system_id: rules.system_id,
            timeline: 0,
            history: None,
            ring: Ring::default(),
            tip: Lsn(0),
            epoch: 0,
            elected: None,
            primary: Err(NoPrimary::NothingKnown),
        }
    }

    /// A probe was answered.
    pub(crate) fn saw(&mut self, index: usize, sighting: Sighting, now: Instant) {
        let newest = self.timeline;
        let node = &mut self.nodes[index];
        let same_life = node.last.is_some_and(|last| {
            (last.system_id, last.started) == (sighting.system_id, sighting.started)
        });
        let same_role = node
            .last
            .is_some_and(|last| last.in_recovery == sighting.in_recovery);
        if !same_life {
            if node.last.is_some() {
                node.generation += 1;
            }
            node.timeline = None;
            node.class = Class::Unknown;
            node.gate = Gate::default();
        }
        let before = node.timeline;
        (node.reported, node.reachable, node.unreachable_since) = (true, true, None);
        node.given_up = false;
        let mut lsn = sighting.lsn;
        if sighting.timeline.is_some() {
            node.timeline = sighting.timeline;
            node.timeline_limit = sighting.received.unwrap_or(lsn).max(lsn);
        } else if newest > 0 && sighting.timeline_floor.unwrap_or(1) == newest {
            // Nothing is newer, so the least that it can be is what it is.
            node.timeline = Some(newest);
            node.timeline_limit = lsn;
        } else if node.timeline.is_some() {
            // The receiver is down: what it had received was of the timeline that it followed.
            lsn = lsn.min(node.timeline_limit);
        }
        if !same_life || !same_role || before != node.timeline {
            node.proof = Arc::default();
        }
        node.proof.fetch_max(lsn.0, Ordering::AcqRel);
        node.last = Some(Sighting { lsn, ..sighting });
        self.settle(now);
        if self.primary == Ok(index) {
            self.tip = self.tip.max(lsn);
            self.ring.push(lsn, now);
        }
        self.update_gate(index, now);
    }

    /// A probe failed.
    pub(crate) fn failed(&mut self, index: usize, now: Instant) {
        let node = &mut self.nodes[index];
        (node.reported, node.reachable) = (true, false);
        let since = *node.unreachable_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.rules.cut_after && !node.given_up {
            node.given_up = true;
            node.generation += 1;
            node.cut = node.generation;
        }
        self.settle(now);
    }

    /// The history of the newest timeline was read.
    pub(crate) fn learn(&mut self, history: History, now: Instant) {
        if history.timeline == self.timeline {
            self.history = Some(Arc::new(history));
            self.settle(now);
        }
    }

    /// The timeline whose history would help.
    pub(crate) fn wanted_history(&self) -> Option<u32> {
        (self.timeline > 1 && self.history.is_none()).then_some(self.timeline)
    }

    fn update_gate(&mut self, index: usize, now: Instant) {
        let up = self.primary.is_ok();
        let Rules {
            max_lag,
            readmit_after,
            ..
        } = self.rules;
        let node = &mut self.nodes[index];
        if let Some(last) = node.last.filter(|last| last.in_recovery) {
            let lag = self.ring.lag(last.lsn, up, now);
            // Before any primary was seen there is nothing to be behind of.
            if lag.is_some() {
                node.gate.update(lag, max_lag, readmit_after);
            }
        }
    }

    /// Draws the conclusions.
    fn settle(&mut self, now: Instant) {
        self.adopt_system_id();
        let ours = self.system_id;
        let newest = self
            .nodes
            .iter()
            .filter(|node| ours.is_some() && node.last.map(|last| last.system_id) == ours)
            .filter_map(|node| node.timeline)
            .max()
            .unwrap_or(0);
        if newest > self.timeline {
            self.timeline = newest;
            self.history = None;
        }
        self.primary = self.elect();
        if let Ok(index) = self.primary {
            let elected = (index, self.timeline);
            if self.elected != Some(elected) {
                if let Some(last) = self.nodes[index].last {
                    self.tip = last.lsn;
                    self.ring.cut(last.lsn);
                    self.ring.push(last.lsn, now);
                }
                self.elected = Some(elected);
                self.epoch += 1;
            }
        }
        for index in 0..self.nodes.len() {
            self.reclassify(index);
        }
    }

    fn adopt_system_id(&mut self) {
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
        let all_reported = self.nodes.iter().all(|node| node.reported);
        let undisputed = ids().all(|id| id == best || votes(id) < votes(best));
        if votes(best) * 2 > self.nodes.len() || (all_reported && undisputed) {
            self.system_id = Some(best);
        }
    }

    fn elect(&self) -> Result<usize, NoPrimary> {
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
        let mut candidates = self.nodes.iter().enumerate().filter(|(_, node)| {
            node.reachable
                && node.timeline == Some(self.timeline)
                && node
                    .last
                    .is_some_and(|last| !last.in_recovery && last.system_id == ours)
        });
        match (candidates.next(), candidates.next()) {
            (Some((index, _)), None) => Ok(index),
            (Some(_), Some(_)) => Err(NoPrimary::Tie),
            (None, _) if self.nodes.iter().all(|node| node.last.is_none()) => {
                Err(NoPrimary::NothingKnown)
            }
            (None, _) => Err(NoPrimary::NotFound),
        }
    }

    fn role(&self, index: usize) -> Role {
        let node = &self.nodes[index];
        let Some(last) = node.last.filter(|_| node.reachable) else {
            return Role::Unreachable;
        };
        if self.system_id != Some(last.system_id) {
            return Role::Foreign;
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
        let at = Position {
            timeline,
            lsn: last.lsn,
        };
        match survives(at, self.timeline, self.history.as_deref()) {
            Cover::Yes | Cover::NotYet => Role::Replica,
            Cover::Lost(_) => Role::Diverged,
            Cover::Unprovable => Role::Unproven,
        }
    }

    fn reclassify(&mut self, index: usize) {
        let class = match self.role(index) {
            Role::Primary => Class::Primary,
            Role::Replica => Class::Replica,
            // Another node has taken over: what still runs here must not go on.
            Role::Unreachable
                if self.nodes[index].class == Class::Primary && self.primary.is_ok() =>
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
        node.generation += 1;
        // A promoted replica's readers see nothing wrong; everybody else's lease has lost its ground.
        if class != Class::Primary {
            node.cut = node.generation;
        }
    }

    /// The snapshot for routing.
    pub(crate) fn view(&self, now: Instant) -> View {
        let up = self.primary.is_ok();
        let nodes = self.nodes.iter().enumerate().map(|(index, node)| {
            let standby = node.last.filter(|last| last.in_recovery);
            let lag = standby.and_then(|last| self.ring.lag(last.lsn, up, now));
            NodeView {
                role: self.role(index),
                reachable: node.reachable,
                generation: node.generation,
                cut: node.cut,
                timeline: node.timeline,
                lsn: node.last.map(|last| last.lsn),
                started: node.last.map(|last| last.started),
                proof: Arc::clone(&node.proof),
                ejected: standby.is_some()
                    && (node.gate.is_ejected() || lag.is_none_or(|lag| lag > self.rules.max_lag)),
                lag,
                fresh_at: standby.and_then(|last| self.ring.fresh_at(last.lsn)),
            }
        });
        View {
            epoch: self.epoch,
            system_id: self.system_id,
            timeline: self.timeline,
            history: self.history.clone(),
            tip: self.tip,
            primary: self.primary,
            nodes: nodes.collect(),
        }
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
