use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ha_core::endpoint::EndpointKey;
use ha_core::health;
use ha_core::marks::Marks;
use tokio::sync::Notify;

use super::event::Listeners;
use super::outlier::Ejector;
use super::{Event, State};
use crate::clock::Moment;

/// What the endpoints of one balancer share: whether a standing has changed, who ejects, and who wants to know.
#[derive(Debug)]
pub(crate) struct Changes {
    marks: Marks,
    pub(crate) notify: Notify,
    ejector: Option<Ejector>,
    listeners: Listeners,
}

impl Changes {
    pub(super) fn new(ejector: Option<Ejector>, listeners: Listeners, now: Instant) -> Self {
        Self {
            marks: Marks::new(now),
            notify: Notify::new(),
            ejector,
            listeners,
        }
    }

    pub(super) fn mark(&self) {
        self.marks.mark();
        self.notify.notify_waiters();
    }

    /// Looks at the standings if something has changed since. `look` says when to look again although nothing does.
    /// `looked` is called after it, and may come back here.
    #[inline]
    pub(super) fn look(
        &self,
        now: &Moment,
        look: impl FnOnce(Instant) -> Option<Instant>,
        looked: impl FnOnce(),
    ) {
        if self.marks.look(|| now.get(), look) {
            looked();
        }
    }

    /// Like [`look`](Self::look), but waits for a look that is under way: after it, all is known that was marked before.
    pub(super) fn look_surely(&self, now: Instant, look: impl FnOnce(Instant) -> Option<Instant>) {
        self.marks.look_surely(now, look);
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.marks.is_marked()
    }

    pub(super) fn tell(&self, event: impl FnOnce() -> Event) {
        self.listeners.tell(&event());
    }

    pub(super) fn ejector(&self) -> Option<&Ejector> {
        self.ejector.as_ref()
    }

    pub(super) fn wake_ejector(&self) {
        if let Some(ejector) = &self.ejector {
            ejector.wake();
        }
    }

    pub(super) fn watch<'a>(&self, states: impl Iterator<Item = &'a Arc<State>>) {
        if let Some(ejector) = &self.ejector {
            ejector.watch(states);
        }
    }

    pub(super) fn check_changed(&self, key: &EndpointKey, from: health::State, to: health::State) {
        if let Some(ejector) = &self.ejector {
            ejector.check_changed(key, from, to, |event| self.listeners.tell(&event));
        }
    }

    pub(super) fn ejected_until(&self, key: &EndpointKey) -> Option<Instant> {
        self.ejector.as_ref()?.ejected_until(key)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
