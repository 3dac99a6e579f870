//! What handlers and set-up code see when something is wrong.

use std::sync::Arc;
use std::time::Duration;

use crate::store::StoreError;

/// A setting that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The idle limit is below a second.
    #[error("idle limit of {idle:?} is shorter than a second")]
    IdleTooShort {
        /// What was given.
        idle: Duration,
    },
    /// The idle limit is beyond the absolute one, which would make it meaningless.
    #[error("idle limit of {idle:?} is longer than the absolute limit of {absolute:?}")]
    IdleBeyondAbsolute {
        /// The idle limit given.
        idle: Duration,
        /// The absolute limit given.
        absolute: Duration,
    },
    /// The absolute limit is longer than browsers keep a cookie.
    #[error("absolute limit of {absolute:?} is longer than 400 days")]
    AbsoluteTooLong {
        /// What was given.
        absolute: Duration,
    },
    /// A limit must not be zero.
    #[error("{setting} must not be zero")]
    Zero {
        /// The name of the setting.
        setting: &'static str,
    },
    /// The cookie name is not a token in the sense of RFC 6265, or carries the prefix that is added by itself.
    #[error("cookie name {name:?} is not a plain token")]
    CookieName {
        /// What was given.
        name: String,
    },
    /// The cookie's domain is not a host name. A leading dot means nothing any more (RFC 6265) and is left out.
    #[error("cookie domain {domain:?} is not a host name")]
    CookieDomain {
        /// What was given.
        domain: String,
    },
    /// The cookie's path does not begin with a slash, or holds a semicolon, a space or a control character.
    #[error("cookie path {path:?} does not begin with a slash, or holds what no path may")]
    CookiePath {
        /// What was given.
        path: String,
    },
    /// Browsers would silently drop a cookie of this name with these attributes.
    #[error("cookie {name:?} must have {needs}, not {given}")]
    CookieRule {
        /// The name, with its prefix.
        name: String,
        /// What it must have.
        needs: &'static str,
        /// What it was given.
        given: String,
    },
    /// The name of a value is empty, longer than 128 bytes or holds a control character.
    #[error("value name {name:?} is empty, longer than 128 bytes or holds a control character")]
    ValueName {
        /// What was given.
        name: String,
    },
    /// Copies of a session for an outage must live for a second at least and not for long.
    #[error("degraded sessions of {lifetime:?} are shorter than a second or longer than {max:?}")]
    TicketLifetime {
        /// What was given.
        lifetime: Duration,
        /// The most.
        max: Duration,
    },
    /// The name of a schema or table is empty or holds what no such name can.
    #[error("{name:?} is not the name of a schema or table")]
    TableName {
        /// What was given.
        name: String,
    },
    /// The Redis key prefix holds a brace, which would change the hash tag.
    #[error("key prefix {prefix:?} is empty or holds a brace")]
    KeyPrefix {
        /// What was given.
        prefix: String,
    },
}

/// Why a handler's session operation failed.
///
/// Unless the variant says otherwise the stored session is unchanged.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The store cannot say what the session holds. The session may well exist: it must be treated neither as signed
    /// in nor as signed out. Trying again later is safe.
    #[error("the session store cannot say what the session holds")]
    Unknown(#[source] Arc<StoreError>),
    /// The changes were not confirmed by the store; [`StoreError::may_have_changed`] of the source says whether they
    /// may be stored all the same. Trying again is safe: a patch that is applied twice has the effect of one.
    #[error("the session changes were not confirmed")]
    NotCommitted(#[source] Arc<StoreError>),
    /// The session was signed out, or ended, while this request was under way. Its changes were dropped.
    #[error("the session ended while the request was under way")]
    Ended,
    /// All sessions of whom this request signed in were revoked while it was under way, so that what it checked may not hold any
    /// more. Nothing can be used of what it stored. The same request, sent again, checks again.
    #[error("all sessions were revoked while the sign-in was under way")]
    Revoked,
    /// Another request rotated the id away while this one was under way. Its changes were dropped; the client has,
    /// or is about to get, the new cookie, and can try again with it.
    #[error("the session id was rotated while the request was under way")]
    Superseded,
    /// Another request changed values first that [`OnConflict::Refuse`](crate::OnConflict::Refuse) is set for.
    /// None of this request's changes were stored.
    #[error("another request changed {keys:?} first")]
    Conflict {
        /// The names that both changed.
        keys: Vec<String>,
    },
    /// One value is larger than allowed. It was not taken.
    #[error("session value {key:?} has {bytes} bytes, at most {max} are allowed")]
    ValueTooLarge {
        /// The name of the value.
        key: String,
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The session as a whole would be larger than allowed. The newest change that made it so was not taken.
    #[error(
        "session would have {bytes} bytes, at most {max} are allowed; largest change is {key:?}"
    )]
    SessionTooLarge {
        /// The largest change of this request.
        key: String,
        /// What the session would have held.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A value name is empty, longer than 128 bytes or holds a control character.
    #[error(
        "session value name {key:?} is empty, longer than 128 bytes or holds a control character"
    )]
    BadName {
        /// The name.
        key: String,
    },
    /// The name of a principal is empty, longer than 256 bytes or holds a control character.
    #[error("principal {principal:?} is empty, longer than 256 bytes or holds a control character")]
    BadPrincipal {
        /// The name.
        principal: String,
    },
    /// The session is nobody's, so that there is nobody whose sessions could be revoked.
    #[error("nobody is signed in to this session")]
    NoPrincipal,
    /// The value cannot be encoded.
    #[error("session value {key:?} cannot be encoded")]
    Encode {
        /// The name of the value.
        key: String,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The stored value is of another type than asked for.
    #[error("session value {key:?} cannot be decoded as the type asked for")]
    Decode {
        /// The name of the value.
        key: String,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The stored value was written in a format that this version does not know, most likely by a newer one.
    #[error("session value {key:?} has format {found}, this version reads up to {supported}")]
    ValueFormat {
        /// The name of the value.
        key: String,
        /// The format byte found; 0 for an empty value.
        found: u8,
        /// The newest format known.
        supported: u8,
    },
    /// The headers of the answer have left, and with them the last chance to hand out a new cookie: a stream or a socket can change
    /// a session and end it, but neither start nor rotate one. Nothing was stored.
    #[error("the answer has begun, a session can no more be started or rotated")]
    Answered,
    /// The operating system gave no random bytes for a new id.
    #[error("no random bytes for a session id")]
    Random(#[source] getrandom::Error),
}

impl SessionError {
    /// Whether the store could not say what the session holds.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether the same request may succeed when it is sent again in a moment.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Unknown(_)
                | Self::NotCommitted(_)
                | Self::Revoked
                | Self::Superseded
                | Self::Random(_)
        )
    }

    /// Whether the session ended under the request.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// Whether a limit was exceeded.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(
            self,
            Self::ValueTooLarge { .. } | Self::SessionTooLarge { .. }
        )
    }
}
