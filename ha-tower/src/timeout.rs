//! One deadline over everything between a request and its response head.
//!
//! [`TimeoutLayer`] answers `504` when the head has not come in time, and writes the [`Deadline`] into the request's
//! extensions, so that what is inside can tell whether one more attempt or a wait still fits. The body is not cut: a
//! download, an event stream or a WebSocket takes as long as it takes.
//!
//! Differences from tower's timeout: the answer is a response (no `HandleErrorLayer` in axum), the deadline is visible
//! inside, and an outer, earlier deadline wins.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::Buffered;
use crate::problem::Problem;

/// Far enough for any answer, near enough for any clock.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Request extension: when the caller stops waiting for the response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// What is left at `now`; zero when the deadline has passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }
}

/// Answers `504 Gateway Timeout` when the response head takes longer than the deadline.
///
/// Put it outside [`RetryLayer`](crate::retry::RetryLayer): all attempts and the waits between them share the deadline.
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer {
    limit: Duration,
}

impl TimeoutLayer {
    /// A deadline of `limit` after the call.
    ///
    /// It does not cover the wait for the inner service to become ready, which comes before the call. With a limit of
    /// zero only an answer that is there at once passes; a limit of more than a day is one day.
    #[must_use]
    pub fn deadline(limit: Duration) -> Self {
        Self {
            limit: limit.min(LONGEST),
        }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout {
            inner,
            limit: self.limit,
        }
    }
}

/// The service made by [`TimeoutLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Timeout<S> {
    inner: S,
    limit: Duration,
}

impl<S, B, R> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<Buffered<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = Instant::now();
        let outer = request.extensions().get::<Deadline>().copied();
        let own = Deadline(now + self.limit);
        let deadline = outer.map_or(own, |outer| outer.min(own));
        request.extensions_mut().insert(deadline);
        ResponseFuture {
            response: self.inner.call(request),
            sleep: tokio::time::sleep_until(deadline.0),
        }
    }
}

pin_project! {
    /// The response of [`Timeout`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        response: F,
        #[pin]
        sleep: Sleep,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<Buffered<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.response.poll(cx) {
            return Poll::Ready(result.map(|response| response.map(Buffered::stream)));
        }
        ready!(this.sleep.poll(cx));
        Poll::Ready(Ok(Problem::new(StatusCode::GATEWAY_TIMEOUT)
            .detail("no answer within the deadline")
            .into_response()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Empty, Full};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::problem::LocalReply;

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
}
