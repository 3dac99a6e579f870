//! The place of one master: the lease of the connection in use, and what a command's outcome does to it.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::dial::Link;
use super::error::Failure;
use super::follow::{self, Outcome, Reason};

/// The right to use one connection to one master, until it is revoked.
pub(super) struct Lease {
    pub(super) link: Link,
    pub(super) master: String,
    pub(super) epoch: u64,
    timeouts: AtomicU32,
    revoked: OnceLock<Reason>,
    revoking: Notify,
}

impl Lease {
    pub(super) fn new(link: Link, master: String, epoch: u64) -> Self {
        Self {
            link,
            master,
            epoch,
            timeouts: AtomicU32::new(0),
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
    pub(super) async fn guard<T>(&self, sending: impl Future<Output = T>) -> Result<T, Reason> {
        let revoking = self.revoking.notified();
        tokio::pin!(revoking, sending);
        // Registered before the flag is read, or a revocation in between would be missed.
        revoking.as_mut().enable();
        if let Some(reason) = self.revoked.get() {
            return Err(*reason);
        }
        let answer = tokio::select! {
            biased;
            () = revoking => None,
            answer = sending => Some(answer),
        };
        match (self.revoked.get(), answer) {
            (Some(reason), _) => Err(*reason),
            (None, Some(answer)) => Ok(answer),
            (None, None) => Err(Reason::Io),
        }
    }
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

    /// Takes in what a command on `lease` came to; whether that cost the lease.
    pub(super) fn observe(&self, lease: &Arc<Lease>, outcome: &Outcome, limit: u32) -> bool {
        let timeouts = match outcome {
            Outcome::TimedOut => lease.timeouts.fetch_add(1, Ordering::Relaxed) + 1,
            _ => {
                if lease.timeouts.load(Ordering::Relaxed) != 0 {
                    lease.timeouts.store(0, Ordering::Relaxed);
                }
                0
            }
        };
        match follow::give_up(outcome, timeouts, limit) {
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
