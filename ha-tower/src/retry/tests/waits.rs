//! How long a retry waits, and that all retries together stay within the budget.

use super::*;

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_within_cap_and_deadline() {
    let started = Instant::now();
    assert_eq!(
        attempts_of(
            RetryLayer::http(),
            request(Method::GET),
            vec![Act::After("3")]
        )
        .await,
        (2, OK)
    );
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_secs(3) && waited <= Duration::from_millis(3_026),
        "{waited:?}"
    );
    assert_eq!(
        attempts_of(
            RetryLayer::http(),
            request(Method::GET),
            vec![Act::After("6")]
        )
        .await,
        (1, UNAVAILABLE)
    );

    let (service, seen) = server([Act::After("3")]);
    let started = Instant::now();
    let service =
        TimeoutLayer::deadline(Duration::from_secs(2)).layer(RetryLayer::http().layer(service));
    let response = service.oneshot(request(Method::GET)).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), seen.lock().unwrap().len()),
        (503, 1)
    );
    assert_eq!(
        started.elapsed(),
        Duration::ZERO,
        "the answer is known: waiting for the deadline would help nobody"
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_amplified_by_the_budget_and_no_more() {
    let config = budget::Config {
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let total = async |layer: RetryLayer| {
        let (service, seen) = server((0..10_000).map(|_| Act::Status(503)));
        for _ in 0..1_000 {
            let _ = layer
                .layer(service.clone())
                .oneshot(request(Method::GET))
                .await;
        }
        seen.lock().unwrap().len()
    };
    let fast = |budget| {
        let never = Backoff::new(Duration::ZERO, Duration::ZERO);
        built(RetryLayer::builder().backoff(never).budget(budget))
    };
    assert_eq!(total(fast(config)).await, 1_200);
    // The negative control: attempts alone, with a budget that never says no, treble the load.
    let naive = budget::Config {
        retry_ratio: 1.0,
        reserve_per_second: 1e9,
        ..config
    };
    assert_eq!(total(fast(naive)).await, 3_000);
}

#[tokio::test(start_paused = true)]
async fn requests_that_fail_together_do_not_wait_alike() {
    let mut waits = std::collections::HashSet::new();
    let layer = RetryLayer::http();
    for _ in 0..20 {
        let (service, _) = server([Act::Break]);
        let started = Instant::now();
        let _ = layer.layer(service).oneshot(request(Method::GET)).await;
        waits.insert(started.elapsed());
    }
    assert!(
        waits.len() > 5,
        "paused time has a grain of 1 ms: {waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_late_attempt_is_dropped_and_made_again_if_that_is_safe() {
    let second = Duration::from_secs(1);
    let layer = || built(RetryLayer::builder().attempt_timeout(second));
    let started = Instant::now();
    let made = attempts_of(layer(), request(Method::PUT), vec![Act::Hangs]).await;
    assert_eq!(made, (2, OK));
    assert!(started.elapsed() < Duration::from_millis(1_100));

    let late = Some(StatusCode::GATEWAY_TIMEOUT);
    let hanging = || vec![Act::Hangs, Act::Hangs, Act::Hangs];
    for (method, attempts) in [(Method::PUT, 3), (Method::POST, 1)] {
        let made = attempts_of(layer(), request(method), hanging()).await;
        assert_eq!(made, (attempts, late));
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_late_attempt_is_a_local_one_with_its_number_of_attempts() {
    let (service, _) = server([Act::Hangs, Act::Hangs, Act::Hangs]);
    let layer = built(RetryLayer::builder().attempt_timeout(Duration::from_secs(1)));
    let response = layer.layer(service).oneshot(request(Method::PUT)).await;
    let response = response.unwrap();
    assert!(response.extensions().get::<LocalReply>().is_some());
    assert_eq!(Attempts::of(&response), Attempts(3));
}

#[tokio::test(start_paused = true)]
async fn without_a_timeout_of_an_attempt_the_deadline_is_spent_on_the_first() {
    let (service, seen) = server([Act::Hangs]);
    let service =
        TimeoutLayer::deadline(Duration::from_secs(5)).layer(RetryLayer::http().layer(service));
    let response = service.oneshot(request(Method::PUT)).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn layers_that_share_a_budget_spend_what_each_request_pays_once() {
    let config = budget::Config {
        reserve_per_second: 0.0,
        ..budget::Config::default()
    };
    let never = Backoff::new(Duration::ZERO, Duration::ZERO);
    for (inner_counts, sent) in [(false, 120), (true, 140)] {
        let outer = built(RetryLayer::builder().backoff(never).budget(config));
        let inner = built(
            RetryLayer::builder()
                .backoff(never)
                .shared_budget(Arc::clone(outer.budget()))
                .counts_requests(inner_counts),
        );
        let (service, seen) = server((0..1_000).map(|_| Act::Unsent));
        for _ in 0..100 {
            let service = outer.layer(inner.layer(service.clone()));
            let _ = service.oneshot(request(Method::POST)).await;
        }
        // The negative control: counted by both layers, a request pays twice.
        assert_eq!(seen.lock().unwrap().len(), sent);
    }
}
