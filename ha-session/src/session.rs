//! The handle that a handler works with.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::cookie::{Cookies, Presented};
use crate::error::SessionError;
use crate::expiry::Expiry;
use crate::id::SessionId;
use crate::record::{Change, Patch, Record, Version};
use crate::store::{AnyStore, Commit, Ending, Gone, Load, Outcome, StoreError};
use crate::value;

/// What happens when two requests under way at the same time change the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnConflict {
    /// The commit that comes last wins. The default, because it needs no read.
    #[default]
    LastWriter,
    /// The later commit is refused with [`SessionError::Conflict`] when the request had read the session before.
    Refuse,
}

/// What all sessions of a layer share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn AnyStore>,
    pub(crate) cookies: Cookies,
    pub(crate) settings: Settings,
}

/// The limits of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) expiry: Expiry,
    pub(crate) on_conflict: OnConflict,
    pub(crate) max_value: usize,
    pub(crate) max_session: usize,
    pub(crate) store_timeout: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) pass_unknown: bool,
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

#[derive(Default)]
struct State {
    current: Option<Presented>,
    /// What was drawn for a commit that is not confirmed: it may be stored under it.
    drawn: Option<SessionId>,
    seen: Seen,
    read: bool,
    wrote: bool,
    patch: Patch,
    rotate: bool,
    destroy: bool,
    cookie: Cookie,
}

/// What this request knows of the stored session.
#[derive(Default)]
enum Seen {
    #[default]
    NotAsked,
    Found(Record),
    Nothing,
    Unknown(Arc<StoreError>),
}

#[derive(Default)]
enum Cookie {
    #[default]
    Keep,
    Set(Presented, Duration),
    Clear,
}

/// What the layer adds to the answer.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) set_cookie: Option<HeaderValue>,
    pub(crate) private: bool,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, presented: Option<Presented>) -> Self {
        let state = State {
            current: presented,
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
        let bytes = Bytes::from(value::encode(key, &value)?);
        let settings = &self.inner.shared.settings;
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
        Ok(matches!(self.state().seen, Seen::Found(_)))
    }

    /// The SHA-256 of the id in hexadecimal, for logs. The id itself is never shown. `None` before the first commit of
    /// a new session.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.state()
            .current
            .map(|presented| presented.id.key().to_string())
    }

    /// Commits now what would be committed when the request ends, for a handler that must know the outcome before it
    /// goes on. What changes afterwards is committed at the end.
    ///
    /// # Errors
    /// Every [`SessionError`] of a commit; the changes are still there to be committed again, except after
    /// [`SessionError::Ended`], [`SessionError::Superseded`] and [`SessionError::Conflict`], which drop them.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the commit is stored as a whole or not at all; the changes stay in the session and
    /// the end of the request commits them (again, which changes nothing).
    pub async fn commit(&self) -> Result<(), SessionError> {
        let _gate = self.inner.gate.lock().await;
        self.commit_destroy().await?;
        let (patch, rotate) = {
            let state = self.state();
            (state.patch.clone(), state.rotate)
        };
        if patch.is_empty() && !rotate {
            return Ok(());
        }
        let result = self.commit_patch(&patch, rotate).await;
        let mut state = self.state();
        match &result {
            Ok(()) => {
                state.wrote = true;
                state.patch.subtract(&patch);
                // A clone may have asked for one since.
                state.rotate &= !rotate;
            }
            Err(SessionError::Ended | SessionError::Superseded | SessionError::Conflict { .. }) => {
                state.patch.clear();
                state.rotate = false;
            }
            Err(_) => {}
        }
        result
    }

    async fn commit_destroy(&self) -> Result<(), SessionError> {
        let (current, drawn) = {
            let state = self.state();
            if !state.destroy {
                return Ok(());
            }
            (state.current.map(|presented| presented.id), state.drawn)
        };
        for id in [current, drawn].into_iter().flatten() {
            let store = &self.inner.shared.store;
            self.within(store.destroy(id.key()))
                .await
                .map_err(not_committed)?;
        }
        let mut state = self.state();
        state.destroy = false;
        state.drawn = None;
        state.seen = Seen::Nothing;
        if state.current.take().is_some() {
            state.wrote = true;
            state.cookie = Cookie::Clear;
        }
        Ok(())
    }

    async fn commit_patch(&self, patch: &Patch, rotate: bool) -> Result<(), SessionError> {
        let (current, blind, nothing) = {
            let state = self.state();
            if let Seen::Unknown(error) = &state.seen {
                return Err(SessionError::Unknown(Arc::clone(error)));
            }
            let blind = matches!(state.seen, Seen::NotAsked);
            (state.current, blind, matches!(state.seen, Seen::Nothing))
        };
        if let (Some(presented), false) = (current, nothing) {
            let (id, outcome) = if rotate {
                self.commit_rotation(presented.id, patch).await?
            } else {
                let commit = self.update(presented.id, patch);
                (presented.id, self.send(commit).await?)
            };
            match outcome {
                Outcome::Committed(record) => {
                    self.adopt(id, record);
                    return Ok(());
                }
                Outcome::Gone(gone) if blind && self.was_gone_before(gone) => {}
                other => return Err(self.refused(other, patch)),
            }
        }
        self.commit_new(patch).await
    }

    fn update(&self, id: SessionId, patch: &Patch) -> Commit {
        let settings = &self.inner.shared.settings;
        let mut commit = Commit::update(
            id.key(),
            patch.clone(),
            settings.expiry,
            settings.max_session,
        );
        commit.expected = self.expected(patch);
        commit
    }

    /// Commits under the next id. One try that was not confirmed may be stored all the same: then this client is the only one
    /// who is to know the next id, and the rest is committed under it.
    async fn commit_rotation(
        &self,
        id: SessionId,
        patch: &Patch,
    ) -> Result<(SessionId, Outcome), SessionError> {
        let (next, again) = self.draw(|| id.successor())?;
        let mut commit = self.update(id, patch);
        commit.rotate_to = Some(next.key());
        let outcome = self.send(commit).await?;
        if !again || outcome != Outcome::Superseded {
            return Ok((next, outcome));
        }
        let mut rest = self.update(next, patch);
        rest.expected = None;
        Ok(match self.send(rest).await? {
            Outcome::Gone(_) => (next, Outcome::Superseded),
            outcome => (next, outcome),
        })
    }

    async fn commit_new(&self, patch: &Patch) -> Result<(), SessionError> {
        // Only a session with something in it is worth an id.
        if !patch.iter().any(|(_, change)| *change != Change::Remove) {
            return Ok(());
        }
        let (id, _) = self.draw(SessionId::random)?;
        let settings = &self.inner.shared.settings;
        let commit = Commit::create(
            id.key(),
            patch.clone(),
            settings.expiry,
            settings.max_session,
        );
        match self.send(commit).await? {
            Outcome::Committed(record) => {
                self.adopt(id, record);
                Ok(())
            }
            other => Err(self.refused(other, patch)),
        }
    }

    /// The id that an unconfirmed commit was made under, and true, or a new one.
    fn draw(
        &self,
        new: impl FnOnce() -> Result<SessionId, getrandom::Error>,
    ) -> Result<(SessionId, bool), SessionError> {
        let mut state = self.state();
        if let Some(drawn) = state.drawn {
            return Ok((drawn, true));
        }
        let id = new().map_err(SessionError::Random)?;
        state.drawn = Some(id);
        Ok((id, false))
    }

    /// Whether the session had ended before this request began, by two durations, so that no clocks are compared.
    /// Otherwise it ended under the request, whose changes must not live on in another session.
    fn was_gone_before(&self, gone: Gone) -> bool {
        match (gone.ending, gone.ago) {
            (Ending::Missing, _) => true,
            (_, Some(ago)) => ago > self.inner.started.elapsed(),
            (_, None) => false,
        }
    }

    fn expected(&self, patch: &Patch) -> Option<BTreeMap<String, Version>> {
        if self.inner.shared.settings.on_conflict != OnConflict::Refuse {
            return None;
        }
        let state = self.state();
        let Seen::Found(record) = &state.seen else {
            return None;
        };
        let seen = |name: &str| {
            let value = record.values.get(name);
            (name.to_owned(), value.map_or(Version::ZERO, |v| v.version))
        };
        Some(patch.iter().map(|(name, _)| seen(name)).collect())
    }

    async fn send(&self, commit: Commit) -> Result<Outcome, SessionError> {
        self.within(self.inner.shared.store.commit(commit))
            .await
            .map_err(not_committed)
    }

    fn adopt(&self, id: SessionId, record: Record) {
        let presented = Presented {
            id,
            floor: record.version,
        };
        let mut state = self.state();
        state.current = Some(presented);
        state.drawn = None;
        state.cookie = Cookie::Set(presented, record.absolute_left);
        state.seen = Seen::Found(record);
    }

    fn refused(&self, outcome: Outcome, patch: &Patch) -> SessionError {
        match outcome {
            Outcome::Gone(_) | Outcome::Committed(_) => SessionError::Ended,
            Outcome::Superseded => SessionError::Superseded,
            Outcome::Conflict { keys } => SessionError::Conflict { keys },
            Outcome::TooLarge { bytes } => SessionError::SessionTooLarge {
                key: largest(patch),
                bytes,
                max: self.inner.shared.settings.max_session,
            },
        }
    }

    async fn load(&self) -> Result<(), SessionError> {
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

    async fn within<T>(
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
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

fn not_committed(error: StoreError) -> SessionError {
    SessionError::NotCommitted(Arc::new(error))
}

fn largest(patch: &Patch) -> String {
    patch
        .iter()
        .filter_map(|(name, change)| match change {
            Change::Set(bytes) => Some((bytes.len(), name)),
            Change::Remove => None,
        })
        .max()
        .map(|(_, name)| name.to_owned())
        .unwrap_or_default()
}
