//! What is counted, under which names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_default_local_recorder,
};

use super::*;

#[derive(Default)]
struct Counted(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Counted {
    fn all(&self) -> Vec<(String, u64)> {
        let read = |(key, n): (&String, &Arc<AtomicU64>)| (key.clone(), n.load(Ordering::Relaxed));
        self.0.lock().unwrap().iter().map(read).collect()
    }
}

impl Recorder for Counted {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<_> = key.labels().map(|label| label.value()).collect();
        let name = format!("{} {}", key.name(), labels.join(" "));
        Counter::from_arc(self.0.lock().unwrap().entry(name).or_default().clone())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        panic!("no gauge is documented: {key}")
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        panic!("no histogram is documented: {key}")
    }
}

/// What is counted when a server does `acts`.
async fn counted(builder: Builder, request: Request<Full<Bytes>>, acts: Vec<Act>) -> Vec<String> {
    let counted = Counted::default();
    let _guard = set_default_local_recorder(&counted);
    let (service, _) = server(acts);
    let layer = built(builder.name("shop"));
    let _ = layer.layer(service).oneshot(request).await;
    let line = |(name, n): (String, u64)| {
        let name = name.strip_prefix("ha_retry_").unwrap();
        format!("{name} {n}")
    };
    counted.all().into_iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn retries_and_failures_given_up_and_bad_headers_are_counted_by_cause() {
    let quick = || RetryLayer::builder().backoff(Backoff::new(Duration::ZERO, Duration::ZERO));
    let second = Duration::from_secs(1);
    let none = budget::Config {
        retry_ratio: 0.0,
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let get = || request(Method::GET);
    let (mut hurried, mut bomb) = (get(), get());
    let soon = Instant::now() + second;
    hurried
        .extensions_mut()
        .insert(crate::timeout::Deadline(soon));
    for _ in 0..300 {
        bomb.headers_mut().append("x-bomb", "b".parse().unwrap());
    }
    for (builder, request, acts, expected) in [
        (quick(), get(), vec![], &[][..]),
        (
            quick(),
            get(),
            vec![Act::Break, Act::Status(503)],
            &["retries_total shop error 1", "retries_total shop status 1"],
        ),
        (
            quick(),
            get(),
            vec![Act::Unsent, Act::Truncated],
            &["retries_total shop broken 1", "retries_total shop unsent 1"],
        ),
        (
            quick().attempt_timeout(second),
            get(),
            vec![Act::Hangs],
            &["retries_total shop timeout 1"],
        ),
        (
            quick().attempts(2),
            get(),
            vec![Act::Break, Act::Break],
            &[
                "given_up_total shop attempts 1",
                "retries_total shop error 1",
            ],
        ),
        (
            quick().budget(none),
            get(),
            vec![Act::Break],
            &["given_up_total shop budget 1"],
        ),
        (
            quick().replay_limit(1),
            get(),
            vec![Act::Break],
            &["given_up_total shop body 1"],
        ),
        (
            quick(),
            get(),
            vec![Act::After("60")],
            &["given_up_total shop pushback 1"],
        ),
        (
            quick(),
            hurried,
            vec![Act::After("2")],
            &["given_up_total shop deadline 1"],
        ),
        (
            quick(),
            get(),
            vec![Act::After("soon")],
            &[
                "bad_headers_total shop retry-after 1",
                "retries_total shop status 1",
            ],
        ),
        (
            quick(),
            bomb,
            vec![Act::Break],
            &["bad_headers_total shop too_many 1"],
        ),
    ] {
        assert_eq!(counted(builder, request, acts).await, expected);
    }
}
