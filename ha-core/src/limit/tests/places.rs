use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::super::*;

#[test]
fn a_place_is_taken_up_to_the_limit_and_can_be_taken_again_once_given_back() {
    let places = Places::new(2);
    assert_eq!(places.try_enter(u32::MAX), Some(1));
    assert_eq!(places.try_enter(u32::MAX), Some(2));
    assert_eq!(places.try_enter(u32::MAX), None);
    assert!(!places.leave());
    assert_eq!(places.try_enter(1), None, "the first place only");
    assert_eq!(places.try_enter(2), Some(2));
}

#[test]
fn nobody_overtakes_those_who_wait() {
    let places = Places::new(2);
    places.wait();
    assert_eq!(places.try_enter(u32::MAX), None);
    assert_eq!(places.enter_for_waiter(u32::MAX), Some(1));
    assert!(places.leave(), "somebody waits");
    places.stop_waiting();
    assert_eq!(places.try_enter(u32::MAX), Some(1));
}

#[test]
fn a_lower_limit_lets_nobody_in_until_enough_have_left() {
    let places = Places::new(3);
    assert_eq!((0..3).filter_map(|_| places.try_enter(u32::MAX)).count(), 3);
    places.set_limit(1);
    for _ in 0..2 {
        let _ = places.leave();
        assert_eq!(places.try_enter(u32::MAX), None);
    }
    let _ = places.leave();
    assert_eq!(places.try_enter(u32::MAX), Some(1));
}

#[test]
fn threads_never_exceed_the_limit_and_leave_nothing_behind() {
    let places = Arc::new(Places::new(3));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let places = Arc::clone(&places);
            thread::spawn(move || {
                for _ in 0..20_000 {
                    if let Some(in_flight) = places.try_enter(u32::MAX) {
                        assert!(in_flight <= 3);
                        let _ = places.leave();
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(places.in_flight(), 0);
}

proptest! {
    #[test]
    fn what_is_under_way_is_what_entered_and_did_not_leave(
        limit in 1u32..5,
        steps in prop::collection::vec((0u8..4, 1u32..6), 0..200),
    ) {
        let places = Places::new(limit);
        let (mut inside, mut limit) = (0, limit);
        for (step, number) in steps {
            match step {
                0 => {
                    let entered = places.try_enter(number);
                    let fits = inside < limit.min(number);
                    inside += u32::from(fits);
                    prop_assert_eq!(entered, fits.then_some(inside));
                }
                1 if inside > 0 => {
                    let _ = places.leave();
                    inside -= 1;
                }
                2 => {
                    places.set_limit(number);
                    limit = number;
                }
                _ => {}
            }
            prop_assert_eq!(places.in_flight(), inside);
        }
    }
}
