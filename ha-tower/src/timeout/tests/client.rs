use std::convert::Infallible;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::problem::LocalReply;
use crate::route::Policy;
use crate::timeout::deadline::LONGEST;
use crate::timeout::{Deadline, TimeoutLayer};

fn request() -> Request<Empty<Bytes>> {
    Request::new(Empty::new())
}

async fn answer_after(wait: Duration) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(wait).await;
    Ok(Response::new(Full::from("slow")))
}

#[tokio::test(start_paused = true)]
async fn a_late_head_becomes_a_local_504_at_the_deadline() {
    let started = Instant::now();
    let service = TimeoutLayer::deadline(Duration::from_secs(2))
        .layer(service_fn(|_| answer_after(Duration::from_secs(3))));
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(response.extensions().get::<LocalReply>().is_some());
    assert_eq!(started.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_head_in_time_passes_and_its_body_is_not_cut() {
    let service = TimeoutLayer::deadline(Duration::from_secs(2))
        .layer(service_fn(|_| answer_after(Duration::from_secs(1))));
    let response = service.oneshot(request()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "slow"
    );
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_two_deadlines_wins_and_is_seen_inside() {
    let start = Instant::now();
    let seen = service_fn(|request: Request<Empty<Bytes>>| async move {
        let deadline = *request.extensions().get::<Deadline>().unwrap();
        let mut response = Response::new(Full::from(""));
        response.extensions_mut().insert(deadline);
        Ok::<_, Infallible>(response)
    });
    for (outer, inner) in [(1, 5), (5, 1)] {
        let service = TimeoutLayer::deadline(Duration::from_secs(outer))
            .layer(TimeoutLayer::deadline(Duration::from_secs(inner)).layer(seen));
        let response = service.oneshot(request()).await.unwrap();
        let deadline = response.extensions().get::<Deadline>().unwrap();
        assert_eq!(deadline.remaining(start), Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_passes_only_what_is_there_and_an_endless_one_ends() {
    for (limit, wait, status) in [
        (Duration::ZERO, Duration::ZERO, StatusCode::OK),
        (
            Duration::ZERO,
            Duration::from_millis(1),
            StatusCode::GATEWAY_TIMEOUT,
        ),
        (
            Duration::MAX,
            LONGEST + Duration::from_secs(1),
            StatusCode::GATEWAY_TIMEOUT,
        ),
    ] {
        let service = TimeoutLayer::deadline(limit).layer(service_fn(move |_| async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            Ok::<_, Infallible>(Response::new(Full::from("")))
        }));
        let response = service.oneshot(request()).await.unwrap();
        assert_eq!(response.status(), status, "{limit:?} {wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_the_route_takes_the_place_of_the_limit_both_ways() {
    for (of_route, wait, status) in [(1, 2, StatusCode::GATEWAY_TIMEOUT), (10, 9, StatusCode::OK)] {
        let service = TimeoutLayer::deadline(Duration::from_secs(5))
            .layer(service_fn(move |_| answer_after(Duration::from_secs(wait))));
        let policy = Policy::builder().deadline(Duration::from_secs(of_route));
        let mut request = request();
        request.extensions_mut().insert(policy.build().unwrap());
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{of_route} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_too_late_is_dropped_with_the_answer_and_not_later() {
    let (work, left) = std::sync::mpsc::channel::<()>();
    let mut service = TimeoutLayer::deadline(Duration::from_secs(1)).layer(service_fn(move |_| {
        let held = work.clone();
        async move {
            let response = answer_after(Duration::from_secs(2)).await;
            drop(held);
            response
        }
    }));
    let mut call = std::pin::pin!(service.call(request()));
    drop(service);
    assert_eq!(left.try_recv(), Err(TryRecvError::Empty), "somebody works");
    let response = call.as_mut().await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    // The future of the call is still there.
    assert_eq!(left.try_recv(), Err(TryRecvError::Disconnected));
}
