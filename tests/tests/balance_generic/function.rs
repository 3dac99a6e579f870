use std::future::ready;

use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, RoundRobin};
use ha_tower::breaker;
use tower::{ServiceExt as _, service_fn};

use super::*;

async fn run(breaker: breaker::Config) -> [Tally; 2] {
    let fails = Fails::default();
    let endpoints = NAMES.into_iter().zip(&fails).map(|(name, fails)| {
        let (nowhere, fails) = (
            "http://localhost".parse::<Endpoint>().unwrap(),
            fails.clone(),
        );
        let answer = move |()| {
            let answers = !fails.load(Ordering::Relaxed);
            ready(answers.then(|| name.to_owned()).ok_or("failed"))
        };
        (nowhere.with_key(name), service_fn(answer))
    });
    let balance = Balance::builder(endpoints)
        .policy(RoundRobin)
        .breaker(breaker);
    let balance = balance.build().unwrap();
    before_and_after(&fails, async || balance.clone().oneshot(()).await.ok()).await
}

#[tokio::test]
async fn a_function_that_fails_is_left_alone() {
    assert_left_alone(&run(breaker::Config::default()).await);
}

#[tokio::test]
async fn without_a_breaker_a_function_that_fails_keeps_its_share() {
    assert_keeps_its_share(&run(never_trips()).await);
}
