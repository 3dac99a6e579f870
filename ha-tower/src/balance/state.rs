use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ha_core::breaker::{self, Breaker};
use ha_core::condition::Condition;
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
    condition: Condition,
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

/// Has counters. They themselves are in another line.
const COUNTED: u16 = 1;
/// Its breaker wants to know how long calls take.
const TIMES_CALLS: u16 = 1 << 1;
/// Goes without its breaker.
const UNGUARDED: u16 = 1 << 2;

/// How long the word of an endpoint that drains holds where no active check tells when it is over.
const LEFT_FOR: Duration = Duration::from_secs(30);

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
        let when = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags =
            when(counters.is_some(), COUNTED) | when(breaker.slow_after().is_some(), TIMES_CALLS);
        Self {
            load,
            condition: Condition::new(available, flags),
            breaker,
            key,
            counters,
            ramp,
            picks: AtomicU64::new(0),
            leaves_until: Mutex::new(None),
            changes,
        }
    }

    /// Without a breaker, as if it were new.
    pub(super) fn unguarded(mut self) -> Self {
        let owned = self.condition.owned() | UNGUARDED;
        self.condition = Condition::new(self.is_healthy(), owned);
        self
    }

    /// Its breaker, if it goes by one.
    #[inline]
    pub(crate) fn breaker(&self) -> Option<&Breaker> {
        (self.condition.owned() & UNGUARDED == 0).then_some(&self.breaker)
    }

    /// What its breaker does; without one, let everything through.
    pub(crate) fn breaker_state(&self, now: Instant) -> breaker::State {
        let breaker = self.breaker();
        breaker.map_or(breaker::State::Closed, |breaker| breaker.state(now))
    }

    #[inline]
    pub(super) fn times_calls(&self) -> bool {
        self.condition.owned() & TIMES_CALLS != 0
    }

    /// Whether nothing needs a second look.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.condition.is_plain() && self.breaker.is_closed()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.condition.is_healthy()
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.condition.is_ejected()
    }

    pub(crate) fn health(&self) -> health::State {
        self.condition.health()
    }

    /// Takes what an active check has decided.
    pub(crate) fn set_health(&self, state: health::State, available: bool) {
        *self.leaves_until() = None;
        self.change_health(state, available);
    }

    fn change_health(&self, to: health::State, available: bool) {
        // A check and a response that drains may come at once, and each tells what it has changed.
        let from = self.condition.set_health(to, available);
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
        self.condition.set_ejected(ejected);
        self.changes.mark();
    }

    pub(super) fn breaker_changed(&self, state: breaker::State) {
        if state == breaker::State::Open {
            self.condition.went_out();
        }
        self.changes.mark();
        self.changes.tell(|| Event::Breaker {
            endpoint: self.key.clone(),
            state,
        });
    }

    #[inline]
    pub(super) fn count(&self, outcome: Outcome) {
        if self.condition.owned() & COUNTED != 0
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
            self.condition.begin_ramp();
        }
    }

    /// Whether a draw of it is to be taken although it ramps. `random` is asked for only while it does.
    pub(super) fn accepts(
        &self,
        now: impl FnOnce() -> Instant,
        random: impl FnOnce() -> u64,
    ) -> bool {
        match &self.ramp {
            Some(ramp) if self.condition.is_ramping() => {
                let now = now();
                if ramp.factor(now) >= 1.0 {
                    // It may have come back once more meanwhile.
                    self.condition.end_ramp(|| ramp.factor(now) >= 1.0);
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
        let is_in = || self.standing(now) == Standing::Available;
        if self.condition.come_back(is_in)
            && let Some(ramp) = &self.ramp
        {
            ramp.begin_recovered(now);
            self.condition.begin_ramp();
        }
        left.into_iter().chain(opens).min()
    }
}
