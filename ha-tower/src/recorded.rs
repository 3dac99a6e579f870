//! A recorder for tests that keeps what it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

type Numbers = Mutex<BTreeMap<String, Arc<AtomicU64>>>;

/// Keeps everything under `name{label=value,..}`, labels in order.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    counters: Numbers,
    gauges: Numbers,
    histograms: Mutex<BTreeMap<String, Arc<Samples>>>,
}

#[derive(Debug, Default)]
struct Samples(Mutex<Vec<f64>>);

impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Recorded {
    /// Those that have counted something.
    pub(crate) fn counters(&self) -> Vec<(String, u64)> {
        let all = self.counters.lock().unwrap();
        let read = |(key, n): (&String, &Arc<AtomicU64>)| (key.clone(), n.load(Ordering::Relaxed));
        all.iter().map(read).filter(|(_, n)| *n > 0).collect()
    }

    pub(crate) fn gauge(&self, name: &str) -> Option<f64> {
        let all = self.gauges.lock().unwrap();
        let bits = all.get(name)?.load(Ordering::Relaxed);
        Some(f64::from_bits(bits))
    }

    pub(crate) fn samples(&self, name: &str) -> Option<Vec<f64>> {
        let all = self.histograms.lock().unwrap();
        let samples = all.get(name)?.0.lock().unwrap();
        Some(samples.clone())
    }
}

fn name(key: &Key) -> String {
    let labels = key
        .labels()
        .map(|label| format!("{}={}", label.key(), label.value()));
    let mut labels: Vec<_> = labels.collect();
    labels.sort();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

fn entry<T: Default>(of: &Mutex<BTreeMap<String, Arc<T>>>, key: &Key) -> Arc<T> {
    of.lock().unwrap().entry(name(key)).or_default().clone()
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(entry(&self.counters, key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(entry(&self.gauges, key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(entry(&self.histograms, key))
    }
}
