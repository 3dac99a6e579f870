use std::fmt;
use std::sync::Arc;

use ha_core::endpoint::EndpointKey;
use tower::BoxError;

use super::SetError;

/// What a source of endpoints tells its listeners. See [`Source::on_event`](super::Source::on_event).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A set came that differs from the last good one, and has taken its place.
    Updated(Change),
    /// The source failed, or its set was refused. The last good set stays.
    Failed {
        /// Why.
        error: Error,
        /// How many endpoints of the last good set stay. 0 when there was none yet.
        kept: usize,
    },
    /// A good set came after failures, and is the same as the one that was kept.
    Recovered {
        /// How many failures there were since the last good set.
        failures: u64,
    },
    /// The source has ended and brings nothing any more. The last good set stays.
    Ended {
        /// How many endpoints stay.
        kept: usize,
    },
}

/// The difference between two sets. Keys are in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// Endpoints that were not there before.
    pub added: Vec<EndpointKey>,
    /// Endpoints that are gone: they get no new request, and those in flight finish.
    pub removed: Vec<EndpointKey>,
    /// Endpoints with another address, weight, locality, priority or other metadata. Their state stays.
    pub changed: Vec<EndpointKey>,
    /// How many endpoints there are now.
    pub total: usize,
}

impl Change {
    /// Whether both sets are the same.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Why a source brought no new set. The last good one stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A set came that is no good.
    #[error("the set of endpoints is refused")]
    Set(#[source] SetError),
    /// A name could not be looked up.
    #[cfg(feature = "dns")]
    #[error("discovery by dns failed")]
    Dns(#[source] super::LookupError),
    /// The watched file cannot be read or is no good.
    #[cfg(feature = "file")]
    #[error("discovery by file failed")]
    File(#[source] super::FileError),
    /// Gossip ended, or a node announced something that is no endpoint.
    #[cfg(feature = "gossip")]
    #[error("discovery by gossip failed")]
    Gossip(#[source] super::gossip::AnnouncementError),
    /// A stream or a `Discover` of yours brought an error.
    #[error("the source of endpoints failed")]
    Source(#[source] BoxError),
    /// A stream or a `Discover` of yours panicked, and is asked no more.
    #[error("the source of endpoints panicked")]
    Panicked,
}

impl Error {
    /// Whether a set came, and was refused for being empty.
    #[must_use]
    pub fn is_empty_set(&self) -> bool {
        matches!(self, Self::Set(SetError::Empty))
    }
}

#[derive(Clone)]
pub(super) struct Listener(pub(super) Arc<dyn Fn(&Event) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
