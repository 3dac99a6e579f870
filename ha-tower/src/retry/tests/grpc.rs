//! Calls of gRPC: the status stands in the head, or at the end.

use http_body_util::StreamBody;

use super::*;

type Pairs = &'static [(&'static str, &'static str)];

/// What the server answers.
#[derive(Clone, Copy)]
enum Answer {
    /// A head alone.
    Head(Pairs),
    /// A message and trailers; `None` is a pause of ten seconds.
    Message(&'static [Option<&'static str>], Pairs),
    Status(u16),
    Hangs,
}

const FINE: Answer = Answer::Message(&[Some("fine")], &[("grpc-status", "0")]);
const UNAVAILABLE: Pairs = &[("grpc-status", "14")];

fn fields(pairs: Pairs) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect()
}

type Heads = Arc<Mutex<Vec<HeaderMap>>>;
type Ask = Request<Replay<Full<Bytes>>>;
type Stream = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

fn body(pieces: &'static [Option<&'static str>], trailers: Pairs) -> Stream {
    let end = Frame::trailers(fields(trailers));
    let pieces = pieces.iter().copied();
    let frames = futures_util::stream::unfold((pieces, Some(end)), |(mut pieces, end)| async {
        loop {
            match pieces.next() {
                Some(Some(piece)) => return Some((Ok(Frame::data(piece.into())), (pieces, end))),
                Some(None) => tokio::time::sleep(Duration::from_secs(10)).await,
                None => return end.map(|end| (Ok(end), (pieces, None))),
            }
        }
    });
    Box::pin(StreamBody::new(frames))
}

/// Answers so in turn, and notes the heads that came.
fn server(
    answers: &[Answer],
) -> (
    impl Service<Ask, Response = Response<Stream>, Error = Infallible, Future: Send> + Clone + use<>,
    Heads,
) {
    let seen = Heads::default();
    let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<_>>()));
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: Ask| {
        log.lock().unwrap().push(request.headers().clone());
        let answer = answers.lock().unwrap().pop_front().unwrap_or(FINE);
        async move {
            Ok(match answer {
                Answer::Head(pairs) => {
                    let mut response = Response::new(Box::pin(Empty::new()) as Stream);
                    *response.headers_mut() = fields(pairs);
                    response
                }
                Answer::Message(pieces, trailers) => Response::new(body(pieces, trailers)),
                Answer::Status(status) => {
                    let mut response = Response::new(body(&[], &[]));
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    response
                }
                Answer::Hangs => std::future::pending().await,
            })
        }
    });
    (service, seen)
}

fn declared() -> Builder {
    RetryLayer::grpc_builder().idempotent(|call| call.uri.path().ends_with("/Get"))
}

fn call(path: &str) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::from("ask")).unwrap()
}

/// How many calls the server saw, and the status that the caller saw.
async fn outcome(layer: RetryLayer, path: &str, answers: &[Answer]) -> (usize, String) {
    let (service, seen) = server(answers);
    let response = layer.layer(service).oneshot(call(path)).await.unwrap();
    let head = response.headers().get("grpc-status").cloned();
    let end = response.into_body().collect().await.unwrap();
    let trailers = end.trailers().and_then(|it| it.get("grpc-status")).cloned();
    let status = head
        .or(trailers)
        .map_or(String::new(), |status| status.to_str().unwrap().to_owned());
    let seen = seen.lock().unwrap().len();
    (seen, status)
}

fn ended(calls: usize, status: &str) -> (usize, String) {
    (calls, status.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_declared_call_is_made_again_by_a_status_in_the_head_or_at_the_end() {
    let at_the_end = Answer::Message(&[], UNAVAILABLE);
    let after_a_message = Answer::Message(&[Some("half")], UNAVAILABLE);
    for answer in [Answer::Head(UNAVAILABLE), at_the_end, after_a_message] {
        let layer = || built(declared());
        assert_eq!(
            outcome(layer(), "/shop/Get", &[answer]).await,
            ended(2, "0")
        );
        assert_eq!(
            outcome(layer(), "/shop/Buy", &[answer]).await,
            ended(1, "14")
        );
        assert_eq!(
            outcome(layer(), "/shop/Get", &[answer; 3]).await,
            ended(3, "14")
        );
        // Until a method is declared, none is.
        let undeclared = RetryLayer::grpc();
        assert_eq!(
            outcome(undeclared, "/shop/Get", &[answer]).await,
            ended(1, "14")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_codes_are_a_choice_and_exhaustion_needs_a_word_about_when() {
    let aborted = Answer::Head(&[("grpc-status", "10")]);
    let exhausted = Answer::Head(&[("grpc-status", "8")]);
    let pushed = Answer::Head(&[("grpc-status", "8"), ("grpc-retry-pushback-ms", "100")]);
    let chosen = || declared().codes([10]);
    for (builder, answer, expected) in [
        (declared(), aborted, ended(1, "10")),
        (chosen(), aborted, ended(2, "0")),
        (chosen(), Answer::Head(UNAVAILABLE), ended(1, "14")),
        (declared(), exhausted, ended(1, "8")),
        (declared().codes([8]), exhausted, ended(1, "8")),
        (declared(), pushed, ended(2, "0")),
        (declared(), Answer::Status(503), ended(2, "0")),
        (declared(), Answer::Status(404), ended(1, "")),
    ] {
        let made = outcome(built(builder), "/shop/Get", &[answer]).await;
        assert_eq!(made, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_back_is_waited_for_and_a_negative_or_senseless_one_stops() {
    for (pairs, calls, at_least, at_most) in [
        (
            &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "3000")][..],
            2,
            3_000,
            3_026,
        ),
        (
            &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "0")],
            2,
            0,
            26,
        ),
        (
            &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "5001")],
            1,
            0,
            0,
        ),
        (
            &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")],
            1,
            0,
            0,
        ),
        (
            &[("grpc-status", "14"), ("grpc-retry-pushback-ms", "soon")],
            1,
            0,
            0,
        ),
    ] {
        for answer in [Answer::Head(pairs), Answer::Message(&[], pairs)] {
            let started = Instant::now();
            let (made, _) = outcome(built(declared()), "/shop/Get", &[answer]).await;
            let waited = started.elapsed().as_millis();
            assert_eq!(made, calls, "{pairs:?}");
            assert!(
                (at_least..=at_most).contains(&waited),
                "{pairs:?}: {waited} ms"
            );
        }
    }
    let wait = Answer::Head(&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "3000")]);
    let (service, seen) = server(&[wait]);
    let service =
        TimeoutLayer::deadline(Duration::from_secs(2)).layer(built(declared()).layer(service));
    let response = service.oneshot(call("/shop/Get")).await.unwrap();
    assert_eq!(
        response.headers()["grpc-status"],
        "14",
        "does not fit the deadline"
    );
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_server_is_told_how_many_attempts_came_before() {
    let (service, seen) = server(&[Answer::Head(UNAVAILABLE), Answer::Head(UNAVAILABLE)]);
    let _ = built(declared())
        .layer(service)
        .oneshot(call("/shop/Get"))
        .await;
    let seen = seen.lock().unwrap();
    let told: Vec<_> = seen
        .iter()
        .map(|head| head.get("grpc-previous-rpc-attempts").cloned())
        .collect();
    let number = |number: &str| Some(number.parse().unwrap());
    assert_eq!(told, [None, number("1"), number("2")]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_client_has_repeated_is_left_to_that_client() {
    let (service, seen) = server(&[Answer::Head(UNAVAILABLE)]);
    let mut call = call("/shop/Get");
    let told = "1".parse().unwrap();
    call.headers_mut()
        .insert("grpc-previous-rpc-attempts", told);
    let _ = built(declared()).layer(service).oneshot(call).await;
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_held_for_a_second_and_then_passed_on_whole() {
    let stream = Answer::Message(&[Some("one "), None, Some("two")], &[("grpc-status", "0")]);
    for (hold, head_after) in [(true, 1_000), (false, 0)] {
        let (service, seen) = server(&[stream]);
        let mut builder = declared();
        if !hold {
            builder = builder.hold_small_responses(0);
        }
        let started = Instant::now();
        let response = built(builder)
            .layer(service)
            .oneshot(call("/shop/Get"))
            .await;
        assert_eq!(started.elapsed(), Duration::from_millis(head_after));
        let whole = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(whole.to_bytes(), "one two");
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_call_ends_with_a_status_of_grpc() {
    let builder = declared().attempt_timeout(Duration::from_secs(1));
    let (service, _) = server(&[Answer::Hangs; 3]);
    let response = built(builder)
        .layer(service)
        .oneshot(call("/shop/Get"))
        .await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "4");
    assert!(response.extensions().get::<LocalReply>().is_some());
    assert_eq!(Attempts::of(&response), Attempts(3));
}
