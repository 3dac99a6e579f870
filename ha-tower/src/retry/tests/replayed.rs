//! Request bodies that go to one attempt after another.

use futures_util::StreamExt as _;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_body_beyond_the_limit_is_sent_once() {
    let (service, seen) = server([Act::Status(503)]);
    let large = Request::put("/x")
        .body(Full::from(vec![0; 64 * 1024 + 1]))
        .unwrap();
    let response = RetryLayer::http()
        .layer(service.clone())
        .oneshot(large)
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), seen.lock().unwrap().len()),
        (503, 1)
    );

    let (service, seen) = server([Act::Status(503)]);
    let fits = Request::put("/x")
        .body(Full::from(vec![0; 64 * 1024]))
        .unwrap();
    let response = RetryLayer::http()
        .layer(service)
        .oneshot(fits)
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), seen.lock().unwrap().len()),
        (200, 2)
    );
}

/// A body whose chunks are sent by the test.
fn channel() -> (
    tokio::sync::mpsc::UnboundedSender<Frame<Bytes>>,
    impl Body<Data = Bytes, Error = Infallible> + Unpin + Send,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let frames =
        futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|frame| frame.map(Ok)));
    (sender, http_body_util::StreamBody::new(frames))
}

#[tokio::test(start_paused = true)]
async fn a_body_still_streaming_is_taken_over_from_an_early_503() {
    let (sender, body) = channel();
    sender.send(Frame::data("one ".into())).unwrap();
    type Old =
        Arc<Mutex<Vec<Replay<Box<dyn Body<Data = Bytes, Error = Infallible> + Unpin + Send>>>>>;
    let old = Old::default();
    let keep = Arc::clone(&old);
    let service = service_fn(move |request: Request<Replay<_>>| {
        let keep = Arc::clone(&keep);
        async move {
            let mut body = request.into_body();
            if keep.lock().unwrap().is_empty() {
                // Answers early, as servers that shed load do, while the client is still sending.
                assert_eq!(
                    body.frame().await.unwrap().unwrap().into_data().unwrap(),
                    "one "
                );
                keep.lock().unwrap().push(body);
                return Ok::<_, Infallible>(
                    Problem::new(StatusCode::SERVICE_UNAVAILABLE).into_response(),
                );
            }
            let collected = body.collect().await.unwrap();
            let trailer = collected.trailers().unwrap()["x-sum"].clone();
            assert_eq!(trailer, "7");
            Ok(Response::new(Full::from(collected.to_bytes())))
        }
    })
    .map_response(|mut response: Response<Full<Bytes>>| {
        response.extensions_mut().remove::<LocalReply>();
        response
    });
    let request = Request::put("/x").body(Box::new(body) as Box<_>).unwrap();
    let answer = tokio::spawn(RetryLayer::http().layer(service).oneshot(request));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut revoked = old.lock().unwrap().pop().unwrap();
    assert!(matches!(
        revoked.frame().await,
        Some(Err(ReplayError::Revoked))
    ));
    old.lock().unwrap().push(revoked);
    sender.send(Frame::data("two".into())).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    let response = answer.await.unwrap().unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "one two"
    );
}

#[tokio::test]
async fn a_reader_that_sleeps_is_woken_when_it_is_revoked() {
    let (_sender, body) = channel();
    let (mut first, handle) = Replay::new(body, 1024);
    let waiting = tokio::spawn(async move { first.frame().await.unwrap().unwrap_err() });
    tokio::task::yield_now().await;
    let _second = handle.restart().unwrap();
    assert!(matches!(waiting.await.unwrap(), ReplayError::Revoked));
}

/// `abc` and so many fields after it.
fn abc_and_trailers(fields: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin + Send {
    let mut trailers = HeaderMap::new();
    for _ in 0..fields {
        trailers.append("x-t", "1".parse().unwrap());
    }
    let frames = [Frame::data("abc".into()), Frame::trailers(trailers)];
    http_body_util::StreamBody::new(futures_util::stream::iter(frames.map(Ok)))
}

#[tokio::test]
async fn trailers_and_lengths_are_the_same_for_every_reader() {
    let body = abc_and_trailers(1);
    let (mut body, handle) = Replay::new(body, 1024);
    for _ in 0..3 {
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-t"], "1");
        assert_eq!(collected.to_bytes(), "abc");
        body = handle.restart().unwrap();
        assert_eq!(body.size_hint().exact(), Some(3));
    }
}

#[tokio::test]
async fn a_body_of_the_caller_that_breaks_is_nobodys_to_replay() {
    let frames = futures_util::stream::iter([
        Ok(Frame::data(Bytes::from("a"))),
        Err(BoxError::from("gone")),
    ]);
    let (body, handle) = Replay::new(http_body_util::StreamBody::new(frames), 1024);
    assert!(matches!(body.collect().await, Err(ReplayError::Body(_))));
    assert!(handle.restart().is_none());
}

#[tokio::test]
async fn an_empty_body_stays_empty_for_every_attempt() {
    let (body, handle) = Replay::new(Empty::<Bytes>::new(), 0);
    assert!(body.is_end_stream() && handle.restart().unwrap().is_end_stream());
}

#[tokio::test]
async fn a_body_that_failed_or_panicked_never_looks_whole() {
    let failing = futures_util::stream::iter([Err::<Frame<Bytes>, _>(BoxError::from("gone"))]);
    let (mut body, _) = Replay::new(http_body_util::StreamBody::new(failing), 1024);
    for _ in 0..2 {
        assert!(!body.is_end_stream());
        assert!(matches!(
            body.frame().await,
            Some(Err(ReplayError::Body(_)))
        ));
    }

    let panicking = futures_util::stream::poll_fn(|_| -> Poll<Option<Result<_, Infallible>>> {
        panic!("a body that panics")
    });
    let panicking = panicking.map(|frame| frame.map(Frame::<Bytes>::data));
    let (body, handle) = Replay::new(http_body_util::StreamBody::new(panicking), 1024);
    assert!(tokio::spawn(body.collect()).await.unwrap_err().is_panic());
    assert!(handle.restart().is_none(), "nobody polls it again");
}

#[tokio::test]
async fn empty_frames_are_not_kept() {
    let (sender, body) = channel();
    for chunk in ["", "ab", "", "c"] {
        sender.send(Frame::data(chunk.into())).unwrap();
    }
    drop(sender);
    let (body, handle) = Replay::new(body, 3);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    let mut again = handle.restart().unwrap();
    let mut chunks = Vec::new();
    while let Some(frame) = again.frame().await {
        chunks.push(frame.unwrap().into_data().unwrap());
    }
    assert_eq!(chunks, ["ab", "c"]);
}

#[tokio::test]
async fn a_body_in_crumbs_is_kept_in_a_few_pieces_and_replayed_whole() {
    let (sender, body) = channel();
    let (mut first, handle) = Replay::new(body, 64 * 1024);
    let mut expected = Vec::new();
    for round in 0..3_000_u32 {
        let crumb = round.to_string();
        expected.extend_from_slice(crumb.as_bytes());
        sender.send(Frame::data(crumb.into())).unwrap();
        first.frame().await.unwrap().unwrap();
    }
    drop(sender);
    assert!(first.frame().await.is_none());
    let mut again = handle.restart().unwrap();
    let (mut pieces, mut whole) = (0, Vec::new());
    while let Some(frame) = again.frame().await {
        pieces += 1;
        whole.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert_eq!(whole, expected);
    assert!(pieces < 200, "{pieces} pieces");
}

#[tokio::test]
async fn a_bomb_of_trailers_is_passed_on_and_not_kept() {
    let body = abc_and_trailers(300);
    let (body, handle) = Replay::new(body, 1024);
    let collected = body.collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap().len(), 300);
    assert!(handle.restart().is_none());
}

#[tokio::test]
async fn a_body_that_is_not_kept_passes_through_whole() {
    let body = abc_and_trailers(1);
    let collected = Replay::once(body).collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-t"], "1");
    assert_eq!(collected.to_bytes(), "abc");
    assert_eq!(Replay::once(Full::from("abc")).size_hint().exact(), Some(3));
}
