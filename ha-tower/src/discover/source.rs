use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream, Stream};
use ha_core::endpoint::Endpoint;

use super::event::Listener;
use super::set::{self, Known};
use super::{Error, Event};
use crate::task::Owned;

/// Where an [`Upstream`](crate::upstream::Upstream) has its endpoints from: a stream of whole sets and of failures. Each
/// function of the [module](super) makes one.
#[must_use = "a source does nothing before an upstream follows it"]
pub struct Source {
    first: Option<Vec<Endpoint>>,
    later: BoxStream<'static, Result<Vec<Endpoint>, Error>>,
    listeners: Vec<Listener>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("first", &self.first)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn new(
        later: impl Stream<Item = Result<Vec<Endpoint>, Error>> + Send + 'static,
    ) -> Self {
        Self {
            first: None,
            later: later.boxed(),
            listeners: Vec::new(),
        }
    }

    /// A source that has a good set already, which holds from the moment the upstream is built.
    pub(super) fn starting_with(mut self, first: Vec<Endpoint>) -> Self {
        self.first = Some(first);
        self
    }

    /// A set that never changes and never fails.
    pub(super) fn constant(endpoints: Vec<Endpoint>) -> Self {
        Self::new(stream::pending()).starting_with(endpoints)
    }

    /// Calls this for each [`Event`]. There may be several listeners; they are called one after the other on the task that
    /// follows the source, and for a set that is there from the start while the upstream is built. A slow one delays the next
    /// set; one that panics is called again for the next event. The same events go to `tracing`.
    ///
    /// ```
    /// use ha_tower::discover::{self, Event};
    ///
    /// let source = discover::fixed(["http://127.0.0.1:3000"])?.on_event(|event| {
    ///     if let Event::Failed { error, kept } = event {
    ///         eprintln!("{error}; {kept} endpoints stay");
    ///     }
    /// });
    /// # drop(source);
    /// # Ok::<(), discover::FixedError>(())
    /// ```
    pub fn on_event(mut self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listeners.push(Listener(Arc::new(listener)));
        self
    }

    /// Gives each good set that differs from the one before to `apply`, until the task is dropped. A set that is there
    /// already is given before this returns.
    pub(crate) fn follow(
        self,
        upstream: Arc<str>,
        apply: impl FnMut(Vec<Endpoint>) + Send + 'static,
    ) -> Owned {
        let mut follower = Follower {
            upstream,
            apply,
            known: Known::default(),
            failures: 0,
            listeners: self.listeners,
        };
        if let Some(first) = self.first {
            follower.take(Ok(first));
        }
        let mut later = AssertUnwindSafe(self.later).catch_unwind();
        Owned::spawn(async move {
            while let Some(delivered) = later.next().await {
                follower.take(delivered.unwrap_or(Err(Error::Panicked)));
                // A stream that is always ready must not hold the thread.
                tokio::task::consume_budget().await;
            }
            follower.tell(&Event::Ended {
                kept: follower.known.len(),
            });
            // What `apply` owns lives on with the set.
            std::future::pending::<()>().await;
        })
    }
}

struct Follower<F> {
    upstream: Arc<str>,
    apply: F,
    known: Known,
    failures: u64,
    listeners: Vec<Listener>,
}

impl<F: FnMut(Vec<Endpoint>)> Follower<F> {
    fn take(&mut self, delivered: Result<Vec<Endpoint>, Error>) {
        let checked = delivered.and_then(|endpoints| match set::check(&endpoints) {
            Ok(()) => Ok(endpoints),
            Err(refused) => Err(Error::Set(refused)),
        });
        let event = match checked {
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                Event::Failed {
                    error,
                    kept: self.known.len(),
                }
            }
            Ok(endpoints) => {
                let failures = std::mem::take(&mut self.failures);
                let change = self.known.replace(&endpoints);
                if !change.is_none() {
                    (self.apply)(endpoints);
                    Event::Updated(change)
                } else if failures > 0 {
                    Event::Recovered { failures }
                } else {
                    return;
                }
            }
        };
        self.tell(&event);
    }

    fn tell(&self, event: &Event) {
        self.log(event);
        #[cfg(feature = "metrics")]
        self.count(event);
        for listener in &self.listeners {
            // The panic was reported by its hook. The set and the health checks must outlive it.
            let _ = catch_unwind(AssertUnwindSafe(|| (listener.0)(event)));
        }
    }

    #[cfg(feature = "metrics")]
    fn count(&self, event: &Event) {
        let kind = match event {
            Event::Updated(_) => "updated",
            Event::Failed { .. } => "failed",
            Event::Recovered { .. } => "recovered",
            Event::Ended { .. } => "ended",
        };
        let upstream = self.upstream.to_string();
        metrics::counter!("ha_discover_events_total", "upstream" => upstream, "event" => kind)
            .increment(1);
    }

    fn log(&self, event: &Event) {
        let upstream = &*self.upstream;
        match event {
            Event::Updated(change) => {
                let (added, removed) = (change.added.len(), change.removed.len());
                let (changed, total) = (change.changed.len(), change.total);
                crate::trace::info!(
                    upstream,
                    added,
                    removed,
                    changed,
                    total,
                    "endpoints changed"
                );
            }
            Event::Failed { error, kept } => {
                let error = error as &(dyn std::error::Error + 'static);
                crate::trace::warn!(
                    upstream,
                    error,
                    kept,
                    "discovery failed, the last good set stays"
                );
            }
            Event::Recovered { failures } => {
                crate::trace::info!(upstream, failures, "discovery works again");
            }
            Event::Ended { kept } => {
                crate::trace::warn!(
                    upstream,
                    kept,
                    "discovery has ended, the last good set stays"
                );
            }
        }
    }
}
