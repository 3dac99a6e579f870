use std::sync::Arc;

use ha_core::breaker::Permit;
use ha_core::hash::{Attempt, Bound, Refused, hash_key};
use ha_core::health;
use ha_core::pick::{Draw, Schedule};
use ha_core::slow_start::TRIES;
use ha_core::spread::Shares;

use super::State;
use super::fleet::{Ask, Group};
use super::policy::{Hashes, Table};
use crate::clock::Moment;

/// What a group makes exceptions of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode(pub(super) u8);

impl Mode {
    const PANIC: u8 = 1;
    const USES_SICK: u8 = 2;

    pub(super) fn of(shares: &Shares, group: usize) -> Self {
        let panic = if shares.is_panicking(group) {
            Self::PANIC
        } else {
            0
        };
        let sick = if shares.uses_sick(group) {
            Self::USES_SICK
        } else {
            0
        };
        Self(panic | sick)
    }

    fn panics(self) -> bool {
        self.0 & Self::PANIC != 0
    }

    fn uses_sick(self) -> bool {
        self.0 & Self::USES_SICK != 0
    }
}

/// Who was picked. Its permit is where the pick was told to put it: all that is returned on the hot path goes into registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice(u32);

impl Choice {
    const PLACED: u32 = 1 << 31;

    fn of(index: usize) -> Self {
        Self(index as u32)
    }

    fn placed(self) -> Self {
        Self(self.0 | Self::PLACED)
    }

    /// The position in the group.
    pub(super) fn index(self) -> usize {
        (self.0 & !Self::PLACED) as usize
    }

    /// Whether it is counted in flight already, there and in the lane.
    pub(super) fn has_place(self) -> bool {
        self.0 & Self::PLACED != 0
    }
}

/// Where the permit of who was picked goes. In panic there may be none.
pub(super) type Slot = Option<Permit>;

/// One look for an endpoint among those of a group.
pub(super) struct Pick<'a> {
    pub(super) group: &'a Group,
    pub(super) mode: Mode,
    pub(super) ask: &'a Ask<'a>,
    pub(super) now: &'a Moment,
}

// Pairs drawn before all are looked at one after the other. With half of all endpoints out, one pick in 4,000 gets there.
const PAIRS: u32 = 6;

// Walks under the exact bound before it is widened. A walk is not one step: others may have taken what the next one finds free.
const WALKS: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Out,
    /// Not now, because it ramps, but rather than nobody.
    Warming,
    Open,
    Probe,
}

impl<'a> Pick<'a> {
    /// Those that were tried are better than none.
    #[cold]
    #[inline(never)]
    pub(super) fn run_again(&self, slot: &mut Slot) -> Option<Choice> {
        self.ask.tried?;
        let ask = Ask {
            tried: None,
            ..*self.ask
        };
        let again = Pick {
            group: self.group,
            mode: self.mode,
            ask: &ask,
            now: self.now,
        };
        again.run(slot)
    }

    pub(super) fn run(&self, slot: &mut Slot) -> Option<Choice> {
        match &self.group.table {
            Table::PeakEwma(draw) => self.best_of_two(draw, slot, |a, b| self.costs_less(a, b)),
            Table::LeastRequest(draw) => self.best_of_two(draw, slot, |a, b| self.has_less(a, b)),
            Table::Random(draw) => self.any(draw, slot),
            Table::RoundRobin(schedule) => self.turn(schedule, slot),
            Table::Hashed { hashes, bound } => {
                // One without a key has a random one.
                let hash = self.ask.hash.unwrap_or(self.ask.random);
                return match bound {
                    None => self.preferred(hashes, hash, slot),
                    Some(bound) => self.bounded(hashes, bound, hash, slot),
                };
            }
        }
        .or_else(|| self.scan(slot))
    }

    fn state(&self, index: usize) -> &'a Arc<State> {
        &self.group.states[index]
    }

    #[inline]
    fn rank(&self, index: usize) -> Rank {
        let state = self.state(index);
        if self.ask.tried.is_none() && state.is_plain() {
            return Rank::Open;
        }
        self.rank_of_doubtful(state)
    }

    #[cold]
    fn rank_of_doubtful(&self, state: &State) -> Rank {
        let called_sick = || state.health() == health::State::RegionSick;
        let healthy = state.is_healthy() || self.mode.uses_sick() && called_sick();
        if !healthy || self.ask.tried.is_some_and(|t| t.contains(&state.key)) {
            return Rank::Out;
        }
        if state.is_ejected() && !self.mode.panics() {
            return Rank::Out;
        }
        if let Some(breaker) = state.breaker()
            && !breaker.is_closed()
        {
            return if breaker.would_admit(self.now.get()) {
                Rank::Probe
            } else if self.mode.panics() {
                Rank::Open
            } else {
                Rank::Out
            };
        }
        if state.accepts(|| self.now.get(), || self.coin()) {
            Rank::Open
        } else {
            Rank::Warming
        }
    }

    /// The same for each look at a key, so that a key which has come to a ramping endpoint stays there.
    fn coin(&self) -> u64 {
        match self.ask.hash {
            Some(hash) => hash_key(&(!hash).to_le_bytes()),
            None => fastrand::u64(..),
        }
    }

    #[inline]
    fn admit(&self, index: usize, slot: &mut Slot) -> Option<Choice> {
        let breaker = self.state(index).breaker();
        *slot = match breaker.map(|breaker| breaker.try_admit_with(|| self.now.get())) {
            Some(Ok(permit)) => Some(permit),
            None => None,
            Some(Err(_)) if self.mode.panics() => None,
            Some(Err(_)) => return None,
        };
        Some(Choice::of(index))
    }

    #[inline]
    fn best_of_two(
        &self,
        draw: &Draw,
        slot: &mut Slot,
        better: impl Fn(usize, usize) -> bool,
    ) -> Option<Choice> {
        let mut random = self.ask.random;
        for _ in 0..PAIRS {
            let (a, b) = draw.two(random)?;
            // The only one needs no comparison, and there is nobody to take its place while it ramps.
            let Some(b) = b else {
                return match self.rank(a) {
                    Rank::Out => None,
                    _ => self.admit(a, slot),
                };
            };
            let first = match (self.rank(a), self.rank(b)) {
                (Rank::Open, Rank::Open) => Some(if better(a, b) { a } else { b }),
                // There is only one probe at a time, and without it the endpoint never comes back.
                (Rank::Probe, _) => Some(a),
                (_, Rank::Probe) => Some(b),
                (Rank::Open, _) => Some(a),
                (_, Rank::Open) => Some(b),
                _ => None,
            };
            // Another thread may have taken the probe since.
            if let Some(choice) = first.and_then(|index| self.admit(index, slot)) {
                return Some(choice);
            }
            random = fastrand::u64(..);
        }
        None
    }

    fn costs_less(&self, a: usize, b: usize) -> bool {
        let load = |index| &self.state(index).load;
        load(a).beats(load(b), self.now.get())
    }

    fn has_less(&self, a: usize, b: usize) -> bool {
        let load = |index| &self.state(index).load;
        load(a).has_fewer(load(b), || self.now.get())
    }

    fn any(&self, draw: &Draw, slot: &mut Slot) -> Option<Choice> {
        let mut random = self.ask.random;
        for _ in 0..TRIES {
            let index = draw.one(random)?;
            if matches!(self.rank(index), Rank::Open | Rank::Probe)
                && let Some(choice) = self.admit(index, slot)
            {
                return Some(choice);
            }
            random = fastrand::u64(..);
        }
        None
    }

    fn turn(&self, schedule: &Schedule, slot: &mut Slot) -> Option<Choice> {
        let mut warming = 0;
        for _ in 0..schedule.len() {
            let index = schedule.next(&self.group.lane.cursor)?;
            match self.rank(index) {
                Rank::Out => continue,
                Rank::Warming if warming < TRIES => warming += 1,
                _ => {
                    if let Some(choice) = self.admit(index, slot) {
                        return Some(choice);
                    }
                }
            }
        }
        None
    }

    /// Anyone from a random place on, for when draws have found nobody.
    #[cold]
    fn scan(&self, slot: &mut Slot) -> Option<Choice> {
        let n = self.group.states.len();
        let start = (self.ask.random % n.max(1) as u64) as usize;
        let all = || (start..n).chain(0..start);
        self.first_of(all(), slot)
    }

    /// The first that is not out. One that ramps only when there is no other.
    fn first_of(
        &self,
        order: impl Iterator<Item = usize> + Clone,
        slot: &mut Slot,
    ) -> Option<Choice> {
        let ready = |index: &usize| matches!(self.rank(*index), Rank::Open | Rank::Probe);
        let not_out = |index: &usize| self.rank(*index) != Rank::Out;
        let mut admit = |i| self.admit(i, slot);
        let first = order.clone().filter(ready).find_map(&mut admit);
        first.or_else(|| order.filter(not_out).find_map(admit))
    }

    fn preferred(&self, hashes: &Hashes, hash: u64, slot: &mut Slot) -> Option<Choice> {
        let first = hashes.pick(hash)?;
        if self.rank(first) == Rank::Open
            && let Some(choice) = self.admit(first, slot)
        {
            return Some(choice);
        }
        self.first_of(hashes.candidates(hash), slot)
    }

    fn bounded(
        &self,
        hashes: &Hashes,
        bound: &Bound,
        hash: u64,
        slot: &mut Slot,
    ) -> Option<Choice> {
        let total = &self.group.lane.in_flight;
        let order = || hashes.candidates(hash);
        let mut taken = None;
        for _ in 0..WALKS {
            let attempt = |i, cap| self.take_place(i, cap, false, slot, &mut taken);
            match bound.take(total, order(), attempt) {
                Ok(_) => return taken,
                Err(Refused::Full) => {}
                Err(_) => break,
            }
        }
        // With part of the weight out there may not be room for all within the bound.
        for warming in [false, true] {
            let attempt = |i, cap| self.take_place(i, cap, warming, slot, &mut taken);
            if bound.take_widening(total, order(), attempt).is_ok() {
                return taken;
            }
        }
        None
    }

    fn take_place(
        &self,
        index: usize,
        cap: u32,
        warming: bool,
        slot: &mut Slot,
        taken: &mut Option<Choice>,
    ) -> Attempt {
        match self.rank(index) {
            Rank::Out => return Attempt::Unavailable,
            Rank::Warming if !warming => return Attempt::Unavailable,
            _ => {}
        }
        let load = &self.state(index).load;
        if !load.try_start(cap) {
            return Attempt::Full;
        }
        match self.admit(index, slot) {
            Some(choice) => {
                *taken = Some(choice.placed());
                Attempt::Taken
            }
            None => {
                load.finish();
                Attempt::Unavailable
            }
        }
    }
}
