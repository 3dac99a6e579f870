//! What a balancer tells: typed events, and the metrics made of them.

use std::sync::Mutex;

use ha_core::outlier::{Cause, ReturnCause};
use ha_core::{outlier, spread};

use super::*;

type Told = Arc<Mutex<Vec<Event>>>;

/// Five that are asked in turn, by a caller in a region of this name.
fn telling(region: &str) -> (Vec<Fake>, Balance<Fake, Http>, Told) {
    let told = Told::default();
    let fakes = ["a", "b", "c", "d", "e"].map(|name| Fake::new(name, 1));
    let mut spread = spread::Config::default();
    spread.local.region = region.into();
    let mut breaker = breaker::Config::default();
    breaker.consecutive_failures = 4;
    let events = told.clone();
    let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
        .policy(RoundRobin)
        .breaker(breaker)
        .spread(spread)
        .outlier(outlier::Config::default())
        .on_event(move |event| events.lock().unwrap().push(event.clone()))
        .protocol(Http)
        .build()
        .unwrap();
    (fakes.to_vec(), balance, told)
}

fn take(told: &Told) -> Vec<Event> {
    std::mem::take(&mut told.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_change_is_told_once_and_what_changes_nothing_is_not() {
    let (fakes, balance, told) = telling("");
    tally(&balance, 50, GAP).await;
    assert_eq!(take(&told), [], "good requests change nothing");

    set_health(&balance, "b", false);
    set_health(&balance, "b", false);
    let [
        Event::Health {
            endpoint: key,
            from,
            to,
        },
    ] = &take(&told)[..]
    else {
        panic!("one change of health");
    };
    assert_eq!(key.as_str(), "b");
    let (unchecked, failing) = (health::State::Unchecked, health::State::Failing);
    assert_eq!((*from, *to), (unchecked, failing));

    let names = ["a", "b", "f"].map(endpoint);
    balance.update(names, |_| fakes[0].clone()).unwrap();
    let updated = Event::Updated {
        added: vec!["f".into()],
        removed: ["c", "d", "e"].map(Into::into).to_vec(),
        total: 3,
    };
    assert_eq!(take(&told), [updated]);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_an_ejection_and_its_end_are_told_with_their_causes() {
    let (fakes, balance, told) = telling("");
    tokio::spawn(balance.drive());
    fakes[0].broken.store(true, Ordering::Relaxed);
    // The breaker is quicker. Its probe is the fifth failure in a row.
    tally(&balance, 100, GAP).await;
    sleep(Duration::from_secs(10)).await;
    tally(&balance, 10, GAP).await;
    fakes[0].broken.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(60)).await;
    tally(&balance, 100, GAP).await;
    let words: Vec<_> = take(&told)
        .iter()
        .map(|event| match event {
            Event::Breaker { endpoint, state } => format!("{endpoint} {state:?}"),
            Event::Ejected {
                endpoint,
                cause: Cause::ConsecutiveFailures,
                times: 1,
                ..
            } => format!("{endpoint} ejected"),
            Event::Returned {
                endpoint,
                cause: ReturnCause::Time,
            } => format!("{endpoint} returned"),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(
        words,
        ["a Open", "a Open", "a ejected", "a returned", "a Closed"]
    );
}

#[tokio::test(start_paused = true)]
async fn panic_is_told_when_it_begins_and_when_it_ends() {
    let (fakes, balance, told) = telling("");
    let break_all = |broken| {
        for fake in &fakes {
            fake.broken.store(broken, Ordering::Relaxed);
        }
    };
    let panics = |events: Vec<Event>| -> Vec<bool> {
        let active = events.iter().filter_map(|event| match event {
            Event::Panic { active } => Some(*active),
            _ => None,
        });
        active.collect()
    };
    break_all(true);
    tally(&balance, 50, GAP).await;
    assert_eq!(panics(take(&told)), [true]);
    break_all(false);
    sleep(Duration::from_secs(60)).await;
    tally(&balance, 50, GAP).await;
    assert_eq!(panics(take(&told)), [false]);
}

#[tokio::test(start_paused = true)]
async fn a_region_of_the_caller_that_no_endpoint_stands_in_is_told_from_the_first_set_on() {
    let unknown = Event::LocalRegionUnknown {
        region: "hree".into(),
    };
    let (_, balance, told) = telling("hree");
    assert_eq!(take(&told), std::slice::from_ref(&unknown));
    balance.update([endpoint("a")], |_| unreachable!()).unwrap();
    assert_eq!(take(&told).last(), Some(&unknown));

    // There is nothing to be said about an empty set, nor about a caller that stands nowhere or where it says.
    balance.update([], |_| unreachable!()).unwrap();
    let mut here = endpoint("a");
    here.locality.region = "hree".into();
    let fake = Fake::new("a", 1);
    balance.update([here], |_| fake.clone()).unwrap();
    assert!(!take(&told).contains(&unknown));
    assert_eq!(take(&telling("").2), []);
}

#[cfg(feature = "metrics")]
mod metrics {
    use ::metrics::set_default_local_recorder;

    use super::*;
    use crate::recorded::Recorded;

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_counted_under_the_documented_names_and_labels() {
        let kept = Recorded::default();
        let _guard = set_default_local_recorder(&kept);
        let (fakes, balance, _) = telling("");
        tokio::spawn(balance.drive());
        fakes[0].broken.store(true, Ordering::Relaxed);
        tally(&balance, 100, GAP).await;
        sleep(Duration::from_secs(10)).await;
        tally(&balance, 10, GAP).await;
        set_health(&balance, "a", false);
        set_health(&balance, "a", true);
        let two = ["a", "b"].map(endpoint);
        balance.update(two, |_| unreachable!()).unwrap();
        let counted = [
            (
                "ha_balance_breaker_changes_total{endpoint=a,state=open,upstream=}",
                2,
            ),
            (
                "ha_balance_ejections_ended_total{cause=check,endpoint=a,upstream=}",
                1,
            ),
            (
                "ha_balance_ejections_total{cause=consecutive_failures,endpoint=a,upstream=}",
                1,
            ),
            (
                "ha_balance_health_changes_total{endpoint=a,state=failing,upstream=}",
                1,
            ),
            (
                "ha_balance_health_changes_total{endpoint=a,state=passing,upstream=}",
                1,
            ),
        ];
        let counted = counted.map(|(name, n)| (name.to_owned(), n));
        assert_eq!(kept.counters(), counted);
        assert_eq!(kept.gauge("ha_balance_endpoints{upstream=}"), Some(2.0));
    }

    #[tokio::test(start_paused = true)]
    async fn panic_is_a_gauge_that_goes_up_and_down() {
        let kept = Recorded::default();
        let _guard = set_default_local_recorder(&kept);
        let (fakes, balance, _) = telling("");
        let panic = || kept.gauge("ha_balance_panic{upstream=}");
        assert_eq!(panic(), None);
        for (broken, expected) in [(true, 1.0), (false, 0.0)] {
            for fake in &fakes {
                fake.broken.store(broken, Ordering::Relaxed);
            }
            sleep(Duration::from_secs(60)).await;
            tally(&balance, 50, GAP).await;
            assert_eq!(panic(), Some(expected));
        }
        let panics = ("ha_balance_panics_total{upstream=}".to_owned(), 1);
        assert!(kept.counters().contains(&panics));
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_panics_takes_neither_requests_nor_changes_with_it() {
    let heard = Arc::new(AtomicU64::new(0));
    let hears = heard.clone();
    let fakes = [Fake::new("a", 1), Fake::new("b", 1)];
    let mut breaker = breaker::Config::default();
    breaker.consecutive_failures = 1;
    let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
        .policy(RoundRobin)
        .breaker(breaker)
        .on_event(move |_| {
            hears.fetch_add(1, Ordering::Relaxed);
            panic!("as told");
        })
        .protocol(Http)
        .build()
        .unwrap();
    fakes[0].broken.store(true, Ordering::Relaxed);
    let tally = tally(&balance, 10, GAP).await;
    assert_eq!((tally["error"], tally["b"]), (1, 9));
    set_health(&balance, "b", true);
    balance
        .update([endpoint("b")], |_| fakes[1].clone())
        .unwrap();
    assert_eq!(balance.len(), 1);
    assert_eq!(
        heard.load(Ordering::Relaxed),
        3,
        "a breaker, a health, a set"
    );
}

#[test]
fn a_listener_may_change_the_set_that_it_is_told_of() {
    type Late = std::sync::OnceLock<Balance<Fake, Http>>;
    let itself = Arc::new(Late::new());
    let listener = itself.clone();
    let fakes = [Fake::new("a", 1), Fake::new("b", 1), Fake::new("c", 1)];
    let [a, b, c] = fakes.clone();
    let balance = Balance::builder([a.with_endpoint()])
        .on_event(move |event| {
            if matches!(event, Event::Updated { total: 2, .. }) {
                let three = ["a", "b", "c"].map(endpoint);
                listener
                    .get()
                    .unwrap()
                    .update(three, |_| c.clone())
                    .unwrap();
            }
        })
        .protocol(Http)
        .build()
        .unwrap();
    itself.set(balance.clone()).unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    // Not joined: it would wait for itself for ever.
    std::thread::spawn(move || {
        let two = ["a", "b"].map(endpoint);
        balance.update(two, |_| b.clone()).unwrap();
        done.send(balance.len()).unwrap();
    });
    assert_eq!(is_done.recv_timeout(Duration::from_secs(30)), Ok(3));
}
