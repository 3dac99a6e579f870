use crate::sync::{AtomicU32, Ordering};

/// Counts what is under way against a limit. Lock-free: entering is one compare-and-swap, leaving one subtraction.
///
/// It also knows whether somebody waits, so that nobody who comes later overtakes them, and so that whoever leaves knows
/// that there is somebody to let in. The rule that makes no waiter be forgotten: who waits says so first ([`wait`](Self::wait)) and
/// then tries once more to enter; who leaves gives the place back first and then looks whether somebody waits.
#[derive(Debug)]
pub struct Places {
    limit: AtomicU32,
    in_flight: AtomicU32,
    waiting: AtomicU32,
}

// Sequentially consistent throughout: the rule above is two stores, each followed by a load of the other's word, which weaker
// orders may turn around.
const ORDER: Ordering = Ordering::SeqCst;

impl Places {
    /// So many places, all free.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: AtomicU32::new(limit),
            in_flight: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    /// Takes a place if one of the limit's, and of the first `cap`, is free and nobody waits; says how many are under way with
    /// this one.
    pub fn try_enter(&self, cap: u32) -> Option<u32> {
        if self.waiting.load(ORDER) > 0 {
            return None;
        }
        self.enter_for_waiter(cap)
    }

    /// Takes a place for one who waits.
    pub fn enter_for_waiter(&self, cap: u32) -> Option<u32> {
        let cap = self.limit.load(ORDER).min(cap);
        let mut now = self.in_flight.load(ORDER);
        while now < cap {
            match self
                .in_flight
                .compare_exchange_weak(now, now + 1, ORDER, ORDER)
            {
                Ok(_) => return Some(now + 1),
                Err(other) => now = other,
            }
        }
        None
    }

    /// Gives a place back; true when somebody waits, who has to be let in now.
    #[must_use = "who waits has to be let in"]
    pub fn leave(&self) -> bool {
        self.in_flight.fetch_sub(1, ORDER);
        self.waiting.load(ORDER) > 0
    }

    /// One more waits, and tries [`enter_for_waiter`](Self::enter_for_waiter) after this.
    pub fn wait(&self) {
        self.waiting.fetch_add(1, ORDER);
    }

    /// One waits no longer.
    pub fn stop_waiting(&self) {
        self.waiting.fetch_sub(1, ORDER);
    }

    /// Another limit. What is under way goes on, even beyond it.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, ORDER);
    }

    /// How many may be under way.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(ORDER)
    }

    /// How many are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(ORDER)
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(ORDER)
    }
}
