//! Following who is there.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::stream::{BoxStream, Stream, StreamExt as _, unfold};
use ha_core::endpoint::Endpoint;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::members::{Member, Members};
use super::{Error, Registry};

/// A stream of whole sets of endpoints, each different from the one before. It never ends by itself; a slow reader gets the newest set only.
/// Looking ends when this is dropped.
pub struct Watch {
    sets: BoxStream<'static, Vec<Endpoint>>,
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

struct Seen {
    members: Members,
    failure: Option<Arc<Error>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for Watch {
    type Item = Vec<Endpoint>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.sets.poll_next_unpin(cx)
    }
}

impl Watch {
    pub(super) fn start(registry: Registry) -> Self {
        let members = Members::new(registry.inner.threshold);
        let seen = Arc::new(Mutex::new(Seen {
            members,
            failure: None,
        }));
        let (sender, receiver) = watch::channel(Vec::new());
        let task = tokio::spawn(look(registry, Arc::clone(&seen), sender));
        let sets = unfold(receiver, |mut receiver| async move {
            receiver.changed().await.ok()?;
            let set = receiver.borrow_and_update().clone();
            Some((set, receiver))
        });
        Self {
            sets: sets.boxed(),
            seen,
            task: task.abort_handle(),
        }
    }

    /// Everybody who has announced itself and is not forgotten yet, those left out among them, with how sure we are.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        lock(&self.seen).members.list(Instant::now())
    }

    /// Why the last look failed; `None` while looking works. The last good set stays meanwhile.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<Error>> {
        lock(&self.seen).failure.clone()
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(registry: Registry, seen: Arc<Mutex<Seen>>, sets: watch::Sender<Vec<Endpoint>>) {
    let mut ticks = interval(registry.inner.look_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looked = registry.look().await;
        let mut seen = lock(&seen);
        match looked {
            Ok(rows) => {
                if seen.failure.take().is_some() {
                    tracing::info!(service = registry.inner.service, "registry works again");
                }
                if let Some(set) = seen.members.look(rows, Instant::now()) {
                    tracing::info!(
                        service = registry.inner.service,
                        endpoints = set.len(),
                        "registry changed"
                    );
                    sets.send_replace(set);
                }
            }
            Err(error) => {
                seen.members.blind();
                if seen.failure.is_none() {
                    tracing::warn!(service = registry.inner.service, %error, "registry is away, the last good set stays");
                }
                seen.failure = Some(Arc::new(error));
            }
        }
    }
}
