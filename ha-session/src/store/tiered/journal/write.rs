//! Acknowledging a write without PostgreSQL: Redis judges it, and the journal keeps it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::files::{Journal, JournalError};
use super::record::{Changes, Entry};
use crate::engine::millis;
use crate::id::SessionKey;
use crate::record::Change;
use crate::store::redis::{Ahead, Copy};
use crate::store::tiered::Inner;
use crate::store::{Commit, Gone, Outcome, Store as _, StoreError};

/// How long PostgreSQL may take before a write goes to the journal, 1 s.
const PATIENCE: Duration = Duration::from_secs(1);
/// Writes that are on their way to Redis and the journal at a time.
const MOST_AHEAD: usize = 1024;
/// Bytes of a record beside names and values, with much to spare.
const OVERHEAD: usize = 4096;

/// Nothing was changed.
fn refused(source: JournalError) -> StoreError {
    let (store, source) = ("journal", Box::new(source));
    StoreError::Unavailable { store, source }
}

/// Whether PostgreSQL could not be asked, or did not answer.
fn is_outage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable { .. } | StoreError::NoAnswer { .. } | StoreError::Timeout { .. }
    )
}

/// Whether a commit may be acknowledged without PostgreSQL. Who somebody is, under which id, and whether somebody else was first, is
/// for PostgreSQL alone to say.
fn may_go_ahead(commit: &Commit) -> bool {
    commit.rotate_to.is_none() && commit.claim.is_none() && commit.expected.is_none()
}

fn waits() -> StoreError {
    StoreError::Unavailable {
        store: "postgresql",
        source: "the session has changes that are still to be replayed".into(),
    }
}

fn passed_over() -> StoreError {
    StoreError::Unavailable {
        store: "postgresql",
        source: "it failed a moment ago".into(),
    }
}

impl Inner {
    /// What PostgreSQL said of a commit, or why it has to be asked another time.
    async fn asked(&self, commit: &Commit) -> Result<Outcome, StoreError> {
        if !self.postgres_pause.passes() {
            return Err(passed_over());
        }
        let asked = tokio::time::timeout(PATIENCE, self.postgres.commit(commit.clone()));
        let after = PATIENCE;
        let asked = asked.await.unwrap_or(Err(StoreError::Timeout { after }));
        match &asked {
            Err(error) if is_outage(error) => self.postgres_pause.failed(),
            _ => self.postgres_pause.succeeded(),
        }
        asked
    }

    /// Commits in PostgreSQL, or in Redis and the journal.
    pub(in crate::store::tiered) async fn commit_or_journal(
        self: &Arc<Self>,
        commit: Commit,
        journal: &Journal,
    ) -> Result<Outcome, StoreError> {
        let copy = self.look(commit.key).await;
        let pending = matches!(copy, Some(Copy::Found { pending: true, .. }));
        let cause = if pending {
            // What was acknowledged before comes first.
            waits()
        } else {
            match self.asked(&commit).await {
                Ok(outcome) => {
                    self.committed(&commit, &outcome).await;
                    return Ok(outcome);
                }
                Err(error) if is_outage(&error) => error,
                Err(error) => return Err(error),
            }
        };
        if !may_go_ahead(&commit) {
            return Err(cause);
        }
        let (inner, journal) = (Arc::clone(self), journal.clone());
        self.ahead(async move { inner.write_ahead(commit, &journal).await })
            .await
            .unwrap_or(Err(cause))
    }

    /// Runs to its end whatever becomes of who waits for it: a change in Redis that no journal has would be of nobody. `None` when too
    /// much is under way.
    async fn ahead<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, done) = tokio::sync::oneshot::channel();
        {
            let mut tasks = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= MOST_AHEAD {
                return None;
            }
            tasks.spawn(async move {
                // Whoever asked may have gone away.
                drop(sender.send(work.await));
            });
        }
        done.await.ok()
    }

    async fn write_ahead(&self, commit: Commit, journal: &Journal) -> Result<Outcome, StoreError> {
        let names = commit
            .patch
            .iter()
            .map(|(name, _)| name.len())
            .sum::<usize>();
        let room = journal.reserve(commit.max_bytes.saturating_mul(2) + names + OVERHEAD);
        let room = room.map_err(refused)?;
        let (outcome, born) = match self.cache.commit_ahead(&commit, journal.id()).await? {
            Ahead::Missing => return Err(waits()),
            Ahead::Judged { outcome, born } => (outcome, born),
        };
        let Outcome::Committed(record) = &outcome else {
            return Ok(outcome);
        };
        let values = if born {
            let all = record.values.iter();
            all.map(|(name, value)| (name.clone(), value.version, Some(value.bytes.clone())))
                .collect()
        } else {
            let changes = commit.patch.iter();
            changes
                .map(|(name, change)| {
                    let bytes = match change {
                        Change::Set(bytes) => Some(bytes.clone()),
                        Change::Remove => None,
                    };
                    (name.to_owned(), record.version, bytes)
                })
                .collect()
        };
        let entry = Entry::Changed(Changes {
            key: commit.key,
            version: record.version,
            born,
            idle_ms: millis(commit.expiry.idle()),
            absolute_ms: millis(record.absolute_left),
            values,
        });
        journal.append(entry, room).await.map_err(|source| {
            // Redis shows it until its mark is too old.
            let (store, source) = ("journal", Box::new(source));
            StoreError::NoAnswer { store, source }
        })?;
        Ok(outcome)
    }

    /// Ends a session in PostgreSQL, or in Redis and the journal.
    pub(in crate::store::tiered) async fn destroy_or_journal(
        self: &Arc<Self>,
        key: SessionKey,
        journal: &Journal,
    ) -> Result<(), StoreError> {
        let ended = if self.postgres_pause.passes() {
            let after = PATIENCE;
            let ended = tokio::time::timeout(after, self.postgres.end(key, None)).await;
            ended.unwrap_or(Err(StoreError::Timeout { after }))
        } else {
            Err(passed_over())
        };
        let cause = match ended {
            Ok(ended) => {
                self.postgres_pause.succeeded();
                self.ended(key, ended).await;
                return Ok(());
            }
            Err(error) if is_outage(&error) => {
                self.postgres_pause.failed();
                error
            }
            Err(error) => return Err(error),
        };
        // What is not here may have gone on under another id, which would have to end too.
        let live = match self.look(key).await {
            Some(Copy::Found { record, .. }) => !record.superseded,
            Some(Copy::Gone(Gone { .. })) => return Ok(()),
            _ => false,
        };
        if !live {
            return Err(cause);
        }
        let (inner, journal) = (Arc::clone(self), journal.clone());
        let work = async move {
            let room = journal.reserve(OVERHEAD).map_err(refused)?;
            let ended = journal.append(Entry::Ended(key), room).await;
            ended.map_err(refused)?;
            inner.cache.bury(key).await
        };
        self.ahead(work).await.unwrap_or(Err(cause))
    }
}
