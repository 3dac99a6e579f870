//! Requests of clients, in steps between which everything may change: a node is chosen, a connection to it is lent, and used, maybe more
//! than once.

use std::time::{Duration, Instant};

use super::run::{Brain, CLIENTS, Client, Run};
use super::world::Place;
use crate::routing::history::{Cover, covers};
use crate::routing::lsn::{Lsn, Position};
use crate::routing::read::{Busy, Consistency, Known, Order};
use crate::routing::topology::Sighting;
use crate::routing::view::Verdict;

/// A connection: to which life of its server, and of which generation it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    life: i64,
    generation: u64,
    /// What its server was when it was made.
    standby: bool,
}

/// A node that was chosen for something, and by what knowledge.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen {
    write: bool,
    index: usize,
    /// As the primary, and not as a replica.
    primary: bool,
    generation: u64,
    epoch: u64,
    consistency: Consistency,
    at: Instant,
}

/// How far a client's request is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Stage {
    #[default]
    Idle,
    Chosen(Chosen),
    Lent(Chosen, Session),
}

impl Run {
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
        match self.view.judge(7, written, seen, Known::All) {
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

    /// Goes a step on with a client's request, or all of the way.
    pub(super) fn request(&mut self, write: bool) {
        let client = self.rng.usize(..CLIENTS);
        let chosen = match std::mem::take(&mut self.clients[client].stage) {
            Stage::Idle => {
                let chosen = if write {
                    self.choose_write(client)
                } else {
                    self.choose_read(client)
                };
                let Some(chosen) = chosen else { return };
                if self.rng.u8(..4) == 0 {
                    self.clients[client].stage = Stage::Chosen(chosen);
                    return;
                }
                chosen
            }
            Stage::Chosen(chosen) => chosen,
            Stage::Lent(chosen, session) => return self.work(client, chosen, session),
        };
        let Some(session) = self.connect(&chosen) else {
            self.counts.refused += 1;
            return;
        };
        if self.rng.u8(..4) == 0 {
            self.clients[client].stage = Stage::Lent(chosen, session);
            return;
        }
        self.work(client, chosen, session);
    }

    /// A connection of the chosen node, as the pools lend it: one that is there, or a new one that is what the view of now says of it;
    /// and either only to whom the node was chosen for in this generation.
    fn connect(&mut self, chosen: &Chosen) -> Option<Session> {
        let index = chosen.index;
        let generation = self.view.nodes[index].generation;
        self.pools[index].retain(|session| session.generation == generation);
        let session = match self.pools[index].pop() {
            // It keeps its server, whatever that has become; a life that has ended has closed it.
            Some(kept) => Some(kept).filter(|kept| self.is_open(index, *kept)),
            None => {
                let primary = match self.brain {
                    Brain::LastProbed => chosen.primary,
                    _ => self.view.primary == Ok(index),
                };
                let server = &self.world.servers[index];
                let made = Session {
                    life: server.started,
                    generation,
                    standby: server.standby,
                };
                Some(made).filter(|_| self.connects(index, primary))
            }
        }?;
        let any = matches!(self.brain, Brain::AnyLife | Brain::LastProbed);
        (session.generation == chosen.generation || any).then_some(session)
    }

    fn is_open(&self, index: usize, session: Session) -> bool {
        let server = &self.world.servers[index];
        server.answers() && server.started == session.life
    }

    /// Uses a connection that was lent, maybe some time ago.
    fn work(&mut self, client: usize, chosen: Chosen, session: Session) {
        let index = chosen.index;
        let cut = self.view.nodes[index].cut > session.generation;
        let cut = cut && !matches!(self.brain, Brain::KeepsLeases | Brain::LastProbed);
        if cut || !self.is_open(index, session) {
            self.counts.refused += 1;
            return;
        }
        if chosen.write && self.world.servers[index].standby {
            // The server refuses it.
            self.counts.refused += 1;
            return;
        }
        self.counts.on_kept += u64::from(self.view.epoch != chosen.epoch);
        let flipped = session.standby && !self.world.servers[index].standby;
        self.counts.on_flipped += u64::from(flipped && chosen.primary);
        if chosen.write {
            self.write(client, index);
        } else {
            self.read(client, &chosen);
        }
        if self.rng.u8(..4) == 0 {
            self.clients[client].stage = Stage::Lent(chosen, session);
        } else {
            self.pools[index].push(session);
        }
    }

    fn chosen(&self, write: bool, index: usize, consistency: Consistency) -> Chosen {
        let primary = match self.brain {
            Brain::LastProbed => self.last_primary == Some(index),
            _ => self.view.primary == Ok(index),
        };
        Chosen {
            write,
            index,
            primary,
            generation: self.view.nodes[index].generation,
            epoch: self.view.epoch,
            consistency,
            at: self.now,
        }
    }

    fn choose_write(&mut self, client: usize) -> Option<Chosen> {
        self.admit(client)?;
        let needed = self.clients[client].need().timeline;
        let Some(index) = self.primary(needed) else {
            self.counts.refused += 1;
            return None;
        };
        Some(self.chosen(true, index, Consistency::Strong))
    }

    fn write(&mut self, client: usize, index: usize) {
        let needed = self.clients[client].need().timeline;
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

    fn choose_read(&mut self, client: usize) -> Option<Chosen> {
        let consistency = match self.rng.u8(..6) {
            0 => Consistency::Bounded(Duration::from_millis(50)),
            1 => Consistency::Bounded(Duration::from_millis(500)),
            _ => Consistency::ReadYourWrites,
        };
        let own = consistency == Consistency::ReadYourWrites;
        if own {
            self.admit(client)?;
        }
        let need = if own {
            self.clients[client].need()
        } else {
            Position::default()
        };
        let replica = self.replica(consistency, need);
        let Some(index) = replica.or_else(|| self.primary(need.timeline)) else {
            self.counts.refused += 1;
            return None;
        };
        Some(self.chosen(false, index, consistency))
    }

    fn read(&mut self, client: usize, chosen: &Chosen) {
        let index = chosen.index;
        if chosen.primary {
            self.counts.on_primary += 1;
        } else {
            self.counts.on_replicas += 1;
            self.counts.without_primary += u64::from(self.view.primary.is_err());
            // Whoever was chosen before there was this primary could not be compared with it.
            if chosen.epoch == self.view.epoch {
                self.check_phantom(index);
            }
        }
        match chosen.consistency {
            Consistency::Bounded(bound) => self.check_bound(index, bound, chosen.at),
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
        while let Some(index) = order.next(self.now, |_| Busy::default()) {
            if view.proven(index, need) && self.connects(index, false) {
                return Some(index);
            }
        }
        let mut order = Order::new(view, consistency, None, turn);
        for _ in 0..order.waits().min(view.nodes.len()) {
            let index = order.next(self.now, |_| Busy::default())?;
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
}
