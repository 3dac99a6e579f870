use std::fmt;
use std::ops::Range;
use std::time::Duration;

use ha_core::outlier::Change;

/// One request that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    /// None when there was nobody to send it to.
    pub(crate) server: Option<usize>,
    pub(crate) latency: Duration,
    pub(crate) ok: bool,
    /// What a hash policy went by.
    pub(crate) hash: u64,
    /// Requests in flight there, and in all, when it was sent; itself included.
    pub(crate) in_flight: (u32, u32),
}

/// What happened in a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) samples: Vec<Sample>,
    pub(crate) ejections: Vec<(Duration, Change)>,
    pub(crate) sweeps: usize,
    pub(crate) servers: usize,
}

impl Report {
    /// The samples of requests that were sent within this time, in seconds.
    fn between(&self, seconds: &Range<f64>) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .filter(move |sample| seconds.contains(&sample.at.as_secs_f64()))
    }

    /// The share of each endpoint in the requests that were sent within this time.
    pub(crate) fn shares(&self, seconds: Range<f64>) -> Vec<f64> {
        let mut hits = vec![0.0; self.servers];
        for server in self.between(&seconds).filter_map(|sample| sample.server) {
            hits[server] += 1.0;
        }
        let sum: f64 = hits.iter().sum();
        hits.iter().map(|n| n / sum.max(1.0)).collect()
    }

    pub(crate) fn failed_ratio(&self, seconds: Range<f64>) -> f64 {
        let (mut all, mut failed) = (0.0, 0.0);
        for sample in self.between(&seconds) {
            all += 1.0;
            failed += f64::from(u8::from(!sample.ok));
        }
        failed / f64::max(all, 1.0)
    }

    /// The latencies that were not exceeded by these ratios of all requests, failed ones included.
    pub(crate) fn quantiles<const N: usize>(&self, ratios: [f64; N]) -> [Duration; N] {
        let mut latencies: Vec<_> = self.samples.iter().map(|sample| sample.latency).collect();
        latencies.sort_unstable();
        ratios.map(|ratio| {
            let place = (latencies.len() as f64 * ratio) as usize;
            latencies[place.min(latencies.len() - 1)]
        })
    }

    /// How many requests each second saw.
    pub(crate) fn per_second(&self, seconds: Range<f64>) -> f64 {
        let length = seconds.end - seconds.start;
        self.between(&seconds).count() as f64 / length
    }
}

/// Milliseconds with three digits that mean something.
pub(crate) struct Millis(pub(crate) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_secs_f64() * 1e3;
        let digits = match millis {
            x if x < 10.0 => 2,
            x if x < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{millis:.digits$}")
    }
}
