//! The queue between what is heard and who reads it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, mpsc};

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A notification.
    Notification {
        /// Its channel.
        channel: String,
        /// Its payload.
        payload: String,
    },
    /// From here on nothing is heard, until [`MayHaveMissed`](Self::MayHaveMissed).
    Interrupted,
    /// What was sent before this moment may not have been heard; what is committed after it will be.
    MayHaveMissed(Missed),
}

impl Event {
    /// The reader's state may be older than it knows.
    #[must_use]
    pub fn may_have_missed(&self) -> bool {
        matches!(self, Self::Interrupted | Self::MayHaveMissed(_))
    }
}

/// Why something may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// The subscription has just begun to listen.
    Started,
    /// It listens again, on this or another node.
    Reconnected,
    /// The reader was too slow.
    Overflow {
        /// How many events were dropped.
        dropped: u64,
    },
}

/// The sending end.
pub(super) struct Outbox {
    sender: mpsc::Sender<Event>,
    dropped: AtomicU64,
    overflowed: Notify,
}

impl Outbox {
    pub(super) fn new(capacity: usize) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(capacity);
        let outbox = Self {
            sender,
            dropped: AtomicU64::new(0),
            overflowed: Notify::new(),
        };
        (outbox, receiver)
    }

    /// Queues an event, or counts it as dropped: where one was dropped the next ones are as well, until the reader is told.
    pub(super) fn push(&self, event: Event) {
        let full = self.dropped.load(Ordering::Acquire) > 0;
        if full || self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::AcqRel);
            self.overflowed.notify_one();
        }
    }

    /// Tells the reader of what was dropped as soon as there is room, again and again. Never ends, but with the reader.
    pub(super) async fn report(&self) {
        loop {
            while self.dropped.load(Ordering::Acquire) == 0 {
                self.overflowed.notified().await;
            }
            let Ok(room) = self.sender.reserve().await else {
                return;
            };
            let dropped = self.dropped.swap(0, Ordering::AcqRel);
            room.send(Event::MayHaveMissed(Missed::Overflow { dropped }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn note(payload: u32) -> Event {
        Event::Notification {
            channel: "c".into(),
            payload: payload.to_string(),
        }
    }

    #[tokio::test]
    async fn what_is_dropped_is_told_of_once_there_is_room_and_what_follows_is_heard() {
        let (outbox, mut reader) = Outbox::new(2);
        (0..5).for_each(|n| outbox.push(note(n)));
        assert!(outbox.report().now_or_never().is_none(), "no room yet");
        assert_eq!(reader.recv().await, Some(note(0)));
        assert!(outbox.report().now_or_never().is_none());
        // Behind what was heard before the gap, and ahead of what comes after it.
        assert_eq!(reader.recv().await, Some(note(1)));
        outbox.push(note(5));
        let overflow = Event::MayHaveMissed(Missed::Overflow { dropped: 3 });
        assert_eq!(reader.recv().await, Some(overflow));
        assert_eq!(reader.recv().await, Some(note(5)));
        assert!(reader.recv().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_report_that_is_dropped_while_it_waits_loses_nothing() {
        let (outbox, mut reader) = Outbox::new(1);
        (0..3).for_each(|n| outbox.push(note(n)));
        for _ in 0..3 {
            assert!(outbox.report().now_or_never().is_none());
        }
        assert_eq!(reader.recv().await, Some(note(0)));
        assert!(outbox.report().now_or_never().is_none());
        let overflow = Event::MayHaveMissed(Missed::Overflow { dropped: 2 });
        assert_eq!(reader.recv().await, Some(overflow));
    }
}
