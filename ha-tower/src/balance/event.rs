use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use ha_core::breaker;
use ha_core::endpoint::EndpointKey;
use ha_core::health;
use ha_core::outlier::{Cause, ReturnCause};

/// What changed in a balancer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The set of endpoints was replaced.
    Updated {
        /// Those that were not there before, in order.
        added: Vec<EndpointKey>,
        /// Those that get no more requests, in order.
        removed: Vec<EndpointKey>,
        /// How many there are now.
        total: usize,
    },
    /// What is thought of an endpoint by its active check, or by its own word that it drains.
    Health {
        /// Which.
        endpoint: EndpointKey,
        /// What was thought before.
        from: health::State,
        /// What is thought now.
        to: health::State,
    },
    /// A breaker has opened or closed. It becomes half-open by the passing of time, of which nothing tells.
    Breaker {
        /// Whose.
        endpoint: EndpointKey,
        /// What it does now.
        state: breaker::State,
    },
    /// An endpoint is ejected for what its requests said.
    Ejected {
        /// Which.
        endpoint: EndpointKey,
        /// Why.
        cause: Cause,
        /// When its time is over.
        until: Instant,
        /// How many times longer than the first ejection.
        times: u32,
    },
    /// An ejection has ended.
    Returned {
        /// Whose.
        endpoint: EndpointKey,
        /// Why.
        cause: ReturnCause,
    },
    /// Panic began or ended somewhere: breakers and ejections are ignored while it holds.
    Panic {
        /// Whether any group of endpoints that takes traffic panics now.
        active: bool,
    },
    /// No endpoint stands in the region that the caller named as its own; the name is likely misspelt.
    LocalRegionUnknown {
        /// The name.
        region: Arc<str>,
    },
}

#[derive(Clone)]
pub(crate) struct Listener(Arc<dyn Fn(&Event) + Send + Sync>);

impl Listener {
    pub(crate) fn new(listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// Those who want to know, with the name that stands in the log.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) upstream: Arc<str>,
    pub(super) all: Vec<Listener>,
}

impl Listeners {
    pub(super) fn tell(&self, event: &Event) {
        self.log(event);
        #[cfg(feature = "metrics")]
        super::metrics::record(&self.upstream, event);
        for listener in &self.all {
            // It must take neither the request with it nor the task that told.
            if catch_unwind(AssertUnwindSafe(|| (listener.0)(event))).is_err() {
                crate::trace::error!(upstream = %self.upstream, "a listener of balancer events panicked");
            }
        }
    }

    fn log(&self, event: &Event) {
        let upstream = &*self.upstream;
        match event {
            Event::Updated {
                added,
                removed,
                total,
            } => {
                let (added, removed) = (added.len(), removed.len());
                crate::trace::debug!(upstream, added, removed, total, "balancer updated");
            }
            Event::Health { endpoint, from, to } => {
                crate::trace::debug!(upstream, %endpoint, ?from, ?to, "balancer heard of health");
            }
            Event::Breaker { endpoint, state } => {
                crate::trace::info!(upstream, %endpoint, ?state, "circuit breaker changed");
            }
            Event::Ejected {
                endpoint,
                cause,
                times,
                ..
            } => crate::trace::warn!(upstream, %endpoint, ?cause, times, "endpoint ejected"),
            Event::Returned { endpoint, cause } => {
                crate::trace::info!(upstream, %endpoint, ?cause, "endpoint no longer ejected");
            }
            Event::Panic { active } => {
                crate::trace::warn!(upstream, active, "panic rule changed");
            }
            Event::LocalRegionUnknown { region } => {
                crate::trace::warn!(upstream, %region, "no endpoint in the caller's region");
            }
        }
    }
}
