//! What a request knows of its session, and what its layer tells it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::OnServerError;
use crate::conflict::Conflicts;
use crate::cookie::{Cookies, Degraded, Presented, Ticket};
use crate::expiry::Expiry;
use crate::id::SessionId;
use crate::principal::{Claim, Principal};
use crate::record::{Patch, Record};
use crate::store::{AnyStore, StoreError};
use crate::value::ValueFormat;

/// What all sessions of a layer share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn AnyStore>,
    pub(crate) cookies: Cookies,
    pub(crate) settings: Settings,
    pub(crate) conflicts: Conflicts,
    pub(crate) degraded: Option<Degraded>,
    #[cfg(feature = "migrate-tower-sessions")]
    pub(crate) migration: Option<crate::migrate_from::Migration>,
}

impl Shared {
    /// What a request with these headers came with.
    pub(crate) fn arrived(&self, headers: &HeaderMap) -> Arrived {
        let (presented, dated) = self.cookies.read_dated(headers).unzip();
        let mut arrived = Arrived {
            presented,
            dated: dated.unwrap_or_default(),
            ..Arrived::default()
        };
        #[cfg(feature = "migrate-tower-sessions")]
        if let (None, Some(migration)) = (arrived.presented, &self.migration) {
            arrived.legacy = crate::cookie::named(headers, migration.name())
                .find_map(|text| migration.carried(text));
            arrived.presented = arrived.legacy.as_ref().map(|legacy| Presented {
                id: legacy.successor(),
                floor: crate::record::Version::ZERO,
            });
        }
        if arrived.presented.is_some() && self.degraded.is_some() {
            arrived.tickets = self.cookies.tickets(headers);
        }
        arrived
    }
}

/// What a request came with.
#[derive(Default)]
pub(crate) struct Arrived {
    pub(crate) presented: Option<Presented>,
    /// Its cookie was made with an older key than new ones are.
    pub(crate) dated: bool,
    /// The texts of its tickets.
    pub(crate) tickets: Vec<String>,
    /// The id of tower-sessions that `presented` was made from.
    #[cfg(feature = "migrate-tower-sessions")]
    pub(crate) legacy: Option<crate::migrate_from::Carried>,
}

/// The limits of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) expiry: Expiry,
    pub(crate) format: ValueFormat,
    pub(crate) max_value: usize,
    pub(crate) max_session: usize,
    pub(crate) store_timeout: Duration,
    pub(crate) retry_after: Duration,
    pub(crate) pass_unknown: bool,
    pub(crate) on_server_error: OnServerError,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) current: Option<Presented>,
    /// The cookie that the client came with was made with an older key than new ones are.
    pub(super) dated: bool,
    /// What was drawn for a commit that is not confirmed: it may be stored under it.
    pub(super) drawn: Option<SessionId>,
    /// A commit was sent and may be stored, though nobody said so.
    pub(super) unconfirmed: bool,
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
    pub(super) tickets: Vec<String>,
    /// The headers of the answer have left.
    pub(super) answered: bool,
    #[cfg(feature = "migrate-tower-sessions")]
    pub(super) legacy: Option<crate::migrate_from::Carried>,
}

impl State {
    /// Whether the client came with this id in a cookie of ours, as it would be made now.
    pub(super) fn is_held(&self, id: SessionId) -> bool {
        if self.dated {
            return false;
        }
        #[cfg(feature = "migrate-tower-sessions")]
        if self.legacy.is_some() {
            return false;
        }
        self.current.is_some_and(|presented| presented.id == id)
    }
}

/// What this request knows of the stored session.
#[derive(Default)]
pub(super) enum Seen {
    #[default]
    NotAsked,
    Found(Record),
    Nothing,
    Unknown(Arc<StoreError>),
    /// The store cannot say; this is what the client carries.
    Degraded(Ticket, Arc<StoreError>),
}

#[derive(Default)]
pub(super) enum Cookie {
    #[default]
    Keep,
    /// Another id, and its version.
    Set(Presented, Duration),
    /// The same id has a newer version.
    Told(Presented, Duration),
    Clear,
}

/// What the layer adds to the answer.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) set_cookie: Option<HeaderValue>,
    pub(crate) set_version: Option<HeaderValue>,
    pub(crate) set_ticket: Option<HeaderValue>,
    /// Takes back the cookie of the layer that this one took over from.
    pub(crate) clear_legacy: Option<HeaderValue>,
    pub(crate) private: bool,
}
