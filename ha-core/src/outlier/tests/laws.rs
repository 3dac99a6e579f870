//! What holds whatever happens.

use proptest::prelude::*;

use super::bed::*;
use super::*;
use crate::health::State::{Failing, Passing};

#[test]
fn no_request_is_lost_or_counted_twice_while_windows_are_taken() {
    const EACH: u64 = 200_000;
    let counters = Arc::new(Counters::new(&Config::default()));
    let threads: Vec<_> = (0..3)
        .map(|t| {
            let counters = counters.clone();
            std::thread::spawn(move || {
                for i in 0..EACH {
                    let failed = (i + t) % 4 == 0;
                    let outcome = if failed {
                        Outcome::Failure
                    } else {
                        Outcome::Success
                    };
                    let _ = counters.record(outcome);
                }
            })
        })
        .collect();
    let (mut requests, mut failures) = (0, 0);
    let mut take = || {
        let window = counters.take_window();
        assert!(window.failures <= window.requests);
        requests += u64::from(window.requests);
        failures += u64::from(window.failures);
    };
    while !threads.iter().all(std::thread::JoinHandle::is_finished) {
        take();
    }
    take();
    assert_eq!((requests, failures), (3 * EACH, 3 * EACH / 4));
}

#[derive(Debug, Clone)]
enum Step {
    Record(usize, bool, u32),
    Sweep(u64),
    Check(usize),
    Watch(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0usize..40, any::<bool>(), 1u32..200).prop_map(|(i, ok, n)| Step::Record(i, ok, n)),
        (0u64..60_000).prop_map(Step::Sweep),
        (0usize..40).prop_map(Step::Check),
        (1usize..40).prop_map(Step::Watch),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn whatever_happens_the_cap_holds_the_flags_agree_and_no_sweep_asks_for_the_past(
        steps in steps(),
    ) {
        let mut bed = Bed::new(40);
        let (mut now, mut watched) = (bed.start, 40);
        for step in steps {
            match step {
                Step::Record(i, ok, n) => {
                    let outcome = if ok { Outcome::Success } else { Outcome::Failure };
                    bed.record(i, outcome, n);
                }
                Step::Check(i) => {
                    bed.outliers.check_changed(&key(i), Failing, Passing);
                }
                Step::Watch(n) => {
                    watched = n;
                    bed.hosts.iter_mut().skip(n).for_each(|gone| {
                        *gone = Arc::new(Counters::new(&Config::default()));
                    });
                    bed.watch(n);
                }
                Step::Sweep(millis) => {
                    now += Duration::from_millis(millis);
                    let sweep = bed.outliers.sweep(now);
                    prop_assert!(sweep.next > now);
                    prop_assert!(sweep.next <= now + 300 * SEC);
                    for change in &sweep.changes {
                        if let Change::Ejected { until, times, .. } = change {
                            prop_assert!((1..=10).contains(times));
                            prop_assert_eq!(*until, now + 30 * SEC * *times);
                        }
                    }
                    let most = if watched < 2 { 0 } else { (watched / 10).max(1) };
                    prop_assert!(bed.outliers.ejected() <= most);
                    prop_assert_eq!(bed.ejected().len(), bed.outliers.ejected());
                    prop_assert!(bed.outliers.sweep(now).changes.is_empty(), "again is nothing");
                }
            }
        }
    }
}
