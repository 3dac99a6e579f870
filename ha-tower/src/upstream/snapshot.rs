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
    /// The share it takes now: less than the weight while it is new or back.
    pub weight_now: f64,
    /// Its region, empty when unknown.
    pub region: String,
    /// Its zone, empty when unknown.
    pub zone: String,
    /// Lower numbers are preferred.
    pub priority: u8,
    /// Whether it would be picked now: it passes its checks, is not ejected, and its breaker admits.
    pub available: bool,
    /// The active check, or its own word: `unchecked`, `passing`, `failing`, `draining` or `region_sick`.
    pub health: ha_core::health::State,
    /// The breaker: `closed`, `open` or `half_open`.
    pub breaker: ha_core::breaker::State,
    /// How much longer it is ejected, in milliseconds; none when it is not.
    pub ejected_ms: Option<f64>,
    /// How often it was picked.
    pub picks: u64,
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
        let ejected = state.ejected_until();
        let ejected = ejected.map(|until| until.saturating_duration_since(now));
        Self {
            key: endpoint.key.clone(),
            address: endpoint.address.to_string(),
            weight: endpoint.weight.value(),
            weight_now: f64::from(endpoint.weight.value()) * state.ramp_factor(now),
            region: endpoint.locality.region.to_string(),
            zone: endpoint.locality.zone.to_string(),
            priority: endpoint.priority,
            available: endpoint.weight.value() > 0 && state.is_available(now),
            health: state.health(),
            breaker: state.breaker_state(now),
            ejected_ms: ejected.map(millis),
            picks: state.picks(),
            in_flight: state.load.in_flight(),
            latency_ms: millis(state.load.estimate(now)),
            penalty_ms: millis(state.load.penalty(now)),
            open_connections: counts.open,
            idle_connections: counts.idle,
            pending: counts.pending,
        }
    }
}
