//! How reads find their way, and what Redis learns on it.

use std::sync::Arc;
use std::time::Duration;

use super::tell::Ended;
use super::{Inner, Tiered};
use crate::id::SessionKey;
use crate::record::{Record, Version};
use crate::store::redis::Copy;
#[cfg(feature = "journal")]
use crate::store::redis::MARK_MS;
use crate::store::{Commit, Ending, Gone, Load, Outcome, ROTATION_GRACE, Store as _, StoreError};

impl Inner {
    pub(super) async fn look(&self, key: SessionKey) -> Option<Copy> {
        if !self.redis_pause.passes() {
            return None;
        }
        let looked = self.cache.look(key).await;
        self.cache_answered("read", &looked);
        looked.ok()
    }

    /// Keeps what PostgreSQL has said of a session.
    pub(super) async fn keep(self: &Arc<Self>, key: SessionKey, record: &Record) {
        if record.superseded {
            let left = record.idle_left.min(ROTATION_GRACE);
            let ended = Ended::rotated(key, left, ROTATION_GRACE - left);
            return self.tell(ended).await;
        }
        if self.redis_pause.passes() {
            let kept = self.cache.put(key, record).await;
            self.cache_answered("write", &kept);
        }
    }

    /// Takes note of how Redis answered. What is in another format, or no session, is an answer.
    pub(super) fn cache_answered<T>(&self, what: &str, answer: &Result<T, StoreError>) {
        let error = match answer {
            Ok(_) => return self.redis_pause.succeeded(),
            Err(error) => error,
        };
        match error {
            StoreError::Format { .. } | StoreError::Corrupt { .. } => self.redis_pause.succeeded(),
            _ => self.redis_pause.failed(),
        }
        tracing::debug!(
            error = error as &dyn std::error::Error,
            "redis {what} failed, going on without"
        );
    }

    /// PostgreSQL's word on a copy that is here: `None` when it cannot be had quickly.
    async fn confirm(&self, key: SessionKey, floor: Version) -> Option<Load> {
        if !self.postgres_pause.passes() {
            return None;
        }
        let load = self.postgres.load(key, floor);
        match tokio::time::timeout(Tiered::CONFIRM_TIMEOUT, load).await {
            Ok(Load::Unknown(error)) if !matches!(error, StoreError::Format { .. }) => {
                self.postgres_pause.failed();
                None
            }
            Err(_) => {
                self.postgres_pause.failed();
                None
            }
            Ok(load) => {
                self.postgres_pause.succeeded();
                Some(load)
            }
        }
    }

    pub(super) async fn load(self: &Arc<Self>, key: SessionKey, floor: Version) -> Load {
        let cached = self.look(key).await;
        let skipped = cached.is_none();
        let (copy, age, pending) = match usable(cached, floor) {
            Some(Ok(copy)) => copy,
            Some(Err(gone)) => return Load::Gone(gone),
            None => return self.load_through(key, floor, skipped).await,
        };
        if age < self.settings.recheck {
            return Load::Found(copy);
        }
        match self.confirm(key, floor).await {
            Some(Load::Found(record)) if record.version < copy.version => Load::Found(copy),
            // It has what PostgreSQL has still to be told, unless that has seen an end for good.
            Some(Load::Found(_)) if pending => Load::Found(copy),
            Some(Load::Gone(gone)) if pending && !outlives(&gone) => Load::Found(copy),
            Some(load) => {
                self.repair(key, &load).await;
                load
            }
            None => self.during_outage(copy, age),
        }
    }

    async fn load_through(
        self: &Arc<Self>,
        key: SessionKey,
        floor: Version,
        skipped: bool,
    ) -> Load {
        let load = self.postgres.load(key, floor).await;
        if matches!(load, Load::Unknown(_)) && skipped {
            // Redis was passed over because of one failure; now it is all there is.
            match usable(self.cache.look(key).await.ok(), floor) {
                Some(Ok((copy, age, _))) => return self.during_outage(copy, age),
                Some(Err(gone)) => return Load::Gone(gone),
                None => return load,
            }
        }
        #[cfg(feature = "journal")]
        if let Some(error) = self.awaits_replay(&load, floor).await {
            return Load::Unknown(error);
        }
        self.repair(key, &load).await;
        load
    }

    /// Whether what PostgreSQL says is older than what this client was told a while ago, so that some journal may have the rest.
    #[cfg(feature = "journal")]
    async fn awaits_replay(&self, load: &Load, floor: Version) -> Option<StoreError> {
        let found = match load {
            Load::Found(record) => record.version,
            Load::Gone(gone) if gone.ending == Ending::Missing => Version::ZERO,
            _ => return None,
        };
        if found >= floor || !matches!(self.settings.level, super::Level::DurableOrJournal(_)) {
            return None;
        }
        match self.postgres.now_ms().await {
            Ok(now) if floor.get().saturating_add(MARK_MS) < now => None,
            Ok(_) => Some(StoreError::Stale {
                store: "postgresql",
                found,
                floor,
            }),
            Err(error) => Some(error),
        }
    }

    fn during_outage(&self, record: Record, age: Duration) -> Load {
        match self.settings.trust_during_outage {
            Some(limit) if age > limit => Load::Unknown(StoreError::Timeout {
                after: Tiered::CONFIRM_TIMEOUT,
            }),
            _ => Load::Found(record),
        }
    }

    /// Tells Redis what PostgreSQL made of a commit.
    pub(super) async fn committed(self: &Arc<Self>, commit: &Commit, outcome: &Outcome) {
        let (key, after) = (commit.key, commit.key_after());
        match outcome {
            Outcome::Committed(record) => {
                if key != after {
                    self.tell(Ended::rotated(key, ROTATION_GRACE, Duration::ZERO))
                        .await;
                }
                self.keep(after, record).await;
            }
            Outcome::Gone(gone) => self.note_end(key, gone).await,
            Outcome::Superseded => {
                self.tell(Ended::rotated(key, ROTATION_GRACE, Duration::ZERO))
                    .await;
            }
            _ => {}
        }
    }

    /// Tells Redis which sessions a sign-out has ended.
    pub(super) async fn ended(self: &Arc<Self>, key: SessionKey, ended: Vec<SessionKey>) {
        if !ended.contains(&key) {
            // It had ended already, maybe by a sign-out of which Redis was not told.
            self.tell(Ended::Copy(key)).await;
        }
        for key in ended {
            self.bury(key).await;
        }
    }

    pub(super) async fn repair(self: &Arc<Self>, key: SessionKey, load: &Load) {
        match load {
            Load::Found(record) => self.keep(key, record).await,
            Load::Gone(gone) => self.note_end(key, gone).await,
            Load::Unknown(_) => {}
        }
    }

    /// Tells Redis of an end that PostgreSQL knows of: a copy there must not outlive it.
    pub(super) async fn note_end(self: &Arc<Self>, key: SessionKey, gone: &Gone) {
        let ended = match gone.ending {
            Ending::Destroyed | Ending::Revoked => Ended::Session(key),
            Ending::Rotated => {
                let ago = gone.ago.unwrap_or(ROTATION_GRACE);
                Ended::rotated(key, Duration::ZERO, ago)
            }
            Ending::Expired | Ending::Missing => return,
        };
        self.tell(ended).await;
    }
}

/// Whether an end that PostgreSQL knows of holds against changes that it has not heard of.
fn outlives(gone: &Gone) -> bool {
    matches!(
        gone.ending,
        Ending::Destroyed | Ending::Revoked | Ending::Rotated
    )
}

/// What Redis may be believed: a copy that is not older than the client was told, or an end that is final. Everything else
/// is for PostgreSQL to say, also what a rotated id still shows.
fn usable(cached: Option<Copy>, floor: Version) -> Option<Result<(Record, Duration, bool), Gone>> {
    match cached? {
        Copy::Found {
            record,
            age,
            pending,
        } if record.version >= floor && !record.superseded => Some(Ok((record, age, pending))),
        Copy::Gone(gone) if gone.is_final() => Some(Err(gone)),
        _ => None,
    }
}
