//! A session of tower-sessions that goes on as one of ours.
//!
//! Its new id is a hash of the old one, so that a request whose answer was lost, and one that came at the same time, find the session
//! that was copied, not a second copy; and so that a session that ended here stays ended, whoever still has the old cookie.

use std::future::Future;

use super::Session;
use super::state::Seen;
use crate::cookie::Presented;
use crate::error::SessionError;
use crate::observe::Operation;
use crate::record::{Patch, Version};
use crate::store::{Commit, Ending, Gone, Outcome, StoreError};

impl Session {
    /// What the old store has of a session that ours never had.
    pub(super) async fn take_over(&self, presented: Presented, gone: Gone) -> Seen {
        if gone.ending != Ending::Missing {
            return Seen::Nothing;
        }
        match self.copy(presented).await {
            Ok(seen) => seen,
            Err(error) => self.without_store(presented.id, error),
        }
    }

    async fn copy(&self, presented: Presented) -> Result<Seen, StoreError> {
        let shared = &self.inner.shared;
        let legacy = self.state().legacy.clone();
        let (Some(migration), Some(legacy)) = (&shared.migration, legacy) else {
            return Ok(Seen::Nothing);
        };
        let Some(patch) = self.timed(migration.read(&legacy)).await? else {
            return Ok(Seen::Nothing);
        };
        let settings = &shared.settings;
        let key = presented.id.key();
        let mut create = Commit::create(key, patch, settings.expiry, settings.max_session);
        create.expected = Some(unwritten(&create.patch));
        let commit = shared.store.commit(create);
        match self.within(Operation::Commit, presented.id, commit).await? {
            Outcome::Committed(record) => {
                // It is left where it is when this fails. That brings nothing back: its id leads to our session, or to its end.
                if let Err(error) = self.timed(migration.delete(&legacy)).await {
                    tracing::warn!(
                        session = self.logged(presented.id),
                        error = &error as &dyn std::error::Error,
                        "copied session not deleted where it was"
                    );
                }
                Ok(Seen::Found(record))
            }
            Outcome::TooLarge { .. } => Err(StoreError::Corrupt {
                store: "tower-sessions",
                what: "it is larger than allowed",
            }),
            // Another request was first.
            _ => {
                let found = self.load_now(presented.id).await?;
                Ok(found.map_or(Seen::Nothing, Seen::Found))
            }
        }
    }

    /// Copies the session before it is changed without having been read: a change of ours must not start another one.
    pub(super) async fn copy_before_commit(&self) -> Result<(), SessionError> {
        let waits = {
            let state = self.state();
            state.legacy.is_some() && matches!(state.seen, Seen::NotAsked)
        };
        if waits {
            self.load_within_gate().await?;
        }
        Ok(())
    }

    /// Deletes the old record, where the session ends.
    pub(super) async fn delete_legacy(&self) -> Result<(), StoreError> {
        let legacy = self.state().legacy.clone();
        match (&self.inner.shared.migration, legacy) {
            (Some(migration), Some(legacy)) => self.timed(migration.delete(&legacy)).await,
            _ => Ok(()),
        }
    }

    async fn timed<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let after = self.inner.shared.settings.store_timeout;
        tokio::time::timeout(after, answer)
            .await
            .unwrap_or(Err(StoreError::Timeout { after }))
    }
}

fn unwritten(patch: &Patch) -> std::collections::BTreeMap<String, Version> {
    patch
        .iter()
        .map(|(name, _)| (name.to_owned(), Version::ZERO))
        .collect()
}
