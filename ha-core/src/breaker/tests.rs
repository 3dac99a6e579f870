use super::*;

#[cfg(not(ha_loom))]
mod rules {
    use super::*;
    use proptest::prelude::*;

    const SEC: Duration = Duration::from_secs(1);

    struct Bed {
        breaker: Breaker,
        now: Instant,
    }

    impl Bed {
        fn new(config: Config) -> Self {
            let now = Instant::now();
            Self {
                breaker: Breaker::new(config, now).unwrap(),
                now,
            }
        }

        fn call(&self, outcome: Outcome) -> Option<State> {
            let permit = self.breaker.try_admit(self.now).unwrap();
            self.breaker.record(permit, outcome, self.now, 0.0)
        }

        fn state(&self) -> State {
            self.breaker.state(self.now)
        }
    }

    fn by_ratio_only() -> Config {
        Config {
            consecutive_failures: u32::MAX,
            ..Config::default()
        }
    }

    #[test]
    fn n_failures_in_a_row_open_it_and_a_success_between_starts_the_count_again() {
        let bed = Bed::new(Config::default());
        for _ in 0..4 {
            assert_eq!(bed.call(Outcome::Failure), None);
        }
        bed.call(Outcome::Success);
        for _ in 0..4 {
            assert_eq!(bed.call(Outcome::Failure), None);
        }
        assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
        assert!(bed.breaker.try_admit(bed.now).is_err());
    }

    #[test]
    fn the_ratio_opens_it_at_exactly_half_of_a_hundred_and_not_before() {
        let bed = Bed::new(by_ratio_only());
        for _ in 0..50 {
            bed.call(Outcome::Success);
        }
        for i in 0..49 {
            assert_eq!(bed.call(Outcome::Failure), None, "failure {i}");
        }
        assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
    }

    #[test]
    fn successes_without_a_time_count_at_once_and_ask_the_clock_once_in_sixteen() {
        let bed = Bed::new(by_ratio_only());
        let mut reads = 0;
        for calls in 1..=50 {
            let permit = bed.breaker.try_admit_with(|| unreachable!()).unwrap();
            let read = || {
                reads += 1;
                bed.now
            };
            assert_eq!(bed.breaker.succeed(permit, read), None);
            assert_eq!(bed.breaker.snapshot(bed.now).calls, calls);
        }
        assert_eq!(reads, 3);
        for i in 0..49 {
            assert_eq!(bed.call(Outcome::Failure), None, "failure {i}");
        }
        assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
        bed.breaker.reset();
        assert_eq!(bed.breaker.snapshot(bed.now).calls, 0);
    }

    #[test]
    fn what_has_a_time_leaves_the_window_and_only_the_last_few_without_one_stay() {
        let mut bed = Bed::new(by_ratio_only());
        for _ in 0..10_000 {
            let permit = bed.breaker.try_admit_with(|| unreachable!()).unwrap();
            bed.breaker.succeed(permit, || bed.now);
        }
        for _ in 0..4 {
            bed.call(Outcome::Failure);
            let permit = bed.breaker.try_admit_with(|| unreachable!()).unwrap();
            bed.breaker.succeed(permit, || bed.now);
        }
        assert_eq!(bed.breaker.snapshot(bed.now).consecutive_failures, 0);
        bed.now += 10 * SEC;
        assert_eq!(bed.breaker.snapshot(bed.now).calls, 10_004 % 16);
    }

    #[test]
    fn the_ratio_says_nothing_below_the_minimum() {
        let bed = Bed::new(by_ratio_only());
        for _ in 0..99 {
            assert_eq!(bed.call(Outcome::Failure), None);
        }
        assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
    }

    #[test]
    fn a_long_good_past_does_not_hide_a_bad_present() {
        let mut bed = Bed::new(by_ratio_only());
        for _ in 0..10_000 {
            bed.call(Outcome::Success);
        }
        bed.now += 10 * SEC;
        for _ in 0..99 {
            assert_eq!(bed.call(Outcome::Failure), None);
        }
        assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
    }

    #[test]
    fn each_bucket_leaves_the_window_after_exactly_ten_steps() {
        let mut bed = Bed::new(by_ratio_only());
        for _ in 0..10 {
            bed.call(Outcome::Success);
            bed.now += SEC;
        }
        for left in (0..10).rev() {
            assert_eq!(bed.breaker.snapshot(bed.now).calls, left);
            bed.now += SEC;
        }
    }

    #[test]
    fn an_idle_gap_far_beyond_the_window_leaves_nothing() {
        let mut bed = Bed::new(by_ratio_only());
        for _ in 0..90 {
            bed.call(Outcome::Failure);
        }
        for gap in [10, 20, 1_000, 100_000] {
            bed.now += gap * SEC;
            assert_eq!(bed.breaker.snapshot(bed.now).calls, 0, "after {gap} s");
        }
    }

    #[test]
    fn open_waits_then_probes_one_at_a_time_then_closes() {
        let mut bed = Bed::new(Config::default());
        for _ in 0..5 {
            bed.call(Outcome::Failure);
        }
        let rejected = bed.breaker.try_admit(bed.now).unwrap_err();
        assert_eq!(rejected.retry_in, Some(5 * SEC));
        bed.now += 5 * SEC - Duration::from_nanos(1);
        assert!(bed.breaker.try_admit(bed.now).is_err());
        bed.now += Duration::from_nanos(1);
        assert_eq!(bed.state(), State::HalfOpen);

        let probe = bed.breaker.try_admit(bed.now).unwrap();
        assert!(probe.is_probe());
        assert!(!bed.breaker.would_admit(bed.now));
        assert!(bed.breaker.try_admit(bed.now).is_err());
        assert_eq!(
            bed.breaker.record(probe, Outcome::Success, bed.now, 0.0),
            None
        );
        assert_eq!(bed.call(Outcome::Success), Some(State::Closed));
        assert_eq!(
            bed.breaker.snapshot(bed.now).calls,
            0,
            "a closed breaker starts afresh"
        );
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_the_longest() {
        let mut bed = Bed::new(Config::default());
        for _ in 0..5 {
            bed.call(Outcome::Failure);
        }
        for seconds in [5, 10, 20, 40, 40, 40] {
            let wait = bed
                .breaker
                .try_admit(bed.now)
                .unwrap_err()
                .retry_in
                .unwrap();
            assert_eq!(
                wait,
                seconds * SEC,
                "the low end of the band, as random is 0"
            );
            bed.now += wait;
            assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
        }
    }

    #[test]
    fn a_probe_without_outcome_makes_room_for_the_next() {
        let mut bed = Bed::new(Config::default());
        for _ in 0..5 {
            bed.call(Outcome::Failure);
        }
        bed.now += 5 * SEC;
        let probe = bed.breaker.try_admit(bed.now).unwrap();
        bed.breaker.release(probe);
        assert_eq!(bed.call(Outcome::Overloaded), None);
        assert_eq!(bed.state(), State::HalfOpen);
        assert!(bed.breaker.would_admit(bed.now));
    }

    #[test]
    fn overload_counts_in_the_ratio_only() {
        let bed = Bed::new(Config::default());
        for _ in 0..99 {
            assert_eq!(bed.call(Outcome::Overloaded), None);
        }
        assert_eq!(bed.call(Outcome::Overloaded), Some(State::Open));
    }

    #[test]
    fn results_of_an_earlier_state_are_not_counted() {
        let mut bed = Bed::new(Config::default());
        let late = bed.breaker.try_admit(bed.now).unwrap();
        for _ in 0..5 {
            bed.call(Outcome::Failure);
        }
        let slow_probe = {
            bed.now += 5 * SEC;
            bed.breaker.try_admit(bed.now).unwrap()
        };
        assert_eq!(
            bed.breaker.record(late, Outcome::Success, bed.now, 0.0),
            None
        );
        assert_eq!(bed.state(), State::HalfOpen);
        bed.breaker.reset();
        assert_eq!(
            bed.breaker
                .record(slow_probe, Outcome::Failure, bed.now, 0.0),
            None
        );
        assert_eq!(bed.state(), State::Closed);
    }

    #[test]
    fn what_is_forced_stays_until_reset() {
        let mut bed = Bed::new(Config::default());
        bed.breaker.force_open();
        bed.now += 1_000_000 * SEC;
        assert_eq!(bed.breaker.try_admit(bed.now).unwrap_err().retry_in, None);
        assert_eq!(bed.state(), State::Open);
        bed.breaker.force_closed();
        for _ in 0..500 {
            assert_eq!(bed.call(Outcome::Failure), None);
        }
        bed.breaker.reset();
        for _ in 0..4 {
            assert_eq!(bed.call(Outcome::Failure), None);
        }
        assert_eq!(bed.call(Outcome::Failure), Some(State::Open));
    }

    #[test]
    fn a_clock_that_steps_back_between_threads_does_no_harm() {
        let bed = Bed::new(by_ratio_only());
        let early = bed.now - SEC;
        let permit = bed.breaker.try_admit(early).unwrap();
        assert_eq!(
            bed.breaker.record(permit, Outcome::Failure, early, 0.0),
            None
        );
        assert_eq!(bed.breaker.snapshot(bed.now).failures, 1);
    }

    #[test]
    fn senseless_numbers_are_refused_by_name_and_value() {
        let good = Config::default;
        for (config, message) in [
            (
                Config {
                    failure_ratio: 0.0,
                    ..good()
                },
                "breaker.failure_ratio is 0: ",
            ),
            (
                Config {
                    failure_ratio: f64::NAN,
                    ..good()
                },
                "breaker.failure_ratio is NaN: ",
            ),
            (
                Config {
                    failure_ratio: 50.0,
                    ..good()
                },
                "breaker.failure_ratio is 50: ",
            ),
            (
                Config {
                    minimum_calls: 0,
                    ..good()
                },
                "breaker.minimum_calls is 0: ",
            ),
            (
                Config {
                    consecutive_failures: 0,
                    ..good()
                },
                "breaker.consecutive_failures is 0: ",
            ),
            (
                Config {
                    probes: 0,
                    ..good()
                },
                "breaker.probes is 0: ",
            ),
            (
                Config {
                    window: Duration::ZERO,
                    ..good()
                },
                "breaker.window is 0ns: ",
            ),
            (
                Config {
                    open_min: Duration::ZERO,
                    ..good()
                },
                "breaker.open_min is 0ns: ",
            ),
            (
                Config {
                    open_max: SEC,
                    ..good()
                },
                "breaker.open_max is 1s: ",
            ),
            (
                Config {
                    open_max: Duration::MAX,
                    ..good()
                },
                "breaker.open_max is ",
            ),
        ] {
            let error = Breaker::new(config, Instant::now())
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    /// The same rules written the slow and obvious way: a list of all calls.
    struct Model {
        calls: Vec<(u64, bool)>,
    }

    impl Model {
        fn sum(&self, tick: u64) -> (u64, u64) {
            let inside = self.calls.iter().filter(|(at, _)| at + 10 > tick);
            inside.fold((0, 0), |(c, f), (_, failed)| {
                (c + 1, f + u64::from(*failed))
            })
        }
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_list_of_all_calls(
            steps in prop::collection::vec((0u64..4_000, any::<bool>()), 1..300),
        ) {
            let config = Config { minimum_calls: u32::MAX, ..by_ratio_only() };
            let mut bed = Bed::new(config);
            let mut model = Model { calls: Vec::new() };
            let mut millis = 0;
            for (step, failed) in steps {
                millis += step;
                bed.now += Duration::from_millis(step);
                bed.call(if failed { Outcome::Failure } else { Outcome::Success });
                model.calls.push((millis / 1000, failed));
                let snapshot = bed.breaker.snapshot(bed.now);
                prop_assert_eq!((snapshot.calls, snapshot.failures), model.sum(millis / 1000));
            }
        }

        #[test]
        fn every_wait_is_inside_its_bounds(times in 1u32..200, random in 0.0f64..1.0) {
            let wait = Config::default().open_for(times, random);
            prop_assert!(wait >= 5 * SEC && wait <= 60 * SEC, "{wait:?}");
        }

        #[test]
        fn at_most_one_probe_is_out_whatever_happens(
            steps in prop::collection::vec((0u8..6, 0u64..8_000), 1..200),
        ) {
            let mut bed = Bed::new(Config { consecutive_failures: 2, ..Config::default() });
            let mut out = Vec::new();
            for (action, millis) in steps {
                bed.now += Duration::from_millis(millis);
                match action {
                    0..=2 => {
                        if let Ok(permit) = bed.breaker.try_admit(bed.now) {
                            // A probe of an earlier half-open time may be out and is void.
                            let rivals = out.iter().filter(|p: &&Permit| {
                                p.is_probe() && p.gate() == bed.breaker.gate.load(Ordering::Relaxed)
                            });
                            prop_assert!(!permit.is_probe() || rivals.count() == 0);
                            out.push(permit);
                        }
                    }
                    3 => {
                        if let Some(permit) = out.pop() {
                            bed.breaker.record(permit, Outcome::Failure, bed.now, 0.5);
                        }
                    }
                    4 => {
                        if let Some(permit) = out.pop() {
                            bed.breaker.record(permit, Outcome::Success, bed.now, 0.5);
                        }
                    }
                    _ => {
                        if let Some(permit) = out.pop() {
                            bed.breaker.release(permit);
                        }
                    }
                }
            }
        }
    }
}

/// Run by `cargo xtask ci`.
#[cfg(ha_loom)]
mod loom {
    use super::*;
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

    #[test]
    fn two_threads_that_ask_for_the_probe_get_one() {
        let now = Instant::now();
        ::loom::model(move || {
            let breaker = breaker(1, now);
            let permit = breaker.try_admit(now).unwrap();
            breaker.record(permit, Outcome::Failure, now, 0.0);
            let later = now + Duration::from_secs(60);
            let other = {
                let breaker = breaker.clone();
                thread::spawn(move || breaker.try_admit(later).is_ok())
            };
            let mine = breaker.try_admit(later).is_ok();
            let theirs = other.join().unwrap();
            assert!(mine ^ theirs);
        });
    }

    #[test]
    fn two_failures_at_once_trip_it_exactly_once() {
        let now = Instant::now();
        ::loom::model(move || {
            let breaker = breaker(2, now);
            let fail = move |breaker: &Breaker| {
                breaker.try_admit(now).is_ok_and(|permit| {
                    breaker.record(permit, Outcome::Failure, now, 0.0).is_some()
                })
            };
            let other = {
                let breaker = breaker.clone();
                thread::spawn(move || fail(&breaker))
            };
            let mine = fail(&breaker);
            let theirs = other.join().unwrap();
            assert!(mine ^ theirs);
            assert_eq!(breaker.snapshot(now).trips, 1);
        });
    }

    #[test]
    fn no_count_is_lost_when_two_threads_record() {
        ::loom::model(move || {
            let window = Arc::new(super::window::Window::new(Duration::from_secs(10)));
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
}
