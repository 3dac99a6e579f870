//! Being there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ha_core::endpoint::{Endpoint, EndpointKey};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Error, Registry, wire};

/// How an announcement stands with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// Nothing has been written yet.
    Pending,
    /// The last heartbeat was written.
    Announced,
    /// The last heartbeat was not written; the next one says all of it again.
    Failing,
    /// Somebody else has announced the same key since: no more heartbeats are sent.
    Superseded,
}

/// An endpoint that is announced for as long as this lives. Dropped without [`drain`](Self::drain) it fades as one that died does.
pub struct Announcement {
    registry: Registry,
    key: EndpointKey,
    said: Arc<Said>,
    standing: watch::Receiver<Standing>,
    task: AbortHandle,
}

/// What has been written so far.
#[derive(Default)]
struct Said {
    incarnation: AtomicI64,
    beats: AtomicI64,
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement")
            .field("key", &self.key)
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Announcement {
    pub(super) fn start(registry: Registry, endpoint: Endpoint) -> Self {
        let (sender, standing) = watch::channel(Standing::Pending);
        let said = Arc::new(Said::default());
        let key = endpoint.key.clone();
        let task = tokio::spawn(renew(registry.clone(), endpoint, Arc::clone(&said), sender));
        Self {
            registry,
            key,
            said,
            standing,
            task: task.abort_handle(),
        }
    }

    /// How it stands with the store right now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    fn superseded(&self) -> Error {
        Error::Superseded {
            key: self.key.to_string(),
        }
    }

    /// Waits until the first heartbeat is written: from then on watchers hear of it.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when that has not happened within `limit`; it goes on trying. [`Error::Superseded`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn announced(&self, limit: Duration) -> Result<(), Error> {
        let mut standing = self.standing.clone();
        let settled =
            standing.wait_for(|now| matches!(now, Standing::Announced | Standing::Superseded));
        match timeout(limit, settled).await {
            Ok(Ok(now)) if *now == Standing::Announced => Ok(()),
            Ok(_) => Err(self.superseded()),
            Err(_) => Err(Error::TimedOut { limit }),
        }
    }

    /// Takes it out: watchers leave it out at their next look. Call it before the last requests end, and serve those. No heartbeat is sent
    /// any more, whatever the outcome, so that after an error it fades. So does one that the store never confirmed, though it may have been
    /// written: which of those under its key is its own, and which a successor's, cannot be told.
    ///
    /// # Errors
    /// [`Error`] when that could not be written in three tries. [`Error::Superseded`] when there is nothing of ours to take out.
    ///
    /// # Cancel safety
    /// Dropped half way, it may have been taken out, and fades otherwise.
    pub async fn drain(self) -> Result<(), Error> {
        self.task.abort();
        let incarnation = self.said.incarnation.load(Ordering::Acquire);
        if incarnation == 0 {
            // To take the key over would be to take it from a successor.
            return match self.standing() {
                Standing::Superseded => Err(self.superseded()),
                _ => Ok(()),
            };
        }
        let beat = self.said.beats.load(Ordering::Acquire) + 1;
        let mut tries = 0;
        loop {
            tries += 1;
            match self
                .registry
                .withdraw(self.key.as_str(), incarnation, beat)
                .await
            {
                Err(Error::Superseded { key }) => return Err(Error::Superseded { key }),
                Err(error) if tries >= 3 => return Err(error),
                Err(error) => tracing::debug!(%error, "drain not written yet"),
                Ok(()) => return Ok(()),
            }
        }
    }
}

async fn renew(
    registry: Registry,
    endpoint: Endpoint,
    said: Arc<Said>,
    standing: watch::Sender<Standing>,
) {
    let text = wire::encode(&endpoint);
    let mut ticks = interval(registry.inner.heartbeat);
    // After a stall one heartbeat says as much as many.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let beat = said.beats.fetch_add(1, Ordering::AcqRel) + 1;
        let incarnation = said.incarnation.load(Ordering::Acquire);
        let key = endpoint.key.as_str();
        let now = match registry.beat(key, incarnation, beat, &text).await {
            Ok(given) => {
                said.incarnation.store(given, Ordering::Release);
                Standing::Announced
            }
            Err(Error::Superseded { key }) => {
                tracing::warn!(key, "another has announced itself under this key");
                standing.send_replace(Standing::Superseded);
                return;
            }
            Err(error) => {
                tracing::debug!(key, %error, "heartbeat not written");
                Standing::Failing
            }
        };
        standing.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}
