use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use ha_core::endpoint::EndpointKey;
use http::Response;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::clock;
use crate::upstream::Error;

/// How an attempt can end. The position is the position of its counter.
const OUTCOMES: [&str; 12] = [
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "timeout",
    "connect",
    "full",
    "unsent",
    "broken",
    "refused",
    "cancelled",
];
const CANCELLED: usize = 11;

fn outcome<T>(result: &Result<Response<T>, Error>) -> usize {
    match result {
        Ok(response) => usize::from(response.status().as_u16() / 100).clamp(1, 5) - 1,
        Err(Error::Timeout { .. }) => 5,
        Err(Error::Connect { .. }) => 6,
        Err(Error::Full { .. }) => 7,
        Err(Error::Unsent { .. }) => 8,
        Err(Error::Request { .. }) => 10,
        Err(_) => 9,
    }
}

/// The meters of one endpoint, looked up once.
#[derive(Clone)]
pub(in crate::upstream) struct Meter(Arc<Handles>);

struct Handles {
    attempts: [Counter; OUTCOMES.len()],
    in_flight: Gauge,
    head: Histogram,
    connections: Gauge,
    opened: Counter,
    pending: Gauge,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}

impl Meter {
    pub(in crate::upstream) fn new(upstream: &str, endpoint: &EndpointKey) -> Self {
        let labels = [
            ("upstream", upstream.to_owned()),
            ("endpoint", endpoint.to_string()),
        ];
        let attempts = OUTCOMES.map(|outcome| {
            let [upstream, endpoint] = labels.clone();
            let labels = [upstream, endpoint, ("outcome", outcome.to_owned())];
            counter!("ha_upstream_attempts_total", &labels)
        });
        Self(Arc::new(Handles {
            attempts,
            in_flight: gauge!("ha_upstream_in_flight", &labels),
            head: histogram!("ha_upstream_head_seconds", &labels),
            connections: gauge!("ha_upstream_connections", &labels),
            opened: counter!("ha_upstream_connections_opened_total", &labels),
            pending: gauge!("ha_upstream_pending", &labels),
        }))
    }

    /// An attempt begins.
    pub(in crate::upstream) fn begin(&self) -> Attempted {
        Attempted {
            meter: self.clone(),
            begun: clock::now(),
            ended: false,
            _in_flight: Up::new(&self.0.in_flight),
        }
    }

    /// A connection is open.
    pub(in crate::upstream) fn connected(&self) -> Up {
        self.0.opened.increment(1);
        Up::new(&self.0.connections)
    }

    /// A request waits for a connection.
    pub(in crate::upstream) fn waits(&self) -> Up {
        Up::new(&self.0.pending)
    }
}

/// One more, until this is dropped.
pub(in crate::upstream) struct Up(Gauge);

impl fmt::Debug for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Up")
    }
}

impl Up {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// One attempt, in flight until this is dropped.
#[derive(Debug)]
pub(in crate::upstream) struct Attempted {
    meter: Meter,
    begun: Instant,
    ended: bool,
    _in_flight: Up,
}

impl Attempted {
    /// The head is here, or there will be none.
    pub(in crate::upstream) fn ended<T>(&mut self, result: &Result<Response<T>, Error>) {
        self.ended = true;
        self.meter.0.attempts[outcome(result)].increment(1);
        if result.is_ok() {
            self.meter
                .0
                .head
                .record(clock::now().saturating_duration_since(self.begun));
        }
    }
}

impl Drop for Attempted {
    fn drop(&mut self) {
        if !self.ended {
            self.meter.0.attempts[CANCELLED].increment(1);
        }
    }
}

/// A request found no endpoint.
#[cold]
pub(in crate::upstream) fn unavailable(upstream: &str) {
    counter!("ha_upstream_unavailable_total", "upstream" => upstream.to_owned()).increment(1);
}
