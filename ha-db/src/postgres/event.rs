//! What has changed, for whoever wants to know.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use super::problem::Problem;
use super::role::{NoPrimary, Role};

/// Events that wait while a listener is at work. Beyond it the oldest are dropped, and counted in [`Event::Missed`].
const WAITING: usize = 1024;

/// What has changed in a router's knowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another node takes writes, or the same one on a newer timeline.
    PrimaryChanged {
        /// Grows with every such change.
        epoch: u64,
        /// The timeline on which it takes them.
        timeline: u32,
        /// Which.
        node: Arc<str>,
    },
    /// No node takes writes any more.
    PrimaryLost {
        /// Why.
        reason: NoPrimary,
    },
    /// A node is used in another way.
    RoleChanged {
        /// Which.
        node: Arc<str>,
        /// What it was.
        from: Role,
        /// What it is.
        to: Role,
    },
    /// A replica gets no more reads because it is too far behind. What runs on it may end.
    Ejected {
        /// Which.
        node: Arc<str>,
        /// How far behind; `None` when that cannot be told.
        lag: Option<Duration>,
    },
    /// A replica has been well within the bound for long enough.
    Readmitted {
        /// Which.
        node: Arc<str>,
    },
    /// Something is wrong with a node that only an operator can mend.
    ProblemFound {
        /// Which.
        node: Arc<str>,
        /// What, with its [remedy](Problem::remedy).
        problem: Problem,
    },
    /// It has been mended, or is something else now.
    ProblemSolved {
        /// Which.
        node: Arc<str>,
    },
    /// A client's token is of a timeline of which nobody can tell where it was cut, so that only the primary serves it. Told
    /// once for each timeline.
    Unprovable {
        /// The timeline of the client's last write.
        written: u32,
        /// The timeline whose history could not be read.
        timeline: u32,
    },
    /// A node joined the set.
    NodeAdded {
        /// Which.
        node: Arc<str>,
    },
    /// A node left the set.
    NodeRemoved {
        /// Which.
        node: Arc<str>,
    },
    /// The listener was too slow for these many events before the next one.
    Missed {
        /// How many.
        count: u64,
    },
}

type Listener = Arc<dyn Fn(&Event) + Send + Sync>;

/// Those who want to know.
#[derive(Clone, Default)]
pub(crate) struct Listeners(pub(crate) Vec<Listener>);

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}

/// Hands events to the listeners, in order and by one thread at a time, while nothing is locked that a listener could want.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    listeners: Listeners,
    waiting: Mutex<Waiting>,
    telling: Mutex<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    missed: u64,
}

impl Desk {
    pub(crate) fn new(listeners: Listeners) -> Self {
        Self {
            listeners,
            ..Self::default()
        }
    }

    /// Events in the order in which they are to be told. Cheap, and calls nobody.
    pub(crate) fn put(&self, events: impl IntoIterator<Item = Event>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            log(&event);
            #[cfg(feature = "metrics")]
            super::metrics::record(&event);
            if self.listeners.0.is_empty() {
                continue;
            }
            if waiting.events.len() == WAITING {
                waiting.events.pop_front();
                waiting.missed += 1;
            }
            waiting.events.push_back(event);
        }
    }

    fn next(&self) -> Option<Event> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut waiting.missed) {
            0 => waiting.events.pop_front(),
            count => Some(Event::Missed { count }),
        }
    }

    fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.events.is_empty()
    }

    /// Calls the listeners, unless another thread is doing so: then that one goes on to what has come meanwhile.
    pub(crate) fn tell(&self) {
        while !self.is_empty() {
            let _alone = match self.telling.try_lock() {
                Ok(guard) => guard,
                // A listener that panicked has ended its own telling only.
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            while let Some(event) = self.next() {
                for listener in &self.listeners.0 {
                    listener(&event);
                }
            }
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::PrimaryChanged {
            epoch,
            timeline,
            node,
        } => tracing::info!(epoch, timeline, node = &**node, "primary changed"),
        Event::PrimaryLost { reason } => tracing::warn!(?reason, "no primary"),
        Event::RoleChanged { node, from, to } => {
            tracing::info!(node = &**node, ?from, ?to, "node changed its role");
        }
        Event::Ejected { node, lag } => {
            tracing::warn!(node = &**node, ?lag, "replica ejected from reads");
        }
        Event::Readmitted { node } => {
            tracing::info!(node = &**node, "replica readmitted to reads");
        }
        Event::ProblemFound { node, problem } => {
            let remedy = problem.remedy();
            tracing::warn!(node = &**node, %problem, remedy, "node needs an operator");
        }
        Event::ProblemSolved { node } => {
            tracing::info!(node = &**node, "node's problem is solved");
        }
        Event::Unprovable { written, timeline } => {
            let remedy = Problem::NoHistory {
                timeline: *timeline,
            };
            let remedy = remedy.remedy();
            tracing::warn!(
                written,
                timeline,
                remedy,
                "tokens of an earlier timeline cannot be proven"
            );
        }
        Event::NodeAdded { node } => tracing::info!(node = &**node, "node added"),
        Event::NodeRemoved { node } => tracing::info!(node = &**node, "node removed"),
        Event::Missed { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(number: usize) -> Event {
        Event::NodeAdded {
            node: number.to_string().into(),
        }
    }

    #[test]
    fn events_are_told_in_order_also_when_a_listener_causes_more() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let desk: Arc<Mutex<Option<Arc<Desk>>>> = Arc::default();
        let listener: Listener = Arc::new({
            let (told, desk) = (Arc::clone(&told), Arc::clone(&desk));
            move |event: &Event| {
                let first = told.lock().unwrap().is_empty();
                told.lock().unwrap().push(event.clone());
                if first {
                    let desk = desk.lock().unwrap().clone().unwrap();
                    desk.put([added(3)]);
                    desk.tell();
                }
            }
        });
        let made = Arc::new(Desk::new(Listeners(vec![listener])));
        *desk.lock().unwrap() = Some(Arc::clone(&made));
        made.put([added(1), added(2)]);
        made.tell();
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told, [added(1), added(2), added(3)]);
    }

    #[test]
    fn what_a_slow_listener_has_missed_is_counted() {
        let told: Arc<Mutex<Vec<Event>>> = Arc::default();
        let listener: Listener = Arc::new({
            let told = Arc::clone(&told);
            move |event: &Event| told.lock().unwrap().push(event.clone())
        });
        let desk = Desk::new(Listeners(vec![listener]));
        desk.put((0..WAITING + 7).map(added));
        desk.tell();
        let told = told.lock().unwrap();
        assert_eq!(told.len(), WAITING + 1);
        assert_eq!(told[..2], [Event::Missed { count: 7 }, added(7)]);
    }
}
