use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use ha_core::breaker::Permit;
use ha_core::endpoint::{Endpoint, Weight};
use ha_core::pick::{Cursor, Draw, Schedule};

use super::flight::{Changes, Flight, State};
use super::policy::{Kind, Policy};
use super::service::Control;
use crate::clock::Moment;
use crate::tried::Tried;

#[derive(Debug, Clone)]
pub(super) struct Member<S> {
    pub(super) endpoint: Endpoint,
    pub(super) state: Arc<State>,
    pub(super) service: S,
}

/// One set of endpoints, replaced as a whole.
#[derive(Debug)]
pub(super) struct Members<S> {
    // Those with a weight come first and are the ones that the draw and the schedule speak of.
    list: Vec<Member<S>>,
    // The states of those with a weight, in the same order and close together: the pick compares these alone.
    states: Box<[Arc<State>]>,
    draw: Draw,
    schedule: Schedule,
}

impl<S> Members<S> {
    pub(super) fn new(mut list: Vec<Member<S>>) -> Self {
        list.sort_by_key(|member| member.endpoint.weight == Weight::ZERO);
        let weights = || {
            list.iter()
                .map(|member| member.endpoint.weight)
                .take_while(|weight| *weight != Weight::ZERO)
        };
        Self {
            draw: Draw::new(weights()),
            schedule: Schedule::new(weights()),
            states: list
                .iter()
                .take(weights().count())
                .map(|member| member.state.clone())
                .collect(),
            list,
        }
    }

    pub(super) fn all(&self) -> &[Member<S>] {
        &self.list
    }
}

/// What all clones of a balancer share.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) members: ArcSwap<Members<S>>,
    pub(super) changes: Arc<Changes>,
    pub(super) control: Control,
    policy: Policy,
    measures: bool,
    cursor: Cursor,
    panic: AtomicBool,
}

// Pairs drawn before all are looked at one after the other. With half of all endpoints out, one pick in 4,000 gets there.
const PAIRS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Out,
    Open,
    Probe,
}

impl<S> Shared<S> {
    pub(super) fn new(
        members: Members<S>,
        policy: Policy,
        measures: bool,
        control: Control,
        changes: Arc<Changes>,
    ) -> Self {
        Self {
            members: ArcSwap::from_pointee(members),
            changes,
            control,
            policy,
            measures,
            cursor: Cursor::default(),
            panic: AtomicBool::new(false),
        }
    }

    pub(super) fn is_panicking(&self) -> bool {
        let members = self.members.load();
        self.panicking(&members)
    }

    fn panicking(&self, members: &Members<S>) -> bool {
        // Reading first keeps the line shared between cores.
        if self.changes.dirty.load(Ordering::Relaxed)
            && self.changes.dirty.swap(false, Ordering::AcqRel)
        {
            let (mut passing, mut closed) = (0usize, 0usize);
            for state in members.states.iter().filter(|state| state.is_healthy()) {
                passing += 1;
                closed += usize::from(state.breaker.is_closed());
            }
            let panic = closed * 2 < passing;
            if self.panic.swap(panic, Ordering::Relaxed) != panic {
                tracing::warn!(
                    panic,
                    passing,
                    closed,
                    "panic rule changed: breakers are ignored while it holds"
                );
            }
        }
        self.panic.load(Ordering::Relaxed)
    }

    /// Picks by the rules of the [module](super), and starts the flight.
    pub(super) fn pick<'a>(
        &self,
        members: &'a Members<S>,
        tried: Option<&Tried>,
        random: u64,
    ) -> Option<(&'a Member<S>, Flight)> {
        let now = Moment::default();
        let pick = Pick {
            members,
            now: &now,
            panic: self.panicking(members),
        };
        // An empty list of tried endpoints needs no second look.
        let tried = tried.filter(|tried| !tried.is_empty());
        let (index, permit) = match self.policy.0 {
            Kind::RoundRobin => pick.turn(&self.cursor, tried),
            kind => pick.best_of_two(kind, tried, random),
        }
        .or_else(|| pick.scan(tried, random))
        .or_else(|| tried.and_then(|_| pick.scan(None, random)))?;
        let started = self.measures.then(|| now.get());
        let flight = Flight::start(&members.states[index], permit, started);
        Some((&members.list[index], flight))
    }
}

struct Pick<'a, S> {
    members: &'a Members<S>,
    now: &'a Moment,
    panic: bool,
}

/// A position in the list, and the leave of its breaker. In panic there may be none.
type Picked = Option<(usize, Option<Permit>)>;

impl<S> Pick<'_, S> {
    fn state(&self, index: usize) -> &State {
        &self.members.states[index]
    }

    #[inline]
    fn rank(&self, index: usize, tried: Option<&Tried>) -> Rank {
        let state = self.state(index);
        if tried.is_none() && state.is_healthy() && state.breaker.is_closed() {
            return Rank::Open;
        }
        self.rank_of_doubtful(state, tried)
    }

    #[cold]
    fn rank_of_doubtful(&self, state: &State, tried: Option<&Tried>) -> Rank {
        if !state.is_healthy() || tried.is_some_and(|t| t.contains(&state.key)) {
            Rank::Out
        } else if state.breaker.is_closed() {
            Rank::Open
        } else if state.breaker.would_admit(self.now.get()) {
            Rank::Probe
        } else if self.panic {
            Rank::Open
        } else {
            Rank::Out
        }
    }

    fn admit(&self, index: usize) -> Picked {
        let breaker = &self.state(index).breaker;
        match breaker.try_admit_with(|| self.now.get()) {
            Ok(permit) => Some((index, Some(permit))),
            Err(_) if self.panic => Some((index, None)),
            Err(_) => None,
        }
    }

    fn best_of_two(&self, kind: Kind, tried: Option<&Tried>, mut random: u64) -> Picked {
        for _ in 0..PAIRS {
            let (a, b) = self.members.draw.two(random)?;
            let Some(b) = b else {
                return match self.rank(a, tried) {
                    Rank::Out => None,
                    _ => self.admit(a),
                };
            };
            let first = match (self.rank(a, tried), self.rank(b, tried)) {
                (Rank::Out, Rank::Out) => None,
                // There is only one probe at a time, and without it the endpoint never comes back.
                (Rank::Probe, _) | (_, Rank::Out) => Some(a),
                (_, Rank::Probe) | (Rank::Out, _) => Some(b),
                (Rank::Open, Rank::Open) => Some(self.cheaper(kind, a, b)),
            };
            // Another thread may have taken the probe since.
            if let Some(picked) = first.and_then(|index| self.admit(index)) {
                return Some(picked);
            }
            random = fastrand::u64(..);
        }
        None
    }

    fn cheaper(&self, kind: Kind, a: usize, b: usize) -> usize {
        let load = |index| &self.state(index).load;
        if kind == Kind::LeastRequest {
            let cost = |index| load(index).pending_cost(|| self.now.get());
            return if cost(b) < cost(a) { b } else { a };
        }
        if load(a).beats(load(b), self.now.get()) {
            a
        } else {
            b
        }
    }

    fn turn(&self, cursor: &Cursor, tried: Option<&Tried>) -> Picked {
        for _ in 0..self.members.schedule.len() {
            let index = self.members.schedule.next(cursor)?;
            if self.rank(index, tried) != Rank::Out
                && let Some(picked) = self.admit(index)
            {
                return Some(picked);
            }
        }
        None
    }

    fn scan(&self, tried: Option<&Tried>, random: u64) -> Picked {
        let n = self.members.states.len();
        let start = (random % n.max(1) as u64) as usize;
        (start..n)
            .chain(0..start)
            .filter(|index| self.rank(*index, tried) != Rank::Out)
            .find_map(|index| self.admit(index))
    }
}
