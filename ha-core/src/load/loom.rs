//! Run by `cargo xtask ci`.

use super::*;
use ::loom::thread;

const MS: Duration = Duration::from_millis(1);

/// Both at once on one load, and what is left of it.
fn race(
    now: Instant,
    one: fn(&PeakEwma, Instant),
    other: fn(&PeakEwma, Instant),
    check: fn(&PeakEwma, Instant),
) {
    ::loom::model(move || {
        let load = Arc::new(PeakEwma::new(Config::default(), now).unwrap());
        let thread = {
            let load = load.clone();
            thread::spawn(move || other(&load, now))
        };
        one(&load, now);
        thread.join().unwrap();
        check(&load, now);
    });
}

fn near(duration: Duration, millis: u64) -> bool {
    duration.abs_diff(Duration::from_millis(millis)) < Duration::from_micros(1)
}

#[test]
fn the_peak_of_two_samples_at_once_stays() {
    race(
        Instant::now(),
        |load, now| load.record(20 * MS, now),
        |load, now| load.record_unanswered(30 * MS, now),
        |load, now| assert!(near(load.estimate(now), 30)),
    );
}

#[test]
fn of_two_penalties_at_once_the_larger_stays() {
    race(
        Instant::now(),
        |load, now| load.penalize(None, now),
        |load, now| load.penalize(Some(Duration::from_secs(20)), now),
        |load, now| assert!(near(load.penalty(now), 20_000)),
    );
}

#[test]
fn a_sample_never_shows_with_the_time_of_another() {
    race(
        Instant::now(),
        |load, now| load.record(100 * MS, now),
        |load, now| load.record(200 * MS, now + 500 * MS),
        // With the earlier time it would have faded to 190 ms.
        |load, now| assert!(near(load.estimate(now + 500 * MS), 200)),
    );
}

#[test]
fn what_starts_and_finishes_on_two_threads_adds_up() {
    race(
        Instant::now(),
        |load, _| {
            load.start();
            load.start();
            load.finish();
        },
        |load, _| {
            load.start();
            load.finish();
            load.start();
        },
        |load, _| assert_eq!(load.in_flight(), 2),
    );
}
