use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::timeout::{Deadline, TimeoutLayer};

fn config() -> AdaptiveConfig {
    AdaptiveConfig {
        algorithm: Aimd::default().into(),
        window: MS,
        samples: 1,
        probe_interval: MS * 1_000,
        ..AdaptiveConfig::default()
    }
}

fn layer() -> LimitLayer<Http> {
    LimitLayer::adaptive(config()).http().build().unwrap()
}

async fn after<B>(status: u16, extension: bool, layer: &LimitLayer<B>) -> u32
where
    B: Protocol<Request<()>, Answer, Infallible, Error = Infallible> + Clone,
    B::Response: Send,
{
    let call = app(move || async move {
        tokio::time::sleep(10 * MS).await;
        let mut answer = answer(status);
        if extension {
            answer.extensions_mut().insert(LocalReply);
        }
        Ok(answer)
    });
    let service = layer.layer(call);
    // The first window ends with the first answer; the second one knows that more than half of the limit is in use.
    for _ in 0..2 {
        let calls = (0..15).map(|_| service.clone().oneshot(request()));
        for outcome in futures_util::future::join_all(calls).await {
            drop(outcome.unwrap());
        }
        tokio::time::sleep(50 * MS).await;
    }
    layer.handle().snapshot().limit
}

#[tokio::test(start_paused = true)]
async fn answers_raise_it_refusals_of_the_upstream_lower_it_and_the_rest_says_nothing() {
    for status in [200, 204, 301, 404, 409] {
        assert!(after(status, false, &layer()).await > 20, "{status}");
    }
    for status in [429, 503, 504] {
        assert!(after(status, false, &layer()).await < 20, "{status}");
    }
    for status in [500, 501, 502] {
        assert_eq!(after(status, false, &layer()).await, 20, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_made_in_this_process_say_nothing() {
    for status in [200, 429, 503, 504] {
        assert_eq!(after(status, true, &layer()).await, 20, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_function_can_say_what_an_answer_means() {
    let pushed_back = |result: Result<&Answer, &Infallible>| {
        let response = result.ok()?;
        (response.status() == 503).then_some(Outcome::Ignored)
    };
    let builder = LimitLayer::adaptive(config()).http();
    let layer = builder.classify_by(pushed_back).build().unwrap();
    assert_eq!(after(503, false, &layer).await, 20);
    assert!(after(429, false, &layer).await < 20);
}

#[tokio::test(start_paused = true)]
async fn errors_are_losses() {
    let layer = LimitLayer::adaptive(config()).build().unwrap();
    let fail = service_fn(|(): ()| async {
        tokio::time::sleep(10 * MS).await;
        Err::<(), _>("broken")
    });
    let service = layer.layer(fail);
    service.oneshot(()).await.unwrap_err();
    assert_eq!(layer.handle().snapshot().limit, 18);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_at_its_deadline_is_a_loss_and_one_dropped_before_is_none() {
    let stuck = app(std::future::pending);
    let layer = layer();
    let service = TimeoutLayer::deadline(50 * MS).layer(layer.layer(stuck.clone()));
    let response = service.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(layer.handle().snapshot().limit, 18);

    tokio::time::sleep(50 * MS).await;
    let far = Deadline(tokio::time::Instant::now() + 1_000 * MS);
    let call = layer.layer(stuck).oneshot(with(far));
    assert!(tokio::time::timeout(50 * MS, call).await.is_err());
    assert_eq!(layer.handle().snapshot().limit, 18);
    assert_eq!(layer.handle().snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_grpc_answer_counts_from_head_or_trailers() {
    let (good, bad, nothing) = ((20, true), (18, false), (20, false));
    for (status, in_head, expected) in [
        ("0", false, good),
        ("5", false, good),
        ("5", true, good),
        ("8", false, bad),
        ("14", false, bad),
        ("4", true, bad),
        ("14", true, bad),
        ("13", false, nothing),
        ("2", true, nothing),
    ] {
        let layer = layer();
        let service = layer.layer(service_fn(move |_: Request<()>| async move {
            tokio::time::sleep(10 * MS).await;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(status));
            let frames = [
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"message"))),
                Ok(http_body::Frame::trailers(trailers.clone())),
            ];
            let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
            if in_head {
                *response.headers_mut() = trailers;
            }
            let kind = http::HeaderValue::from_static("application/grpc+proto");
            response.headers_mut().insert("content-type", kind);
            Ok::<_, Infallible>(response)
        }));
        let response = service.oneshot(request()).await.unwrap();
        response.into_body().collect().await.unwrap();
        let after = layer.handle().snapshot();
        let found = (after.limit, after.latency.is_some());
        assert_eq!(found, expected, "{status} {in_head}");
    }
}
