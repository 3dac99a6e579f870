//! Whose the session is, and the other sessions of the same principal.

use std::sync::Arc;

use super::Session;
use super::commit::not_committed;
use super::state::{Cookie, Seen};
use crate::error::SessionError;
use crate::id::SessionKey;
use crate::observe::Operation;
use crate::principal::{Claim, Owner, Principal, SessionInfo};
use crate::record::Patch;

impl Session {
    /// Makes the session one of `name`'s when the request ends, under a new id and in one step with the changes of this
    /// request: what a sign-in does. It [rotates](Self::rotate) by itself.
    ///
    /// Call it in the request that checked who it is. Whoever [revokes](Self::revoke_all) all sessions of `name` while that
    /// request is under way wins: the sign-in is refused with [`SessionError::Revoked`], because what it checked, a password for
    /// example, may be what was revoked; sent again, it is checked again. A sign-in of several requests, such as one with a second factor, calls it in the
    /// first one and keeps in the session what is still missing.
    ///
    /// # Errors
    /// [`SessionError::BadPrincipal`]. The session is as before then.
    pub fn set_principal(&self, name: impl AsRef<str>) -> Result<(), SessionError> {
        self.claim(Claim::new(Principal::new(name)?, None));
        Ok(())
    }

    /// As [`set_principal`](Self::set_principal), with a hint that the user recognises the device by in the list of sessions:
    /// at most [`Claim::MAX_DEVICE`] bytes, what is longer is cut.
    ///
    /// # Errors
    /// [`SessionError::BadPrincipal`]. The session is as before then.
    pub fn set_principal_on(
        &self,
        name: impl AsRef<str>,
        device: &str,
    ) -> Result<(), SessionError> {
        self.claim(Claim::new(Principal::new(name)?, Some(device)));
        Ok(())
    }

    fn claim(&self, claim: Claim) {
        let mut state = self.state();
        state.claim = Some(claim);
        state.rotate = true;
    }

    /// Whose the session is; `None` while nobody has signed in.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] when the store cannot say.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn principal(&self) -> Result<Option<Principal>, SessionError> {
        let pending = {
            let mut state = self.state();
            state.read = true;
            state.claim.as_ref().map(|claim| claim.principal.clone())
        };
        if pending.is_some() {
            return Ok(pending);
        }
        self.load().await?;
        Ok(match &self.state().seen {
            Seen::Found(record) => record.owner.as_ref().map(|owner| owner.principal.clone()),
            // What the client carries does not say whose it is. That is not "nobody".
            Seen::Degraded(_, error) => return Err(SessionError::Unknown(Arc::clone(error))),
            _ => None,
        })
    }

    /// The live sessions of the one who is signed in here, this one among them, the last used first; empty while nobody is.
    ///
    /// [`SessionInfo::id`] of this one is what [`id`](Self::id) says. At most [`MAX_LISTED`](crate::MAX_LISTED) are listed.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] when the store cannot say.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, SessionError> {
        let Some(principal) = self.principal().await? else {
            return Ok(Vec::new());
        };
        let list = self.inner.shared.store.list(principal);
        self.within(Operation::List, None, list)
            .await
            .map_err(|error| SessionError::Unknown(Arc::new(error)))
    }

    /// Ends one of the sessions of whoever is signed in here, at once, and says whether it was one: somebody else's is left
    /// alone. `id` is what [`SessionInfo::id`] says.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] or [`SessionError::NotCommitted`] when the store cannot say; trying again is safe.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the session is ended or not.
    pub async fn revoke(&self, id: &str) -> Result<bool, SessionError> {
        let Some(principal) = self.principal().await? else {
            return Ok(false);
        };
        let Some(key) = SessionKey::parse(principal.tag(), id) else {
            return Ok(false);
        };
        let _gate = self.inner.gate.lock().await;
        let revoke = self.inner.shared.store.revoke(principal, key);
        let known = self
            .within(Operation::Revoke, None, revoke)
            .await
            .map_err(not_committed)?;
        if known && self.id().as_deref() == Some(id) {
            self.is_over();
        }
        Ok(known)
    }

    /// Ends all sessions of whoever is signed in here, at once: "log out everywhere". It takes one step however many there
    /// are, and no sign-in under way slips past it. This session ends too, as by [`destroy`](Self::destroy).
    ///
    /// # Errors
    /// [`SessionError::NoPrincipal`] while nobody is signed in; [`SessionError::Unknown`] or
    /// [`SessionError::NotCommitted`] when the store cannot say; trying again is safe.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, all sessions are ended or none.
    pub async fn revoke_all(&self) -> Result<(), SessionError> {
        let principal = self.signed_in().await?;
        self.end_all(principal).await
    }

    /// Ends all sessions of whoever is signed in here except this one, at once: what follows a change of the password. Rotate
    /// this one as well.
    ///
    /// # Errors
    /// As [`revoke_all`](Self::revoke_all).
    ///
    /// # Cancel safety
    /// Dropped before it is ready, all other sessions are ended or none.
    pub async fn revoke_others(&self) -> Result<(), SessionError> {
        let principal = self.signed_in().await?;
        let _gate = self.inner.gate.lock().await;
        let current = self.state().current.map(|presented| presented.id.key());
        self.draw_epoch(principal, current).await
    }

    /// Ends all sessions of `name`, whoever is signed in here: what a password reset does, or an administrator. When this
    /// session is one of them it ends too, and a [`set_principal`](Self::set_principal) after it starts another.
    ///
    /// # Errors
    /// [`SessionError::BadPrincipal`]; [`SessionError::Unknown`] or [`SessionError::NotCommitted`] when the store cannot say;
    /// trying again is safe.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, all sessions are ended or none.
    pub async fn revoke_all_of(&self, name: impl AsRef<str>) -> Result<(), SessionError> {
        self.end_all(Principal::new(name)?).await
    }

    async fn signed_in(&self) -> Result<Principal, SessionError> {
        self.state().read = true;
        self.load().await?;
        if let Seen::Degraded(_, error) = &self.state().seen {
            return Err(SessionError::Unknown(Arc::clone(error)));
        }
        self.owner().ok_or(SessionError::NoPrincipal)
    }

    /// Whose the stored session is.
    fn owner(&self) -> Option<Principal> {
        match &self.state().seen {
            Seen::Found(record) => record.owner.as_ref().map(|owner| owner.principal.clone()),
            _ => None,
        }
    }

    async fn end_all(&self, principal: Principal) -> Result<(), SessionError> {
        self.state().read = true;
        self.load().await?;
        let _gate = self.inner.gate.lock().await;
        let own = self.owner().as_ref() == Some(&principal);
        self.draw_epoch(principal, None).await?;
        if own {
            self.is_over();
        }
        Ok(())
    }

    async fn draw_epoch(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<(), SessionError> {
        let revoke = self.inner.shared.store.revoke_all(principal.clone(), keep);
        let epoch = self
            .within(Operation::RevokeAll, None, revoke)
            .await
            .map_err(not_committed)?;
        self.state().drew = Some((principal, epoch));
        Ok(())
    }

    /// This session has just been ended.
    fn is_over(&self) {
        let mut state = self.state();
        state.seen = Seen::Nothing;
        state.patch = Patch::new();
        state.rotate = false;
        state.drawn = None;
        if state.current.take().is_some() {
            state.wrote = true;
            state.cookie = Cookie::Clear;
        }
    }

    /// Whether a claim was made at an epoch that this request knows to be newer than what it checked: drawn by itself, or
    /// before it began. Two durations are compared, each on one clock, and this one is taken last, so that a revocation
    /// during the request is never taken for one before it.
    pub(super) fn stands(&self, owner: &Owner) -> bool {
        if let Some((principal, epoch)) = &self.state().drew
            && *principal == owner.principal
            && *epoch == owner.epoch
        {
            return true;
        }
        owner.revoked_ago.is_none_or(|ago| self.began_after(ago))
    }
}
