use super::*;

/// Fifty calls of 1 to 50 ms: the percentile is 48 ms.
async fn warm(layer: &HedgeLayer) {
    for millis in 1..=50 {
        let server = Server::new(&[(millis, 200)]);
        let _ = outcome(layer, &server, request(Method::GET)).await;
    }
    sleep(MS * 200).await;
}

#[tokio::test(start_paused = true)]
async fn after_enough_calls_the_slowest_twentieth_is_hedged() {
    let layer = HedgeLayer::builder().build().unwrap();
    assert_eq!(layer.delay(), None);
    let server = Server::new(&[(5_000, 200), (1, 200)]);
    let (_, elapsed) = outcome(&layer, &server, request(Method::GET)).await;
    assert_eq!(elapsed, 5_000, "nothing is known yet");
    let layer = HedgeLayer::builder().build().unwrap();
    warm(&layer).await;
    assert_eq!(layer.delay(), Some(MS * 48));
    let server = Server::new(&[(5_000, 200), (1, 200)]);
    let (result, elapsed) = outcome(&layer, &server, request(Method::GET)).await;
    assert_eq!((result, elapsed), (ok(200, "1"), 49));
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_hedged_is_not_measured() {
    let layer = HedgeLayer::builder().build().unwrap();
    for _ in 0..100 {
        let server = Server::new(&[(1, 200)]);
        let _ = outcome(&layer, &server, request(Method::POST)).await;
    }
    sleep(MS * 200).await;
    assert_eq!(layer.delay(), None);
}

/// The delay after `calls` further calls, each by the script.
async fn delay_after(calls: usize, script: &[Act]) -> Option<Duration> {
    let plenty = budget::Config {
        retry_ratio: 1.0,
        ..budget::Config::default()
    };
    let layer = HedgeLayer::builder().budget(plenty).build().unwrap();
    warm(&layer).await;
    for _ in 0..calls {
        let server = Server::new(script);
        let _ = outcome(&layer, &server, request(Method::GET)).await;
    }
    sleep(MS * 200).await;
    layer.delay()
}

#[tokio::test(start_paused = true)]
async fn losers_and_failures_do_not_pull_the_percentile_down() {
    // All first attempts lose to a hedge of 1 ms: they count as no less than the delay.
    let delay = delay_after(20, &[(5_000, 200), (1, 200)]).await;
    assert!(delay >= Some(MS * 49), "{delay:?}");
    // Those that fail fast say nothing.
    assert_eq!(delay_after(100, &[(0, 503)]).await, Some(MS * 48));
    assert_eq!(delay_after(100, &[(0, 0)]).await, Some(MS * 48));
    // Good and fast ones do.
    assert_eq!(delay_after(950, &[(2, 200)]).await, Some(MS * 2));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_says_only_that_it_took_that_long() {
    for (patience, slower) in [(5, false), (60, true)] {
        let budget = budget_of(0);
        let layer = HedgeLayer::builder().shared_budget(budget).build().unwrap();
        warm(&layer).await;
        for _ in 0..20 {
            let server = Server::new(&[(5_000, 200)]);
            let call = layer.layer(server).oneshot(request(Method::GET));
            assert!(tokio::time::timeout(MS * patience, call).await.is_err());
        }
        sleep(MS * 200).await;
        let delay = layer.delay().unwrap();
        assert_eq!(delay > MS * 48, slower, "{delay:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_applied_twice_measures_once_and_spends_one_budget() {
    let budget = budget_of(1);
    let layer = HedgeLayer::builder().shared_budget(budget).build().unwrap();
    warm(&layer).await;
    let again = layer.clone();
    assert_eq!(again.delay(), Some(MS * 48));
    for (layer, sent) in [(&layer, 2), (&again, 1)] {
        let server = Server::new(&[(5_000, 200), (1, 200)]);
        let _ = outcome(layer, &server, request(Method::GET)).await;
        assert_eq!(server.seen().len(), sent);
    }
}
