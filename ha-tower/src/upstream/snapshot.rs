use std::time::Instant;

use ha_core::endpoint::{Endpoint, EndpointKey};

use super::connect::Counts;
use crate::balance::State;

/// What an [`Upstream`](super::Upstream) knows about one endpoint at one moment.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct EndpointSnapshot {
    /// The name that its state belongs to.
    pub key: EndpointKey,
    /// Scheme, host and port.
    pub address: String,
    /// Its share of the traffic.
    pub weight: u32,
    /// Whether it would be picked now: it passes its checks and its breaker admits.
    pub available: bool,
    /// The active check: `unchecked`, `passing` or `failing`.
    pub health: ha_core::health::State,
    /// The breaker: `closed`, `open` or `half_open`.
    pub breaker: ha_core::breaker::State,
    /// Requests whose response body has not ended.
    pub in_flight: u32,
    /// The latency estimate to the response head, decayed to now, in milliseconds.
    pub latency_ms: f64,
    /// What recent failures add to its cost, decayed to now, in milliseconds.
    pub penalty_ms: f64,
    /// Connections that are open, busy or idle.
    pub open_connections: u32,
    /// Connections that carry no request.
    pub idle_connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
}

impl EndpointSnapshot {
    pub(super) fn new(endpoint: &Endpoint, state: &State, counts: Counts, now: Instant) -> Self {
        let millis = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        Self {
            key: endpoint.key.clone(),
            address: endpoint.address.to_string(),
            weight: endpoint.weight.value(),
            available: endpoint.weight.value() > 0 && state.is_available(now),
            health: state.health(),
            breaker: state.breaker.state(now),
            in_flight: state.load.in_flight(),
            latency_ms: millis(state.load.estimate(now)),
            penalty_ms: millis(state.load.penalty(now)),
            open_connections: counts.open,
            idle_connections: counts.idle,
            pending: counts.pending,
        }
    }
}
