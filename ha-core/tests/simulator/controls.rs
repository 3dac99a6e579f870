//! What goes wrong in other balancers, shown beside what is done here.

use std::time::{Duration, Instant};

use ha_core::breaker::{Breaker, Config, Outcome};
use ha_core::endpoint::Weight;
use ha_core::load::{self, PeakEwma};
use ha_core::pick::Draw;

use crate::random::Random;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const MINUTES: u32 = 60;

/// A peak-EWMA that decays only when a sample comes.
struct DecaysOnSamples {
    estimate: f64,
    last: Duration,
}

impl DecaysOnSamples {
    fn record(&mut self, sample: Duration, at: Duration) {
        let (sample, passed) = (sample.as_secs_f64(), (at - self.last).as_secs_f64());
        let kept = (-passed / 10.0).exp();
        let blended = self.estimate * kept + sample * (1.0 - kept);
        self.estimate = if sample > self.estimate {
            sample
        } else {
            blended
        };
        self.last = at;
    }
}

/// Two endpoints of 1 ms, one request at a time; the first had one of 5 s. How often it is picked in ten minutes.
fn picks_after_one_slow_answer(
    mut second_wins: impl FnMut(Duration) -> bool,
    mut record: impl FnMut(usize, Duration, Duration),
) -> u32 {
    record(0, 5 * SEC, Duration::ZERO);
    record(1, MS, Duration::ZERO);
    let steps = 10 * MINUTES * 100;
    (1..=steps)
        .map(|step| {
            let at = step * 10 * MS;
            let picked = usize::from(second_wins(at));
            record(picked, MS, at);
            u32::from(picked == 0)
        })
        .sum()
}

#[test]
fn one_slow_answer_does_not_condemn_an_endpoint() {
    let start = Instant::now();
    let first = PeakEwma::new(load::Config::default(), start).unwrap();
    let loads = [first.sibling(), first];
    let picks = picks_after_one_slow_answer(
        |at| !loads[0].beats(&loads[1], start + at),
        |i, latency, at| {
            loads[i].picked(start + at);
            loads[i].record(latency, start + at);
        },
    );
    assert!(picks > 1_000, "{picks}");
}

#[test]
fn the_negative_control_that_decays_on_samples_only_never_picks_it_again() {
    let naive = || DecaysOnSamples {
        estimate: 0.0,
        last: Duration::ZERO,
    };
    let loads = std::cell::RefCell::new([naive(), naive()]);
    let picks = picks_after_one_slow_answer(
        |_| loads.borrow()[1].estimate < loads.borrow()[0].estimate,
        |i, latency, at| loads.borrow_mut()[i].record(latency, at),
    );
    assert_eq!(picks, 0);
}

/// Idle endpoints of weight 1 and 3, picked by two choices; the share of the light one.
fn light_share(first_wins: impl Fn(usize, usize) -> bool) -> f64 {
    const N: u32 = 100_000;
    let draw = Draw::new([1, 3].map(|w| Weight::new(w).unwrap()));
    let mut random = Random::new(51);
    let picks = (0..N).filter(|_| {
        let (a, b) = draw.two(random.bits()).unwrap();
        let b = b.unwrap();
        (if first_wins(a, b) { a } else { b }) == 0
    });
    picks.count() as f64 / f64::from(N)
}

#[test]
fn idle_endpoints_are_picked_by_weight() {
    let now = Instant::now();
    let first = PeakEwma::new(load::Config::default(), now).unwrap();
    let loads = [first.sibling(), first];
    let share = light_share(|a, b| loads[a].beats(&loads[b], now));
    assert!((share - 0.25).abs() < 0.02, "{share}");
}

#[test]
fn the_negative_control_that_divides_the_cost_by_the_weight_too_starves_the_light_one() {
    let cost = |i: usize| 1.0 / [1.0, 3.0][i];
    let share = light_share(|a, b| cost(a) <= cost(b));
    assert!(share < 0.01, "{share}");
}

/// How many failures it takes after ten thousand successes, one call each 10 ms.
fn failures_until(mut trips: impl FnMut(bool, Duration) -> bool) -> u32 {
    let mut at = Duration::ZERO;
    for _ in 0..10_000 {
        at += 10 * MS;
        assert!(!trips(false, at));
    }
    (1..=20_000)
        .find(|_| {
            at += 10 * MS;
            trips(true, at)
        })
        .unwrap()
}

#[test]
fn a_long_good_time_does_not_pay_for_a_long_bad_one() {
    let start = Instant::now();
    let mut config = Config::default();
    config.consecutive_failures = u32::MAX;
    let breaker = Breaker::new(config, start).unwrap();
    let failures = failures_until(|failed, at| {
        let now = start + at;
        let permit = breaker.try_admit(now).unwrap();
        let outcome = if failed {
            Outcome::Failure
        } else {
            Outcome::Success
        };
        breaker.record(permit, outcome, now, 0.0).is_some()
    });
    // Half of the calls of 10 s.
    assert!((400..=600).contains(&failures), "{failures}");
}

#[test]
fn the_negative_control_whose_window_never_slides_takes_as_many_failures_as_it_had_successes() {
    let (mut calls, mut failures) = (0, 0);
    let needed = failures_until(|failed, _| {
        calls += 1;
        failures += u32::from(failed);
        calls >= 100 && failures * 2 >= calls
    });
    assert_eq!(needed, 10_000);
}
