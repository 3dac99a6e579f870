//! The queue between what is heard and who reads it.

use std::sync::{Mutex, MutexGuard, PoisonError};

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
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// Events that the reader had no room for and was not told of.
    dropped: u64,
    /// Whether anything is heard, by the last event.
    listening: bool,
    /// The reader knows that nothing is.
    interrupted: bool,
}

impl State {
    /// What has to be told of, apart from the events themselves. While nothing is heard, the reader must not take the end of an overflow for the
    /// moment from which it can trust again.
    fn news(&mut self) -> Option<Event> {
        if self.dropped == 0 {
            return None;
        }
        if self.listening {
            let dropped = std::mem::take(&mut self.dropped);
            return Some(Event::MayHaveMissed(Missed::Overflow { dropped }));
        }
        let told = std::mem::replace(&mut self.interrupted, true);
        (!told).then_some(Event::Interrupted)
    }

    fn has_news(&self) -> bool {
        self.dropped > 0 && (self.listening || !self.interrupted)
    }
}

impl Outbox {
    pub(super) fn new(capacity: usize) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(capacity);
        let outbox = Self {
            sender,
            state: Mutex::new(State {
                dropped: 0,
                listening: true,
                interrupted: false,
            }),
            changed: Notify::new(),
        };
        (outbox, receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event, or counts it as dropped: where one was dropped the next ones are as well, until the reader is told.
    pub(super) fn push(&self, event: Event) {
        let mut state = self.state();
        let interrupts = event == Event::Interrupted;
        if event.may_have_missed() {
            (state.listening, state.interrupted) = (!interrupts, false);
        }
        if state.dropped > 0 || self.sender.try_send(event).is_err() {
            state.dropped += 1;
            self.changed.notify_one();
        } else if interrupts {
            state.interrupted = true;
        }
    }

    /// Tells the reader of what was dropped as soon as there is room, again and again. Never ends, but with the reader.
    pub(super) async fn report(&self) {
        loop {
            while !self.state().has_news() {
                self.changed.notified().await;
            }
            let Ok(room) = self.sender.reserve().await else {
                return;
            };
            let mut state = self.state();
            if let Some(news) = state.news() {
                room.send(news);
            }
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

    #[tokio::test]
    async fn an_overflow_while_nothing_is_heard_does_not_pass_for_the_end_of_the_silence() {
        let (outbox, mut reader) = Outbox::new(2);
        let reconnected = || Event::MayHaveMissed(Missed::Reconnected);
        outbox.push(Event::MayHaveMissed(Missed::Started));
        (0..4).for_each(|n| outbox.push(note(n)));
        outbox.push(Event::Interrupted);
        for expected in [Event::MayHaveMissed(Missed::Started), note(0)] {
            assert!(outbox.report().now_or_never().is_none());
            assert_eq!(reader.recv().await, Some(expected));
        }
        assert!(outbox.report().now_or_never().is_none());
        assert_eq!(reader.recv().await, Some(Event::Interrupted));
        assert!(outbox.report().now_or_never().is_none());
        assert!(
            reader.recv().now_or_never().is_none(),
            "told once, and no more"
        );
        outbox.push(reconnected());
        outbox.push(note(9));
        assert!(outbox.report().now_or_never().is_none());
        // Three notes, the end and the new beginning, and the note after it.
        let overflow = Event::MayHaveMissed(Missed::Overflow { dropped: 6 });
        assert_eq!(reader.recv().await, Some(overflow));
        outbox.push(note(10));
        assert_eq!(reader.recv().await, Some(note(10)));

        // Heard of before there was an overflow, it is not told of again.
        outbox.push(Event::Interrupted);
        outbox.push(reconnected());
        outbox.push(note(11));
        assert!(outbox.report().now_or_never().is_none());
        assert_eq!(reader.recv().await, Some(Event::Interrupted));
        assert_eq!(reader.recv().await, Some(reconnected()));
        assert!(outbox.report().now_or_never().is_none());
        let overflow = Event::MayHaveMissed(Missed::Overflow { dropped: 1 });
        assert_eq!(reader.recv().await, Some(overflow));
    }
}
