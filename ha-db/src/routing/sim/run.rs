//! Clients of the simulated store, served by the rules or by a naive way, and a check of what each of them sees.

use std::time::{Duration, Instant};

use super::world::{Place, World};
use crate::routing::history::{Cover, covers};
use crate::routing::lsn::{Lsn, Position};
use crate::routing::read::{Consistency, Order};
use crate::routing::role::NoPrimary;
use crate::routing::topology::{Rules, Sighting, Topology};
use crate::routing::view::{Verdict, View};

const CLIENTS: usize = 6;

/// Which way of deciding is put to the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brain {
    Rules,
    /// A replica is far enough when its position is, whatever timeline that is of.
    PositionAlone,
    /// A replica is fresh when its last replayed commit is young by its own clock.
    CommitClock,
    /// The primary is whichever node last said that it takes writes.
    LastProbed,
}

/// What came of a run.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) steps: u64,
    pub(super) writes: u64,
    pub(super) on_replicas: u64,
    pub(super) on_primary: u64,
    pub(super) without_primary: u64,
    pub(super) refused: u64,
    pub(super) promotions: u64,
    pub(super) ties: u64,
    pub(super) lost: u64,
    /// Losses in a split of one timeline, which no position tells.
    pub(super) split: u64,
    /// Reads that missed what their client wrote or had seen.
    pub(super) stale: u64,
    /// Reads that missed what was written before their bound.
    pub(super) late: u64,
    /// Reads of what the primary's log does not have.
    pub(super) phantom: u64,
    /// Writes to a primary that could be known to be stale or disputed.
    pub(super) astray: u64,
    /// Acknowledged writes that were gone without a word.
    pub(super) unreported: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        let all = |counts: &mut Self, other: &Self| {
            counts.steps += other.steps;
            counts.writes += other.writes;
            counts.on_replicas += other.on_replicas;
            counts.on_primary += other.on_primary;
            counts.without_primary += other.without_primary;
            counts.refused += other.refused;
            counts.promotions += other.promotions;
            counts.ties += other.ties;
            counts.lost += other.lost;
            counts.split += other.split;
            counts.stale += other.stale;
            counts.late += other.late;
            counts.phantom += other.phantom;
            counts.astray += other.astray;
            counts.unreported += other.unreported;
        };
        all(self, other);
    }
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    Idle,
    Asked(Instant),
    Answered(Instant, Option<Sighting>),
}

/// What a client wrote and saw on one branch.
#[derive(Debug, Clone, Copy)]
struct Mark {
    branch: usize,
    own: u64,
    seen: u64,
    told: bool,
}

#[derive(Debug, Default, Clone)]
struct Client {
    written: Position,
    seen: Position,
    marks: Vec<Mark>,
}

impl Client {
    fn need(&self) -> Position {
        self.written.max(self.seen)
    }

    fn mark(&mut self, place: Place) -> &mut Mark {
        let branch = place.branch;
        let at = self.marks.iter().position(|mark| mark.branch == branch);
        let at = at.unwrap_or_else(|| {
            self.marks.push(Mark {
                branch,
                own: 0,
                seen: 0,
                told: false,
            });
            self.marks.len() - 1
        });
        &mut self.marks[at]
    }
}

pub(super) struct Run {
    brain: Brain,
    rng: fastrand::Rng,
    world: World,
    topology: Topology,
    view: View,
    probes: Vec<Probe>,
    /// What each node was last heard to be, and whether it still answers.
    heard: Vec<(Option<Sighting>, bool)>,
    last_primary: Option<usize>,
    newest: u32,
    clients: Vec<Client>,
    /// What was committed through the router: where, and when.
    commits: Vec<(Place, Instant)>,
    grants: bool,
    start: Instant,
    now: Instant,
    pub(super) counts: Counts,
}

impl Run {
    pub(super) fn new(seed: u64, brain: Brain) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let servers = rng.usize(2..=4);
        let mut topology = Topology::new(Rules {
            max_lag: Duration::from_millis(500),
            readmit_after: 3,
            cut_after: Duration::from_secs(3),
            system_id: None,
        });
        for _ in 0..servers {
            topology.add(true, |_| true);
        }
        let start = Instant::now();
        Self {
            brain,
            world: World::new(servers),
            view: topology.view(start),
            topology,
            probes: vec![Probe::Idle; servers],
            heard: vec![(None, false); servers],
            last_primary: None,
            newest: 0,
            clients: vec![Client::default(); CLIENTS],
            commits: Vec::new(),
            grants: rng.u8(..5) > 0,
            start,
            now: start,
            counts: Counts::default(),
            rng,
        }
    }

    pub(super) fn steps(&mut self, steps: u64) {
        for _ in 0..steps {
            self.counts.steps += 1;
            self.now += Duration::from_micros(self.rng.u64(0..8_000));
            for index in 0..self.world.servers.len() {
                if self.rng.u8(..4) > 0 {
                    let (receive, replay) = (self.rng.u64(..200), self.rng.u64(..200));
                    self.world.replicate(index, receive, replay);
                }
            }
            match self.rng.u16(..1000) {
                0..500 => self.probe(),
                500..650 => self.write(),
                650..980 => self.read(),
                980..986 => self.break_something(),
                _ => self.mend_something(),
            }
        }
    }

    fn millis(&self) -> i64 {
        (self.now - self.start).as_millis() as i64
    }

    fn any(&mut self) -> usize {
        self.rng.usize(..self.world.servers.len())
    }

    /// A question, its answer on the way, or its arrival.
    fn probe(&mut self) {
        let index = self.any();
        let answers = self.world.servers[index].answers();
        self.probes[index] = match self.probes[index] {
            Probe::Idle => Probe::Asked(self.now),
            Probe::Asked(asked) => {
                let answer = answers.then(|| self.world.sighting(index));
                Probe::Answered(asked, answer)
            }
            Probe::Answered(asked, answer) => {
                self.hear(index, asked, answer);
                Probe::Idle
            }
        };
    }

    fn hear(&mut self, index: usize, asked: Instant, answer: Option<Sighting>) {
        match answer {
            Some(seen) => {
                self.topology.saw(index, seen, asked, self.now);
                self.newest = self.newest.max(seen.timeline.unwrap_or(0));
                if !seen.in_recovery {
                    self.last_primary = Some(index);
                }
            }
            None => self.topology.failed(index, self.now),
        }
        self.heard[index] = (answer.or(self.heard[index].0), answer.is_some());
        let wanted = self.topology.wanted_history();
        let here = |timeline| self.world.timeline_of(index) == timeline;
        let there = self.grants && self.world.servers[index].answers();
        if wanted.is_some_and(here) && there && self.rng.u8(..3) > 0 {
            self.topology.learn(self.world.history(index), self.now);
        }
        self.view = self.topology.view(self.now);
        self.counts.ties += u64::from(self.view.primary == Err(NoPrimary::Tie));
    }

    /// Whether a connection made for what the view says of a node is what it says.
    fn connects(&self, index: usize, primary: bool) -> bool {
        let server = &self.world.servers[index];
        let known = self.brain == Brain::LastProbed
            || self.view.nodes[index].started == Some(server.started);
        server.answers() && server.standby != primary && known
    }

    fn primary(&self, needed: u32) -> Option<usize> {
        let index = match self.brain {
            Brain::LastProbed => self.last_primary?,
            _ => {
                let newer = self.view.timeline >= needed || self.brain == Brain::PositionAlone;
                self.view.primary.ok().filter(|_| newer)?
            }
        };
        self.connects(index, true).then_some(index)
    }

    /// What of a client's past stands. `None` when its request ends with that.
    fn admit(&mut self, client: usize) -> Option<()> {
        if self.brain == Brain::PositionAlone {
            return Some(());
        }
        let Client { written, seen, .. } = self.clients[client];
        match self.view.judge(7, written, seen) {
            Verdict::Stands => Some(()),
            // The history is about to be read: the request waits.
            Verdict::Unprovable if self.grants => None,
            // Nobody may read it, and that is reported.
            Verdict::Unprovable => {
                self.tell_lost(client);
                Some(())
            }
            Verdict::Lost(kept) => {
                self.counts.lost += 1;
                self.tell_lost(client);
                let tip = Position {
                    timeline: self.view.timeline,
                    lsn: self.view.tip,
                };
                let client = &mut self.clients[client];
                (client.written, client.seen) = (kept, tip);
                None
            }
            Verdict::Foreign { .. } | Verdict::Implausible(_) => unreachable!("one cluster"),
        }
    }

    fn tell_lost(&mut self, client: usize) {
        let (world, newest) = (&self.world, self.view.timeline);
        for mark in &mut self.clients[client].marks {
            let place = Place {
                branch: mark.branch,
                lsn: mark.own,
            };
            let mut all = world.branches.iter().enumerate();
            mark.told |=
                all.any(|(branch, now)| now.timeline == newest && !world.kept(branch, place));
        }
    }

    fn write(&mut self) {
        let client = self.rng.usize(..CLIENTS);
        if self.admit(client).is_none() {
            return;
        }
        let needed = self.clients[client].need().timeline;
        let Some(index) = self.primary(needed) else {
            self.counts.refused += 1;
            return;
        };
        let timeline = self.world.timeline_of(index);
        let known = if self.brain == Brain::PositionAlone {
            0
        } else {
            needed
        };
        let disputed = self
            .heard
            .iter()
            .enumerate()
            .any(|(other, (seen, answers))| {
                let rival = |seen: &Sighting| !seen.in_recovery && seen.timeline == Some(timeline);
                other != index && *answers && seen.as_ref().is_some_and(rival)
            });
        let own_known = self.heard[index]
            .0
            .is_some_and(|seen| seen.timeline == Some(timeline));
        if timeline < self.newest.max(known) || (disputed && own_known) {
            self.counts.astray += 1;
        }
        let (bytes, time) = (self.rng.u64(1..100), self.millis());
        let place = self.world.write(index, bytes, time);
        self.counts.writes += 1;
        self.commits.push((place, self.now));
        let client = &mut self.clients[client];
        let at = Position {
            timeline,
            lsn: Lsn(place.lsn),
        };
        client.written = client.written.max(at);
        let mark = client.mark(place);
        mark.own = mark.own.max(place.lsn);
        mark.told = false;
    }

    fn read(&mut self) {
        let client = self.rng.usize(..CLIENTS);
        let consistency = match self.rng.u8(..6) {
            0 => Consistency::Bounded(Duration::from_millis(50)),
            1 => Consistency::Bounded(Duration::from_millis(500)),
            _ => Consistency::ReadYourWrites,
        };
        let own = consistency == Consistency::ReadYourWrites;
        if own && self.admit(client).is_none() {
            return;
        }
        let need = if own {
            self.clients[client].need()
        } else {
            Position::default()
        };
        let replica = self.replica(consistency, need);
        let Some(index) = replica.or_else(|| self.primary(need.timeline)) else {
            self.counts.refused += 1;
            return;
        };
        if replica.is_some() {
            self.counts.on_replicas += 1;
            self.counts.without_primary += u64::from(self.view.primary.is_err());
            self.check_phantom(index);
        } else {
            self.counts.on_primary += 1;
        }
        match consistency {
            Consistency::Bounded(bound) => self.check_bound(index, bound),
            _ => self.check_own(client, index),
        }
        self.saw(client, index);
    }

    fn replica(&mut self, consistency: Consistency, need: Position) -> Option<usize> {
        if let (Brain::CommitClock, Consistency::Bounded(bound)) = (self.brain, consistency) {
            return self.young_by_its_clock(bound);
        }
        if self.brain == Brain::PositionAlone {
            return self.far_enough_by_position(need);
        }
        let view = &self.view;
        let turn = self.rng.usize(..100);
        let mut order = Order::new(view, consistency, None, turn);
        while let Some(index) = order.next(self.now, |_| 0) {
            if view.proven(index, need) && self.connects(index, false) {
                return Some(index);
            }
        }
        let mut order = Order::new(view, consistency, None, turn);
        for _ in 0..order.waits().min(view.nodes.len()) {
            let index = order.next(self.now, |_| 0)?;
            if !self.connects(index, false) {
                continue;
            }
            let told = self.world.sighting(index);
            let timeline = told.timeline.or(view.nodes[index].timeline_at(told.lsn));
            let at = timeline.map(|timeline| Position {
                timeline,
                lsn: told.lsn,
            });
            let history = view.history.as_deref();
            let enough = at.is_some_and(|at| covers(need, at, history) == Cover::Yes);
            if enough {
                return Some(index);
            }
        }
        None
    }

    fn far_enough_by_position(&mut self, need: Position) -> Option<usize> {
        let first = self.any();
        let count = self.heard.len();
        (0..count).map(|step| (first + step) % count).find(|index| {
            let (seen, answers) = &self.heard[*index];
            let far = |seen: &Sighting| seen.in_recovery && seen.lsn >= need.lsn;
            *answers && seen.as_ref().is_some_and(far) && self.connects(*index, false)
        })
    }

    fn young_by_its_clock(&self, bound: Duration) -> Option<usize> {
        (0..self.world.servers.len()).find(|index| {
            let age = self
                .world
                .last_commit(*index)
                .map(|commit| self.millis() + self.world.servers[*index].skew - commit);
            self.connects(*index, false) && age.is_some_and(|age| age <= bound.as_millis() as i64)
        })
    }

    /// What a connection that is given back says of what it has shown.
    fn saw(&mut self, client: usize, index: usize) {
        let told = self.world.sighting(index);
        let known = self.view.nodes[index].timeline_at(told.lsn);
        // Where neither says it, what lies on its disk does.
        let disk = self.world.timeline_of(index);
        let timeline = told.timeline.or(known).unwrap_or(disk);
        let head = self.world.head(index);
        let at = Position {
            timeline,
            lsn: Lsn(head.lsn),
        };
        let client = &mut self.clients[client];
        client.seen = client.seen.max(at);
        let mark = client.mark(head);
        mark.seen = mark.seen.max(head.lsn);
    }

    /// Whether two branches of one number were both seen to be written, or could be: then nothing tells them apart.
    fn split(&self, branch: usize, other: usize) -> bool {
        let timeline = |branch: usize| self.world.branches[branch].timeline;
        let mut ways = self.world.way(branch);
        ways.any(|on| {
            let mut theirs = self.world.way(other);
            theirs.any(|their| on != their && timeline(on) == timeline(their))
        })
    }

    fn check_own(&mut self, client: usize, index: usize) {
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

    fn check_bound(&mut self, index: usize, bound: Duration) {
        let head = self.world.head(index);
        let before = |at: &Instant| self.now.saturating_duration_since(*at) > bound;
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

    fn check_phantom(&mut self, index: usize) {
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

    fn break_something(&mut self) {
        let index = self.any();
        let server = &mut self.world.servers[index];
        match self.rng.u8(..11) {
            0 => server.up = false,
            1 => server.frozen = true,
            2 => server.linked = false,
            3 => server.peered = false,
            4 => server.paused = server.standby,
            5 => server.skew = self.rng.i64(-20_000..20_000),
            6 => self.now += Duration::from_millis(self.rng.u64(..30_000)),
            7..=9 if server.standby && server.up && !server.frozen => {
                self.counts.promotions += 1;
                let unique = self.rng.u8(..4) > 0;
                self.world.promote(index, unique);
            }
            _ => {
                // Cut off from everybody, and on its own.
                (server.linked, server.peered) = (false, false);
            }
        }
    }

    fn mend_something(&mut self) {
        let index = self.any();
        let server = &mut self.world.servers[index];
        match self.rng.u8(..8) {
            0 if !server.up => self.world.start(index),
            1 => server.frozen = false,
            2 => (server.linked, server.peered) = (true, true),
            3 => server.paused = false,
            4 | 5 => {
                (server.frozen, server.linked, server.peered) = (false, true, true);
                if !server.up {
                    self.world.start(index);
                }
            }
            _ => {
                // As a manager does: those who are not the newest primary come to follow it.
                let newest = (0..self.world.servers.len())
                    .filter(|other| {
                        let other = &self.world.servers[*other];
                        !other.standby && other.up && other.peered
                    })
                    .max_by_key(|other| self.world.timeline_of(*other));
                if let Some(newest) = newest.filter(|newest| *newest != index) {
                    self.world.follow(index, newest);
                }
            }
        }
    }
}
