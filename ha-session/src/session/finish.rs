//! Reading the stored session, and what a request leaves behind when it ends.

use std::future::Future;
use std::sync::Arc;

use super::Session;
use super::state::{Cookie, Effects, Seen};
use crate::error::SessionError;
use crate::store::{Load, StoreError};

impl Session {
    pub(super) async fn load(&self) -> Result<(), SessionError> {
        if let Some(known) = self.known() {
            return known;
        }
        let _gate = self.inner.gate.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        let Some(presented) = self.state().current else {
            self.state().seen = Seen::Nothing;
            return Ok(());
        };
        let shared = &self.inner.shared;
        let wait = shared.settings.store_timeout;
        let load = shared.store.load(presented.id.key(), presented.floor);
        let seen = match tokio::time::timeout(wait, load).await {
            Ok(Load::Found(record)) => Seen::Found(record),
            Ok(Load::Gone(_)) => Seen::Nothing,
            Ok(Load::Unknown(error)) => Seen::Unknown(Arc::new(error)),
            Err(_) => Seen::Unknown(Arc::new(StoreError::Timeout { after: wait })),
        };
        if let Seen::Unknown(error) = &seen {
            tracing::warn!(
                session = %presented.id.key(),
                error = error as &dyn std::error::Error,
                "session state unknown"
            );
        }
        {
            let mut state = self.state();
            // A clone may have ended the session meanwhile.
            if !state.destroy {
                state.seen = seen;
            }
        }
        self.known().unwrap_or(Ok(()))
    }

    fn known(&self) -> Option<Result<(), SessionError>> {
        match &self.state().seen {
            Seen::NotAsked => None,
            Seen::Found(_) | Seen::Nothing => Some(Ok(())),
            Seen::Unknown(error) => Some(Err(SessionError::Unknown(Arc::clone(error)))),
        }
    }

    pub(super) async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let after = self.inner.shared.settings.store_timeout;
        tokio::time::timeout(after, answer)
            .await
            .unwrap_or(Err(StoreError::Timeout { after }))
    }

    /// Whether the end of the request has anything to ask the store.
    pub(crate) fn is_untouched(&self) -> bool {
        let state = self.state();
        state.patch.is_empty()
            && !state.rotate
            && !state.destroy
            && !state.wrote
            && !state.read
            && matches!(state.seen, Seen::NotAsked)
    }

    /// Commits, extends the idle window where due, and says what the answer needs.
    pub(crate) async fn finish(&self) -> Result<Effects, SessionError> {
        self.commit().await?;
        if !self.inner.shared.settings.pass_unknown {
            self.settle_reads().await?;
        }
        self.touch().await;
        let state = self.state();
        let cookies = &self.inner.shared.cookies;
        Ok(Effects {
            set_cookie: match state.cookie {
                Cookie::Keep => None,
                Cookie::Set(presented, age) => cookies.set(presented, age),
                Cookie::Clear => cookies.clear(),
            },
            private: state.read || state.wrote,
        })
    }

    /// What a handler read must be known. It may have given up waiting and taken that for "nothing there".
    async fn settle_reads(&self) -> Result<(), SessionError> {
        if self.state().read {
            return self.load().await;
        }
        self.known().unwrap_or(Ok(()))
    }

    async fn touch(&self) {
        let expiry = self.inner.shared.settings.expiry;
        let key = {
            let state = self.state();
            match (&state.seen, state.current) {
                (Seen::Found(record), Some(presented))
                    if !state.wrote
                        && !record.superseded
                        && expiry.needs_touch(record.idle_left, record.absolute_left) =>
                {
                    presented.id.key()
                }
                _ => return,
            }
        };
        // The next request tries again, so that an answer is never lost over this.
        if let Err(error) = self
            .within(self.inner.shared.store.touch(key, expiry))
            .await
        {
            tracing::debug!(
                session = %key,
                error = &error as &dyn std::error::Error,
                "session not touched"
            );
        }
    }
}
