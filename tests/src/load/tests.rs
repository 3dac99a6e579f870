use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_quantile_is_never_below_the_value_and_at_most_a_sixteenth_above() {
    for values in [
        vec![1_u64],
        vec![0, 1, 2, 3],
        (0..5000).collect(),
        vec![15, 16, 17, 31, 32, 33, 1 << 20, 1 << 30],
    ] {
        let mut histogram = Histogram::new();
        for value in &values {
            histogram.record(Duration::from_micros(*value));
        }
        for quantile in [0.0, 0.01, 0.5, 0.9, 0.99, 1.0] {
            let rank = ((values.len() as f64 * quantile).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let told = histogram.quantile(quantile).unwrap().as_micros() as u64;
            assert!(
                told >= exact && told <= exact + exact / 16 + 1,
                "{quantile} of {} values: {told} for {exact}",
                values.len()
            );
        }
    }
}

#[test]
fn a_histogram_that_is_empty_or_overfull_answers() {
    assert_eq!(Histogram::new().quantile(0.5), None);
    let mut histogram = Histogram::new();
    histogram.record(Duration::MAX);
    assert_eq!(
        histogram.quantile(0.5),
        Some(Duration::MAX).min(histogram.quantile(1.0))
    );
    assert_eq!(histogram.max(), Duration::MAX);
}

#[test]
fn a_series_keeps_its_seconds_apart_and_forgets_after_an_hour() {
    let start = std::time::Instant::now();
    let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
    let mut series = Series::starting(start);
    series.record(at(0.5), ms(1));
    series.record(at(1.5), ms(2));
    series.record(at(2.5), ms(3));
    assert_eq!(series.window(at(0.0), at(1.0)).count(), 1);
    assert_eq!(series.window(at(1.0), at(3.0)).count(), 2);
    assert_eq!(series.window(at(1.2), at(2.0)).max(), ms(2));
    series.record(at(3601.0), ms(4));
    assert_eq!(series.window(at(0.0), at(2.0)).count(), 0);
    assert_eq!(series.window(at(2.0), at(4000.0)).count(), 2);
    series.record(at(100_000.0), ms(5));
    assert_eq!(series.window(at(0.0), at(200_000.0)).count(), 1);
    assert_eq!(series.total().count(), 5);
}

/// Takes `took` for each call, and fails the test when a client is called twice at once.
struct Sleeper {
    took: Duration,
    outcome: Outcome,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Call for Sleeper {
    async fn call(&mut self) -> Outcome {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.took).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.outcome
    }
}

fn sleepers(took: Duration, outcome: Outcome) -> (impl FnMut(usize) -> Sleeper, Arc<AtomicUsize>) {
    let (under_way, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let seen = Arc::clone(&most);
    let make = move |_| Sleeper {
        took,
        outcome,
        under_way: Arc::clone(&under_way),
        most: Arc::clone(&most),
    };
    (make, seen)
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_are_under_way_than_there_are_clients() {
    let (make, most) = sleepers(ms(50), Outcome::Ok);
    let run = Load::clients(3).start(make);
    run.wait_calls(30, ms(60_000)).await.unwrap();
    run.stop().await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept_over_all_clients() {
    let (make, _) = sleepers(ms(1), Outcome::Ok);
    let run = Load::clients(4).rate(100.0).start(make);
    tokio::time::sleep(ms(10_000)).await;
    let report = run.stop().await;
    assert!(
        (995..=1005).contains(&report.ok),
        "{} calls in 10 s at 100/s",
        report.ok
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_service_is_not_made_up_for_by_a_burst() {
    struct PausesOnce(bool);
    impl Call for PausesOnce {
        async fn call(&mut self) -> Outcome {
            if std::mem::take(&mut self.0) {
                tokio::time::sleep(ms(5_000)).await;
            }
            Outcome::Ok
        }
    }
    let run = Load::clients(1).rate(10.0).start(|_| PausesOnce(true));
    tokio::time::sleep(ms(10_000)).await;
    let report = run.stop().await;
    assert!(
        (48..=54).contains(&report.ok),
        "{} calls in the 5 s after the pause at 10/s",
        report.ok
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_past_its_deadline_is_dropped_and_counted() {
    let (make, _) = sleepers(ms(3_600_000), Outcome::Ok);
    let run = Load::clients(2).deadline(ms(100)).start(make);
    run.wait_calls(4, ms(10_000)).await.unwrap();
    let report = run.stop().await;
    assert_eq!((report.ok, report.failed), (0, 0));
    assert!(report.timed_out >= 4);
    assert_eq!(report.latency.quantile(0.5), Some(ms(100)));
}

#[tokio::test(start_paused = true)]
async fn stopping_lets_calls_under_way_finish_and_starts_no_other() {
    let (make, _) = sleepers(ms(200), Outcome::Failed);
    let run = Load::clients(2).start(make);
    tokio::time::sleep(ms(250)).await;
    let report = run.stop().await;
    assert_eq!((report.ok, report.failed, report.timed_out), (0, 4, 0));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_calls_that_do_not_come_says_how_many_came() {
    let (make, _) = sleepers(ms(400), Outcome::Ok);
    let run = Load::clients(1).start(make);
    assert_eq!(run.wait_calls(100, ms(1_000)).await, Err(2));
}

#[test]
#[should_panic(expected = "a rate of NaN is none")]
fn a_rate_that_is_no_number_is_refused() {
    let _ = Load::clients(1).rate(f64::NAN);
}
