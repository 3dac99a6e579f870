//! Which node is what: pure rules over what probes have seen. No driver, no clock.

mod elect;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::history::History;
use super::lag::{Gate, Ring};
use super::lsn::Lsn;
use super::role::NoPrimary;
use super::view::{NodeView, View};
use elect::contends;

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
    /// Whether a standby receives from anybody.
    pub(crate) receiving: bool,
    /// When the server started, in microseconds since 1970, by its own clock: a name of this life.
    pub(crate) started: i64,
    /// With `started`, what tells one server from another, whatever address leads to it.
    pub(crate) port: u16,
}

impl Sighting {
    fn same_server(&self, other: &Self) -> bool {
        let identity = |seen: &Self| (seen.system_id, seen.started, seen.port);
        identity(self) == identity(other)
    }
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
    /// Not removed.
    present: bool,
    near: bool,
    last: Option<Sighting>,
    reported: bool,
    reachable: bool,
    unreachable_since: Option<Instant>,
    timeline: Option<u32>,
    /// How far a standby may replay before its timeline has to be confirmed again.
    timeline_limit: Lsn,
    proof: Arc<AtomicU64>,
    gate: Gate,
    /// The timeline on which it was seen to take writes together with another.
    tied: Option<u32>,
    /// A standby that was on the timeline of a tie: nobody can tell which of the two it followed, in this life of it.
    doubtful: bool,
    class: Class,
    generation: u64,
    cut: u64,
    /// Its connections have been cut because it does not answer.
    given_up: bool,
}

impl Node {
    fn new(near: bool) -> Self {
        Self {
            present: true,
            near,
            last: None,
            reported: false,
            reachable: false,
            unreachable_since: None,
            timeline: None,
            timeline_limit: Lsn(0),
            proof: Arc::default(),
            gate: Gate::default(),
            tied: None,
            doubtful: false,
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

impl Topology {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            nodes: Vec::new(),
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

    /// A node joins the set, in the place of one that was removed or in a new one. `near` ones are preferred for reads.
    pub(crate) fn add(&mut self, near: bool, reuse: impl Fn(usize) -> bool) -> usize {
        let free = (0..self.nodes.len()).find(|index| !self.nodes[*index].present && reuse(*index));
        let node = Node::new(near);
        match free {
            Some(index) => {
                // What was lent on the one before it must not count as lent on this one.
                let generation = self.nodes[index].generation + 1;
                self.nodes[index] = Node { generation, ..node };
                index
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// A node leaves the set. What is in use on it may end in peace.
    pub(crate) fn remove(&mut self, index: usize, now: Instant) {
        let node = &mut self.nodes[index];
        let (generation, cut) = (node.generation + 1, node.cut);
        *node = Node {
            present: false,
            reported: true,
            generation,
            cut,
            ..Node::new(false)
        };
        if self.elected.is_some_and(|(elected, _)| elected == index) {
            self.elected = None;
        }
        self.settle(now);
    }

    /// A probe that was sent at `asked` was answered.
    pub(crate) fn saw(&mut self, index: usize, sighting: Sighting, asked: Instant, now: Instant) {
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
                // What was lent is of a server that is gone, or that this address does not lead to any more.
                node.generation += 1;
                node.cut = node.generation;
            }
            node.timeline = None;
            node.class = Class::Unknown;
            node.gate = Gate::default();
            node.doubtful = false;
        }
        if sighting.in_recovery || sighting.timeline != node.tied {
            node.tied = None;
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
        self.settle(asked);
        if self.primary == Ok(index) {
            self.tip = self.tip.max(lsn);
            // It was written before it was told, and how long the answer took must not make a replica look fresher.
            self.ring.push(lsn, asked);
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

    /// While there is no primary nobody can tell a lag, and that is no fault of the replicas: they are not made to prove themselves
    /// when there is one again.
    fn update_gate(&mut self, index: usize, now: Instant) {
        if self.primary.is_err() {
            return;
        }
        let Rules {
            max_lag,
            readmit_after,
            ..
        } = self.rules;
        let node = &mut self.nodes[index];
        if let Some(last) = node.last.filter(|last| last.in_recovery) {
            let lag = self.ring.lag(last.lsn, true, now);
            // Before any primary was seen there is nothing to be behind of.
            if lag.is_some() {
                node.gate.update(lag, max_lag, readmit_after);
            }
        }
    }

    /// Draws the conclusions.
    fn settle(&mut self, at: Instant) {
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
        if let (Err(NoPrimary::Tie), Some((elected, timeline))) = (self.primary, self.elected) {
            let node = &mut self.nodes[elected];
            let writes = node.last.is_some_and(|last| !last.in_recovery);
            if timeline == self.timeline && node.timeline == Some(timeline) && writes {
                node.tied = Some(timeline);
            }
        }
        for node in &mut self.nodes {
            match self.primary {
                Err(NoPrimary::Tie) if contends(node, ours, self.timeline) => {
                    node.tied = Some(self.timeline);
                }
                Err(NoPrimary::Tie) => {
                    node.doubtful |= node.timeline == Some(self.timeline)
                        && node.last.is_some_and(|last| last.in_recovery);
                }
                Err(_) => {}
                Ok(_) => node.tied = None,
            }
        }
        if let Ok(index) = self.primary {
            let elected = (index, self.timeline);
            if self.elected != Some(elected) {
                if self
                    .elected
                    .is_some_and(|(_, timeline)| timeline == self.timeline)
                {
                    // Another one on the same timeline: its positions may be of another branch.
                    self.ring = Ring::default();
                }
                if let Some(last) = self.nodes[index].last {
                    self.tip = last.lsn;
                    self.ring.cut(last.lsn);
                    self.ring.push(last.lsn, at);
                }
                self.elected = Some(elected);
                self.epoch += 1;
            }
        }
        for index in 0..self.nodes.len() {
            self.reclassify(index);
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
                near: node.near,
                generation: node.generation,
                cut: node.cut,
                timeline: node.timeline,
                timeline_limit: node.timeline_limit,
                lsn: node.last.map(|last| last.lsn),
                started: node.last.map(|last| last.started),
                system_id: node.last.map(|last| last.system_id),
                cut_off: node.reachable && standby.is_some_and(|last| !last.receiving),
                doubtful: node.doubtful,
                same_as: self.same_as(index).filter(|_| node.reachable),
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
mod tests;
