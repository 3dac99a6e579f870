//! What a request knows of its session, and what its layer tells it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::OnConflict;
use crate::cookie::{Cookies, Presented};
use crate::expiry::Expiry;
use crate::id::SessionId;
use crate::principal::{Claim, Principal};
use crate::record::{Patch, Record};
use crate::store::{AnyStore, StoreError};

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

#[derive(Default)]
pub(super) struct State {
    pub(super) current: Option<Presented>,
    /// What was drawn for a commit that is not confirmed: it may be stored under it.
    pub(super) drawn: Option<SessionId>,
    pub(super) seen: Seen,
    pub(super) read: bool,
    pub(super) wrote: bool,
    pub(super) patch: Patch,
    pub(super) rotate: bool,
    /// Whose the session is to become.
    pub(super) claim: Option<Claim>,
    /// The newest epoch that this request drew itself.
    pub(super) drew: Option<(Principal, u64)>,
    pub(super) destroy: bool,
    pub(super) cookie: Cookie,
}

/// What this request knows of the stored session.
#[derive(Default)]
pub(super) enum Seen {
    #[default]
    NotAsked,
    Found(Record),
    Nothing,
    Unknown(Arc<StoreError>),
}

#[derive(Default)]
pub(super) enum Cookie {
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
