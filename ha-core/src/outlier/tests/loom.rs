//! `RUSTFLAGS="--cfg ha_loom" cargo test -p ha-core --release --lib outlier::tests::loom`

use ::loom::thread;

use super::*;

#[test]
fn a_window_taken_between_two_records_loses_none_and_counts_none_twice() {
    ::loom::model(|| {
        let counters = ::loom::sync::Arc::new(Counters::new(&Config::default()));
        let other = {
            let counters = counters.clone();
            thread::spawn(move || {
                let _ = counters.record(Outcome::Failure);
                let _ = counters.record(Outcome::Success);
            })
        };
        let first = counters.take_window();
        other.join().unwrap();
        let second = counters.take_window();
        assert_eq!(first.requests + second.requests, 2);
        assert_eq!(first.failures + second.failures, 1);
    });
}

#[test]
fn of_two_threads_that_complete_a_run_one_asks_for_the_sweep() {
    ::loom::model(|| {
        let config = Config {
            consecutive_failures: Some(2),
            ..Config::default()
        };
        let counters = ::loom::sync::Arc::new(Counters::new(&config));
        let other = {
            let counters = counters.clone();
            thread::spawn(move || counters.record(Outcome::Failure))
        };
        let mine = counters.record(Outcome::Failure);
        let theirs = other.join().unwrap();
        assert!(mine ^ theirs);
        assert_eq!(counters.take_trip(), Some(Cause::ConsecutiveFailures));
    });
}

#[test]
fn an_ejected_endpoint_that_returns_asks_again() {
    let now = Instant::now();
    ::loom::model(move || {
        let config = Config {
            consecutive_failures: Some(1),
            ..Config::default()
        };
        let hosts: Vec<_> = (0..2).map(|_| Arc::new(Counters::new(&config))).collect();
        let mut outliers = Outliers::new(config, now).unwrap();
        outliers.update(hosts.iter().enumerate().map(|(i, c)| (key(i), c.clone())));
        assert!(hosts[0].record(Outcome::Failure));
        outliers.sweep(now);
        outliers.sweep(now + Duration::from_secs(30));
        assert!(hosts[0].record(Outcome::Failure));
    });
}
