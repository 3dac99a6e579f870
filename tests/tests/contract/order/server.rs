use std::time::Duration;

use ha_core::sign::{Key, KeyRing};
use ha_db::causal::CausalLayer;
use ha_db::idempotency::IdempotencyLayer;
use ha_tower::drain::Drain;
use ha_tower::health::DRAINING;
use ha_tower::limit::{LimitLayer, QueueConfig};
use ha_tower::proxy::{REQUEST_ID, ReverseProxy};
use ha_tower::timeout::TimeoutLayer;
use http::{HeaderName, Method, Request, Response};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use super::{Backend, HANGS, send};
use crate::cases::router_to_nowhere;
use crate::laws::get;
use crate::subject::Body;

const LIMIT: Duration = Duration::from_secs(2);

async fn carries<S, R>(service: S, name: &HeaderName) -> bool
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
{
    let answer = service.oneshot(get()).await.unwrap();
    answer.headers().contains_key(name)
}

#[tokio::test(start_paused = true)]
async fn what_answers_outside_the_proxy_answers_without_a_request_id() {
    let hanging = Backend::new(|_| (HANGS, 200));
    let wrong = TimeoutLayer::deadline(LIMIT).layer(ReverseProxy::new(hanging.clone()));
    let right = ReverseProxy::new(TimeoutLayer::deadline(LIMIT).layer(hanging));
    assert!(!carries(wrong, &REQUEST_ID).await);
    assert!(carries(right, &REQUEST_ID).await);
}

#[tokio::test(start_paused = true)]
async fn a_drain_inside_the_proxy_tells_nobody_that_it_has_begun() {
    let backend = Backend::new(|_| (1, 200));
    let drain = Drain::new();
    drain.start();
    let wrong = ReverseProxy::new(drain.layer().layer(backend.clone()));
    let right = drain.layer().layer(ReverseProxy::new(backend));
    assert!(!carries(wrong, &DRAINING).await);
    assert!(carries(right, &DRAINING).await);
}

#[tokio::test(start_paused = true)]
async fn a_drain_inside_a_queue_does_not_count_those_who_wait() {
    let slow = Backend::new(|_| (50, 200));
    let limit = LimitLayer::concurrency(1).queue(QueueConfig::default());
    let limit = limit.http().build().unwrap();
    let counted = async |wait: Duration, drain: &Drain| {
        tokio::time::sleep(wait).await;
        drain.in_flight()
    };
    let (inside, outside) = (Drain::new(), Drain::new());
    let wrong = limit.layer(inside.layer().layer(slow.clone()));
    let right = outside.layer().layer(limit.layer(slow));
    let wait = Duration::from_millis(1);
    let (_, _, count) = tokio::join!(send(&wrong), send(&wrong), counted(wait, &inside));
    assert_eq!(count, 1);
    let (_, _, count) = tokio::join!(send(&right), send(&right), counted(wait, &outside));
    assert_eq!(count, 2);
}

#[tokio::test(start_paused = true)]
async fn idempotency_outside_of_causality_finds_nobody_to_carry_its_transaction() {
    let causal = CausalLayer::cookie(KeyRing::from(Key::from_bytes(&[7; 32]).unwrap()));
    let idempotency = IdempotencyLayer::new(router_to_nowhere());
    let backend = Backend::new(|_| (1, 200));
    let wrong = ServiceBuilder::new()
        .layer(idempotency.clone())
        .layer(causal.clone())
        .service(backend.clone());
    let right = ServiceBuilder::new()
        .layer(causal)
        .layer(idempotency)
        .service(backend.clone());
    let keyed = || {
        let mut request = get();
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert("idempotency-key", "\"k\"".parse().unwrap());
        request
    };
    let wrong = wrong.oneshot(keyed()).await.unwrap();
    let right = right.oneshot(keyed()).await.unwrap();
    // Without a primary it cannot begin the transaction; it has come as far as to want one.
    assert_eq!(
        (wrong.status().as_u16(), right.status().as_u16()),
        (500, 503)
    );
    assert_eq!(backend.calls(), 0);
}
