//! What operators see of sessions: metrics, and spans around every conversation with the store.

use std::time::Duration;

use ha_core::sign::KeyRing;

use crate::id::SessionKey;
use crate::principal::SessionInfo;
use crate::store::{Load, Outcome, StoreError};

/// What a store was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Load,
    Commit,
    Destroy,
    Touch,
    List,
    Revoke,
    RevokeAll,
}

impl Operation {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Commit => "commit",
            Self::Destroy => "destroy",
            Self::Touch => "touch",
            Self::List => "list",
            Self::Revoke => "revoke",
            Self::RevokeAll => "revoke_all",
        }
    }
}

/// An answer of a store, in one word.
pub(crate) trait Answered {
    fn outcome(&self) -> &'static str;
}

impl Answered for Load {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Found(_) => "found",
            Self::Gone(_) => "gone",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl<T: Named> Answered for Result<T, StoreError> {
    fn outcome(&self) -> &'static str {
        self.as_ref().map_or("unknown", Named::name)
    }
}

/// What a store did, in one word.
pub(crate) trait Named {
    fn name(&self) -> &'static str {
        "done"
    }
}

impl Named for () {}
impl Named for bool {}
impl Named for u64 {}
impl Named for Vec<SessionInfo> {}

impl Named for Outcome {
    fn name(&self) -> &'static str {
        match self {
            Self::Committed(_) => "committed",
            Self::Gone(_) => "gone",
            Self::Superseded => "superseded",
            Self::Overtaken => "overtaken",
            Self::Conflict { .. } => "conflict",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// The name of a session in logs: an HMAC, by the newest key of the ring, of what the store knows it by. It is the same on every app
/// server, and leads from a log neither to the cookie nor to the entry in the store.
pub(crate) fn log_id(keys: &KeyRing, key: SessionKey) -> String {
    let tag = keys.sign("ha-session log", key.hash());
    tag[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts an answer of the store. Names and labels are documented at the root of the crate.
#[cfg(feature = "metrics")]
pub(crate) fn answered(operation: Operation, outcome: &'static str, took: Duration) {
    let operation = operation.as_str();
    metrics::counter!("ha_session_store_total", "operation" => operation, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("ha_session_store_seconds", "operation" => operation)
        .record(took.as_secs_f64());
}

#[cfg(not(feature = "metrics"))]
pub(crate) fn answered(_: Operation, _: &'static str, _: Duration) {}

/// Counts a request that was served from its ticket.
pub(crate) fn degraded() {
    #[cfg(feature = "metrics")]
    metrics::counter!("ha_session_degraded_total").increment(1);
}

/// Counts an answer that the layer gave instead of the handler's.
pub(crate) fn refused(status: u16) {
    #[cfg(feature = "metrics")]
    metrics::counter!("ha_session_refused_total", "status" => status.to_string()).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = status;
}
