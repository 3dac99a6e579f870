//! The place of one master: the lease of the connection in use, and what a command's outcome does to it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::Config;
use super::dial::Link;
use super::error::Failure;
use super::follow::{self, Outcome, Reason};

/// The right to use one connection to one master, until it is revoked.
pub(super) struct Lease {
    pub(super) link: Link,
    pub(super) master: String,
    pub(super) epoch: u64,
    /// Whether there is a silence, so that an answer need not take the lock. Written under it.
    is_silent: AtomicBool,
    silence: Mutex<Option<Silence>>,
    revoked: OnceLock<Reason>,
    revoking: Notify,
}

impl Lease {
    pub(super) fn new(link: Link, master: String, epoch: u64) -> Self {
        Self {
            link,
            master,
            epoch,
            is_silent: AtomicBool::new(false),
            silence: Mutex::new(None),
            revoked: OnceLock::new(),
            revoking: Notify::new(),
        }
    }

    fn revoke(&self, reason: Reason) {
        if self.revoked.set(reason).is_ok() {
            self.revoking.notify_waiters();
        }
    }

    /// Runs `sending` until it ends or the lease is revoked.
    pub(super) async fn guard<T>(&self, sending: impl Future<Output = T>) -> Guarded<T> {
        let revoking = self.revoking.notified();
        tokio::pin!(revoking, sending);
        // Registered before the flag is read, or a revocation in between would be missed.
        revoking.as_mut().enable();
        if self.revoked.get().is_some() {
            return Guarded::NotBegun;
        }
        let answer = tokio::select! {
            biased;
            () = revoking => None,
            answer = sending => Some(answer),
        };
        match (self.revoked.get(), answer) {
            (Some(reason), _) => Guarded::Revoked(*reason),
            (None, Some(answer)) => Guarded::Done(answer),
            (None, None) => Guarded::Revoked(Reason::Io),
        }
    }

    /// What has not been answered in a row, with what was sent at `sent` and timed out.
    fn timed_out(&self, sent: Instant) -> follow::Silence {
        let mut silence = lock(&self.silence);
        self.is_silent.store(true, Ordering::Relaxed);
        let (commands, since) = match *silence {
            Some(Silence { commands, since }) => (commands, since.min(sent)),
            None => (0, sent),
        };
        let commands = commands.saturating_add(1);
        *silence = Some(Silence { commands, since });
        follow::Silence {
            commands,
            lasted: since.elapsed(),
        }
    }

    fn answered(&self) {
        if self.is_silent.load(Ordering::Relaxed) {
            let mut silence = lock(&self.silence);
            self.is_silent.store(false, Ordering::Relaxed);
            *silence = None;
        }
    }
}

#[derive(Clone, Copy)]
struct Silence {
    commands: u32,
    since: Instant,
}

/// What came of something that was to run under a lease.
pub(super) enum Guarded<T> {
    Done(T),
    /// The lease was revoked before anything was sent.
    NotBegun,
    /// It was revoked while an answer was waited for.
    Revoked(Reason),
}

/// Where a master's lease is, while there is one.
pub(super) struct Seat {
    lease: ArcSwapOption<Lease>,
    /// A lease that takes no new commands while those under way end.
    retired: Mutex<Option<Arc<Lease>>>,
    /// Wakes the supervisor.
    pub(super) wake: Notify,
    last_reason: Mutex<Option<Reason>>,
    failure: Mutex<Option<Arc<Failure>>>,
}

impl Seat {
    pub(super) fn new() -> Self {
        Self {
            lease: ArcSwapOption::empty(),
            retired: Mutex::new(None),
            wake: Notify::new(),
            last_reason: Mutex::new(None),
            failure: Mutex::new(None),
        }
    }

    pub(super) fn lease(&self) -> Option<Arc<Lease>> {
        self.lease.load_full()
    }

    pub(super) fn last_reason(&self) -> Option<Reason> {
        *lock(&self.last_reason)
    }

    pub(super) fn failure(&self) -> Option<Arc<Failure>> {
        lock(&self.failure).clone()
    }

    pub(super) fn failed(&self, failure: Failure) {
        *lock(&self.failure) = Some(Arc::new(failure));
    }

    /// Makes a lease the one to use.
    pub(super) fn publish(&self, lease: Lease) {
        self.drop_retired(Reason::SwitchMaster);
        *lock(&self.failure) = None;
        self.lease.store(Some(Arc::new(lease)));
    }

    /// Gives the node of this lease up, if it is still the one in use, and wakes the supervisor.
    pub(super) fn give_up(&self, lease: &Arc<Lease>, reason: Reason) -> bool {
        let taken = self.lease.compare_and_swap(lease, None);
        if !taken
            .as_ref()
            .is_some_and(|taken| Arc::ptr_eq(taken, lease))
        {
            return false;
        }
        tracing::info!(node = %lease.master, %reason, "gave up redis node");
        self.drop_retired(reason);
        *lock(&self.last_reason) = Some(reason);
        if reason == Reason::FailoverStarted {
            // What is under way was sent before the failover began and is still being replicated.
            *lock(&self.retired) = Some(Arc::clone(lease));
        } else {
            lease.revoke(reason);
        }
        self.wake.notify_one();
        true
    }

    /// Gives up whatever is in use.
    pub(super) fn vacate(&self, reason: Reason) {
        if let Some(lease) = self.lease() {
            self.give_up(&lease, reason);
        }
    }

    pub(super) fn drop_retired(&self, reason: Reason) {
        if let Some(retired) = lock(&self.retired).take() {
            retired.revoke(reason);
        }
    }

    /// Takes in what a command that was sent at `sent` on `lease` came to; whether that cost the lease.
    pub(super) fn observe(
        &self,
        lease: &Arc<Lease>,
        outcome: &Outcome,
        sent: Instant,
        config: &Config,
    ) -> bool {
        let silence = if *outcome == Outcome::TimedOut {
            lease.timed_out(sent)
        } else {
            lease.answered();
            follow::Silence::default()
        };
        let (limit, timeout) = (config.timeouts_in_a_row, config.command_timeout);
        match follow::give_up(outcome, silence, limit, timeout) {
            Some(reason) => self.give_up(lease, reason),
            None => false,
        }
    }
}

/// A lease and where it is from.
pub(super) struct Held {
    pub(super) seat: Arc<Seat>,
    pub(super) lease: Arc<Lease>,
}

impl Held {
    pub(super) fn of(seat: &Arc<Seat>) -> Option<Self> {
        Some(Self {
            lease: seat.lease()?,
            seat: Arc::clone(seat),
        })
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
