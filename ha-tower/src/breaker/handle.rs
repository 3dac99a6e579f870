use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ha_core::breaker::{Breaker, Rejected, Snapshot, State};

use super::Event;
use super::event::Listeners;
use crate::clock;

/// What all services of one layer have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) breaker: Breaker,
    pub(super) listeners: Listeners,
    pub(super) refused: AtomicU64,
}

impl Shared {
    /// Tells of a change that a call has made.
    #[cold]
    pub(super) fn changed(&self, state: State) {
        let event = match state {
            State::Open => {
                let now = clock::now();
                // A probe may have gone meanwhile, or somebody has closed it: that is told on its own.
                let Some(trip) = self.breaker.snapshot(now).tripped_by else {
                    return;
                };
                Event::Opened {
                    trip,
                    retry_in: self.breaker.open_for(now),
                }
            }
            State::HalfOpen => Event::HalfOpen,
            _ => Event::Closed,
        };
        self.listeners.tell(event);
    }

    #[cold]
    pub(super) fn refuse(&self, rejected: Rejected) -> Rejected {
        self.refused.fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        super::metrics::refused(&self.listeners.name);
        rejected
    }
}

/// Watches and steers a breaker. Clones are the same breaker.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) Arc<Shared>);

impl Handle {
    /// The name that stands in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.listeners.name
    }

    /// What it does and has counted.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.breaker.snapshot(clock::now())
    }

    /// How many calls it has refused since it was built.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Opens it until [`reset`](Self::reset) or [`force_closed`](Self::force_closed).
    pub fn force_open(&self) {
        self.0.breaker.force_open();
        self.0.listeners.tell(Event::Forced(State::Open));
    }

    /// Keeps it closed until [`reset`](Self::reset) or [`force_open`](Self::force_open).
    pub fn force_closed(&self) {
        self.0.breaker.force_closed();
        self.0.listeners.tell(Event::Forced(State::Closed));
    }

    /// Closes it and forgets what it counted and what was forced.
    pub fn reset(&self) {
        self.0.breaker.reset();
        self.0.listeners.tell(Event::Reset);
    }
}
