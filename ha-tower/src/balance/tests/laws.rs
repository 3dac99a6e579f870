//! What balancers are known to get wrong, each beside a way that does get it wrong.

use std::collections::HashSet;
use std::task::{Context, Poll};

use ha_core::{load, outlier};
use tower::balance::p2c;
use tower::discover::ServiceList;
use tower::load::Constant;

use super::rules::{ejecting, every_policy, fakes, keyed, state};
use super::*;

fn tower_balance<S>(
    services: Vec<S>,
) -> p2c::Balance<ServiceList<Vec<Constant<S, u32>>>, Request<()>>
where
    S: Service<Request<()>>,
    S::Error: Into<BoxError>,
{
    let constant = services
        .into_iter()
        .map(|service| Constant::new(service, 1));
    p2c::Balance::new(ServiceList::new(constant.collect()))
}

async fn fail(balance: &Balance<Fake, Http>, fake: &Fake, times: usize) {
    fake.broken.store(true, Ordering::Relaxed);
    tally(balance, times, Duration::ZERO).await;
    fake.broken.store(false, Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn a_new_weight_keeps_health_load_breaker_and_ejection_and_a_new_key_has_none_of_them() {
    for policy in every_policy() {
        let one = Fake::new("a", 40);
        let balance = Balance::builder([one.with_endpoint()])
            .policy(policy.clone())
            .protocol(Http)
            .build()
            .unwrap();
        tally(&balance, 3, GAP).await;
        fail(&balance, &one, 5).await;
        state(&balance, "a").set_ejected(true);
        let in_flight = balance.clone().call(keyed("ada"));
        state(&balance, "a").set_health(health::State::Passing, true);
        let learned = |key: &str| {
            let state = state(&balance, key);
            let now = crate::clock::now();
            (
                state.health(),
                state.load.penalty(now) > Duration::ZERO,
                state.load.in_flight(),
                state.breaker_state(now),
                state.is_ejected(),
            )
        };
        let before = learned("a");
        let (passing, open) = (health::State::Passing, breaker::State::Open);
        // In panic, which the only endpoint is in, it is picked all the same.
        assert_eq!(before, (passing, true, 1, open, true), "{policy:?}");
        let heavy = || endpoint("a").with_weight(Weight::new(9).unwrap());
        balance.update([heavy()], |_| unreachable!()).unwrap();
        assert_eq!(learned("a"), before, "{policy:?}");

        let new = [heavy(), endpoint("b")];
        balance.update(new, |_| one.clone()).unwrap();
        let (unchecked, closed) = (health::State::Unchecked, breaker::State::Closed);
        assert_eq!(learned("b"), (unchecked, false, 0, closed, false));
        drop(in_flight);
        assert_eq!(balance.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejection_outlasts_a_new_weight_and_ends_when_it_was_to() {
    let (fakes, balance) = ejecting(5, &Arc::default());
    tokio::spawn(balance.drive());
    fakes[0].broken.store(true, Ordering::Relaxed);
    tally(&balance, 100, GAP).await;
    fakes[0].broken.store(false, Ordering::Relaxed);
    let until = state(&balance, "a").ejected_until();
    assert!(until.is_some());
    let heavy = fakes
        .iter()
        .map(|fake| endpoint(fake.name).with_weight(Weight::new(3).unwrap()));
    balance.update(heavy, |_| unreachable!()).unwrap();
    assert_eq!(state(&balance, "a").ejected_until(), until);
    assert!(!tally(&balance, 100, GAP).await.contains_key("a"));
    sleep(Duration::from_secs(31)).await;
    assert_eq!(tally(&balance, 100, GAP).await["a"], 20);
}

#[tokio::test(start_paused = true)]
async fn weight_zero_does_not_die_and_any_other_weight_brings_it_back() {
    for policy in every_policy() {
        let balance = balance(&fakes(3), policy.clone());
        let weigh = |weights: [u32; 3]| {
            let each = ["a", "b", "c"].iter().zip(weights);
            let each = each.map(|(key, w)| endpoint(key).with_weight(Weight::new(w).unwrap()));
            balance.update(each, |_| unreachable!()).unwrap();
        };
        weigh([1, 0, 0]);
        assert_eq!(tally(&balance, 20, GAP).await["a"], 20, "{policy:?}");
        weigh([0, 0, 0]);
        assert_eq!(tally(&balance, 2, GAP).await["error"], 2, "{policy:?}");
        weigh([0, 1, 1]);
        let back = tally(&balance, 60, GAP).await;
        assert_eq!(back["b"] + back["c"], 60, "{policy:?}");
        assert!(back["b"] > 5 && back["c"] > 5, "{policy:?}: {back:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_an_error_at_once_and_not_pending_for_ever() {
    for policy in every_policy() {
        let balance = balance(&[], policy);
        let mut call = Box::pin(balance.clone().call(Request::new(())));
        let Poll::Ready(Err(error)) = poll_once(&mut call) else {
            panic!("must be an error at once");
        };
        assert!(error.is_unavailable());
    }
    let mut theirs = tower_balance(Vec::<Fake>::new());
    let never = tokio::time::timeout(Duration::from_secs(3_600), theirs.ready());
    assert!(never.await.is_err());
}

/// Errs in `poll_ready` when told to, and counts how often it is asked.
#[derive(Debug, Clone, Default)]
struct Readiness {
    errs: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Service<Request<()>> for Readiness {
    type Response = Response<Full<bytes::Bytes>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(if self.errs.load(Ordering::Relaxed) {
            Err("not now".into())
        } else {
            Ok(())
        })
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Ok(Response::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_poll_ready_errs_comes_back_without_re_discovery() {
    let service = Readiness::default();
    let ours = Balance::builder([(endpoint("a"), service.clone())])
        .protocol(Http)
        .build()
        .unwrap();
    let mut theirs = tower_balance(vec![service.clone()]);

    service.errs.store(true, Ordering::Relaxed);
    let call = || ours.clone().oneshot(Request::new(()));
    assert!(call().await.is_err());
    assert!(poll_once(&mut theirs.ready()).is_pending());
    service.errs.store(false, Ordering::Relaxed);
    assert!(call().await.is_ok());
    let never = tokio::time::timeout(Duration::from_secs(3_600), theirs.ready());
    assert!(never.await.is_err(), "dropped for good");
}

#[tokio::test(start_paused = true)]
async fn fast_failures_attract_no_traffic_and_without_a_penalty_they_would() {
    let failed = async |penalty: Duration| {
        let fakes = [Fake::new("good", 20), Fake::new("bad", 0)];
        fakes[1].broken.store(true, Ordering::Relaxed);
        let mut config = load::Config::default();
        config.penalty = penalty;
        let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
            .breaker(never_trips())
            .load(config)
            .protocol(Http)
            .build()
            .unwrap();
        let tally = tally(&balance, 1_000, GAP).await;
        tally.get("error").copied().unwrap_or_default()
    };
    assert!(failed(load::Config::default().penalty).await < 30);
    assert!(failed(Duration::from_nanos(1)).await > 300);
}

#[tokio::test(start_paused = true)]
async fn clones_per_call_share_the_cursor_and_a_balancer_per_call_would_always_begin_anew() {
    let shared = balance(&fakes(3), RoundRobin);
    let mut one_each = HashSet::new();
    let mut always_the_same = HashSet::new();
    for _ in 0..3 {
        one_each.extend(tally(&shared, 1, GAP).await.into_keys());
        let anew = balance(&fakes(3), RoundRobin);
        always_the_same.extend(tally(&anew, 1, GAP).await.into_keys());
    }
    assert_eq!((one_each.len(), always_the_same.len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_wakes_the_ejector_once_and_nobody_polls_it() {
    let services = ["a", "b", "c", "d", "e"].map(|key| (endpoint(key), Readiness::default()));
    let sick = services[0].1.clone();
    let balance = Balance::builder(services)
        .policy(RoundRobin)
        .breaker(never_trips())
        .outlier(outlier::Config::default())
        .protocol(Http)
        .build()
        .unwrap();
    let wakes = Arc::new(AtomicU64::new(0));
    let mut drive = Box::pin(balance.drive());
    let counted = wakes.clone();
    let driver = std::future::poll_fn(move |cx: &mut Context<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        drive.as_mut().poll(cx)
    });
    let driver = tokio::spawn(driver);
    let calls = async |n: usize| {
        for _ in 0..n {
            drop(balance.clone().oneshot(Request::new(())).await);
            tokio::task::yield_now().await;
        }
    };
    calls(10).await;
    let before = wakes.load(Ordering::Relaxed);
    sick.errs.store(true, Ordering::Relaxed);
    calls(25).await;
    let asked = sick.asked.load(Ordering::Relaxed);
    calls(1_000).await;
    advance(Duration::from_secs(9)).await;
    calls(1_000).await;
    assert_eq!(sick.asked.load(Ordering::Relaxed), asked);
    assert_eq!(wakes.load(Ordering::Relaxed) - before, 1);
    driver.abort();
}

#[tokio::test(start_paused = true)]
async fn one_penalised_endpoint_is_picked_again_and_with_a_penalty_that_does_not_decay_it_is_not() {
    let share_after = async |policy: P2c, decay: Duration| {
        let fakes = [Fake::new("a", 5), Fake::new("b", 5)];
        let mut config = load::Config::default();
        config.penalty_decay = decay;
        let balance = Balance::builder(fakes.iter().map(Fake::with_endpoint))
            .policy(policy)
            .load(config)
            .protocol(Http)
            .build()
            .unwrap();
        let penalised = state(&balance, "a");
        penalised.load.penalize(None, crate::clock::now());
        tally(&balance, 1_700, GAP).await;
        tally(&balance, 1_000, GAP)
            .await
            .get("a")
            .copied()
            .unwrap_or_default()
    };
    for policy in [P2c::peak_ewma(), P2c::least_request()] {
        let config = load::Config::default();
        assert!(
            share_after(policy, config.penalty_decay).await > 300,
            "{policy:?}"
        );
        let never = Duration::from_secs(1_000_000);
        assert!(share_after(policy, never).await < 30, "{policy:?}");
    }
}
