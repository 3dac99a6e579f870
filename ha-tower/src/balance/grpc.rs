use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};

use super::{InFlight, Protocol, Verdict, by_status, of_http_request};
use crate::breaker::refused_here;
use crate::health;

/// gRPC over any HTTP/2 client, a `tonic` channel for one.
///
/// The status is read from the head of an answer without a message, else from the trailers; the breaker is told when it is known,
/// and latency is measured to the head. An answer that ends without a status is a failure, one that the caller drops
/// before tells nothing.
///
/// | status | counts as |
/// |---|---|
/// | `UNKNOWN` (2), `DEADLINE_EXCEEDED` (4), `INTERNAL` (13), `DATA_LOSS` (15), or one that nobody knows | failure |
/// | `UNAVAILABLE` (14) | failure; with a push-back of so many milliseconds, push-back as an HTTP 503 with `Retry-After` |
/// | `RESOURCE_EXHAUSTED` (8) | overload |
/// | `CANCELLED` (1) | nothing: it was the caller's wish |
/// | any other | success: the endpoint did its work, and the answer is about the request |
///
/// `grpc-retry-pushback-ms` adds to the cost of the endpoint for as long as it says. A negative one means "do not retry" and says nothing
/// about the endpoint. What does not speak gRPC, as the 503 of a proxy in between, is read as [`Http`](super::Http) reads
/// it, and a [`LocalReply`](crate::problem::LocalReply) tells nothing. [`Tried`](crate::tried::Tried) is looked for in the extensions, and a
/// request is in flight until its answer has ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grpc;

impl<B, C: http_body::Body, E> Protocol<Request<B>, Response<C>, E> for Grpc {
    type Response = Response<GrpcBody<C>>;

    of_http_request!(B);

    fn classify(&self, result: Result<&Response<C>, &E>) -> Verdict {
        let Ok(response) = result else {
            return Verdict::failure();
        };
        if refused_here(response.status(), response.extensions()) {
            return Verdict::neutral();
        }
        by_head(response).draining(health::is_draining(response.headers()))
    }

    fn finish(&self, response: Response<C>, in_flight: InFlight) -> Self::Response {
        let status_to_come = response.status().is_success()
            && !response.headers().contains_key(STATUS)
            && !response.body().is_end_stream();
        response.map(|inner| GrpcBody {
            // Nobody polls a body that says at once that it has ended.
            in_flight: (!inner.is_end_stream()).then_some(in_flight),
            inner,
            status_to_come,
        })
    }
}

const STATUS: &str = "grpc-status";

fn by_head<C: http_body::Body>(response: &Response<C>) -> Verdict {
    if !response.status().is_success() {
        by_status(response.status(), response.headers())
    } else if let Some(verdict) = by_trailers(response.headers()) {
        verdict
    } else if response.body().is_end_stream() {
        Verdict::failure()
    } else {
        Verdict::success().provisional()
    }
}

/// None when there is no status.
fn by_trailers(headers: &HeaderMap) -> Option<Verdict> {
    let status = headers.get(STATUS)?;
    let wait = pushback(headers);
    Some(match (status.as_bytes(), wait) {
        (b"1", _) => Verdict::neutral(),
        (b"8", _) => Verdict::overloaded().retry_after(wait),
        (b"14", Some(wait)) => Verdict::pushed_back(wait),
        (b"0" | b"3" | b"5" | b"6" | b"7" | b"9" | b"10" | b"11" | b"12" | b"16", _) => {
            Verdict::success()
        }
        _ => Verdict::failure().retry_after(wait),
    })
}

/// Of an answer that has ended: without a status it broke off.
fn status(trailers: Option<&HeaderMap>) -> Verdict {
    trailers.and_then(by_trailers).unwrap_or(Verdict::failure())
}

fn pushback(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-retry-pushback-ms")?.to_str().ok()?;
    value.parse().ok().map(Duration::from_millis)
}

pin_project_lite::pin_project! {
    /// A response body that holds its request in flight until it has ended, failed or was dropped, and reads the status from the
    /// trailers.
    #[derive(Debug)]
    pub struct GrpcBody<B> {
        #[pin]
        inner: B,
        in_flight: Option<InFlight>,
        // False when the head had one.
        status_to_come: bool,
    }
}

impl<B: http_body::Body> http_body::Body for GrpcBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let trailers = match &frame {
            Some(Ok(frame)) if frame.is_data() && !this.inner.is_end_stream() => None,
            Some(Ok(frame)) => Some(frame.trailers_ref()),
            Some(Err(_)) | None => Some(None),
        };
        if let Some(trailers) = trailers
            && let Some(in_flight) = this.in_flight.take()
            && *this.status_to_come
        {
            in_flight.ended(&status(trailers));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use futures_util::stream;
    use ha_core::breaker;
    use ha_core::endpoint::Endpoint;
    use http::StatusCode;
    use http_body_util::{BodyExt as _, StreamBody};
    use tower::util::BoxCloneSyncService;
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::balance::Balance;
    use crate::clock;

    type Pairs = &'static [(&'static str, &'static str)];

    #[derive(Clone, Copy)]
    enum Piece {
        Message,
        Trailers(Pairs),
        Broken,
    }

    /// What the only endpoint answers.
    #[derive(Clone, Copy)]
    struct Answer {
        status: StatusCode,
        head: Pairs,
        body: &'static [Piece],
    }

    fn head(head: Pairs) -> Answer {
        let (status, body) = (StatusCode::OK, &[]);
        Answer { status, head, body }
    }

    fn body(body: &'static [Piece]) -> Answer {
        Answer { body, ..head(&[]) }
    }

    fn headers(pairs: Pairs) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (name.parse().unwrap(), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    type Stream = stream::BoxStream<'static, Result<Frame<&'static [u8]>, &'static str>>;

    impl Answer {
        fn response(self) -> Response<StreamBody<Stream>> {
            let frames = self.body.iter().map(|piece| match piece {
                Piece::Message => Ok(Frame::data(&b"message"[..])),
                Piece::Trailers(pairs) => Ok(Frame::trailers(headers(pairs))),
                Piece::Broken => Err("broken"),
            });
            let mut response = Response::new(StreamBody::new(Box::pin(stream::iter(frames)) as _));
            *response.status_mut() = self.status;
            *response.headers_mut() = headers(self.head);
            response
        }
    }

    /// What one answer does to the endpoint that gave it.
    #[derive(Debug, PartialEq)]
    struct Effect {
        penalty: Duration,
        calls: u64,
        failures: u64,
        in_a_row: u32,
    }

    const fn effect(penalty_secs: u64, calls: u64, failures: u64, in_a_row: u32) -> Effect {
        Effect {
            penalty: Duration::from_secs(penalty_secs),
            calls,
            failures,
            in_a_row,
        }
    }

    const SUCCESS: Effect = effect(0, 1, 0, 0);
    const FAILURE: Effect = effect(5, 1, 1, 1);
    const OVERLOAD: Effect = effect(5, 1, 1, 0);
    const NOTHING: Effect = effect(0, 0, 0, 0);

    type Fake = BoxCloneSyncService<Request<()>, Response<StreamBody<Stream>>, Infallible>;

    fn over(answer: Answer) -> Balance<Fake, Grpc> {
        let service = service_fn(move |_: Request<()>| ready(Ok(answer.response())));
        let endpoint: Endpoint = "http://127.0.0.1:1".parse().unwrap();
        Balance::builder([(endpoint, Fake::new(service))])
            .protocol(Grpc)
            .build()
            .unwrap()
    }

    async fn of(answer: Answer) -> Effect {
        of_reading(answer, usize::MAX).await
    }

    async fn of_reading(answer: Answer, frames: usize) -> Effect {
        let balance = over(answer);
        let mut body = balance
            .clone()
            .oneshot(Request::new(()))
            .await
            .unwrap()
            .into_body();
        assert_eq!(balance.in_flight(), 1);
        for _ in 0..frames {
            if body.frame().await.is_none_or(|frame| frame.is_err()) {
                break;
            }
        }
        drop(body);
        assert_eq!(balance.in_flight(), 0);
        let (_, state) = balance.states().remove(0);
        let now = clock::now();
        let breaker::Snapshot {
            calls,
            failures,
            consecutive_failures,
            ..
        } = state.breaker().unwrap().snapshot(now);
        effect(
            state.load.penalty(now).as_secs_f64().round() as u64,
            calls,
            failures,
            consecutive_failures,
        )
    }

    macro_rules! status {
        ($($pair:tt)*) => {
            [head(&[$($pair)*]), body(&[Piece::Message, Piece::Trailers(&[$($pair)*])])]
        };
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_counts_the_same_in_the_head_and_in_the_trailers() {
        for (answers, expected) in [
            (status![("grpc-status", "0")], SUCCESS),
            (status![("grpc-status", "1")], NOTHING),
            (status![("grpc-status", "2")], FAILURE),
            (status![("grpc-status", "3")], SUCCESS),
            (status![("grpc-status", "4")], FAILURE),
            (status![("grpc-status", "5")], SUCCESS),
            (status![("grpc-status", "8")], OVERLOAD),
            (status![("grpc-status", "12")], SUCCESS),
            (status![("grpc-status", "13")], FAILURE),
            (status![("grpc-status", "14")], FAILURE),
            (status![("grpc-status", "15")], FAILURE),
            (status![("grpc-status", "16")], SUCCESS),
            (status![("grpc-status", "17")], FAILURE),
            (status![("grpc-status", "nonsense")], FAILURE),
        ] {
            for answer in answers {
                assert_eq!(of(answer).await, expected, "{:?}", headers(answer.head));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pushback_is_heeded_and_spares_the_breaker_of_an_endpoint_that_is_unavailable_on_purpose()
     {
        for (answers, expected) in [
            (
                status![("grpc-status", "14"), ("grpc-retry-pushback-ms", "60000")],
                effect(60, 0, 0, 0),
            ),
            (
                status![("grpc-status", "8"), ("grpc-retry-pushback-ms", "60000")],
                effect(60, 1, 1, 0),
            ),
            (
                status![("grpc-status", "13"), ("grpc-retry-pushback-ms", "60000")],
                effect(60, 1, 1, 1),
            ),
            (
                status![("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")],
                FAILURE,
            ),
            (
                status![("grpc-status", "14"), ("grpc-retry-pushback-ms", "soon")],
                FAILURE,
            ),
            (
                status![("grpc-status", "0"), ("grpc-retry-pushback-ms", "60000")],
                SUCCESS,
            ),
        ] {
            for answer in answers {
                assert_eq!(of(answer).await, expected, "{:?}", headers(answer.head));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_ends_without_a_status_is_a_failure() {
        for pieces in [
            &[Piece::Message][..],
            &[],
            &[Piece::Broken],
            &[Piece::Message, Piece::Broken],
            &[Piece::Message, Piece::Trailers(&[("x-other", "1")])],
        ] {
            assert_eq!(of(body(pieces)).await, FAILURE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_drops_the_answer_before_its_end_tells_nothing() {
        let answer = body(&[Piece::Message, Piece::Trailers(&[("grpc-status", "14")])]);
        assert_eq!(of_reading(answer, 1).await, NOTHING);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_speak_grpc_is_read_as_http() {
        for (status, head, expected) in [
            (StatusCode::BAD_GATEWAY, &[][..], FAILURE),
            (StatusCode::TOO_MANY_REQUESTS, &[], OVERLOAD),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                &[("retry-after", "60")],
                effect(60, 0, 0, 0),
            ),
            (StatusCode::NOT_FOUND, &[], SUCCESS),
        ] {
            let body = &[Piece::Message];
            assert_eq!(
                of(Answer { status, head, body }).await,
                expected,
                "{status}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_all_end_badly_open_the_breaker() {
        let answer = body(&[Piece::Message, Piece::Trailers(&[("grpc-status", "14")])]);
        let balance = over(answer);
        let (_, state) = balance.states().remove(0);
        for _ in 0..breaker::Config::default().consecutive_failures {
            assert!(state.breaker().unwrap().is_closed());
            let answer = balance.clone().oneshot(Request::new(())).await.unwrap();
            assert!(answer.into_body().collect().await.is_ok());
        }
        assert!(!state.breaker().unwrap().is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_whose_streams_all_end_badly_is_ejected_and_one_whose_head_says_ok_alone_is_not()
     {
        let bad = body(&[Piece::Message, Piece::Trailers(&[("grpc-status", "14")])]);
        let good = body(&[Piece::Message, Piece::Trailers(&[("grpc-status", "0")])]);
        for (answer, ejected) in [(bad, true), (good, false)] {
            let mut config = breaker::Config::default();
            config.consecutive_failures = u32::MAX;
            let service = service_fn(move |_: Request<()>| ready(Ok(answer.response())));
            let endpoints = ["a", "b"].map(|key| {
                let endpoint: Endpoint = "http://127.0.0.1:1".parse().unwrap();
                (endpoint.with_key(key), Fake::new(service))
            });
            let balance = Balance::builder(endpoints)
                .policy(crate::balance::RoundRobin)
                .breaker(config)
                .outlier(ha_core::outlier::Config::default())
                .protocol(Grpc)
                .build()
                .unwrap();
            let _driver = crate::task::Owned::spawn(balance.drive());
            for _ in 0..10 {
                let answer = balance.clone().oneshot(Request::new(())).await.unwrap();
                assert!(answer.into_body().collect().await.is_ok());
                tokio::task::yield_now().await;
            }
            let states = balance.states();
            let any = states
                .iter()
                .any(|(_, state)| state.ejected_until().is_some());
            assert_eq!(any, ejected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_began_before_the_breaker_opened_is_no_probe_of_it() {
        for status in ["0", "14"] {
            let (ends, end) = tokio::sync::oneshot::channel();
            let end = std::sync::Mutex::new(Some(end));
            let bad = head(&[("grpc-status", "14")]);
            let service = service_fn(move |_: Request<()>| {
                let old = end.lock().unwrap().take();
                ready(Ok(match old {
                    // Its status comes when this test says so.
                    Some(end) => {
                        let last = async { Ok(Frame::trailers(end.await.unwrap())) };
                        Response::new(StreamBody::new(Box::pin(stream::once(last)) as Stream))
                    }
                    None => bad.response(),
                }))
            });
            let service = std::sync::Arc::new(std::sync::Mutex::new(service));
            let service = service_fn(move |request: Request<()>| {
                tower_service::Service::call(&mut *service.lock().unwrap(), request)
            });
            let mut config = breaker::Config::default();
            config.probes = 1;
            let failures = config.consecutive_failures;
            let endpoint: Endpoint = "http://127.0.0.1:1".parse().unwrap();
            let balance = Balance::builder([(endpoint, Fake::new(service))])
                .breaker(config)
                .protocol(Grpc)
                .build()
                .unwrap();
            let call = || balance.clone().oneshot(Request::new(()));
            let (_, state) = balance.states().remove(0);
            let breaker = state.breaker().unwrap();

            let old = call().await.unwrap().into_body();
            for _ in 0..failures {
                drop(call().await.unwrap());
            }
            let wait = breaker.open_for(clock::now()).unwrap();
            tokio::time::advance(wait).await;
            assert_eq!(breaker.state(clock::now()), breaker::State::HalfOpen);

            ends.send(
                [("grpc-status".parse().unwrap(), status.parse().unwrap())]
                    .into_iter()
                    .collect(),
            )
            .unwrap();
            old.collect().await.unwrap();
            assert_eq!(
                breaker.state(clock::now()),
                breaker::State::HalfOpen,
                "{status}"
            );
            assert!(
                breaker.would_admit(clock::now()),
                "the place of a probe is free"
            );
        }
    }
}
