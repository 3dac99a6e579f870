use super::*;

#[tokio::test(start_paused = true)]
async fn each_change_is_told_once_with_its_cause() {
    let mut bed = Bed::new(Config::default());
    bed.fail(5).await;
    let told = bed.told();
    let [Event::Opened { trip, retry_in }] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(trip, Trip::ConsecutiveFailures);
    assert!(retry_in.unwrap() >= 5 * SEC);
    bed.refused().await;
    assert_eq!(bed.told(), []);

    tokio::time::advance(10 * SEC).await;
    bed.fail(1).await;
    let told = bed.told();
    assert_eq!(told[0], Event::HalfOpen);
    assert!(
        matches!(
            told[1..],
            [Event::Opened {
                trip: Trip::Probe,
                ..
            }]
        ),
        "{told:?}"
    );

    tokio::time::advance(60 * SEC).await;
    for _ in 0..2 {
        bed.call(Duration::ZERO, true).await.unwrap();
    }
    assert_eq!(bed.told(), [Event::HalfOpen, Event::Closed]);
    bed.call(Duration::ZERO, true).await.unwrap();
    assert_eq!(bed.told(), []);
}

#[tokio::test(start_paused = true)]
async fn what_a_person_does_is_told_as_that_and_can_be_taken_back() {
    let mut bed = Bed::new(Config::default());
    assert_eq!(bed.handle.name(), "bed");
    bed.handle.force_open();
    tokio::time::advance(1_000_000 * SEC).await;
    assert_eq!(bed.refused().await.retry_in(), None);
    assert!(bed.handle.snapshot().forced);
    bed.handle.force_closed();
    bed.fail(100).await;
    assert_eq!(bed.state(), State::Closed);
    bed.handle.reset();
    let told = bed.told();
    let states = told.iter().map(Event::state).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            Event::Forced(State::Open),
            Event::Forced(State::Closed),
            Event::Reset
        ]
    );
    assert_eq!(states, [State::Open, State::Closed, State::Closed]);
    bed.fail(5).await;
    assert_eq!(bed.state(), State::Open);
}

#[test]
fn senseless_numbers_are_refused_when_it_is_built() {
    let mut config = Config::default();
    config.failure_ratio = f64::NAN;
    let error = BreakerLayer::http(config.clone()).unwrap_err();
    assert_eq!(error.field(), "breaker.failure_ratio");
    let error = BreakerLayer::builder("x").config(config).build();
    assert_eq!(error.unwrap_err().value(), "NaN");
}

#[cfg(feature = "metrics")]
mod metrics {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    use ::metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
        set_default_local_recorder,
    };

    use super::*;

    /// Keeps everything under `name{label=value,..}`.
    #[derive(Default)]
    struct Kept(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Kept {
        fn entry(&self, key: &Key) -> Arc<AtomicU64> {
            let mut labels: Vec<_> = key
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            labels.sort();
            let name = format!("{}{{{}}}", key.name(), labels.join(","));
            self.0.lock().unwrap().entry(name).or_default().clone()
        }
    }

    impl Recorder for Kept {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.entry(key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.entry(key))
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            panic!("no histogram is documented: {key}")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_is_counted_under_the_documented_names_and_labels() {
        let kept = Kept::default();
        let _guard = set_default_local_recorder(&kept);
        let mut bed = Bed::new(Config::default());
        // The calls are made in this thread, where the recorder is.
        bed.fail(5).await;
        bed.refused().await;
        bed.refused().await;
        let all: Vec<_> = {
            let all = kept.0.lock().unwrap();
            let read =
                |(key, n): (&String, &Arc<AtomicU64>)| (key.clone(), n.load(Ordering::Relaxed));
            all.iter().map(read).collect()
        };
        let expected = [
            (
                "ha_breaker_changes_total{breaker=bed,cause=consecutive_failures,state=open}",
                1,
            ),
            ("ha_breaker_failures_total{breaker=bed,outcome=failure}", 5),
            ("ha_breaker_refused_total{breaker=bed}", 2),
            ("ha_breaker_state{breaker=bed}", 2f64.to_bits()),
        ];
        assert_eq!(all, expected.map(|(name, n)| (name.to_owned(), n)));
    }
}
