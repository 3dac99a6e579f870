//! Telling Redis of what has ended, at once or as soon as it can be reached again.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Inner, Tiered};
use crate::id::SessionKey;
use crate::principal::Principal;
use crate::store::StoreError;
use crate::store::redis::Copies;

/// What Redis has to be told of, because a copy there would outlive it.
pub(super) enum Ended {
    Session(SessionKey),
    /// A session that PostgreSQL had ended already: only a copy that is here matters.
    Copy(SessionKey),
    /// An id that was rotated away.
    Rotated {
        key: SessionKey,
        /// How long it still answers.
        left: Duration,
        /// How long ago that was.
        ago: Duration,
    },
    All(Principal, u64),
}

impl Ended {
    pub(super) fn rotated(key: SessionKey, left: Duration, ago: Duration) -> Self {
        Self::Rotated { key, left, ago }
    }

    async fn tell(&self, cache: &Copies) -> Result<(), StoreError> {
        match self {
            Self::Session(key) => cache.bury(*key).await,
            Self::Copy(key) => cache.end(*key).await,
            Self::Rotated { key, left, ago } => cache.retire(*key, *left, *ago).await,
            Self::All(principal, epoch) => cache.revoke(principal, *epoch).await,
        }
    }
}

impl Inner {
    /// Puts the end of a session into Redis, and goes on trying where that fails.
    pub(super) async fn bury(self: &Arc<Self>, key: SessionKey) {
        self.tell(Ended::Session(key)).await;
    }

    pub(super) async fn tell(self: &Arc<Self>, ended: Ended) {
        let told = ended.tell(&self.cache).await;
        self.cache_answered("of an end", &told);
        // What is in a newer format is for whoever writes it, and was told of there.
        if told.is_err_and(|error| !matches!(error, StoreError::Format { .. })) {
            self.tell_later(ended);
        }
    }

    fn tell_later(&self, ended: Ended) {
        let cache = self.cache.clone();
        let mut burials = self.burials.lock().unwrap_or_else(PoisonError::into_inner);
        while burials.try_join_next().is_some() {}
        if burials.len() >= Tiered::MAX_BURIALS {
            tracing::warn!("too many sign-outs wait for redis, this one is dropped");
            return;
        }
        burials.spawn(async move {
            let deadline = Instant::now() + Tiered::BURY_FOR;
            while Instant::now() < deadline {
                tokio::time::sleep(Tiered::PAUSE).await;
                if ended.tell(&cache).await.is_ok() {
                    return;
                }
            }
            tracing::warn!("redis was not told of a sign-out");
        });
    }
}
