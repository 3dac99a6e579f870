use std::convert::Infallible;
use std::time::Duration;

use ::http::{Response, StatusCode};
use tower::BoxError;

use super::*;
use crate::balance::{Grpc, Http};
use crate::problem::Problem;
use crate::upstream;

type Body = http_body_util::Full<bytes::Bytes>;

fn remote(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn local(status: u16) -> Response<Body> {
    Problem::new(StatusCode::from_u16(status).unwrap()).into_response()
}

fn by_http(response: &Response<Body>) -> Option<Outcome> {
    Classify::<_, Infallible>::classify(&Http, Ok(response)).outcome
}

#[test]
fn an_http_response_counts_by_its_status_and_by_where_it_was_made() {
    use Outcome::{Failure, Overloaded, Success};
    for (response, outcome) in [
        (remote(200), Some(Success)),
        (remote(404), Some(Success)),
        (remote(429), Some(Overloaded)),
        (remote(500), Some(Failure)),
        (remote(503), Some(Failure)),
        (local(429), None),
        (local(503), None),
        (local(502), Some(Failure)),
        (local(504), Some(Failure)),
    ] {
        assert_eq!(by_http(&response), outcome, "{response:?}");
        if outcome.is_none() {
            let verdict = Classify::<_, Infallible>::classify(&Grpc, Ok(&response));
            assert_eq!(verdict, Verdict::neutral());
        }
    }
}

#[test]
fn the_same_500_is_a_success_to_whoever_only_looks_for_errors() {
    let verdict = Classify::<_, Infallible>::classify(&Any, Ok(&remote(500)));
    assert_eq!(verdict, Verdict::success());
}

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] Error);

#[test]
fn an_error_that_says_that_nothing_was_sent_never_counts_however_deep_it_stands() {
    let open = || Error::Open { retry_in: None };
    let any = |error: BoxError| Classify::<(), _>::classify(&Any, Err(&error)).outcome;
    let unavailable = upstream::Error::Unavailable {
        upstream: "x".to_owned(),
        known: 0,
    };
    assert_eq!(any(open().into()), None);
    assert_eq!(any(Outer(open()).into()), None);
    assert_eq!(any(Error::Service(open().into()).into()), None);
    assert_eq!(
        Classify::<(), _>::classify(&Any, Err(&open())).outcome,
        None
    );
    assert_eq!(
        Classify::<(), _>::classify(&Any, Err(&unavailable)).outcome,
        None
    );
    assert_eq!(any("broken".into()), Some(Outcome::Failure));
    assert_eq!(
        any(Error::Service("broken".into()).into()),
        Some(Outcome::Failure)
    );
    // What cannot be looked into counts.
    let hidden = Outer(open());
    assert_eq!(
        Classify::<(), _>::classify(&Any, Err(&hidden)).outcome,
        Some(Outcome::Failure)
    );
}

/// Calls a service that answers with the statuses, one after the other, and says what the breaker made of it.
async fn after(config: Config, statuses: impl IntoIterator<Item = Response<Body>>) -> Snapshot {
    let layer = BreakerLayer::new(config, Http).unwrap();
    let mut service = layer.layer(tower::service_fn(|response| async move {
        Ok::<Response<Body>, Infallible>(response)
    }));
    for response in statuses {
        let _ = service.ready().await.unwrap().call(response).await;
    }
    layer.handle().snapshot()
}

#[tokio::test(start_paused = true)]
async fn refusals_made_here_do_not_open_it_and_the_same_from_afar_do() {
    let all = |response: fn(u16) -> Response<Body>| (0..100).map(move |_| response(503));
    let here = after(Config::default(), all(local)).await;
    assert_eq!((here.state, here.calls), (State::Closed, 0));
    let afar = after(Config::default(), all(remote)).await;
    assert_eq!(afar.state, State::Open);
}

#[tokio::test(start_paused = true)]
async fn overload_is_no_failure_in_a_row_but_counts_in_the_ratio() {
    let few = after(Config::default(), (0..99).map(|_| remote(429))).await;
    assert_eq!((few.state, few.failures), (State::Closed, 99));
    let many = after(Config::default(), (0..100).map(|_| remote(429))).await;
    assert_eq!(many.tripped_by, Some(Trip::FailureRatio));
}

#[tokio::test(start_paused = true)]
async fn push_back_counts_as_nothing_and_as_a_probe_that_found_it_alive() {
    let busy = || {
        let mut response = remote(503);
        response.headers_mut().insert("retry-after", 1.into());
        response
    };
    let closed = after(Config::default(), (0..500).map(|_| busy())).await;
    assert_eq!((closed.state, closed.calls), (State::Closed, 0));

    let layer = BreakerLayer::new(Config::default(), Http).unwrap();
    let mut service = layer.layer(tower::service_fn(|response| async move {
        Ok::<Response<Body>, Infallible>(response)
    }));
    for _ in 0..5 {
        service
            .ready()
            .await
            .unwrap()
            .call(remote(500))
            .await
            .unwrap();
    }
    tokio::time::advance(Duration::from_secs(10)).await;
    for state in [State::HalfOpen, State::Closed] {
        service.ready().await.unwrap().call(busy()).await.unwrap();
        assert_eq!(layer.handle().snapshot().state, state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_may_say_what_failed() {
    let teapots = |result: Result<&Response<Body>, &Infallible>| match result {
        Ok(response) if response.status() == StatusCode::IM_A_TEAPOT => Verdict::failure(),
        _ => Verdict::success(),
    };
    let layer = BreakerLayer::new(Config::default(), teapots).unwrap();
    let mut service = layer.layer(tower::service_fn(|response| async move {
        Ok::<Response<Body>, Infallible>(response)
    }));
    for (status, state) in [(500, State::Closed), (418, State::Open)] {
        for _ in 0..5 {
            service
                .ready()
                .await
                .unwrap()
                .call(remote(status))
                .await
                .unwrap();
        }
        assert_eq!(layer.handle().snapshot().state, state, "{status}");
    }
}
