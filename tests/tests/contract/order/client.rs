use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use ha_core::backoff::Backoff;
use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, Http, RoundRobin};
use ha_tower::breaker::{self, BreakerLayer, State};
use ha_tower::chaos::{ChaosLayer, Faults};
use ha_tower::fallback::FallbackLayer;
use ha_tower::hedge::HedgeLayer;
use ha_tower::limit::{LimitLayer, Priority, QueueConfig, ThrottleConfig, ThrottleLayer};
use ha_tower::retry::RetryLayer;
use ha_tower::route::Policy;
use ha_tower::timeout::{PropagateLayer, TimeoutLayer};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceBuilder};

use crate::subject::Body;

use super::{AttemptTimeout, Backend, HANGS, send, served};

const DEADLINE: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_millis(20);

#[tokio::test(start_paused = true)]
async fn a_deadline_inside_the_retry_begins_anew_with_each_attempt() {
    let slow = Backend::new(|_| (1_500, 503));
    let wrong = ServiceBuilder::new()
        .layer(RetryLayer::http())
        .layer(TimeoutLayer::deadline(DEADLINE))
        .service(slow.clone());
    let right = ServiceBuilder::new()
        .layer(TimeoutLayer::deadline(DEADLINE))
        .layer(RetryLayer::http())
        .service(slow);
    let (_, took) = send(&wrong).await;
    assert!(took >= Duration::from_millis(4_500), "{took:?}");
    assert_eq!(send(&right).await, (Some(504), DEADLINE));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_place_of_an_attempt_timeout_is_an_answer_and_nobody_tries_again() {
    let first_hangs = || Backend::new(|call| (if call == 1 { HANGS } else { 1 }, 200));
    let (one, other) = (first_hangs(), first_hangs());
    let wrong = ServiceBuilder::new()
        .layer(RetryLayer::http())
        .layer(TimeoutLayer::deadline(DEADLINE))
        .service(one.clone());
    let right = ServiceBuilder::new()
        .layer(TimeoutLayer::deadline(DEADLINE))
        .layer(RetryLayer::http())
        .layer(AttemptTimeout)
        .service(other.clone());
    assert_eq!((send(&wrong).await.0, one.calls()), (Some(504), 1));
    assert_eq!((send(&right).await.0, other.calls()), (Some(200), 2));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_timeout_outside_the_retry_leaves_no_time_for_another_attempt() {
    let first_hangs = || Backend::new(|call| (if call == 1 { HANGS } else { 1 }, 200));
    let (one, other) = (first_hangs(), first_hangs());
    let wrong = AttemptTimeout.layer(RetryLayer::http().layer(one.clone()));
    let right = RetryLayer::http().layer(AttemptTimeout.layer(other.clone()));
    assert_eq!((send(&wrong).await.0, one.calls()), (None, 1));
    assert_eq!((send(&right).await.0, other.calls()), (Some(200), 2));
}

/// Two endpoints, of which the first is down.
fn half_down() -> [(Endpoint, Backend); 2] {
    let endpoint = |port: u16| format!("http://10.0.0.1:{port}").parse().unwrap();
    [
        (endpoint(1), Backend::new(|_| (1, 503))),
        (endpoint(2), Backend::new(|_| (1, 200))),
    ]
}

fn never_trips() -> breaker::Config {
    let mut config = breaker::Config::default();
    config.consecutive_failures = u32::MAX;
    config.minimum_calls = u32::MAX;
    config
}

/// By turns, and whatever the endpoints do.
fn balance<S>(endpoints: [(Endpoint, S); 2]) -> Balance<S, Http> {
    Balance::builder(endpoints)
        .policy(RoundRobin)
        .breaker(never_trips())
        .protocol(Http)
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_breaker_around_the_balancer_shuts_out_the_endpoints_that_are_well() {
    let balance = balance(half_down());
    let breaker = BreakerLayer::new(breaker::Config::default(), Http).unwrap();
    let wrong = breaker.layer(balance);
    let right = Balance::builder(half_down())
        .policy(RoundRobin)
        .breaker(breaker::Config::default())
        .protocol(Http)
        .build()
        .unwrap();
    served(&wrong, 200).await;
    served(&right, 200).await;
    assert_eq!(served(&wrong, 20).await, 0);
    assert_eq!(served(&right, 20).await, 20);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_the_breaker_hides_from_it_that_the_service_hangs() {
    let layer = || BreakerLayer::new(breaker::Config::default(), Http).unwrap();
    let (one, other) = (layer(), layer());
    let hanging = Backend::new(|_| (HANGS, 200));
    let wrong = AttemptTimeout.layer(one.layer(hanging.clone()));
    let right = other.layer(AttemptTimeout.layer(hanging));
    served(&wrong, 20).await;
    served(&right, 20).await;
    assert_eq!(one.handle().snapshot().state, State::Closed);
    assert_ne!(other.handle().snapshot().state, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_around_the_retry_sees_one_failure_in_three() {
    let down = || Backend::new(|_| (1, 502));
    let (one, other) = (down(), down());
    let layer = || BreakerLayer::new(breaker::Config::default(), Http).unwrap();
    let (outside, inside) = (layer(), layer());
    let wrong = outside.layer(RetryLayer::http().layer(one.clone()));
    let right = RetryLayer::http().layer(inside.layer(other.clone()));
    for _ in 0..5 {
        send(&wrong).await;
        send(&right).await;
    }
    assert_eq!((one.calls(), other.calls()), (15, 5));
    assert_eq!(outside.handle().snapshot().state, State::Open);
    assert_eq!(inside.handle().snapshot().state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_retry_inside_the_balancer_asks_the_same_endpoint_again() {
    let retries = RetryLayer::http();
    let each = half_down().map(|(endpoint, backend)| (endpoint, retries.layer(backend)));
    let wrong = balance(each);
    let balance = balance(half_down());
    let right = retries.layer(balance);
    assert_eq!(served(&wrong, 10).await, 5);
    assert_eq!(served(&right, 10).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_inside_the_balancer_asks_the_endpoint_that_hangs_once_more() {
    let endpoints = || {
        let [(one, _), (other, _)] = half_down();
        [
            (one, Backend::new(|_| (HANGS, 200))),
            (other, Backend::new(|_| (1, 200))),
        ]
    };
    let hedge = HedgeLayer::builder().after(LATE).build().unwrap();
    let each = endpoints().map(|(endpoint, backend)| (endpoint, hedge.layer(backend)));
    let wrong = balance(each);
    let right = hedge.layer(balance(endpoints()));
    let deadline = TimeoutLayer::deadline(DEADLINE);
    let (wrong, right) = (deadline.layer(wrong), deadline.layer(right));
    assert_eq!(served(&wrong, 10).await, 5);
    assert_eq!(served(&right, 10).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_outside_the_retry_takes_the_waits_between_attempts_for_a_slow_service() {
    let down = || Backend::new(|_| (1, 503));
    let (one, other) = (down(), down());
    let wait = Duration::from_secs(5);
    let retry = RetryLayer::builder().backoff(Backoff::new(wait, wait));
    let retry = retry.build().unwrap();
    let hedge = HedgeLayer::builder().after(LATE).build().unwrap();
    let wrong = hedge.layer(retry.layer(one.clone()));
    let right = retry.layer(hedge.layer(other.clone()));
    send(&wrong).await;
    send(&right).await;
    assert!(one.calls() > 3, "{}", one.calls());
    assert_eq!(other.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_tells_the_deadline_outside_the_retry_tells_every_attempt_the_time_of_the_first() {
    let first_fails = || Backend::new(|call| (500, if call == 1 { 503 } else { 200 }));
    let (one, other) = (first_fails(), first_fails());
    let deadline = TimeoutLayer::deadline(DEADLINE);
    let retry = RetryLayer::http();
    let wrong = deadline.layer(PropagateLayer.layer(retry.layer(one.clone())));
    let right = deadline.layer(retry.layer(PropagateLayer.layer(other.clone())));
    send(&wrong).await;
    send(&right).await;
    assert_eq!(*one.told.lock().unwrap(), [2_000, 2_000]);
    let told = other.told.lock().unwrap();
    assert!(told[0] == 2_000 && told[1] <= 1_500, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_policy_inside_the_layer_that_honours_it_comes_too_late() {
    let slow = Backend::new(|_| (10_000, 200));
    let patient = Policy::builder().deadline(Duration::from_secs(60));
    let patient = patient.build().unwrap();
    let deadline = TimeoutLayer::deadline(DEADLINE);
    let wrong = deadline.layer(patient.layer(slow.clone()));
    let right = patient.layer(deadline.layer(slow));
    assert_eq!(send(&wrong).await.0, Some(504));
    assert_eq!(send(&right).await.0, Some(200));
}

/// Answers 203 in place of a failure.
macro_rules! or_else {
    ($service:expr) => {{
        let instead = FallbackLayer::answer(|_| async {
            let answer = Response::builder()
                .status(203)
                .body(Full::<Bytes>::default());
            Ok::<_, Infallible>(answer.unwrap())
        });
        instead.build().unwrap().layer($service)
    }};
}

#[tokio::test(start_paused = true)]
async fn a_fallback_inside_the_retry_leaves_nothing_to_try_again() {
    let first_fails = || Backend::new(|call| (1, if call == 1 { 503 } else { 200 }));
    let wrong = RetryLayer::http().layer(or_else!(first_fails()));
    let right = or_else!(RetryLayer::http().layer(first_fails()));
    assert_eq!(send(&wrong).await.0, Some(203));
    assert_eq!(send(&right).await.0, Some(200));
}

#[tokio::test(start_paused = true)]
async fn a_fallback_inside_the_deadline_is_not_asked_when_the_service_hangs() {
    let hanging = Backend::new(|_| (HANGS, 200));
    let deadline = TimeoutLayer::deadline(DEADLINE);
    let wrong = deadline.layer(or_else!(hanging.clone()));
    let right = or_else!(deadline.layer(hanging));
    assert_eq!(send(&wrong).await.0, Some(504));
    assert_eq!(send(&right).await.0, Some(203));
}

#[tokio::test(start_paused = true)]
async fn faults_outside_of_the_retry_test_the_caller_and_not_the_retry() {
    let well = Backend::new(|_| (1, 200));
    let faults = Faults::none().status(0.2, StatusCode::SERVICE_UNAVAILABLE);
    let chaos = ChaosLayer::builder(7).faults(faults).started(true);
    let chaos = chaos.build().unwrap();
    let wrong = chaos.layer(RetryLayer::http().layer(well.clone()));
    let right = RetryLayer::http().layer(chaos.layer(well));
    let served = (served(&wrong, 100).await, served(&right, 100).await);
    assert!(served.0 < 90 && served.1 > 95, "{served:?}");
}

/// What becomes of a request, and of another that comes 2 ms later.
async fn two<S, R>(service: &S) -> (Option<u16>, Option<u16>)
where
    S: Service<Request<Body>, Response = Response<R>> + Clone,
{
    let second = async {
        sleep(Duration::from_millis(2)).await;
        send(service).await
    };
    let ((first, _), (second, _)) = tokio::join!(send(service), second);
    (first, second)
}

#[tokio::test(start_paused = true)]
async fn a_limit_inside_the_retry_refuses_the_second_attempt_of_what_it_has_let_in() {
    // Only the first call fails; all others take longer than its request waits for its second attempt.
    let backend = || Backend::new(|call| if call == 1 { (1, 503) } else { (90_000, 200) });
    let wait = Duration::from_secs(60);
    let retry = RetryLayer::builder().backoff(Backoff::new(wait, wait));
    let retry = retry.build().unwrap();
    let limit = || LimitLayer::concurrency(1).http().build().unwrap();
    let wrong = retry.layer(limit().layer(backend()));
    let right = limit().layer(retry.layer(backend()));
    // The work that was done for the first is lost, or the second is refused before any work.
    assert_eq!(two(&wrong).await.0, Some(503));
    assert_eq!(two(&right).await, (Some(200), Some(503)));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_inside_the_queue_begins_when_the_wait_is_over() {
    let slow = Backend::new(|_| (1_900, 200));
    let queue = QueueConfig {
        target: DEADLINE,
        interval: 2 * DEADLINE,
        ..QueueConfig::default()
    };
    let limit = || {
        LimitLayer::concurrency(1)
            .queue(queue)
            .http()
            .build()
            .unwrap()
    };
    let deadline = TimeoutLayer::deadline(DEADLINE);
    let wrong = limit().layer(deadline.layer(slow.clone()));
    let right = deadline.layer(limit().layer(slow));
    let (_, (_, took)) = tokio::join!(send(&wrong), send(&wrong));
    assert_eq!(took, Duration::from_millis(3_800));
    let (_, (status, took)) = tokio::join!(send(&right), send(&right));
    assert_eq!((status, took), (Some(504), DEADLINE));
}

#[tokio::test(start_paused = true)]
async fn a_throttle_outside_the_retry_does_not_see_what_the_server_refuses() {
    let overloaded = || Backend::new(|call| (1, if call % 3 == 0 { 200 } else { 503 }));
    let layer = || ThrottleLayer::http(ThrottleConfig::default()).unwrap();
    let (outside, inside) = (layer(), layer());
    let wrong = outside.layer(RetryLayer::http().layer(overloaded()));
    let right = RetryLayer::http().layer(inside.layer(overloaded()));
    served(&wrong, 30).await;
    served(&right, 30).await;
    let rejects = |layer: &ThrottleLayer<_>| layer.snapshot(Priority::Default).reject_ratio;
    assert_eq!(rejects(&outside), 0.0);
    assert!(rejects(&inside) > 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_inside_a_breaker_opens_nothing_by_refusing() {
    let layer = || BreakerLayer::new(breaker::Config::default(), Http).unwrap();
    let (local, theirs) = (layer(), layer());
    let limit = LimitLayer::concurrency(1).http().build().unwrap();
    let ours = local.layer(limit.layer(Backend::new(|_| (HANGS, 200))));
    let first = tokio::spawn({
        let ours = ours.clone();
        async move { send(&ours).await }
    });
    sleep(Duration::from_millis(1)).await;
    for _ in 0..200 {
        assert_eq!(send(&ours).await.0, Some(503));
    }
    assert_eq!(local.handle().snapshot().state, State::Closed);
    first.abort();

    // The same status from the service itself does open it.
    served(&theirs.layer(Backend::new(|_| (1, 503))), 200).await;
    assert_eq!(theirs.handle().snapshot().state, State::Open);
}
