//! Run by `cargo xtask ci`.

use super::super::machine::BATCH;
use super::super::window::{ERA_BITS, Window};
use super::*;
use crate::sync::{AtomicU64, Ordering};
use ::loom::sync::Arc;
use ::loom::thread;

fn breaker(consecutive_failures: u32, now: Instant) -> Arc<Breaker> {
    let config = Config {
        consecutive_failures,
        probes: 1,
        ..Config::default()
    };
    Arc::new(Breaker::new(config, now).unwrap())
}

/// What `step` gives on two threads at once.
fn both(
    breaker: &Arc<Breaker>,
    step: impl Fn(&Breaker) -> bool + Copy + Send + 'static,
) -> (bool, bool) {
    let other = {
        let breaker = breaker.clone();
        thread::spawn(move || step(&breaker))
    };
    let mine = step(breaker);
    (mine, other.join().unwrap())
}

#[test]
fn two_threads_that_ask_for_the_probe_get_one() {
    let now = Instant::now();
    ::loom::model(move || {
        let breaker = breaker(1, now);
        let permit = breaker.try_admit(now).unwrap();
        breaker.record(permit, Outcome::Failure, now, 0.0);
        let later = now + Duration::from_secs(60);
        let (mine, theirs) = both(&breaker, move |b: &Breaker| b.try_admit(later).is_ok());
        assert!(mine ^ theirs);
    });
}

#[test]
fn two_failures_at_once_trip_it_exactly_once() {
    let now = Instant::now();
    ::loom::model(move || {
        let breaker = breaker(2, now);
        let fail = move |breaker: &Breaker| {
            breaker
                .try_admit(now)
                .is_ok_and(|permit| breaker.record(permit, Outcome::Failure, now, 0.0).is_some())
        };
        let (mine, theirs) = both(&breaker, fail);
        assert!(mine ^ theirs);
        assert_eq!(breaker.snapshot(now).trips, 1);
    });
}

#[test]
fn no_count_is_lost_when_two_threads_record() {
    ::loom::model(move || {
        let window = Arc::new(Window::new(Duration::from_secs(10)));
        let other = {
            let window = window.clone();
            thread::spawn(move || window.record(0, 1, 1))
        };
        window.record(0, 1, 0);
        other.join().unwrap();
        assert_eq!(window.sum(0), (2, 1));
    });
}

#[test]
fn no_success_without_a_time_is_lost_when_two_threads_fill_a_batch() {
    let now = Instant::now();
    ::loom::model(move || {
        let breaker = breaker(2, now);
        let succeed = move |breaker: &Breaker| {
            let permit = breaker.try_admit(now).unwrap();
            assert_eq!(breaker.succeed(permit, || now), None);
        };
        for _ in 0..BATCH - 1 {
            succeed(&breaker);
        }
        let other = {
            let breaker = breaker.clone();
            thread::spawn(move || succeed(&breaker))
        };
        succeed(&breaker);
        // Never too few, in whatever state the other thread is: too few could trip it.
        assert!(breaker.snapshot(now).calls >= u64::from(BATCH));
        other.join().unwrap();
        assert_eq!(breaker.snapshot(now).calls, u64::from(BATCH) + 1);
    });
}

#[test]
fn a_late_success_cannot_close_what_another_thread_opened() {
    let now = Instant::now();
    ::loom::model(move || {
        let breaker = breaker(1, now);
        let late = breaker.try_admit(now).unwrap();
        let other = {
            let breaker = breaker.clone();
            thread::spawn(move || {
                if let Ok(permit) = breaker.try_admit(now) {
                    breaker.record(permit, Outcome::Failure, now, 0.0);
                }
            })
        };
        breaker.record(late, Outcome::Success, now, 0.0);
        other.join().unwrap();
        assert_eq!(breaker.state(now), State::Open);
    });
}

#[test]
fn no_count_is_lost_when_two_threads_begin_an_era() {
    ::loom::model(move || {
        let window = Arc::new(Window::new(Duration::from_nanos(10)));
        window.record(3, 5, 5);
        // The same bucket, an era later.
        let later = (10 << ERA_BITS) + 3;
        let other = {
            let window = window.clone();
            thread::spawn(move || window.record(later, 1, 1))
        };
        window.record(later, 1, 0);
        other.join().unwrap();
        assert_eq!(window.sum(later), (2, 1));
    });
}

#[test]
fn two_slow_calls_at_once_trip_it_exactly_once() {
    let now = Instant::now();
    ::loom::model(move || {
        let config = Config {
            minimum_calls: 2,
            consecutive_failures: u32::MAX,
            slow_calls: Some(SlowCalls::over(Duration::from_millis(1))),
            ..Config::default()
        };
        let breaker = Arc::new(Breaker::new(config, now).unwrap());
        let slow = move |breaker: &Breaker| {
            breaker.try_admit(now).is_ok_and(|permit| {
                let took = Duration::from_secs(1);
                let changed = breaker.record_timed(permit, Outcome::Success, took, now, 0.0);
                changed.is_some()
            })
        };
        let (mine, theirs) = both(&breaker, slow);
        assert!(mine ^ theirs);
    });
}

#[test]
fn a_probe_given_up_is_replaced_once() {
    let now = Instant::now();
    ::loom::model(move || {
        let breaker = breaker(1, now);
        let permit = breaker.try_admit(now).unwrap();
        breaker.record(permit, Outcome::Failure, now, 0.0);
        let open = now + Duration::from_secs(60);
        let lost = breaker.try_admit(open).unwrap();
        let later = open + Duration::from_secs(60);
        let (mine, theirs) = both(&breaker, move |b: &Breaker| b.try_admit(later).is_ok());
        assert!(mine ^ theirs);
        breaker.release(lost);
        assert!(!breaker.would_admit(later));
    });
}

/// The negative control: the models find what counting in two steps would lose.
#[test]
#[should_panic(expected = "lost")]
fn counting_in_two_steps_is_found_out() {
    ::loom::model(|| {
        let calls = Arc::new(AtomicU64::new(0));
        let count = |calls: &AtomicU64| {
            let before = calls.load(Ordering::Relaxed);
            calls.store(before + 1, Ordering::Relaxed);
        };
        let other = {
            let calls = calls.clone();
            thread::spawn(move || count(&calls))
        };
        count(&calls);
        other.join().unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 2, "lost");
    });
}
