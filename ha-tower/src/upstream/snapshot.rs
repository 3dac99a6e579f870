use ha_core::endpoint::EndpointKey;

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
}
