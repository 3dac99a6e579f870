//! Whether an endpoint may be used, in one word: what its checks say, whether it is ejected, whether it is on its way back.
//!
//! Guaranteed, in whatever order threads get there: who was out by any signal comes back by [`come_back`](Condition::come_back), once, and
//! not while it is out; a ramp that has begun is not taken for one that is over. A look that needs no more than
//! [`is_plain`](Condition::is_plain) costs one relaxed read.
//!
//! ```
//! use ha_core::condition::Condition;
//! use ha_core::health::State;
//!
//! let condition = Condition::new(true, 0);
//! assert!(condition.is_plain());
//! condition.set_health(State::Failing, false);
//! assert!(!condition.come_back(|| condition.is_healthy()), "it is still out");
//! condition.set_health(State::Passing, true);
//! assert!(condition.come_back(|| condition.is_healthy()));
//! assert!(!condition.come_back(|| condition.is_healthy()), "it is back");
//! ```

use crate::health::State;
use crate::sync::{AtomicU32, Ordering};

/// What the owner keeps in the same word: the upper half.
const OWNED: u32 = 16;

const HEALTH: u32 = 0b111;
/// By its active check.
const AVAILABLE: u32 = 1 << 3;
const EJECTED: u32 = 1 << 4;
const RAMPING: u32 = 1 << 5;
/// Was out by any signal, and has not begun its way back.
const WAS_OUT: u32 = 1 << 6;
/// What a pick looks at.
const PICK: u32 = AVAILABLE | EJECTED | RAMPING;

/// See the [module](self). Shared by reference.
#[derive(Debug)]
pub struct Condition(AtomicU32);

impl Condition {
    /// Unchecked and not ejected. `owned` is kept for the owner in the same word, so that reading it costs no other cache line.
    #[must_use]
    pub fn new(available: bool, owned: u16) -> Self {
        let available = if available { AVAILABLE } else { 0 };
        Self(AtomicU32::new(u32::from(owned) << OWNED | available))
    }

    #[inline]
    fn word(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether it may be used and nothing needs a second look.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.word() & PICK == AVAILABLE
    }

    /// What the owner keeps here.
    #[inline]
    #[must_use]
    pub fn owned(&self) -> u16 {
        (self.word() >> OWNED) as u16
    }

    /// Whether its active check lets it be used.
    #[inline]
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.word() & AVAILABLE != 0
    }

    /// What its active check has decided, or its own word.
    #[must_use]
    pub fn health(&self) -> State {
        decode(self.word())
    }

    /// Whether it is ejected.
    #[inline]
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.word() & EJECTED != 0
    }

    /// Whether it may still be ramping.
    #[inline]
    #[must_use]
    pub fn is_ramping(&self) -> bool {
        self.word() & RAMPING != 0
    }

    /// Takes what a check has decided, and says what was thought before. Of two that come at once, each is told what the other has
    /// left.
    pub fn set_health(&self, to: State, available: bool) -> State {
        let set = |word: u32| {
            let kept = word & !(HEALTH | AVAILABLE) | code(to);
            Some(kept | if available { AVAILABLE } else { WAS_OUT })
        };
        // Never refused.
        let (Ok(before) | Err(before)) =
            self.0
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, set);
        decode(before)
    }

    /// Takes what the ejector has decided.
    pub fn set_ejected(&self, ejected: bool) {
        if ejected {
            self.0.fetch_or(EJECTED | WAS_OUT, Ordering::AcqRel);
        } else {
            self.0.fetch_and(!EJECTED, Ordering::AcqRel);
        }
    }

    /// It is out by something that is kept elsewhere, which was written before this.
    pub fn went_out(&self) {
        self.0.fetch_or(WAS_OUT, Ordering::AcqRel);
    }

    /// Whether it was out and is back now, by `is_in`. True once for each time that it was out.
    pub fn come_back(&self, is_in: impl Fn() -> bool) -> bool {
        if self.word() & WAS_OUT == 0 || !is_in() {
            return false;
        }
        if self.0.fetch_and(!WAS_OUT, Ordering::AcqRel) & WAS_OUT == 0 {
            return false;
        }
        // It may have gone out again since, and then what it said of that is taken away.
        if is_in() {
            return true;
        }
        self.went_out();
        false
    }

    /// A ramp that was written before this has begun.
    pub fn begin_ramp(&self) {
        self.0.fetch_or(RAMPING, Ordering::AcqRel);
    }

    /// Looks at the ramp no more, if it `is_over`: another may have begun meanwhile.
    pub fn end_ramp(&self, is_over: impl Fn() -> bool) {
        self.0.fetch_and(!RAMPING, Ordering::AcqRel);
        if !is_over() {
            self.begin_ramp();
        }
    }
}

fn code(state: State) -> u32 {
    match state {
        State::Unchecked => 0,
        State::Passing => 1,
        State::Failing => 2,
        State::Draining => 3,
        State::RegionSick => 4,
    }
}

fn decode(word: u32) -> State {
    match word & HEALTH {
        1 => State::Passing,
        2 => State::Failing,
        3 => State::Draining,
        4 => State::RegionSick,
        _ => State::Unchecked,
    }
}

#[cfg(all(test, not(ha_loom)))]
mod tests {
    use super::*;

    const ALL: [State; 5] = [
        State::Unchecked,
        State::Passing,
        State::Failing,
        State::Draining,
        State::RegionSick,
    ];

    #[test]
    fn each_health_is_kept_beside_everything_else() {
        for owned in [0, 1, u16::MAX] {
            let condition = Condition::new(false, owned);
            condition.set_ejected(true);
            condition.begin_ramp();
            let mut before = State::Unchecked;
            for state in ALL {
                for available in [true, false] {
                    assert_eq!(condition.set_health(state, available), before);
                    before = state;
                    assert_eq!(condition.health(), state);
                    assert_eq!(condition.is_healthy(), available);
                    assert!(condition.is_ejected() && condition.is_ramping());
                    assert_eq!(condition.owned(), owned);
                }
            }
        }
    }

    #[test]
    fn plain_is_what_no_signal_speaks_against() {
        let condition = Condition::new(true, 7);
        assert!(condition.is_plain());
        condition.set_ejected(true);
        assert!(!condition.is_plain());
        condition.set_ejected(false);
        assert!(condition.is_plain());
        condition.begin_ramp();
        assert!(!condition.is_plain());
        condition.end_ramp(|| true);
        assert!(condition.is_plain());
        condition.set_health(State::Draining, false);
        assert!(!condition.is_plain());
        assert!(!Condition::new(false, 7).is_plain());
    }

    #[test]
    fn who_was_out_comes_back_once_and_not_before_it_is_in() {
        let is_in = |condition: &Condition| condition.is_healthy() && !condition.is_ejected();
        let condition = Condition::new(true, 0);
        let comes_back = || condition.come_back(|| is_in(&condition));
        assert!(!comes_back(), "it was never out");
        condition.set_ejected(true);
        condition.set_health(State::Failing, false);
        assert!(!comes_back());
        condition.set_ejected(false);
        assert!(!comes_back());
        condition.set_health(State::Passing, true);
        assert!(comes_back());
        assert!(!comes_back());
        condition.went_out();
        assert!(comes_back());
    }

    #[test]
    fn a_ramp_that_began_while_another_ended_goes_on() {
        let condition = Condition::new(true, 0);
        condition.begin_ramp();
        condition.end_ramp(|| false);
        assert!(condition.is_ramping());
    }
}

/// `RUSTFLAGS="--cfg ha_loom" cargo test -p ha-core --release --lib condition::loom`
#[cfg(all(test, ha_loom))]
mod loom {
    use ::loom::sync::Arc;
    use ::loom::thread;

    use super::*;

    /// With something beside it that keeps it out, as a breaker does.
    struct Bed {
        condition: Condition,
        open: AtomicU32,
        ramp: AtomicU32,
    }

    impl Bed {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                condition: Condition::new(true, 0),
                open: AtomicU32::new(0),
                ramp: AtomicU32::new(0),
            })
        }

        fn is_in(&self) -> bool {
            self.condition.is_healthy() && self.open.load(Ordering::Relaxed) == 0
        }

        fn comes_back(&self) -> bool {
            self.condition.come_back(|| self.is_in())
        }
    }

    /// Whatever puts it out while it comes back, it comes back again after that.
    fn goes_out_while_it_comes_back(out: fn(&Bed), back: fn(&Bed)) {
        ::loom::model(move || {
            let bed = Bed::new();
            bed.condition.went_out();
            let other = {
                let bed = bed.clone();
                thread::spawn(move || out(&bed))
            };
            bed.comes_back();
            other.join().unwrap();
            assert!(!bed.comes_back(), "it is out");
            back(&bed);
            assert!(bed.comes_back());
            assert!(!bed.comes_back());
        });
    }

    #[test]
    fn a_check_that_fails_while_it_comes_back_is_not_forgotten() {
        goes_out_while_it_comes_back(
            |bed| drop(bed.condition.set_health(State::Failing, false)),
            |bed| drop(bed.condition.set_health(State::Passing, true)),
        );
    }

    #[test]
    fn a_breaker_that_opens_while_it_comes_back_is_not_forgotten() {
        goes_out_while_it_comes_back(
            |bed| {
                bed.open.store(1, Ordering::Relaxed);
                bed.condition.went_out();
            },
            |bed| bed.open.store(0, Ordering::Relaxed),
        );
    }

    #[test]
    fn of_two_that_see_it_come_back_one_begins_its_ramp() {
        ::loom::model(|| {
            let bed = Bed::new();
            bed.condition.went_out();
            let other = {
                let bed = bed.clone();
                thread::spawn(move || bed.comes_back())
            };
            let mine = bed.comes_back();
            assert!(mine ^ other.join().unwrap());
        });
    }

    #[test]
    fn a_ramp_that_begins_while_another_ends_is_looked_at() {
        ::loom::model(|| {
            let bed = Bed::new();
            bed.condition.begin_ramp();
            let other = {
                let bed = bed.clone();
                thread::spawn(move || {
                    bed.ramp.store(1, Ordering::Relaxed);
                    bed.condition.begin_ramp();
                })
            };
            bed.condition
                .end_ramp(|| bed.ramp.load(Ordering::Relaxed) == 0);
            other.join().unwrap();
            assert!(bed.condition.is_ramping());
        });
    }

    #[test]
    fn two_checks_at_once_are_each_told_what_the_other_left() {
        ::loom::model(|| {
            let bed = Bed::new();
            let other = {
                let bed = bed.clone();
                thread::spawn(move || bed.condition.set_health(State::Draining, false))
            };
            let mine = bed.condition.set_health(State::Failing, false);
            let theirs = other.join().unwrap();
            let first = [
                (mine, theirs, State::Draining),
                (theirs, mine, State::Failing),
            ];
            let told = |(one, two, last): &(State, State, State)| {
                *one == State::Unchecked
                    && bed.condition.health() == *last
                    && *two != State::Unchecked
            };
            assert!(first.iter().any(told), "{mine:?} {theirs:?}");
        });
    }
}
