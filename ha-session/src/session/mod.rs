//! The handle that a handler works with.

mod ask;
mod commit;
mod finish;
mod principal;
mod state;
#[cfg(feature = "migrate-tower-sessions")]
mod take_over;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub(crate) use self::state::{Arrived, Effects, Settings, Shared};
use self::state::{Seen, State};
use crate::error::SessionError;
use crate::record::Change;
use crate::value;

/// What happens to the changes of a handler that answers with a server error (5xx).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnServerError {
    /// They are committed as with any other answer. The default: what a handler did not take back is meant, and a client that
    /// counts failed attempts in the session can rely on it.
    #[default]
    Commit,
    /// They are dropped, with a rotation that was asked for. A sign-out is not: it is always carried out.
    Discard,
}

/// The session of the request under way.
///
/// Nothing is read before the first [`get`](Self::get) or [`exists`](Self::exists), nothing is written before the
/// handler has answered, and a request that only changes values reads nothing at all. Changes are committed before the
/// answer leaves, whatever its status; if that fails the client gets an error instead of the handler's answer. Clones are
/// the same session.
///
/// Without a session every read says "nothing there"; the first [`insert`](Self::insert) starts one under an id that
/// is always new and never taken from the request, so that nobody can be made to use an id that somebody else knows.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    started: Instant,
    /// Held over every conversation with the store, so that clones do not load or commit twice.
    gate: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, arrived: Arrived) -> Self {
        let state = State {
            current: arrived.presented,
            dated: arrived.dated,
            tickets: arrived.tickets,
            #[cfg(feature = "migrate-tower-sessions")]
            legacy: arrived.legacy,
            ..State::default()
        };
        Self {
            inner: Arc::new(Inner {
                shared,
                started: Instant::now(),
                gate: tokio::sync::Mutex::new(()),
                state: Mutex::new(state),
            }),
        }
    }

    /// Reads the value `key`, with the changes that this request made.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] when the store cannot say, [`SessionError::Decode`] when the value is of another type,
    /// [`SessionError::ValueFormat`] when a newer version wrote it.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing, and a later call reads anew.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        if let Some(change) = self.pending(key) {
            return match change {
                Change::Set(bytes) => value::decode(key, &bytes).map(Some),
                Change::Remove => Ok(None),
            };
        }
        self.load().await?;
        let stored = match &self.state().seen {
            Seen::Found(record) => record.values.get(key).map(|value| value.bytes.clone()),
            Seen::Degraded(ticket, error) => {
                let degraded = self.inner.shared.degraded.as_ref();
                if !degraded.is_some_and(|degraded| degraded.names.contains(key)) {
                    return Err(SessionError::Unknown(Arc::clone(error)));
                }
                ticket.values.get(key).cloned()
            }
            _ => None,
        };
        stored.map(|bytes| value::decode(key, &bytes)).transpose()
    }

    fn pending(&self, key: &str) -> Option<Change> {
        let mut state = self.state();
        state.read = true;
        state.patch.get(key).cloned()
    }

    /// Writes `value` under `key` when the request ends.
    ///
    /// # Errors
    /// [`SessionError::ValueTooLarge`] or [`SessionError::SessionTooLarge`] with name and sizes,
    /// [`SessionError::BadName`], [`SessionError::Encode`]. The session is as before then.
    pub fn insert<T: Serialize>(&self, key: &str, value: T) -> Result<(), SessionError> {
        value::check_name(key)?;
        let settings = &self.inner.shared.settings;
        let bytes = Bytes::from(value::encode(settings.format, key, &value)?);
        if bytes.len() > settings.max_value {
            return Err(SessionError::ValueTooLarge {
                key: key.to_owned(),
                bytes: bytes.len(),
                max: settings.max_value,
            });
        }
        let mut state = self.state();
        let mut patch = state.patch.clone();
        patch.set(key, bytes);
        let size = match &state.seen {
            Seen::Found(record) => record.size_with(&patch),
            _ => patch.size(),
        };
        if size > settings.max_session {
            return Err(SessionError::SessionTooLarge {
                key: key.to_owned(),
                bytes: size,
                max: settings.max_session,
            });
        }
        state.patch = patch;
        Ok(())
    }

    /// Removes the value `key` when the request ends.
    pub fn remove(&self, key: &str) {
        let mut state = self.state();
        // Without a session there is nothing to remove, and removing must not start one.
        if state.current.is_some() || state.patch.get(key).is_some() {
            state.patch.remove(key);
        }
    }

    /// Gives the session a new id when the request ends, in one step with the changes of this request.
    ///
    /// Call it whenever rights change: at sign-in above all. The old id answers reads for
    /// [`ROTATION_GRACE`](crate::ROTATION_GRACE) more, with the values from *before* this request, and takes no writes:
    /// whoever planted or stole the old id gains nothing of what follows.
    pub fn rotate(&self) {
        self.state().rotate = true;
    }

    /// Ends the session when the request ends, and takes the cookie back.
    ///
    /// Changes made before are dropped. Values inserted afterwards start another session under a new id.
    pub fn destroy(&self) {
        let mut state = self.state();
        state.destroy = true;
        state.seen = Seen::Nothing;
        state.rotate = false;
        state.claim = None;
        state.patch.clear();
    }

    /// Whether there is a stored session that this request did not end.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] when the store cannot say.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn exists(&self) -> Result<bool, SessionError> {
        self.state().read = true;
        self.load().await?;
        let state = self.state();
        Ok(matches!(state.seen, Seen::Found(_) | Seen::Degraded(..)))
    }

    /// Whether what this request read is the copy that the client carries, because no store can say; see
    /// [`Degraded`](crate::Degraded). Writing fails then. False before the first read.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        matches!(self.state().seen, Seen::Degraded(..))
    }

    /// The SHA-256 of the id in hexadecimal, by which [`sessions`](Self::sessions) and [`revoke`](Self::revoke) name the session.
    /// The id itself is never shown. `None` before the first commit of a new session. Not for logs: those take
    /// [`log_id`](Self::log_id).
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.state()
            .current
            .map(|presented| presented.id.key().to_string())
    }

    /// A name for the session in logs, which leads neither to the id nor to the entry in the store: an HMAC of the hash of the id,
    /// by the newest key of the ring. `None` before the first commit of a new session.
    #[must_use]
    pub fn log_id(&self) -> Option<String> {
        let current = self.state().current;
        current.map(|presented| self.logged(presented.id))
    }

    pub(crate) fn retry_after(&self) -> Duration {
        self.inner.shared.settings.retry_after
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("log_id", &self.log_id())
            .finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.answered && (state.destroy || !state.patch.is_empty()) {
            tracing::warn!("session changes made after the answer were never committed");
        }
    }
}
