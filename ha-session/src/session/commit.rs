//! From the changes of a request to what is stored.

use std::sync::Arc;
use std::time::Duration;

use super::Session;
use super::state::{Cookie, Seen};
use crate::cookie::Presented;
use crate::error::SessionError;
use crate::id::{SessionId, TAG_LEN};
use crate::observe::Operation;
use crate::principal::Claim;
use crate::record::{Change, Patch, Record};
use crate::store::{Commit, Ending, Gone, Outcome, StoreError};

/// More than two durations of whole milliseconds can be wrong by.
const CLOCK_GRAIN: Duration = Duration::from_millis(5);

impl Session {
    /// Commits now what would be committed when the request ends, for a handler that must know the outcome before it
    /// goes on. What changes afterwards is committed at the end.
    ///
    /// # Errors
    /// Every [`SessionError`] of a commit; the changes are still there to be committed again, except after
    /// [`SessionError::Ended`], [`SessionError::Revoked`], [`SessionError::Superseded`] and [`SessionError::Conflict`], which
    /// drop them.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the commit is stored as a whole or not at all; the changes stay in the session and
    /// the end of the request commits them (again, which changes nothing).
    pub async fn commit(&self) -> Result<(), SessionError> {
        let _gate = self.inner.gate.lock().await;
        self.commit_destroy().await?;
        let (patch, rotate, claim) = {
            let state = self.state();
            (state.patch.clone(), state.rotate, state.claim.clone())
        };
        if patch.is_empty() && !rotate {
            return Ok(());
        }
        #[cfg(feature = "migrate-tower-sessions")]
        self.copy_before_commit().await?;
        let result = self.commit_patch(&patch, rotate, claim.as_ref()).await;
        let mut state = self.state();
        match &result {
            Ok(()) => {
                state.wrote = true;
                state.patch.subtract(&patch);
                // A clone may have asked for another since.
                if state.claim == claim {
                    state.claim = None;
                    state.rotate &= !rotate;
                }
            }
            Err(
                SessionError::Ended
                | SessionError::Revoked
                | SessionError::Superseded
                | SessionError::Conflict { .. },
            ) => {
                state.patch.clear();
                state.claim = None;
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
        #[cfg(feature = "migrate-tower-sessions")]
        self.delete_legacy().await.map_err(not_committed)?;
        for id in [current, drawn].into_iter().flatten() {
            let store = &self.inner.shared.store;
            self.within(Operation::Destroy, id, store.destroy(id.key()))
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

    async fn commit_patch(
        &self,
        patch: &Patch,
        rotate: bool,
        claim: Option<&Claim>,
    ) -> Result<(), SessionError> {
        let (current, blind, nothing) = {
            let state = self.state();
            if let Seen::Unknown(error) | Seen::Degraded(_, error) = &state.seen {
                return Err(SessionError::Unknown(Arc::clone(error)));
            }
            if state.answered && rotate {
                return Err(SessionError::Answered);
            }
            let blind = matches!(state.seen, Seen::NotAsked);
            (state.current, blind, matches!(state.seen, Seen::Nothing))
        };
        if let (Some(presented), false) = (current, nothing) {
            let (id, outcome) = if rotate {
                self.commit_rotation(presented.id, patch, claim).await?
            } else {
                let commit = self.update(presented.id, patch);
                (presented.id, self.send(presented.id, commit).await?)
            };
            match outcome {
                Outcome::Committed(record) => return self.adopt(id, record, claim).await,
                Outcome::Gone(gone) if blind && self.was_gone_before(gone) => {}
                // The same sign-in, sent again, begins after it.
                Outcome::Gone(Gone {
                    ending: Ending::Revoked,
                    ..
                }) if claim.is_some() => return Err(SessionError::Revoked),
                Outcome::Conflict { keys } => return self.settle_conflict(id, patch, keys).await,
                other => return Err(self.refused(other, patch)),
            }
        }
        self.commit_new(patch, claim).await
    }

    fn update(&self, id: SessionId, patch: &Patch) -> Commit {
        let settings = &self.inner.shared.settings;
        let mut commit = Commit::update(
            id.key(),
            patch.clone(),
            settings.expiry,
            settings.max_session,
        );
        self.expect(&mut commit);
        commit
    }

    /// Commits under the next id. One try that was not confirmed may be stored all the same: then this client is the only one
    /// who is to know the next id, and the rest is committed under it.
    async fn commit_rotation(
        &self,
        id: SessionId,
        patch: &Patch,
        claim: Option<&Claim>,
    ) -> Result<(SessionId, Outcome), SessionError> {
        let before = self.state().drawn;
        let tag = claim.map_or(id.key().tag(), |claim| claim.principal.tag());
        let next = self.draw(Some(tag))?;
        let mut commit = self.update(id, patch);
        commit.rotate_to = Some(next.key());
        commit.claim = claim.cloned();
        let outcome = self.send(id, commit).await?;
        let Some(before) = before.filter(|_| outcome == Outcome::Superseded) else {
            return Ok((next, outcome));
        };
        let mut rest = self.update(before, patch);
        rest.rotate_to = (before != next).then(|| next.key());
        rest.claim = claim.cloned();
        rest.expected = None;
        Ok(match self.send(next, rest).await? {
            Outcome::Gone(_) => (next, Outcome::Superseded),
            outcome => (next, outcome),
        })
    }

    async fn commit_new(&self, patch: &Patch, claim: Option<&Claim>) -> Result<(), SessionError> {
        // Only a session with something in it, or of somebody, is worth an id.
        if claim.is_none() && !patch.iter().any(|(_, change)| *change != Change::Remove) {
            return Ok(());
        }
        if self.state().answered {
            return Err(SessionError::Answered);
        }
        let id = self.draw(claim.map(|claim| claim.principal.tag()))?;
        let settings = &self.inner.shared.settings;
        let mut commit = Commit::create(
            id.key(),
            patch.clone(),
            settings.expiry,
            settings.max_session,
        );
        commit.claim = claim.cloned();
        match self.send(id, commit).await? {
            Outcome::Committed(record) => self.adopt(id, record, claim).await,
            other => Err(self.refused(other, patch)),
        }
    }

    /// The id that an unconfirmed commit was made under if it has the tag asked for, or a new one.
    fn draw(&self, tag: Option<[u8; TAG_LEN]>) -> Result<SessionId, SessionError> {
        let mut state = self.state();
        if let Some(drawn) = state.drawn
            && tag.is_none_or(|tag| drawn.key().tag() == tag)
        {
            return Ok(drawn);
        }
        let id = match tag {
            Some(tag) => SessionId::tagged(tag),
            None => SessionId::random(),
        };
        let id = id.map_err(SessionError::Random)?;
        state.drawn = Some(id);
        Ok(id)
    }

    /// Whether the session had ended before this request began, by two durations, so that no clocks are compared.
    /// Otherwise it ended under the request, whose changes must not live on in another session.
    fn was_gone_before(&self, gone: Gone) -> bool {
        match (gone.ending, gone.ago) {
            (Ending::Missing, _) => true,
            (_, Some(ago)) => self.began_after(ago),
            (_, None) => false,
        }
    }

    /// Whether this request began after something that was so long ago when the store answered.
    pub(super) fn began_after(&self, ago: Duration) -> bool {
        ago > self.age()
    }

    /// How long ago this request began at most. The store's durations are whole milliseconds and its clock may run a little faster
    /// than ours.
    fn age(&self) -> Duration {
        let elapsed = self.inner.started.elapsed();
        elapsed + elapsed / 500 + CLOCK_GRAIN
    }

    /// A conflict is with oneself when a try before this one was stored and its answer lost.
    async fn settle_conflict(
        &self,
        id: SessionId,
        patch: &Patch,
        keys: Vec<String>,
    ) -> Result<(), SessionError> {
        let conflict = SessionError::Conflict { keys };
        if !self.state().unconfirmed {
            return Err(conflict);
        }
        let seen = self.load_now(id).await.map_err(not_committed)?;
        match seen {
            Some(record) if !record.superseded && patch.is_in(&record) => {
                self.adopt(id, record, None).await
            }
            _ => Err(conflict),
        }
    }

    /// What the commit has to meet because of what this request has seen.
    fn expect(&self, commit: &mut Commit) {
        let state = self.state();
        if let Seen::Found(record) = &state.seen
            && let Some((expected, yields)) =
                self.inner.shared.conflicts.expected(&commit.patch, record)
        {
            commit.expected = Some(expected);
            commit.yields = yields;
        }
    }

    async fn send(&self, id: SessionId, mut commit: Commit) -> Result<Outcome, SessionError> {
        if let Some(claim) = &commit.claim {
            commit.began_ago = Some(self.age());
            let drew = self.state().drew.clone();
            let drew = drew.filter(|(principal, _)| *principal == claim.principal);
            commit.knows = drew.map_or(0, |(_, epoch)| epoch);
        }
        // Dropped on the way it may be stored, too.
        let before = std::mem::replace(&mut self.state().unconfirmed, true);
        let commit = self.inner.shared.store.commit(commit);
        let sent = self.within(Operation::Commit, id, commit).await;
        if !sent.as_ref().is_err_and(StoreError::may_have_changed) {
            self.state().unconfirmed = before;
        }
        sent.map_err(not_committed)
    }

    /// Goes on with what was committed, unless all sessions of whom it was claimed for were revoked meanwhile.
    async fn adopt(
        &self,
        id: SessionId,
        record: Record,
        claim: Option<&Claim>,
    ) -> Result<(), SessionError> {
        if claim.is_some() {
            let refused = match &record.owner {
                Some(owner) => (!self.stands(owner)).then_some(SessionError::Revoked),
                None => Some(not_committed(StoreError::Unsupported {
                    what: "keep whose a session is",
                })),
            };
            if let Some(error) = refused {
                self.take_back(id).await;
                return Err(error);
            }
        }
        let presented = Presented {
            id,
            floor: record.version,
        };
        let mut state = self.state();
        state.cookie = match state.cookie {
            Cookie::Keep | Cookie::Told(..) if state.is_held(id) => {
                Cookie::Told(presented, record.absolute_left)
            }
            _ => Cookie::Set(presented, record.absolute_left),
        };
        state.current = Some(presented);
        state.drawn = None;
        state.unconfirmed = false;
        state.seen = Seen::Found(record);
        Ok(())
    }

    /// Ends a session that nobody was told the id of yet, so that failing to do so leaves nothing that can be used.
    async fn take_back(&self, id: SessionId) {
        let ended = self
            .within(
                Operation::Destroy,
                id,
                self.inner.shared.store.destroy(id.key()),
            )
            .await;
        if let Err(error) = ended {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "refused sign-in not ended"
            );
        }
        self.state().drawn = None;
    }

    fn refused(&self, outcome: Outcome, patch: &Patch) -> SessionError {
        match outcome {
            Outcome::Gone(_) | Outcome::Committed(_) => SessionError::Ended,
            Outcome::Superseded => SessionError::Superseded,
            Outcome::Overtaken => SessionError::Revoked,
            Outcome::Conflict { keys } => SessionError::Conflict { keys },
            Outcome::TooLarge { bytes } => SessionError::SessionTooLarge {
                key: largest(patch),
                bytes,
                max: self.inner.shared.settings.max_session,
            },
        }
    }
}

pub(super) fn not_committed(error: StoreError) -> SessionError {
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
