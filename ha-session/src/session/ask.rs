//! Asking the store, and what the request carries for when the store cannot say or does not know.

use std::future::Future;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::Session;
use super::state::{Cookie, Seen};
use crate::cookie::{Presented, Ticket};
use crate::error::SessionError;
use crate::id::SessionId;
use crate::observe::{self, Answered, Operation};
use crate::record::{Record, Version};
use crate::store::{Load, StoreError};

impl Session {
    pub(super) async fn load(&self) -> Result<(), SessionError> {
        if let Some(known) = self.known() {
            return known;
        }
        let _gate = self.inner.gate.lock().await;
        self.load_within_gate().await
    }

    pub(super) async fn load_within_gate(&self) -> Result<(), SessionError> {
        if let Some(known) = self.known() {
            return known;
        }
        let Some(presented) = self.state().current else {
            self.state().seen = Seen::Nothing;
            return Ok(());
        };
        let seen = self.ask(presented).await;
        self.learn(seen);
        self.known().unwrap_or(Ok(()))
    }

    /// Reads the session anew, for a stream or a socket that lives longer than a request, and says whether it still exists: a
    /// sign-out elsewhere, or an expiry, is seen here. Starts the idle window anew where that is due.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] when the store cannot say. That is not an end of the session.
    ///
    /// # Cancel safety
    /// Safe: dropped before it is ready, what was read before stays.
    pub async fn refresh(&self) -> Result<bool, SessionError> {
        self.state().read = true;
        let gate = self.inner.gate.lock().await;
        let Some(presented) = self.state().current else {
            return Ok(false);
        };
        let seen = self.ask(presented).await;
        self.learn(seen);
        drop(gate);
        if let Seen::Unknown(error) | Seen::Degraded(_, error) = &self.state().seen {
            return Err(SessionError::Unknown(Arc::clone(error)));
        }
        self.touch().await;
        Ok(matches!(self.state().seen, Seen::Found(_)))
    }

    pub(super) fn known(&self) -> Option<Result<(), SessionError>> {
        match &self.state().seen {
            Seen::NotAsked => None,
            Seen::Found(_) | Seen::Nothing | Seen::Degraded(..) => Some(Ok(())),
            Seen::Unknown(error) => Some(Err(SessionError::Unknown(Arc::clone(error)))),
        }
    }

    /// What the store holds of a session; `None` when it is gone.
    pub(super) async fn load_now(&self, id: SessionId) -> Result<Option<Record>, StoreError> {
        let floor = Version::ZERO;
        match self.load_from_store(Presented { id, floor }).await {
            Load::Found(record) => Ok(Some(record)),
            Load::Gone(_) => Ok(None),
            Load::Unknown(error) => Err(error),
        }
    }

    async fn load_from_store(&self, presented: Presented) -> Load {
        let shared = &self.inner.shared;
        let after = shared.settings.store_timeout;
        let load = async {
            let load = shared.store.load(presented.id.key(), presented.floor);
            let timeout = StoreError::Timeout { after };
            tokio::time::timeout(after, load)
                .await
                .unwrap_or(Load::Unknown(timeout))
        };
        self.watched(Operation::Load, presented.id, load).await
    }

    async fn ask(&self, presented: Presented) -> Seen {
        match self.load_from_store(presented).await {
            Load::Found(record) => Seen::Found(record),
            #[cfg(feature = "migrate-tower-sessions")]
            Load::Gone(gone) => self.take_over(presented, gone).await,
            #[cfg(not(feature = "migrate-tower-sessions"))]
            Load::Gone(_) => Seen::Nothing,
            Load::Unknown(error) => self.without_store(presented.id, error),
        }
    }

    fn learn(&self, seen: Seen) {
        let mut state = self.state();
        // A clone may have ended the session meanwhile.
        if state.destroy {
            return;
        }
        #[cfg(feature = "migrate-tower-sessions")]
        if let (Some(_), Seen::Found(record), Some(presented)) =
            (&state.legacy, &seen, state.current)
            && !record.superseded
        {
            // The client has only the old cookie, and is given ours.
            let presented = Presented {
                floor: record.version,
                ..presented
            };
            state.cookie = Cookie::Set(presented, record.absolute_left);
        }
        state.seen = seen;
    }

    /// What the client carries for when the store cannot say, if it may be used.
    pub(super) fn without_store(&self, id: SessionId, error: StoreError) -> Seen {
        let ticket = self.ticket(id);
        tracing::warn!(
            session = self.logged(id),
            error = &error as &dyn std::error::Error,
            degraded = ticket.is_some(),
            "session state unknown"
        );
        let error = Arc::new(error);
        match ticket {
            Some(ticket) => {
                observe::degraded();
                Seen::Degraded(ticket, error)
            }
            None => Seen::Unknown(error),
        }
    }

    /// The newest valid ticket for this id.
    fn ticket(&self, id: SessionId) -> Option<Ticket> {
        let shared = &self.inner.shared;
        let lifetime = shared.degraded.as_ref()?.lifetime;
        let now = unix_ms();
        let state = self.state();
        let tickets = state.tickets.iter();
        tickets
            .filter_map(|text| shared.cookies.open_ticket(id, text))
            .filter(|ticket| ticket.is_valid(lifetime, now))
            .max_by_key(|ticket| ticket.issued_ms)
    }

    /// The ticket for the next requests, when the one that came with this one says something else or is half as old as it may be.
    pub(super) fn next_ticket(&self) -> Result<Option<HeaderValue>, SessionError> {
        let shared = &self.inner.shared;
        let Some(degraded) = &shared.degraded else {
            return Ok(None);
        };
        let (id, next) = {
            let state = self.state();
            match (&state.seen, state.current, &state.cookie) {
                (Seen::Found(record), Some(presented), _) if !record.superseded => {
                    let next = Ticket::of(record, &degraded.names, unix_ms());
                    (presented.id, next)
                }
                (_, _, Cookie::Clear) => return Ok(shared.cookies.clear_ticket()),
                _ => return Ok(None),
            }
        };
        let fresh = self.ticket(id).is_some_and(|held| {
            held.values == next.values && held.is_valid(degraded.lifetime / 2, next.issued_ms)
        });
        if fresh {
            return Ok(None);
        }
        let ticket = shared.cookies.set_ticket(id, &next, degraded.lifetime);
        ticket.map_err(SessionError::Random)
    }

    pub(super) async fn within<T>(
        &self,
        operation: Operation,
        id: impl Into<Option<SessionId>>,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError>
    where
        Result<T, StoreError>: Answered,
    {
        let after = self.inner.shared.settings.store_timeout;
        let answer = async {
            tokio::time::timeout(after, answer)
                .await
                .unwrap_or(Err(StoreError::Timeout { after }))
        };
        self.watched(operation, id, answer).await
    }

    /// An answer of the store, seen by operators.
    async fn watched<T: Answered>(
        &self,
        operation: Operation,
        id: impl Into<Option<SessionId>>,
        answer: impl Future<Output = T>,
    ) -> T {
        let span = tracing::debug_span!(
            "session_store",
            operation = operation.as_str(),
            session = id.into().map(|id| self.logged(id))
        );
        let begun = Instant::now();
        let answer = answer.instrument(span).await;
        observe::answered(operation, answer.outcome(), begun.elapsed());
        answer
    }

    pub(super) fn logged(&self, id: SessionId) -> String {
        observe::log_id(self.inner.shared.cookies.keys(), id.key())
    }
}

/// A ticket is made and read by app servers while no store answers: their clocks are all there is.
#[allow(clippy::disallowed_methods)]
fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
