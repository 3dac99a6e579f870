use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Priority;
use crate::config::ConfigError;

/// How a [`Queue`] is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// How many may wait, over all priorities. Default 100: at a thousand requests per second that is a tenth of a second, and
    /// more would only wait to be refused later.
    pub capacity: u32,
    /// The wait that is good. Default 3 ms: in a simulated overload of work that takes 20 ms, CoDel's own 5 ms cost p99 a fifth of an idle
    /// server's more and served nobody more. While the shortest wait of an `interval` was longer, the queue does not absorb
    /// a burst but stands, and nobody waits for more than twice this.
    pub target: Duration,
    /// The longest wait while the queue does not stand, and how long it is watched before it is said to. Default 100 ms. It should be at
    /// least twice the time that requests take: where they all take equally long, places become free in batches that far apart.
    pub interval: Duration,
    /// Who goes first within a priority. Default [`Order::Fifo`].
    pub order: Order,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            capacity: 100,
            target: Duration::from_millis(3),
            interval: Duration::from_millis(100),
            order: Order::Fifo,
        }
    }
}

impl QueueConfig {
    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`ConfigError`] with the field and the value.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::at_least_one("queue.capacity", self.capacity)?;
        if self.capacity > 1_000_000 {
            let reason = "must be at most 1000000";
            return Err(ConfigError::new("queue.capacity", self.capacity, reason));
        }
        ConfigError::positive("queue.target", self.target)?;
        ConfigError::at_most_a_day("queue.interval", self.interval)?;
        if self.interval < self.target.saturating_mul(2) {
            return Err(ConfigError::new(
                "queue.interval",
                format_args!("{:?}", self.interval),
                "must be at least twice queue.target",
            ));
        }
        Ok(())
    }
}

/// Who goes first among those of one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// Who came first.
    #[default]
    Fifo,
    /// Who came first, and while the queue stands who came last: the newest have callers that still wait, and are served as fast as
    /// if there was no queue, while the oldest are refused. Unfair, and for that reason a choice.
    AdaptiveLifo,
}

/// Why one who waited is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// As many wait as may.
    Full,
    /// Somebody of a higher priority came, and the queue was full.
    Displaced,
    /// The wait was longer than is allowed now.
    Delay,
    /// The caller's deadline has passed.
    Deadline,
}

impl Cause {
    /// As in a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Displaced => "displaced",
            Self::Delay => "delay",
            Self::Deadline => "deadline",
        }
    }
}

/// One who waits, to leave the queue with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    priority: Priority,
    number: u64,
    until: Instant,
}

impl Ticket {
    /// When the wait ends without a place, at the latest.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }
}

/// What became of [`Queue::push`].
#[derive(Debug, PartialEq, Eq)]
pub struct Pushed<T> {
    /// The new one.
    pub ticket: Ticket,
    /// Who had to go for it.
    pub displaced: Option<T>,
}

#[derive(Debug)]
struct Waiter<T> {
    number: u64,
    since: Instant,
    deadline: Option<Instant>,
    value: T,
}

/// Those who wait for a place, by priority and within bounds.
///
/// Controlled delay in the form that Facebook uses for requests (Maurer, "Fail at Scale", ACM Queue 13/8, 2015, after Nichols and
/// Jacobson's CoDel): a queue that has not been empty for a whole `interval` stands, and then a wait is cut at
/// twice the `target`. CoDel's own law, which drops one packet more and more often, relies on senders that slow down for each drop;
/// callers over HTTP do not. Each priority has its own state, so that a standing queue of batch jobs says nothing about those
/// that go first.
#[derive(Debug)]
pub struct Queue<T> {
    config: QueueConfig,
    classes: [Class<T>; 3],
    len: usize,
    next: u64,
}

#[derive(Debug)]
struct Class<T> {
    // By number, ascending.
    waiters: VecDeque<Waiter<T>>,
    delay: Delay,
}

impl<T> Queue<T> {
    /// An empty queue.
    ///
    /// # Errors
    /// [`ConfigError`] when a number makes no sense.
    pub fn new(config: QueueConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            classes: std::array::from_fn(|_| Class {
                waiters: VecDeque::new(),
                delay: Delay::default(),
            }),
            len: 0,
            next: 0,
        })
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The highest priority of those who wait.
    #[must_use]
    pub fn first_priority(&self) -> Option<Priority> {
        Priority::ALL
            .into_iter()
            .find(|priority| !self.classes[priority.index()].waiters.is_empty())
    }

    /// One more waits. When the queue is full, the newest of the lowest priority goes for one of a higher priority.
    ///
    /// # Errors
    /// Gives the value back with the cause: the queue is full of the same or higher priorities, or the deadline has passed.
    pub fn push(
        &mut self,
        priority: Priority,
        deadline: Option<Instant>,
        now: Instant,
        value: T,
    ) -> Result<Pushed<T>, (Cause, T)> {
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err((Cause::Deadline, value));
        }
        let mut displaced = None;
        if self.len >= self.config.capacity as usize {
            displaced = self.displace_for(priority);
            if displaced.is_none() {
                return Err((Cause::Full, value));
            }
        }
        let latest = now + self.config.interval;
        let ticket = Ticket {
            priority,
            number: self.next,
            until: deadline.map_or(latest, |deadline| latest.min(deadline)),
        };
        self.next += 1;
        self.len += 1;
        self.classes[priority.index()].waiters.push_back(Waiter {
            number: ticket.number,
            since: now,
            deadline,
            value,
        });
        Ok(Pushed { ticket, displaced })
    }

    fn displace_for(&mut self, priority: Priority) -> Option<T> {
        let lower = &mut self.classes[priority.index() + 1..];
        let last = lower
            .iter_mut()
            .rev()
            .find_map(|class| class.waiters.pop_back())?;
        self.len -= 1;
        Some(last.value)
    }

    /// One who waited goes away; none when they were let in or refused before.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let waiters = &mut self.classes[ticket.priority.index()].waiters;
        let at = waiters
            .binary_search_by_key(&ticket.number, |waiter| waiter.number)
            .ok()?;
        let waiter = waiters.remove(at)?;
        self.len -= 1;
        Some(waiter.value)
    }

    /// Whom to let in now. Those found on the way who have waited too long are handed to `refuse`.
    pub fn pop(&mut self, now: Instant, mut refuse: impl FnMut(Cause, T)) -> Option<T> {
        for class in &mut self.classes {
            let before = class.waiters.len();
            let next = class.pop(now, &self.config, &mut refuse);
            self.len -= before - class.waiters.len();
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

impl<T> Class<T> {
    fn pop(
        &mut self,
        now: Instant,
        config: &QueueConfig,
        refuse: &mut impl FnMut(Cause, T),
    ) -> Option<T> {
        let oldest = self.waiters.front()?;
        // The oldest would be next: its wait is the queue's.
        let stands = self
            .delay
            .observe(now.saturating_duration_since(oldest.since), now, config);
        let longest = if stands {
            config.target.saturating_mul(2)
        } else {
            config.interval
        };
        let from_the_end = stands && config.order == Order::AdaptiveLifo;
        while let Some(oldest) = self.waiters.front() {
            if now.saturating_duration_since(oldest.since) <= longest {
                break;
            }
            if let Some(waiter) = self.waiters.pop_front() {
                self.delay.refused += 1;
                refuse(Cause::Delay, waiter.value);
            }
        }
        loop {
            let waiter = if from_the_end {
                self.waiters.pop_back()
            } else {
                self.waiters.pop_front()
            };
            self.delay.emptied |= self.waiters.is_empty();
            let waiter = waiter?;
            if waiter.deadline.is_none_or(|deadline| deadline > now) {
                self.delay.served += 1;
                return Some(waiter.value);
            }
            refuse(Cause::Deadline, waiter.value);
        }
    }
}

/// Whether a queue stands.
///
/// It begins to when for an interval it was never empty, and the shortest wait was longer than the target. It ends when for an interval
/// the longest wait was not, or when it was empty at times and more were served than refused. One condition for both would not
/// do: a full queue that is cut to nothing looks healthy for that, fills, and is cut again. Neither would waits alone: where
/// places become free in batches, because all work takes equally long, even a short queue waits for the next batch.
#[derive(Debug, Default)]
struct Delay {
    stands: bool,
    shortest: Duration,
    longest: Duration,
    emptied: bool,
    served: u32,
    refused: u32,
    ends: Option<Instant>,
}

impl Delay {
    fn observe(&mut self, wait: Duration, now: Instant, config: &QueueConfig) -> bool {
        match self.ends {
            Some(ends) if now < ends => {
                self.shortest = self.shortest.min(wait);
                self.longest = self.longest.max(wait);
            }
            ends => {
                // After a pause nothing is known of the time before.
                let fresh = ends.is_some_and(|ends| now < ends + config.interval);
                let stands = if self.stands {
                    let drained = self.emptied && self.served > self.refused;
                    self.longest > config.target && !drained
                } else {
                    self.shortest > config.target && !self.emptied
                };
                *self = Self {
                    stands: fresh && stands,
                    shortest: wait,
                    longest: wait,
                    ends: Some(now + config.interval),
                    ..Self::default()
                };
            }
        }
        self.stands
    }
}
