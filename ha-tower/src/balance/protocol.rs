use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use ha_core::breaker::Outcome;
use ha_core::outlier;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};

use super::{HashKey, InFlight};
use crate::breaker::refused_here;
use crate::health;
use crate::tried::Tried;

/// What a balancer needs to know about requests and responses.
pub trait Protocol<Request, Response, Error> {
    /// What the caller gets: the response, perhaps with the [`InFlight`] inside.
    type Response;

    /// The endpoints that this request has tried, if it says so.
    fn tried<'a>(&self, request: &'a Request) -> Option<&'a Tried>;

    /// The hash of the key by which this request goes to its endpoint, if it has one. Asked only under a policy that hashes; the
    /// policy's `key` says what to look for. Default none.
    fn hash(&self, request: &Request, key: &HashKey) -> Option<u64> {
        let _ = (request, key);
        None
    }

    /// How the end of an attempt counts.
    fn classify(&self, result: Result<&Response, &Error>) -> Verdict;

    /// Passes the response on. The request is in flight until `in_flight` is dropped.
    fn finish(&self, response: Response, in_flight: InFlight) -> Self::Response;
}

/// What every protocol over HTTP finds in a request in the same way.
macro_rules! of_http_request {
    ($body:ty) => {
        fn tried<'a>(&self, request: &'a http::Request<$body>) -> Option<&'a $crate::tried::Tried> {
            request.extensions().get()
        }

        fn hash(
            &self,
            request: &http::Request<$body>,
            key: &$crate::balance::HashKey,
        ) -> Option<u64> {
            key.hash(request)
        }
    };
}
pub(crate) use of_http_request;

/// How the end of an attempt counts for the breaker and the load of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub(crate) outcome: Option<Outcome>,
    pub(super) retry_after: Option<Duration>,
    pub(super) unanswered: bool,
    pub(crate) pushed_back: bool,
    pub(super) unconnected: bool,
    pub(super) draining: bool,
    pub(super) provisional: bool,
}

impl Verdict {
    const fn of(outcome: Option<Outcome>) -> Self {
        Self {
            outcome,
            retry_after: None,
            unanswered: false,
            pushed_back: false,
            unconnected: false,
            draining: false,
            provisional: false,
        }
    }

    /// The endpoint did its work.
    #[must_use]
    pub const fn success() -> Self {
        Self::of(Some(Outcome::Success))
    }

    /// The endpoint failed.
    #[must_use]
    pub const fn failure() -> Self {
        Self::of(Some(Outcome::Failure))
    }

    /// No connection to the endpoint could be made: a failure, of which outlier ejection wants to see fewer in a row.
    #[must_use]
    pub const fn connect_failure() -> Self {
        let mut verdict = Self::failure();
        verdict.unconnected = true;
        verdict
    }

    /// The endpoint is alive and asks for less.
    #[must_use]
    pub const fn overloaded() -> Self {
        Self::of(Some(Outcome::Overloaded))
    }

    /// The endpoint is well and said on purpose that it cannot serve this request now. Adds to its cost; the breaker counts
    /// nothing, except that a probe that ends like this has found the endpoint alive.
    #[must_use]
    pub const fn pushed_back(retry_after: Duration) -> Self {
        let mut verdict = Self::of(None);
        verdict.retry_after = Some(retry_after);
        verdict.pushed_back = true;
        verdict
    }

    /// Says nothing about the endpoint.
    #[must_use]
    pub const fn neutral() -> Self {
        Self::of(None)
    }

    /// The endpoint asked to be left alone for so long.
    #[must_use]
    pub const fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// The endpoint said that it is leaving: it gets no new request until its active checks pass again, or for 30 s where there are none.
    #[must_use]
    pub const fn draining(mut self, draining: bool) -> Self {
        self.draining = draining;
        self
    }

    /// How it counts for outlier ejection. What was pushed back or cancelled says nothing.
    pub(super) fn counts(&self) -> Option<outlier::Outcome> {
        match self.outcome.filter(|_| !self.provisional)? {
            Outcome::Success => Some(outlier::Outcome::Success),
            Outcome::Failure if self.unconnected => Some(outlier::Outcome::ConnectFailure),
            Outcome::Failure => Some(outlier::Outcome::Failure),
            _ => None,
        }
    }

    /// No answer came in the time that was spent: the endpoint is at least that slow.
    #[must_use]
    pub const fn unanswered(mut self) -> Self {
        self.unanswered = true;
        self
    }

    /// So far: the end of the answer decides. A [`Balance`](super::Balance) measures latency by it and waits for [`InFlight::ended`] with the
    /// rest; a [`BreakerLayer`](crate::breaker::BreakerLayer), which does not see the end, takes it as it is.
    #[must_use]
    pub const fn provisional(mut self) -> Self {
        self.provisional = true;
        self
    }
}

/// Any request: `Ok` is a success, `Err` a failure, nothing is known of tried endpoints, and a request is in flight until its response.
#[derive(Debug, Clone, Copy, Default)]
pub struct Any;

impl<Req, Res, E> Protocol<Req, Res, E> for Any {
    type Response = Res;

    fn tried<'a>(&self, _: &'a Req) -> Option<&'a Tried> {
        None
    }

    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        match result {
            Ok(_) => Verdict::success(),
            Err(_) => Verdict::failure(),
        }
    }

    fn finish(&self, response: Res, _: InFlight) -> Res {
        response
    }
}

/// HTTP: 5xx and errors are failures, an endpoint that says [`health::DRAINING`] is left at once, 429 is overload, `Retry-After` is
/// heeded, a 503 with `Retry-After` is push-back (an app that cannot write because its database has no primary still serves reads,
/// and a breaker would end those too). A 429 or 503 that was made in this process
/// ([`LocalReply`](crate::problem::LocalReply)) says nothing about the endpoint. [`Tried`]
/// is looked for in the extensions, and a request is in flight until its response body has ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Http;

impl<B, C: http_body::Body, E> Protocol<Request<B>, Response<C>, E> for Http {
    type Response = Response<Body<C>>;

    of_http_request!(B);

    fn classify(&self, result: Result<&Response<C>, &E>) -> Verdict {
        match result {
            Ok(response) if refused_here(response.status(), response.extensions()) => {
                Verdict::neutral()
            }
            Ok(response) => by_status(response.status(), response.headers()),
            Err(_) => Verdict::failure(),
        }
    }

    fn finish(&self, response: Response<C>, in_flight: InFlight) -> Self::Response {
        response.map(|body| Body::new(body, in_flight))
    }
}

/// How the head of a response counts.
pub(crate) fn by_status(status: StatusCode, headers: &HeaderMap) -> Verdict {
    by_code(status, headers).draining(health::is_draining(headers))
}

fn by_code(status: StatusCode, headers: &HeaderMap) -> Verdict {
    if status == StatusCode::TOO_MANY_REQUESTS {
        Verdict::overloaded().retry_after(retry_after(headers))
    } else if let (StatusCode::SERVICE_UNAVAILABLE, Some(wait)) = (status, retry_after(headers)) {
        Verdict::pushed_back(wait)
    } else if status.is_server_error() {
        Verdict::failure().retry_after(retry_after(headers))
    } else {
        Verdict::success()
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    date.duration_since(SystemTime::now()).ok()
}

pin_project_lite::pin_project! {
    /// A response body that holds its request in flight until it has ended, failed or was dropped.
    #[derive(Debug)]
    pub struct Body<B> {
        #[pin]
        inner: B,
        in_flight: Option<InFlight>,
    }
}

impl<B: http_body::Body> Body<B> {
    pub(crate) fn new(inner: B, in_flight: InFlight) -> Self {
        // Nobody polls a body that says at once that it has ended.
        let in_flight = (!inner.is_end_stream()).then_some(in_flight);
        Self { inner, in_flight }
    }
}

impl<B: http_body::Body> http_body::Body for Body<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !this.inner.is_end_stream() => {}
            Some(Err(_)) => {
                if let Some(in_flight) = this.in_flight.take() {
                    in_flight.broke_off();
                }
            }
            _ => *this.in_flight = None,
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
