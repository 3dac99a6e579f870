use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use ha_core::breaker::{State, Trip};

/// What has happened to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It has opened.
    Opened {
        /// Why.
        trip: Trip,
        /// How long nothing goes through.
        retry_in: Option<Duration>,
    },
    /// The first probe since it was open is on its way.
    HalfOpen,
    /// Enough probes have succeeded.
    Closed,
    /// Somebody has forced it open or closed.
    Forced(State),
    /// Somebody has reset it: it is closed and counts anew.
    Reset,
}

impl Event {
    /// What the breaker does from now on.
    #[must_use]
    pub fn state(&self) -> State {
        match self {
            Self::Opened { .. } => State::Open,
            Self::HalfOpen => State::HalfOpen,
            Self::Closed | Self::Reset => State::Closed,
            Self::Forced(state) => *state,
        }
    }
}

type Listener = dyn Fn(&Event) + Send + Sync;

/// Those who want to know, with the name that stands in the log.
pub(super) struct Listeners {
    pub(super) name: Arc<str>,
    pub(super) all: Vec<Arc<Listener>>,
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners")
            .field("name", &self.name)
            .field("listeners", &self.all.len())
            .finish()
    }
}

impl Listeners {
    pub(super) fn tell(&self, event: Event) {
        self.log(event);
        #[cfg(feature = "metrics")]
        super::metrics::changed(&self.name, &event);
        for listener in &self.all {
            // It must not take the request with it.
            if catch_unwind(AssertUnwindSafe(|| listener(&event))).is_err() {
                crate::trace::error!(breaker = %self.name, "a listener of breaker events panicked");
            }
        }
    }

    fn log(&self, event: Event) {
        let breaker = &*self.name;
        let state = event.state();
        match event {
            Event::Opened { trip, retry_in } => {
                crate::trace::warn!(breaker, ?state, ?trip, ?retry_in, "circuit breaker changed");
            }
            Event::Forced(_) | Event::Reset => {
                crate::trace::warn!(breaker, ?state, ?event, "circuit breaker changed by hand");
            }
            Event::HalfOpen | Event::Closed => {
                crate::trace::info!(breaker, ?state, "circuit breaker changed");
            }
        }
    }
}
