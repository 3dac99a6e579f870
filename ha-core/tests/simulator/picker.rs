use std::time::Instant;

use ha_core::endpoint::{EndpointKey, Weight};
use ha_core::hash::{Bound, Candidates, Maglev, MaglevConfig, Rendezvous, Ring, RingConfig};
use ha_core::load::PeakEwma;
use ha_core::pick::{Cursor, Draw, Schedule};
use ha_core::slow_start::TRIES;

use crate::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    RoundRobin,
    Random,
    LeastRequest,
    PeakEwma,
    Ring,
    Maglev,
    Rendezvous,
}

/// What a pick knows of the endpoints, by their positions.
pub(crate) trait View {
    fn load(&self, i: usize) -> &PeakEwma;
    fn is_available(&self, i: usize) -> bool;
    /// Whether slow start lets it take this one.
    fn accepts(&self, i: usize, random: &mut Random) -> bool;
}

/// One group's ways to pick.
pub(crate) struct Picker {
    policy: Policy,
    members: Vec<usize>,
    draw: Draw,
    schedule: Schedule,
    cursor: Cursor,
    table: Option<Table>,
    bound: Bound,
}

enum Table {
    Ring(Ring),
    Maglev(Maglev),
    Rendezvous(Rendezvous),
}

impl Table {
    fn new(policy: Policy, keys: &[(EndpointKey, Weight)]) -> Option<Self> {
        let keys = keys.iter().map(|(key, weight)| (key, *weight));
        Some(match policy {
            Policy::Ring => Self::Ring(Ring::new(&RingConfig::default(), keys).unwrap()),
            Policy::Maglev => Self::Maglev(Maglev::new(&MaglevConfig::default(), keys).unwrap()),
            Policy::Rendezvous => Self::Rendezvous(Rendezvous::new(keys).unwrap()),
            _ => return None,
        })
    }

    fn candidates(&self, hash: u64) -> Candidates<'_> {
        match self {
            Self::Ring(ring) => ring.candidates(hash),
            Self::Maglev(maglev) => maglev.candidates(hash),
            Self::Rendezvous(rendezvous) => rendezvous.candidates(hash),
        }
    }
}

impl Picker {
    pub(crate) fn new(
        policy: Policy,
        members: Vec<usize>,
        keys: &[(EndpointKey, Weight)],
        bound: f64,
    ) -> Self {
        let weights = || keys.iter().map(|(_, weight)| *weight);
        Self {
            policy,
            members,
            draw: Draw::new(weights()),
            schedule: Schedule::new(weights()),
            cursor: Cursor::default(),
            table: Table::new(policy, keys),
            bound: Bound::new(bound, weights()).unwrap(),
        }
    }

    /// An endpoint that is available, by the policy; whoever is available when that finds none.
    pub(crate) fn pick(
        &self,
        view: &impl View,
        hash: u64,
        now: Instant,
        random: &mut Random,
    ) -> Option<usize> {
        let picked = match self.policy {
            Policy::RoundRobin => self.by_turn(view, random),
            Policy::Random => self.by_chance(view, random),
            Policy::LeastRequest | Policy::PeakEwma => self.best_of_two(view, now, random),
            Policy::Ring | Policy::Maglev | Policy::Rendezvous => self.by_hash(view, hash),
        };
        picked.or_else(|| self.members.iter().copied().find(|i| view.is_available(*i)))
    }

    fn by_turn(&self, view: &impl View, random: &mut Random) -> Option<usize> {
        let mut last = None;
        for _ in 0..self.schedule.len() {
            let i = self.members[self.schedule.next(&self.cursor)?];
            if !view.is_available(i) {
                continue;
            }
            if view.accepts(i, random) {
                return Some(i);
            }
            last = Some(i);
        }
        last
    }

    fn by_chance(&self, view: &impl View, random: &mut Random) -> Option<usize> {
        let mut last = None;
        for _ in 0..TRIES {
            let i = self.members[self.draw.one(random.bits())?];
            if !view.is_available(i) {
                continue;
            }
            if view.accepts(i, random) {
                return Some(i);
            }
            last = Some(i);
        }
        last
    }

    fn best_of_two(&self, view: &impl View, now: Instant, random: &mut Random) -> Option<usize> {
        let mut last = None;
        for _ in 0..TRIES {
            let (a, b) = self.draw.two(random.bits())?;
            let [a, b] = [Some(a), b].map(|drawn| {
                let i = self.members[drawn?];
                view.is_available(i).then_some(i)
            });
            let [taken_a, taken_b] = [a, b].map(|i| i.filter(|i| view.accepts(*i, random)));
            match (taken_a, taken_b) {
                (Some(a), Some(b)) => return Some(self.cheaper(view, a, b, now)),
                (None, None) => last = a.or(b).or(last),
                (one, other) => return one.or(other),
            }
        }
        last
    }

    fn cheaper(&self, view: &impl View, a: usize, b: usize, now: Instant) -> usize {
        let wins = if self.policy == Policy::PeakEwma {
            view.load(a).beats(view.load(b), now)
        } else {
            view.load(a).has_fewer(view.load(b), || now)
        };
        if wins { a } else { b }
    }

    fn by_hash(&self, view: &impl View, hash: u64) -> Option<usize> {
        let in_flight = |i: &usize| view.load(*i).in_flight();
        let total: u32 = self.members.iter().map(in_flight).sum();
        let mut candidates = self.table.as_ref()?.candidates(hash);
        let found = candidates.find(|drawn| {
            let i = self.members[*drawn];
            view.is_available(i) && in_flight(&i) < self.bound.cap(*drawn, total + 1)
        });
        found.map(|drawn| self.members[drawn])
    }
}
