//! The reader's end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::Stream;
use ha_core::config::ConfigError;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::listen;
use super::outbox::{Event, Outbox};
use crate::postgres::Router;

/// PostgreSQL cuts longer names, and would then listen on another channel.
const LONGEST_NAME: usize = 63;

/// The largest queue; what holds more is no queue but a leak.
const LARGEST: usize = 1_000_000;

/// Settings of a [`Subscription`].
#[derive(Debug, Clone)]
#[must_use = "nothing is listened to before `build`"]
pub struct Builder {
    router: Router,
    channels: Vec<String>,
    capacity: usize,
    check_interval: Duration,
}

impl Builder {
    /// A channel to listen on; its name as `NOTIFY` has it, which folds to lower case what is not quoted.
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.channels.push(name.into());
        self
    }

    /// How many events may wait for the reader; default 1024, some hundred kilobytes of usual payloads; 1,000,000 at most.
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// How often the connection is asked whether it is alive; default 1 s.
    pub fn check_interval(mut self, interval: Duration) -> Self {
        self.check_interval = interval;
        self
    }

    /// Begins to listen in the background. It does not wait: the database may be down.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting and its value.
    pub fn build(self) -> Result<Subscription, ConfigError> {
        let refuse =
            |value: &dyn fmt::Display, reason| Err(ConfigError::new("channel", value, reason));
        if self.channels.is_empty() {
            return refuse(&"not set", "at least one is needed");
        }
        for name in &self.channels {
            if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
                let quoted = format!("{name:?}");
                return refuse(&quoted, "must have 1 to 63 bytes, none of them zero");
            }
        }
        if self.capacity == 0 || self.capacity > LARGEST {
            let capacity = self.capacity;
            return Err(ConfigError::new(
                "capacity",
                capacity,
                "must be from 1 to 1,000,000",
            ));
        }
        ConfigError::positive("check_interval", self.check_interval)?;
        ConfigError::at_most_a_day("check_interval", self.check_interval)?;
        let (outbox, events) = Outbox::new(self.capacity);
        let runtime = self.router.core.runtime.clone();
        let listening = listen::run(self.router, self.channels, outbox, self.check_interval);
        Ok(Subscription {
            events,
            task: runtime.spawn(listening).abort_handle(),
        })
    }
}

/// A stream of [`Event`]s that never ends by itself. Dropped, it closes its connection.
pub struct Subscription {
    events: mpsc::Receiver<Event>,
    task: AbortHandle,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscription {
    /// Starts a configuration.
    pub fn builder(router: &Router) -> Builder {
        Builder {
            router: router.clone(),
            channels: Vec::new(),
            capacity: 1024,
            check_interval: Duration::from_secs(1),
        }
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}
