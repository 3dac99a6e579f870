//! Run by `cargo xtask ci`.

use ::loom::sync::Arc;
use ::loom::thread;

use super::*;

fn budget(now: Instant) -> Arc<Budget> {
    let config = Config {
        retry_ratio: 1.0,
        reserve_per_second: 0.0,
        ..Config::default()
    };
    Arc::new(Budget::new(config, now).unwrap())
}

/// Runs `step` on two threads at once, and gives how many of them took something.
fn both(budget: &Arc<Budget>, step: impl Fn(&Budget) -> bool + Copy + Send + 'static) -> u32 {
    let other = {
        let budget = budget.clone();
        thread::spawn(move || step(&budget))
    };
    let mine = step(budget);
    u32::from(mine) + u32::from(other.join().unwrap())
}

#[test]
fn two_threads_that_want_the_last_retry_get_it_once() {
    let now = Instant::now();
    ::loom::model(move || {
        let budget = budget(now);
        budget.deposit(now);
        assert_eq!(both(&budget, move |b| b.withdraw(now)), 1);
    });
}

#[test]
fn no_request_is_lost_when_two_threads_begin_a_tick() {
    let now = Instant::now();
    let later = now + Duration::from_secs(30);
    ::loom::model(move || {
        let budget = budget(now);
        // The slot holds a tick that is long gone.
        budget.deposit(now);
        let deposit = move |b: &Budget| {
            b.deposit(later);
            false
        };
        both(&budget, deposit);
        assert!(budget.withdraw(later) && budget.withdraw(later) && !budget.withdraw(later));
    });
}

#[test]
fn each_thread_gets_what_it_has_paid_for() {
    let now = Instant::now();
    ::loom::model(move || {
        let budget = budget(now);
        let pay_and_take = move |b: &Budget| {
            b.deposit(now);
            b.withdraw(now)
        };
        assert_eq!(both(&budget, pay_and_take), 2);
        assert!(!budget.withdraw(now));
    });
}

#[test]
fn requests_counted_in_two_places_pay_for_two_retries_and_no_third() {
    let now = Instant::now();
    ::loom::model(move || {
        let budget = budget(now);
        budget.deposit_into(1, now);
        let pay_elsewhere_and_take = move |b: &Budget| {
            b.deposit_into(0, now);
            b.withdraw(now)
        };
        let other = {
            let budget = budget.clone();
            thread::spawn(move || budget.withdraw(now))
        };
        let mine = pay_elsewhere_and_take(&budget);
        let taken = u32::from(mine) + u32::from(other.join().unwrap());
        assert_eq!(taken + u32::from(budget.withdraw(now)), 2);
        assert!(!budget.withdraw(now));
    });
}

#[test]
fn a_retry_given_back_while_another_thread_asks_is_taken_once() {
    let now = Instant::now();
    ::loom::model(move || {
        let budget = budget(now);
        budget.deposit(now);
        assert!(budget.withdraw(now));
        let other = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.refund(now);
                false
            })
        };
        let mine = budget.withdraw(now);
        other.join().unwrap();
        assert_eq!(u32::from(mine) + u32::from(budget.withdraw(now)), 1);
    });
}

/// The negative control: the models find what two steps would overdraw.
#[test]
#[should_panic(expected = "overdrawn")]
fn looking_and_taking_in_two_steps_is_found_out() {
    ::loom::model(|| {
        let room = Arc::new(AtomicU64::new(1));
        let take = |room: &AtomicU64| {
            let fits = room.load(Ordering::Relaxed) > 0;
            if fits {
                room.store(0, Ordering::Relaxed);
            }
            fits
        };
        let other = {
            let room = room.clone();
            thread::spawn(move || take(&room))
        };
        let mine = take(&room);
        assert!(!(mine && other.join().unwrap()), "overdrawn");
    });
}
