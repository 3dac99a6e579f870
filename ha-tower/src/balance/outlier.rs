use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use ha_core::config::ConfigError;
use ha_core::endpoint::EndpointKey;
use ha_core::health;
use ha_core::outlier::{Change, Config, Counters, Outliers};
use tokio::sync::Notify;

use super::changes::{Changes, lock};
use super::{Event, State};
use crate::clock;

/// Ejects endpoints by what requests say of them. Decides nothing between two sweeps.
pub(super) struct Ejector {
    config: Config,
    sweep_now: Notify,
    over: AtomicBool,
    watched: Mutex<Watched>,
}

#[derive(Debug)]
struct Watched {
    outliers: Outliers,
    // A state knows its balancer, and must not hold itself by way of it.
    states: HashMap<EndpointKey, (Weak<State>, Option<Instant>)>,
}

impl fmt::Debug for Ejector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ejector")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Ejector {
    pub(super) fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        let outliers = Outliers::new(config.clone(), now)?;
        Ok(Self {
            config,
            sweep_now: Notify::new(),
            over: AtomicBool::new(false),
            watched: Mutex::new(Watched {
                outliers,
                states: HashMap::new(),
            }),
        })
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::new(Counters::new(&self.config))
    }

    pub(super) fn wake(&self) {
        self.sweep_now.notify_one();
    }

    /// No sweep comes after this.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn watch<'a>(&self, states: impl Iterator<Item = &'a Arc<State>>) {
        let mut watched = lock(&self.watched);
        let mut before = std::mem::take(&mut watched.states);
        let mut counters = Vec::new();
        for state in states {
            let until = before.remove(&state.key).and_then(|(_, until)| until);
            let known = (Arc::downgrade(state), until);
            watched.states.insert(state.key.clone(), known);
            counters.extend(state.counters.clone().map(|c| (state.key.clone(), c)));
        }
        watched.outliers.update(counters);
        drop(watched);
        // A smaller set may have more ejected than its cap.
        self.wake();
    }

    fn sweep(&self, tell: impl FnMut(Event)) -> Instant {
        let mut watched = lock(&self.watched);
        let sweep = watched.outliers.sweep(clock::now());
        let events = watched.apply(sweep.changes);
        drop(watched);
        events.into_iter().for_each(tell);
        sweep.next
    }

    pub(super) fn check_changed(
        &self,
        key: &EndpointKey,
        from: health::State,
        to: health::State,
        tell: impl FnMut(Event),
    ) {
        let mut watched = lock(&self.watched);
        let change = watched.outliers.check_changed(key, from, to);
        let events = watched.apply(change);
        drop(watched);
        events.into_iter().for_each(tell);
    }

    pub(super) fn ejected_until(&self, key: &EndpointKey) -> Option<Instant> {
        lock(&self.watched)
            .states
            .get(key)
            .and_then(|(_, until)| *until)
    }
}

impl Watched {
    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<Event> {
        let applied = changes.into_iter().filter_map(|change| match change {
            Change::Ejected {
                key,
                cause,
                until,
                times,
            } => {
                self.set(&key, Some(until));
                Some(Event::Ejected {
                    endpoint: key,
                    cause,
                    until,
                    times,
                })
            }
            Change::Returned { key, cause } => {
                self.set(&key, None);
                Some(Event::Returned {
                    endpoint: key,
                    cause,
                })
            }
            _ => None,
        });
        applied.collect()
    }

    fn set(&mut self, key: &EndpointKey, until: Option<Instant>) {
        if let Some((state, ejected)) = self.states.get_mut(key) {
            *ejected = until;
            if let Some(state) = state.upgrade() {
                state.set_ejected(until.is_some());
            }
        }
    }
}

/// Sweeps until the balancer is gone: wakes once per interval, per ejection that ends and per run of failures.
pub(super) async fn drive(changes: Arc<Changes>) {
    let Some(ejector) = changes.ejector() else {
        return;
    };
    while !ejector.over.load(Ordering::Acquire) {
        let next = ejector.sweep(|event| changes.tell(|| event));
        let next = tokio::time::Instant::from_std(next);
        let _ = tokio::time::timeout_at(next, ejector.sweep_now.notified()).await;
    }
}
