use std::convert::Infallible;

use ha_core::endpoint::Endpoint;

use super::*;
use crate::balance::{Balance, RoundRobin};

/// How many of 200 calls a slow endpoint gets beside a quick one.
async fn calls_to_the_slow_one(config: Config) -> usize {
    let answers = |millis| {
        tower::service_fn(move |()| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok::<_, Infallible>(millis)
        })
    };
    let endpoint = |host: &str| host.parse::<Endpoint>().unwrap();
    let balance = Balance::builder([
        (endpoint("http://quick"), answers(1)),
        (endpoint("http://slow"), answers(100)),
    ])
    .policy(RoundRobin)
    .breaker(config)
    .build()
    .unwrap();
    let mut slow = 0;
    for _ in 0..200 {
        let millis = balance.clone().oneshot(()).await.unwrap();
        slow += usize::from(millis == 100);
    }
    slow
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_only_slow_is_passed_over_where_slow_calls_count() {
    let mut config = Config::default();
    config.minimum_calls = 10;
    assert_eq!(calls_to_the_slow_one(config.clone()).await, 100);
    config.slow_calls = Some(SlowCalls::over(Duration::from_millis(50)));
    assert_eq!(calls_to_the_slow_one(config).await, 10);
}
