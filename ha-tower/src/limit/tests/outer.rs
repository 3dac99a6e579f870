//! What layers outside make of a refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Empty;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::breaker::{self, BreakerLayer};
use crate::retry::RetryLayer;

/// Counts the calls that reach it.
fn counted<S, R>(
    calls: &Arc<AtomicUsize>,
    inner: S,
) -> impl Service<R, Response = S::Response, Error = S::Error, Future = S::Future> + Clone + use<S, R>
where
    S: Service<R> + Clone,
{
    let calls = Arc::clone(calls);
    tower::util::MapRequest::new(inner, move |request| {
        calls.fetch_add(1, Ordering::Relaxed);
        request
    })
}

fn get() -> Request<Empty<Bytes>> {
    Request::get("/").body(Empty::new()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_retry_does_not_ask_again_where_it_was_refused() {
    let layer = LimitLayer::concurrency(1).http().build().unwrap();
    let stuck = service_fn(|_| std::future::pending::<Result<Answer, Infallible>>());
    let limited = layer.layer(stuck);
    let calls = Arc::default();
    let service = RetryLayer::http().layer(counted(&calls, limited));
    let held = tokio::spawn(service.clone().oneshot(get()));
    tokio::task::yield_now().await;
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let response = service.oneshot(get()).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(calls.load(Ordering::Relaxed), 2, "once");
    held.abort();

    // The negative control: the same answer from a server is asked for again.
    let calls = Arc::default();
    let server = service_fn(|_| std::future::ready(Ok::<_, Infallible>(answer(503))));
    let service = RetryLayer::http().layer(counted(&calls, server));
    drop(service.oneshot(get()).await.unwrap());
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn refusals_open_no_breaker() {
    for reason in 0..3 {
        let (breaker, calls) = (
            BreakerLayer::http(breaker::Config::default()).unwrap(),
            Arc::default(),
        );
        let handle = breaker.handle();
        let stuck =
            service_fn(|_: Request<()>| std::future::pending::<Result<Answer, Infallible>>());
        let limit = LimitLayer::concurrency(1);
        let builder = match reason {
            0 => limit,
            1 => limit.queue(QueueConfig::default()),
            _ => limit.shares(0.5, 0.5),
        };
        let limited = builder.http().build().unwrap().layer(stuck);
        let service = ServiceBuilder::new()
            .layer(breaker)
            .service(counted(&calls, limited));
        let held = tokio::spawn(service.clone().oneshot(request()));
        tokio::task::yield_now().await;
        for _ in 0..200 {
            let response = service.clone().oneshot(request()).await.unwrap();
            assert_eq!(response.status(), 503);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 201);
        assert_eq!(handle.snapshot().state, breaker::State::Closed);
        held.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_typed_refusal_is_neither_asked_again_nor_a_failure() {
    let layer = LimitLayer::concurrency(1).build().unwrap();
    let stuck = service_fn(|_| std::future::pending::<Result<Answer, Infallible>>());
    let limited = layer.layer(stuck);
    let calls = Arc::default();
    let service = RetryLayer::http().layer(counted(&calls, limited));
    let held = tokio::spawn(service.clone().oneshot(get()));
    tokio::task::yield_now().await;
    let error = service.oneshot(get()).await.unwrap_err();
    assert!(error.is_shed());
    assert_eq!(calls.load(Ordering::Relaxed), 2, "once");
    held.abort();

    let layer = LimitLayer::concurrency(1).build().unwrap();
    let stuck = service_fn(|(): ()| std::future::pending::<Result<(), Infallible>>());
    let breaker = BreakerLayer::new(breaker::Config::default(), crate::balance::Any).unwrap();
    let handle = breaker.handle();
    let service = breaker.layer(layer.layer(stuck));
    let held = tokio::spawn(service.clone().oneshot(()));
    tokio::task::yield_now().await;
    for _ in 0..200 {
        let error = service.clone().oneshot(()).await.unwrap_err();
        assert!(is_shed(&error), "{error:?}");
    }
    assert_eq!(handle.snapshot().state, breaker::State::Closed);
    held.abort();
}

#[tokio::test(start_paused = true)]
async fn a_limit_inside_a_limit_teaches_the_outer_one_nothing() {
    let config = AdaptiveConfig {
        algorithm: Aimd::default().into(),
        samples: 1,
        window: MS,
        ..AdaptiveConfig::default()
    };
    let outer = LimitLayer::adaptive(config).http().build().unwrap();
    let inner = LimitLayer::concurrency(1).http().build().unwrap();
    let stuck = app(std::future::pending);
    let service = ServiceBuilder::new()
        .layer(outer.clone())
        .layer(inner)
        .service(stuck);
    let held = tokio::spawn(service.clone().oneshot(request()));
    tokio::task::yield_now().await;
    for _ in 0..100 {
        tokio::time::advance(MS).await;
        drop(service.clone().oneshot(request()).await.unwrap());
    }
    assert_eq!(outer.handle().snapshot().limit, 20);
    held.abort();
}

#[test]
fn a_refusal_is_found_below_other_errors() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Error);

    let shed = Error::Shed(Shed::new(Reason::Full, Priority::Default));
    assert!(is_shed(&Outer(shed)));
    let failed = Error::Service("broken".into());
    assert!(!is_shed(&Outer(failed)));
    let inner = Error::Shed(Shed::new(Reason::Rate, Priority::Default));
    assert!(is_shed(&Error::Service(Box::new(inner))));
}
