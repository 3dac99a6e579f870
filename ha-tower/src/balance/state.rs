use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ha_core::breaker::{self, Breaker};
use ha_core::endpoint::EndpointKey;
use ha_core::health;
use ha_core::load::PeakEwma;
use ha_core::outlier::{Counters, Outcome};
use ha_core::slow_start::Ramp;
use ha_core::spread::Standing;

use super::Event;
use super::changes::{Changes, lock};

/// What is learned about one endpoint. Belongs to its key and outlives a re-discovery.
// Among thousands of endpoints the cost of a pick is its cache misses: in this order and alignment all that a look at a candidate
// reads is one line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct State {
    pub(crate) load: PeakEwma,
    flags: AtomicU32,
    breaker: Breaker,
    pub(crate) key: EndpointKey,
    // None when nothing is counted for outlier ejection.
    pub(super) counters: Option<Arc<Counters>>,
    // None when slow start is off.
    ramp: Option<Ramp>,
    picks: AtomicU64,
    // Until when its word that it drains holds, while no check tells.
    leaves_until: Mutex<Option<Instant>>,
    changes: Arc<Changes>,
}

const HEALTH: u32 = 0b111;
/// By its active check.
const AVAILABLE: u32 = 1 << 3;
const EJECTED: u32 = 1 << 4;
const RAMPING: u32 = 1 << 5;
/// Was out by any signal, and has not begun its way back.
const WAS_OUT: u32 = 1 << 6;
/// Has counters. They themselves are in another line.
const COUNTED: u32 = 1 << 7;
/// Its breaker wants to know how long calls take.
const TIMES_CALLS: u32 = 1 << 9;
/// Goes without its breaker.
const UNGUARDED: u32 = 1 << 8;
/// What a pick looks at.
const PICK: u32 = AVAILABLE | EJECTED | RAMPING;

/// How long the word of an endpoint that drains holds where no active check tells when it is over.
const LEFT_FOR: Duration = Duration::from_secs(30);

fn code(state: health::State) -> u32 {
    match state {
        health::State::Passing => 1,
        health::State::Failing => 2,
        health::State::Draining => 3,
        health::State::RegionSick => 4,
        _ => 0,
    }
}

fn decode(flags: u32) -> health::State {
    match flags & HEALTH {
        1 => health::State::Passing,
        2 => health::State::Failing,
        3 => health::State::Draining,
        4 => health::State::RegionSick,
        _ => health::State::Unchecked,
    }
}

impl State {
    pub(super) fn new(
        key: EndpointKey,
        breaker: Breaker,
        load: PeakEwma,
        available: bool,
        counters: Option<Arc<Counters>>,
        ramp: Option<Ramp>,
        changes: Arc<Changes>,
    ) -> Self {
        let mut flags = if available { AVAILABLE } else { 0 };
        if counters.is_some() {
            flags |= COUNTED;
        }
        if breaker.slow_after().is_some() {
            flags |= TIMES_CALLS;
        }
        Self {
            load,
            flags: AtomicU32::new(flags),
            breaker,
            key,
            counters,
            ramp,
            picks: AtomicU64::new(0),
            leaves_until: Mutex::new(None),
            changes,
        }
    }

    fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Without a breaker from now on.
    pub(super) fn unguarded(self) -> Self {
        self.flags.fetch_or(UNGUARDED, Ordering::Relaxed);
        self
    }

    /// Its breaker, if it goes by one.
    #[inline]
    pub(crate) fn breaker(&self) -> Option<&Breaker> {
        (self.flags() & UNGUARDED == 0).then_some(&self.breaker)
    }

    /// What its breaker does; without one, let everything through.
    pub(crate) fn breaker_state(&self, now: Instant) -> breaker::State {
        let breaker = self.breaker();
        breaker.map_or(breaker::State::Closed, |breaker| breaker.state(now))
    }

    #[inline]
    pub(super) fn times_calls(&self) -> bool {
        self.flags() & TIMES_CALLS != 0
    }

    /// Whether nothing needs a second look.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.flags() & PICK == AVAILABLE && self.breaker.is_closed()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.flags() & AVAILABLE != 0
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.flags() & EJECTED != 0
    }

    pub(crate) fn health(&self) -> health::State {
        decode(self.flags())
    }

    /// Takes what an active check has decided.
    pub(crate) fn set_health(&self, state: health::State, available: bool) {
        *self.leaves_until() = None;
        self.change_health(state, available);
    }

    fn change_health(&self, to: health::State, available: bool) {
        let set = |flags: u32| {
            let kept = flags & !(HEALTH | AVAILABLE) | code(to);
            Some(kept | if available { AVAILABLE } else { WAS_OUT })
        };
        let order = Ordering::Relaxed;
        // Never refused. A check and a response that drains may come at once, and each tells what it has changed.
        let (Ok(before) | Err(before)) = self.flags.fetch_update(order, order, set);
        let from = decode(before);
        self.changes.check_changed(&self.key, from, to);
        self.changes.mark();
        if from != to {
            self.changes.tell(|| Event::Health {
                endpoint: self.key.clone(),
                from,
                to,
            });
        }
    }

    /// Said in a response that it drains.
    #[cold]
    pub(super) fn leave(&self, now: Instant) {
        let health = self.health();
        if health == health::State::Draining {
            return;
        }
        let checked = health != health::State::Unchecked || !self.is_healthy();
        *self.leaves_until() = (!checked).then(|| now + LEFT_FOR);
        self.change_health(health::State::Draining, false);
    }

    fn leaves_until(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.leaves_until)
    }

    pub(super) fn set_ejected(&self, ejected: bool) {
        if ejected {
            self.flags.fetch_or(EJECTED | WAS_OUT, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!EJECTED, Ordering::Relaxed);
        }
        self.changes.mark();
    }

    pub(super) fn breaker_changed(&self, state: breaker::State) {
        if state == breaker::State::Open {
            self.flags.fetch_or(WAS_OUT, Ordering::Relaxed);
        }
        self.changes.mark();
        self.changes.tell(|| Event::Breaker {
            endpoint: self.key.clone(),
            state,
        });
    }

    #[inline]
    pub(super) fn count(&self, outcome: Outcome) {
        if self.flags() & COUNTED != 0
            && let Some(counters) = &self.counters
            && counters.record(outcome)
        {
            self.changes.wake_ejector();
        }
    }

    pub(super) fn picked(&self) {
        self.picks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        if !self.is_healthy() {
            return if self.health() == health::State::RegionSick {
                Standing::RegionSick
            } else {
                Standing::Failing
            };
        }
        if self.is_ejected() || self.breaker_state(now) == breaker::State::Open {
            Standing::Suspect
        } else {
            Standing::Available
        }
    }

    pub(crate) fn is_available(&self, now: Instant) -> bool {
        self.is_healthy()
            && !self.is_ejected()
            && self
                .breaker()
                .is_none_or(|breaker| breaker.would_admit(now))
    }

    /// When its ejection ends.
    pub(crate) fn ejected_until(&self) -> Option<Instant> {
        self.changes.ejected_until(&self.key)
    }

    /// What its weight is multiplied by now, because it is new or back.
    pub(crate) fn ramp_factor(&self, now: Instant) -> f64 {
        self.ramp.as_ref().map_or(1.0, |ramp| ramp.factor(now))
    }

    pub(super) fn begin_new(&self, now: Instant) {
        if let Some(ramp) = &self.ramp {
            ramp.begin_new(now);
            self.flags.fetch_or(RAMPING, Ordering::Relaxed);
        }
    }

    /// Whether a draw of it is to be taken although it ramps. `random` is asked for only while it does.
    pub(super) fn accepts(
        &self,
        now: impl FnOnce() -> Instant,
        random: impl FnOnce() -> u64,
    ) -> bool {
        match &self.ramp {
            Some(ramp) if self.flags() & RAMPING != 0 => {
                let now = now();
                if ramp.factor(now) >= 1.0 {
                    self.flags.fetch_and(!RAMPING, Ordering::Relaxed);
                    // It may have come back once more meanwhile.
                    if ramp.factor(now) < 1.0 {
                        self.flags.fetch_or(RAMPING, Ordering::Relaxed);
                    }
                    return true;
                }
                ramp.accepts(now, random())
            }
            _ => true,
        }
    }

    /// Does what the time that has passed asks for, and says when to ask again.
    pub(super) fn refresh(&self, now: Instant) -> Option<Instant> {
        let until = *self.leaves_until();
        let left = until.filter(|until| now < *until);
        if until.is_some() && left.is_none() {
            self.set_health(health::State::Unchecked, true);
        }
        let opens = self.breaker().and_then(|breaker| breaker.open_for(now));
        let opens = opens.map(|wait| now + wait);
        if self.standing(now) == Standing::Available && self.flags() & WAS_OUT != 0 {
            self.come_back(now);
        }
        left.into_iter().chain(opens).min()
    }

    fn come_back(&self, now: Instant) {
        self.flags.fetch_and(!WAS_OUT, Ordering::Relaxed);
        if let Some(ramp) = &self.ramp {
            ramp.begin_recovered(now);
            self.flags.fetch_or(RAMPING, Ordering::Relaxed);
        }
    }
}
