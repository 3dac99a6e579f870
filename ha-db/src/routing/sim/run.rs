//! Clients of the simulated store, served by the rules or by a naive way, and a check of what each of them sees.

use std::time::{Duration, Instant};

use super::counts::Counts;
use super::requests::{Session, Stage};
use super::world::{Place, World};
use crate::routing::lsn::Position;
use crate::routing::role::NoPrimary;
use crate::routing::topology::{Rules, Sighting, Topology};
use crate::routing::view::View;

pub(super) const CLIENTS: usize = 6;

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
    /// What was lent stays lent, whatever its node has become.
    KeepsLeases,
    /// A connection is good for whoever chose its node, in whatever life that was.
    AnyLife,
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    Idle,
    Asked(Instant),
    Answered(Instant, Option<Sighting>),
}

/// What a client wrote and saw on one branch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) branch: usize,
    pub(super) own: u64,
    pub(super) seen: u64,
    pub(super) told: bool,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Client {
    pub(super) written: Position,
    pub(super) seen: Position,
    pub(super) marks: Vec<Mark>,
    pub(super) stage: Stage,
}

impl Client {
    pub(super) fn need(&self) -> Position {
        self.written.max(self.seen)
    }

    pub(super) fn mark(&mut self, place: Place) -> &mut Mark {
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
    pub(super) brain: Brain,
    pub(super) rng: fastrand::Rng,
    pub(super) world: World,
    topology: Topology,
    pub(super) view: View,
    probes: Vec<Probe>,
    /// What each node was last heard to be, and whether it still answers.
    pub(super) heard: Vec<(Option<Sighting>, bool)>,
    pub(super) last_primary: Option<usize>,
    pub(super) newest: u32,
    pub(super) clients: Vec<Client>,
    /// Idle connections of each node.
    pub(super) pools: Vec<Vec<Session>>,
    /// What was committed through the router: where, and when.
    pub(super) commits: Vec<(Place, Instant)>,
    pub(super) grants: bool,
    start: Instant,
    pub(super) now: Instant,
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
            pools: vec![Vec::new(); servers],
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
                500..650 => self.request(true),
                650..980 => self.request(false),
                980..986 => self.break_something(),
                _ => self.mend_something(),
            }
        }
    }

    pub(super) fn millis(&self) -> i64 {
        (self.now - self.start).as_millis() as i64
    }

    pub(super) fn any(&mut self) -> usize {
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
            0 if !server.up => self.start(index),
            1 => server.frozen = false,
            2 => (server.linked, server.peered) = (true, true),
            3 => server.paused = false,
            4 | 5 => {
                (server.frozen, server.linked, server.peered) = (false, true, true);
                if !server.up {
                    self.start(index);
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

    /// A standby may show less than before, until it has replayed again what it has.
    fn start(&mut self, index: usize) {
        let behind = self.rng.u64(..300);
        self.world.start(index, behind);
    }
}
