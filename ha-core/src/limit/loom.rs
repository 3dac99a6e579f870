//! Run by `cargo xtask ci`.

use std::time::{Duration, Instant};

use ::loom::sync::Arc;
use ::loom::sync::atomic::{AtomicU32, Ordering};
use ::loom::thread;

use super::*;

#[test]
fn of_two_threads_that_want_the_last_place_one_gets_it() {
    ::loom::model(|| {
        let places = Arc::new(Places::new(1));
        let other = {
            let places = places.clone();
            thread::spawn(move || places.try_enter(u32::MAX).is_some())
        };
        let mine = places.try_enter(u32::MAX).is_some();
        assert!(mine ^ other.join().unwrap());
        assert_eq!(places.in_flight(), 1);
    });
}

/// One leaves while the other begins to wait: one of the two has to notice the free place.
#[test]
fn a_place_that_becomes_free_is_seen_by_who_leaves_or_by_who_begins_to_wait() {
    ::loom::model(|| {
        let places = Arc::new(Places::new(1));
        assert!(places.try_enter(u32::MAX).is_some());
        let leaving = {
            let places = places.clone();
            thread::spawn(move || places.leave())
        };
        places.wait();
        let entered = places.enter_for_waiter(u32::MAX).is_some();
        let told = leaving.join().unwrap();
        assert!(entered || told, "forgotten");
    });
}

#[test]
fn a_limit_that_rises_is_seen_by_who_raises_it_or_by_who_begins_to_wait() {
    ::loom::model(|| {
        let places = Arc::new(Places::new(1));
        assert!(places.try_enter(u32::MAX).is_some());
        let raising = {
            let places = places.clone();
            thread::spawn(move || places.set_limit(2))
        };
        places.wait();
        let entered = places.enter_for_waiter(u32::MAX).is_some();
        let told = raising.join().unwrap();
        assert!(entered || told, "forgotten");
    });
}

/// The negative control: who looks only before it says that it waits can be forgotten.
#[test]
#[should_panic(expected = "forgotten")]
fn looking_before_saying_that_one_waits_is_found_out() {
    ::loom::model(|| {
        let places = Arc::new(Places::new(1));
        assert!(places.try_enter(u32::MAX).is_some());
        let leaving = {
            let places = places.clone();
            thread::spawn(move || places.leave())
        };
        let entered = places.enter_for_waiter(u32::MAX).is_some();
        places.wait();
        let told = leaving.join().unwrap();
        assert!(entered || told, "forgotten");
    });
}

#[test]
fn each_sample_is_in_one_window_and_each_window_is_ended_once() {
    let start = Instant::now();
    let now = start + Duration::from_secs(1);
    ::loom::model(move || {
        let config = AdaptiveConfig {
            algorithm: Aimd::default().into(),
            samples: 1,
            window: Duration::from_secs(1),
            ..AdaptiveConfig::default()
        };
        let adaptive = Arc::new(Adaptive::new(config, start).unwrap());
        let changes = Arc::new(AtomicU32::new(0));
        let lose = move |adaptive: &Adaptive, changes: &AtomicU32| {
            if adaptive.record(Ending::Lost, 20, now, || 0.5).is_some() {
                changes.fetch_add(1, Ordering::Relaxed);
            }
        };
        let other = {
            let (adaptive, changes) = (adaptive.clone(), changes.clone());
            thread::spawn(move || lose(&adaptive, &changes))
        };
        lose(&adaptive, &changes);
        other.join().unwrap();
        assert_eq!(changes.load(Ordering::Relaxed), 1);
        assert_eq!(adaptive.limit(), 18);
    });
}

#[test]
fn no_request_is_lost_when_two_threads_begin_a_bucket() {
    let start = Instant::now();
    let later = start + Duration::from_secs(600);
    ::loom::model(move || {
        let throttle = Arc::new(Throttle::new(ThrottleConfig::default(), start).unwrap());
        // The bucket holds what is long gone.
        throttle.record(Priority::Default, false, start);
        let other = {
            let throttle = throttle.clone();
            thread::spawn(move || throttle.record(Priority::Default, true, later))
        };
        throttle.record(Priority::Default, false, later);
        other.join().unwrap();
        let seen = throttle.snapshot(Priority::Default, later);
        assert_eq!((seen.requests, seen.accepts), (2, 1));
    });
}
