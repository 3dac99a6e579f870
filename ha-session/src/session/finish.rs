//! What a request leaves behind when it ends.

use super::state::{Cookie, Effects, Seen};
use super::{OnServerError, Session};
use crate::error::SessionError;
use crate::observe::Operation;

impl Session {
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
        let set_ticket = self.next_ticket()?;
        let mut state = self.state();
        state.answered = true;
        let cookies = &self.inner.shared.cookies;
        #[cfg(feature = "migrate-tower-sessions")]
        let clear_legacy = match (&self.inner.shared.migration, &state.legacy, &state.cookie) {
            (Some(migration), Some(_), Cookie::Set(..) | Cookie::Clear) => migration.clear(),
            _ => None,
        };
        #[cfg(not(feature = "migrate-tower-sessions"))]
        let clear_legacy = None;
        let (set_cookie, set_version) = match state.cookie {
            Cookie::Keep => (None, None),
            Cookie::Set(presented, age) => {
                let id = cookies.set(presented, age).map_err(SessionError::Random)?;
                (id, None)
            }
            Cookie::Told(presented, age) => (None, cookies.set_version(presented, age)),
            Cookie::Clear => (cookies.clear(), cookies.clear_version()),
        };
        Ok(Effects {
            set_cookie,
            set_version,
            set_ticket,
            clear_legacy,
            private: state.read || state.wrote,
        })
    }

    /// Drops the changes and the rotation that this request asked for, and keeps its sign-out.
    pub(crate) fn discard(&self) {
        let mut state = self.state();
        state.patch.clear();
        state.claim = None;
        state.rotate = false;
    }

    /// Whether a sign-out waits to be carried out.
    pub(crate) fn is_ending(&self) -> bool {
        self.state().destroy
    }

    /// Says that the headers of the answer leave now.
    pub(crate) fn answered(&self) {
        self.state().answered = true;
    }

    pub(crate) fn on_server_error(&self) -> OnServerError {
        self.inner.shared.settings.on_server_error
    }

    /// What a handler read must be known. It may have given up waiting and taken that for "nothing there".
    async fn settle_reads(&self) -> Result<(), SessionError> {
        if self.state().read {
            return self.load().await;
        }
        self.known().unwrap_or(Ok(()))
    }

    pub(super) async fn touch(&self) {
        let expiry = self.inner.shared.settings.expiry;
        let id = {
            let state = self.state();
            match (&state.seen, state.current) {
                (Seen::Found(record), Some(presented))
                    if !record.superseded
                        && expiry.needs_touch(record.idle_left, record.absolute_left) =>
                {
                    presented.id
                }
                _ => return,
            }
        };
        // The next request tries again, so that an answer is never lost over this.
        let touch = self.inner.shared.store.touch(id.key(), expiry);
        if let Err(error) = self.within(Operation::Touch, id, touch).await {
            tracing::debug!(
                session = self.logged(id),
                error = &error as &dyn std::error::Error,
                "session not touched"
            );
        }
    }
}
