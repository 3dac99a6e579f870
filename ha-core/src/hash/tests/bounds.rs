use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use super::bed::*;
use super::*;
use crate::endpoint::Weight;
use proptest::prelude::*;

fn weights(values: &[u32]) -> impl Iterator<Item = Weight> {
    values.iter().map(|v| Weight::new(*v).unwrap())
}

fn counts(n: usize) -> Vec<Count> {
    std::iter::repeat_with(Count::default).take(n).collect()
}

fn take_of(counts: &[Count]) -> impl Fn(usize, u32) -> Attempt {
    |i, cap| match counts[i].try_take(cap) {
        true => Attempt::Taken,
        false => Attempt::Full,
    }
}

#[test]
fn caps_are_the_share_times_the_factor_rounded_up() {
    for (factor, values, total, expected) in [
        (1.25, &[1, 1, 1, 1][..], 1, &[1, 1, 1, 1][..]),
        (1.25, &[1, 1, 1, 1], 16, &[5, 5, 5, 5]),
        (1.25, &[1, 1, 1, 1], 17, &[6, 6, 6, 6]),
        (1.0, &[1, 1, 1], 9, &[3, 3, 3]),
        (1.25, &[1, 0, 3], 16, &[5, 0, 15]),
        (2.0, &[1_000_000, 1], 10, &[20, 1]),
        (1.25, &[1], u32::MAX, &[u32::MAX]),
    ] {
        let bound = Bound::new(factor, weights(values)).unwrap();
        let caps: Vec<u32> = (0..values.len()).map(|i| bound.cap(i, total)).collect();
        assert_eq!(caps, expected, "{factor} {values:?} {total}");
        assert_eq!(bound.cap(values.len(), total), 0, "unknown index");
    }
}

#[test]
fn a_factor_below_one_and_no_number_are_refused() {
    for factor in [0.0, 0.99, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = Bound::new(factor, weights(&[1])).unwrap_err();
        assert_eq!(error.field(), "bound.factor");
        assert_eq!(error.value(), factor.to_string());
    }
}

#[test]
fn one_hot_key_is_spread_by_the_bound_and_not_without_it() {
    let set = equal(10);
    for kind in ALL {
        let table = table(kind, &set);
        let bound = Bound::new(1.25, weights(&[1; 10])).unwrap();
        let (total, counts) = (Count::new(), counts(10));
        for _ in 0..1_000 {
            bound
                .take(&total, table.candidates(42), take_of(&counts))
                .unwrap();
        }
        assert!(counts.iter().all(|c| c.get() <= 125), "{kind:?} {counts:?}");
        let unbounded = Count::new();
        for _ in 0..1_000 {
            if table.pick(42) == table.candidates(42).next() {
                unbounded.take();
            }
        }
        assert_eq!(unbounded.get(), 1_000, "the control: all to one");
    }
}

#[test]
fn most_keys_stay_with_their_first_choice() {
    let table = table(Kind::Maglev, &equal(20));
    let bound = Bound::new(1.25, weights(&[1; 20])).unwrap();
    let (total, counts) = (Count::new(), counts(20));
    let at_home = keys(2_000).filter(|hash| {
        let taken = bound.take(&total, table.candidates(*hash), take_of(&counts));
        taken.ok() == table.pick(*hash)
    });
    let at_home = at_home.count();
    assert!(at_home > 1_700, "{at_home} of 2000");
}

#[test]
fn a_refused_request_changes_no_count() {
    let bound = Bound::new(1.25, weights(&[1, 1])).unwrap();
    let total = Count::new();
    for (answers, refused) in [
        ([Attempt::Full, Attempt::Full], Refused::Full),
        ([Attempt::Full, Attempt::Unavailable], Refused::Full),
        (
            [Attempt::Unavailable, Attempt::Unavailable],
            Refused::Unavailable,
        ),
    ] {
        assert_eq!(bound.take(&total, 0..2, |i, _| answers[i]), Err(refused));
        assert_eq!(
            bound.take_widening(&total, 0..2, |i, _| answers[i]),
            Err(refused)
        );
        assert_eq!(total.get(), 0);
    }
    assert_eq!(
        bound.take(&total, [], |_, _| Attempt::Taken),
        Err(Refused::Unavailable)
    );
}

#[test]
fn with_most_of_the_weight_gone_widening_shares_what_is_left_and_the_plain_bound_refuses() {
    let bound = Bound::new(1.25, weights(&[1; 10])).unwrap();
    let table = table(Kind::Ring, &equal(10));
    let alive = |i: usize| i < 3;
    let (total, counts) = (Count::new(), counts(10));
    let attempt = |i, cap| match alive(i) {
        true => take_of(&counts)(i, cap),
        false => Attempt::Unavailable,
    };
    for hash in keys(300) {
        bound
            .take_widening(&total, table.candidates(hash), attempt)
            .unwrap();
    }
    assert_eq!(total.get(), 300);
    // 300 requests at a cap of 37.5, doubled twice: 150.
    assert!(counts.iter().all(|c| c.get() <= 152), "{counts:?}");
    assert_eq!(
        bound.take(&total, table.candidates(1), attempt),
        Err(Refused::Full)
    );
}

#[test]
fn threads_that_take_and_release_at_once_never_get_above_the_cap() {
    const THREADS: u32 = 4;
    const HELD: u32 = 10;
    let table = table(Kind::Ring, &equal(5));
    let bound = Bound::new(1.25, weights(&[1; 5])).unwrap();
    let (total, counts) = (Count::new(), counts(5));
    let highest = AtomicU32::new(0);
    let barrier = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..100 {
                    let taken: Vec<usize> = (0..HELD)
                        // All want the same one first.
                        .filter_map(|_| {
                            bound
                                .take(&total, table.candidates(3), take_of(&counts))
                                .ok()
                        })
                        .collect();
                    // Everyone holds all of theirs now.
                    barrier.wait();
                    let most = counts.iter().map(Count::get).max().unwrap_or(0);
                    highest.fetch_max(most, Ordering::Relaxed);
                    barrier.wait();
                    for i in taken {
                        counts[i].release();
                        total.release();
                    }
                }
            });
        }
    });
    assert_eq!(highest.into_inner(), bound.cap(0, THREADS * HELD));
    assert!(counts.iter().chain([&total]).all(|count| count.get() == 0));
}

#[test]
fn the_negative_control_that_looks_before_it_takes_gets_above_the_cap() {
    let (count, cap) = (Count::new(), 1);
    // Two threads in step: both look, then both take.
    let room = [count.get() < cap, count.get() < cap];
    room.into_iter().filter(|room| *room).for_each(|_| {
        count.take();
    });
    assert!(count.get() > cap);
}

proptest! {
    #[test]
    fn each_take_is_within_the_cap_of_its_moment_and_there_is_always_room(
        values in prop::collection::vec(0u32..=5, 1..20),
        factor in 1.0f64..3.0,
        steps in prop::collection::vec((any::<u64>(), 0u8..4), 1..300),
    ) {
        prop_assume!(values.iter().any(|v| *v > 0));
        let set: Set = (0..).zip(values.iter().copied()).collect();
        let table = table(Kind::Maglev, &set);
        let bound = Bound::new(factor, weights(&values)).unwrap();
        let (total, counts) = (Count::new(), counts(values.len()));
        let mut held: Vec<usize> = Vec::new();
        for (random, action) in steps {
            if action == 0 && !held.is_empty() {
                let i = held.swap_remove(random as usize % held.len());
                counts[i].release();
                total.release();
                continue;
            }
            // Few keys, so that many meet.
            let i = bound.take(&total, table.candidates(random % 3), take_of(&counts)).unwrap();
            held.push(i);
            prop_assert_eq!(total.get() as usize, held.len());
            prop_assert!(counts[i].get() <= bound.cap(i, total.get()));
        }
    }
}
