use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ha_core::limit::{
    Adaptive, Cause, Change, Ending, Places, Priority, Queue, QueueConfig, Ticket,
};
use tokio::sync::oneshot;

use super::{Outcome, Reason, Shed};
use crate::clock;

/// After so long without a refusal, the next one is news.
const QUIET: Duration = Duration::from_secs(10);

/// Up to which part of the limit requests of a priority are let in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shares {
    pub(super) default: f64,
    pub(super) sheddable: f64,
}

type Answer = Result<Permit, Reason>;
type Waiters = Queue<oneshot::Sender<Answer>>;

/// Places, who waits for one, and what moves the limit: the state that all services of a layer share.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) name: Arc<str>,
    pub(super) places: Places,
    pub(super) adaptive: Option<Adaptive>,
    queue: Option<Mutex<Waiters>>,
    shares: Option<Shares>,
    log: ShedLog,
}

/// What asking for a place came to.
#[derive(Debug)]
pub(super) enum Entry {
    Permit(Permit),
    Waiting(Waiting),
    Refused(Reason),
}

impl Gate {
    pub(super) fn new(
        name: Arc<str>,
        places: Places,
        adaptive: Option<Adaptive>,
        queue: Option<QueueConfig>,
        shares: Option<Shares>,
    ) -> Result<Self, ha_core::config::ConfigError> {
        let queue = queue.map(Queue::new).transpose()?.map(Mutex::new);
        Ok(Self {
            log: ShedLog::new(),
            name,
            places,
            adaptive,
            queue,
            shares,
        })
    }

    pub(super) fn try_enter(self: &Arc<Self>, priority: Priority) -> Option<Permit> {
        let in_flight = self.places.try_enter(self.cap(priority))?;
        Some(self.permit(in_flight))
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        priority: Priority,
        deadline: Option<tokio::time::Instant>,
    ) -> Entry {
        match (self.try_enter(priority), &self.queue) {
            (Some(permit), _) => Entry::Permit(permit),
            (None, None) => Entry::Refused(Reason::Full),
            (None, Some(queue)) => self.wait(queue, priority, deadline),
        }
    }

    fn wait(
        self: &Arc<Self>,
        queue: &Mutex<Waiters>,
        priority: Priority,
        deadline: Option<tokio::time::Instant>,
    ) -> Entry {
        let now = clock::now();
        let deadline = deadline.map(tokio::time::Instant::into_std);
        let (sender, answer) = oneshot::channel();
        let mut queue = lock(queue);
        let pushed = match queue.push(priority, deadline, now, sender) {
            Ok(pushed) => pushed,
            Err((cause, _)) => return Entry::Refused(cause.into()),
        };
        self.places.wait();
        if let Some(displaced) = pushed.displaced {
            self.refuse(displaced, Cause::Displaced);
        }
        // Between the look and now a place may have become free, of which nobody told us.
        self.let_in(&mut queue, now);
        drop(queue);
        Entry::Waiting(Waiting {
            gate: Arc::clone(self),
            ticket: pushed.ticket,
            answer,
        })
    }

    fn permit(self: &Arc<Self>, in_flight: u32) -> Permit {
        Permit {
            since: self.adaptive.is_some().then(clock::now),
            gate: Arc::clone(self),
            in_flight,
            deadline: None,
        }
    }

    fn cap(&self, priority: Priority) -> u32 {
        let share = match (&self.shares, priority) {
            (None, _) | (_, Priority::Critical) => return u32::MAX,
            (Some(shares), Priority::Default) => shares.default,
            (Some(shares), Priority::Sheddable) => shares.sheddable,
        };
        // Someone has to get through, however low the limit.
        ((f64::from(self.places.limit()) * share) as u32).max(1)
    }

    fn refuse(&self, waiter: oneshot::Sender<Answer>, cause: Cause) {
        self.places.stop_waiting();
        // One that has gone needs no answer.
        let _ = waiter.send(Err(cause.into()));
    }

    /// Gives free places to those who wait.
    fn let_in(self: &Arc<Self>, queue: &mut Waiters, now: Instant) {
        while let Some(priority) = queue.first_priority() {
            let Some(in_flight) = self.places.enter_for_waiter(self.cap(priority)) else {
                return;
            };
            let Some(next) = queue.pop(now, |cause, waiter| self.refuse(waiter, cause)) else {
                let _ = self.places.leave();
                return;
            };
            self.places.stop_waiting();
            if let Err(Ok(permit)) = next.send(Ok(self.permit(in_flight))) {
                // It has gone. The queue is locked here, and leaving the ordinary way would want it.
                permit.give_back();
            }
        }
    }

    pub(super) fn room_for_waiters(self: &Arc<Self>) {
        if let Some(queue) = &self.queue {
            let mut queue = lock(queue);
            self.let_in(&mut queue, clock::now());
        }
    }

    fn record(&self, ending: Ending, in_flight: u32, now: Instant) -> bool {
        let Some(adaptive) = &self.adaptive else {
            return false;
        };
        let Some(Change { from, to }) = adaptive.record(ending, in_flight, now, fastrand::f64)
        else {
            return false;
        };
        crate::trace::debug!(limit = &*self.name, from, to, "concurrency limit changed");
        #[cfg(feature = "metrics")]
        super::metrics::limit(&self.name, to, self.places.in_flight());
        self.places.set_limit(to)
    }

    pub(super) fn shed(&self, reason: Reason, priority: Priority) -> Shed {
        self.log.shed(&self.name, reason, priority);
        Shed::new(reason, priority)
    }
}

fn lock(queue: &Mutex<Waiters>) -> MutexGuard<'_, Waiters> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells of refusals: each to the metrics, and the first after a quiet time to the log.
#[derive(Debug)]
pub(super) struct ShedLog {
    origin: Instant,
    /// In nanoseconds since the origin; zero: never.
    last: AtomicU64,
}

impl ShedLog {
    pub(super) fn new() -> Self {
        Self {
            origin: clock::now(),
            last: AtomicU64::new(0),
        }
    }

    pub(super) fn shed(&self, name: &str, reason: Reason, priority: Priority) {
        let elapsed = clock::now().saturating_duration_since(self.origin);
        let now = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(1);
        let last = self.last.swap(now, Ordering::Relaxed);
        if last == 0 || Duration::from_nanos(now.saturating_sub(last)) > QUIET {
            let (reason, priority) = (reason.as_str(), priority.as_str());
            crate::trace::warn!(limit = name, reason, priority, "begins to shed requests");
        }
        #[cfg(feature = "metrics")]
        super::metrics::shed(name, reason, priority);
    }
}

/// A place. It goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    in_flight: u32,
    /// Until the outcome is known; none when nobody asks for it.
    since: Option<Instant>,
    deadline: Option<tokio::time::Instant>,
}

impl Permit {
    pub(super) fn with_deadline(mut self, deadline: Option<tokio::time::Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    pub(super) fn settle(&mut self, outcome: Outcome) {
        if outcome == Outcome::AtEnd {
            return;
        }
        let Some(since) = self.since.take() else {
            return;
        };
        let now = clock::now();
        let ending = match outcome {
            Outcome::Success => Ending::Answered(now.saturating_duration_since(since)),
            Outcome::Loss => Ending::Lost,
            Outcome::Ignored | Outcome::AtEnd => return,
        };
        if self.gate.record(ending, self.in_flight, now) {
            self.gate.room_for_waiters();
        }
    }

    /// Gives the place back and tells nobody, because who wants it is asked already.
    fn give_back(mut self) {
        self.since = None;
        let _ = self.gate.places.leave();
        self.in_flight = 0;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.in_flight == 0 {
            return;
        }
        let mut wanted = self.gate.places.leave();
        if let Some(since) = self.since.take() {
            let now = clock::now();
            let late = |deadline: tokio::time::Instant| deadline.into_std() <= now;
            let ending = if self.deadline.is_some_and(late) {
                Ending::Lost
            } else {
                Ending::Abandoned(now.saturating_duration_since(since))
            };
            wanted |= self.gate.record(ending, self.in_flight, now);
        }
        if wanted {
            self.gate.room_for_waiters();
        }
    }
}

/// One who waits for a place. Dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) gate: Arc<Gate>,
    ticket: Ticket,
    pub(super) answer: oneshot::Receiver<Answer>,
}

impl Waiting {
    pub(super) fn until(&self) -> Instant {
        self.ticket.until()
    }

    /// What was decided in the last moment, or leaves: the wait is over.
    pub(super) fn give_up(&mut self) -> Option<Answer> {
        self.leave();
        // Whoever decided before has sent it under the lock that leaving takes.
        self.answer.try_recv().ok()
    }

    fn leave(&self) {
        let Some(queue) = &self.gate.queue else {
            return;
        };
        if lock(queue).remove(self.ticket).is_some() {
            self.gate.places.stop_waiting();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}
