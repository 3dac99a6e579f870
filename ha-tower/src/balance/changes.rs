use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use ha_core::endpoint::EndpointKey;
use ha_core::health;
use tokio::sync::Notify;

use super::event::Listeners;
use super::outlier::Ejector;
use super::{Event, State};
use crate::clock::Moment;

/// Nothing has changed.
const CLEAN: u8 = 0;
/// What endpoints stand like must be looked at.
const DIRTY: u8 = 1;
/// Nothing has changed, but at `look_again` the time alone changes something.
const TIMED: u8 = 2;

/// What the endpoints of one balancer share: whether a standing has changed, who ejects, and who wants to know.
#[derive(Debug)]
pub(crate) struct Changes {
    word: AtomicU8,
    // Nanoseconds since the epoch.
    look_again: AtomicU64,
    epoch: Instant,
    looking: Mutex<()>,
    pub(crate) notify: Notify,
    ejector: Option<Ejector>,
    listeners: Listeners,
}

impl Changes {
    pub(super) fn new(ejector: Option<Ejector>, listeners: Listeners, now: Instant) -> Self {
        Self {
            word: AtomicU8::new(CLEAN),
            look_again: AtomicU64::new(0),
            epoch: now,
            looking: Mutex::new(()),
            notify: Notify::new(),
            ejector,
            listeners,
        }
    }

    pub(super) fn mark(&self) {
        self.word.store(DIRTY, Ordering::Release);
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
        // Reading alone keeps the line shared between cores.
        let word = self.word.load(Ordering::Relaxed);
        if word != CLEAN && self.look_now(word, now.get(), look) {
            looked();
        }
    }

    #[cold]
    fn look_now(
        &self,
        word: u8,
        now: Instant,
        look: impl FnOnce(Instant) -> Option<Instant>,
    ) -> bool {
        if word == TIMED && self.nanos(now) < self.look_again.load(Ordering::Relaxed) {
            return false;
        }
        // Nobody waits here: who comes second goes by what is known.
        let _looking = match self.looking.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        self.look_locked(now, look);
        true
    }

    /// Like [`look`](Self::look), but waits for a look that is under way: after it, all is known that was marked before.
    pub(super) fn look_surely(&self, now: Instant, look: impl FnOnce(Instant) -> Option<Instant>) {
        let _looking = lock(&self.looking);
        if self.is_dirty() {
            self.look_locked(now, look);
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.word.load(Ordering::Relaxed) == DIRTY
    }

    fn look_locked(&self, now: Instant, look: impl FnOnce(Instant) -> Option<Instant>) {
        self.word.store(CLEAN, Ordering::Relaxed);
        // What is marked from here on is seen by the look or stays marked.
        std::sync::atomic::fence(Ordering::SeqCst);
        if let Some(at) = look(now) {
            self.look_again.store(self.nanos(at), Ordering::Relaxed);
            let (from, to) = (CLEAN, TIMED);
            // Marked meanwhile is more.
            let _ = self
                .word
                .compare_exchange(from, to, Ordering::Release, Ordering::Relaxed);
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since: Duration = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
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
