use std::fmt;
use std::sync::Arc;

use ha_core::endpoint::EndpointKey;
use ha_core::health::{Finding, State};

use super::Failure;

/// A change of what is thought of one endpoint. See [`Check::on_event`](super::Check::on_event).
#[derive(Debug)]
#[non_exhaustive]
pub struct Event {
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// Which endpoint.
    pub endpoint: EndpointKey,
    /// What was thought before.
    pub from: State,
    /// What is thought now.
    pub to: State,
    /// What decided it.
    pub reason: Reason,
    /// Whether it may take traffic now, as far as checks are concerned.
    pub available: bool,
}

/// What decided a change.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Enough checks in a row passed.
    Passed,
    /// Enough checks in a row failed; this is the last failure.
    Failed(Failure),
    /// The endpoint said so in its answer to a check: it drains, or its region is sick.
    Said,
    /// The endpoint said in a response to traffic that it drains.
    SaidToTraffic,
}

impl Reason {
    pub(super) fn of(result: Result<Finding, Failure>) -> Self {
        match result {
            Ok(Finding::Pass) => Self::Passed,
            Ok(_) => Self::Said,
            Err(failure) => Self::Failed(failure),
        }
    }
}

#[derive(Clone)]
pub(super) struct Listener(pub(super) Arc<dyn Fn(&Event) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
