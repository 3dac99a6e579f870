//! Small responses that are held until they are complete.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_response_that_cannot_be_retried_any_more_breaks_as_it_did() {
    let (service, _) = server([Act::Truncated, Act::Truncated, Act::Truncated]);
    let response = RetryLayer::http()
        .layer(service)
        .oneshot(request(Method::GET))
        .await
        .unwrap();
    let mut body = response.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "fi"
    );
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_for_a_post_or_when_switched_off() {
    for (layer, method) in [
        (RetryLayer::http(), Method::POST),
        (
            built(RetryLayer::builder().hold_small_responses(0)),
            Method::GET,
        ),
    ] {
        let (service, seen) = server([Act::Truncated]);
        let response = layer.layer(service).oneshot(request(method)).await.unwrap();
        assert!(response.collect().await.is_err());
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

/// A response that says 4 bytes and brings one per `pace`.
fn trickle(pace: Duration) -> impl Body<Data = Bytes, Error = Broke> + Unpin + Send {
    let frames = futures_util::stream::unfold(0, move |sent| async move {
        if sent == 4 {
            return None;
        }
        tokio::time::sleep(pace).await;
        Some((Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
    });
    Sized4(Box::pin(http_body_util::StreamBody::new(frames)))
}

struct Sized4<B>(Pin<Box<B>>);

impl<B: Body> Body for Sized4<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(4)
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_response_that_keeps_coming_is_released_before_the_deadline_and_whole() {
    for (pace, deadline, head_after) in [(900, 60_000, 3_600), (990, 2_000, 2_000)] {
        let service = service_fn(move |_: Request<Replay<Full<Bytes>>>| async move {
            Ok::<_, Broke>(Response::new(trickle(Duration::from_millis(pace))))
        });
        let service = TimeoutLayer::deadline(Duration::from_millis(deadline))
            .layer(RetryLayer::http().layer(service));
        let started = Instant::now();
        let response = service.oneshot(request(Method::GET)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(started.elapsed(), Duration::from_millis(head_after));
        assert_eq!(Attempts::of(&response), Attempts(1));
        assert_eq!(response.collect().await.unwrap().to_bytes(), "xxxx");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_longer_than_it_said_is_not_held_beyond_the_limit() {
    let long = script([Some(Ok("1234")), Some(Ok("5678")), None]);
    let long = Arc::new(Mutex::new(Some(long)));
    let service = service_fn(move |_: Request<Replay<Full<Bytes>>>| {
        let body = long.lock().unwrap().take().unwrap();
        async move { Ok::<_, Broke>(Response::new(body)) }
    });
    let started = Instant::now();
    let response = built(RetryLayer::builder().hold_small_responses(6))
        .layer(service)
        .oneshot(request(Method::GET))
        .await
        .unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "passed on at once");
    let mut body = response.into_body();
    for expected in ["1234", "5678"] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), expected);
    }
}
