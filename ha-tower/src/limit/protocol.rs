use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use tokio::time::Instant;
use tower::BoxError;

use super::answer::Answers;
use super::{Body, Error, Held, Priority, Shed};
use crate::problem::LocalReply;
use crate::timeout::Deadline;

/// What an answer says about the load of whoever gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It did its work: its latency counts.
    Success,
    /// It has too much to do, or did not answer in time.
    Loss,
    /// Nothing, such as a failure of another kind: what fails at once would look fast.
    Ignored,
    /// The end of the answer says it, through [`Held::settle`]. One that is never settled counts as given up.
    AtEnd,
}

/// What a limit needs to know about requests and answers, and how it refuses.
pub trait Protocol<Request, Response, Failure> {
    /// What the caller gets.
    type Response;
    /// What the caller gets when there is no answer.
    type Error;

    /// Who goes first.
    fn priority(&self, request: &Request) -> Priority;

    /// When the caller stops waiting, if it says so.
    fn deadline(&self, request: &Request) -> Option<Instant>;

    /// What the answer says about load.
    fn classify(&self, result: Result<&Response, &Failure>) -> Outcome;

    /// Passes the answer on. Its place is taken until `held` is dropped.
    ///
    /// # Errors
    /// Those of the service.
    fn finish(
        &self,
        result: Result<Response, Failure>,
        held: Held,
    ) -> Result<Self::Response, Self::Error>;

    /// The answer to a request that is refused.
    ///
    /// # Errors
    /// When refusals are errors.
    fn refuse(&self, shed: Shed) -> Result<Self::Response, Self::Error>;

    /// What becomes of an error of the service before a request.
    fn unready(&self, failure: Failure) -> Self::Error;
}

/// Any request: `Ok` is a success, `Err` a loss, every request has the default priority, and a place is taken until the response.
/// Refusals are errors ([`Error::Shed`]).
#[derive(Debug, Clone, Copy, Default)]
pub struct Any;

impl<Req, Res, E: Into<BoxError>> Protocol<Req, Res, E> for Any {
    type Response = Res;
    type Error = Error;

    fn priority(&self, _: &Req) -> Priority {
        Priority::Default
    }

    fn deadline(&self, _: &Req) -> Option<Instant> {
        None
    }

    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Loss,
        }
    }

    fn finish(&self, result: Result<Res, E>, _: Held) -> Result<Res, Error> {
        result.map_err(|error| Error::Service(error.into()))
    }

    fn refuse(&self, shed: Shed) -> Result<Res, Error> {
        Err(Error::Shed(shed))
    }

    fn unready(&self, failure: E) -> Error {
        Error::Service(failure.into())
    }
}

/// HTTP. A place is taken until the response body has ended.
///
/// - Priority: the [`Priority`] extension; else the header that was named as trusted; else the default.
/// - Losses: 429, 503, 504 and errors. Other 5xx say nothing: what fails at once would look fast. Of gRPC answers
///   (`content-type: application/grpc`) the status counts, from the head or the trailers: 4, 8 and 14 are losses, 2, 13 and 15 say
///   nothing. Answers made in this process ([`LocalReply`]) say nothing either.
/// - Refusals are answers: 503, and 429 for rates, with `Retry-After` and a problem document, and with the
///   [`LocalReply`] extension, so that layers outside know where they come from.
#[derive(Debug, Clone)]
pub struct Http {
    priority_header: Option<HeaderName>,
    answers: Answers,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// Trusts no header, and asks to come again after a second.
    #[must_use]
    pub fn new() -> Self {
        Self {
            priority_header: None,
            answers: Answers::new(std::time::Duration::from_secs(1)),
        }
    }

    /// Takes the priority from this header: `critical`, `default` or `sheddable`; anything else is the default. Default: no header is
    /// trusted. Whoever can send it can go first: name one only where an edge of yours sets it and removes the caller's.
    #[must_use]
    pub fn trust_priority_header(mut self, name: HeaderName) -> Self {
        self.priority_header = Some(name);
        self
    }

    /// What `Retry-After` says where nothing better is known, rounded up to whole seconds. Default 1 s.
    #[must_use]
    pub fn retry_after(mut self, wait: std::time::Duration) -> Self {
        self.answers = Answers::new(wait);
        self
    }
}

impl<B, R, E> Protocol<Request<B>, Response<R>, E> for Http
where
    R: http_body::Body<Data = bytes::Bytes>,
{
    type Response = Response<Body<R>>;
    type Error = E;

    fn priority(&self, request: &Request<B>) -> Priority {
        if let Some(priority) = request.extensions().get() {
            return *priority;
        }
        self.priority_header
            .as_ref()
            .and_then(|name| request.headers().get(name)?.to_str().ok()?.parse().ok())
            .unwrap_or_default()
    }

    fn deadline(&self, request: &Request<B>) -> Option<Instant> {
        request.extensions().get().map(|Deadline(at)| *at)
    }

    fn classify(&self, result: Result<&Response<R>, &E>) -> Outcome {
        let Ok(response) = result else {
            return Outcome::Loss;
        };
        if response.extensions().get::<LocalReply>().is_some() {
            return Outcome::Ignored;
        }
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Loss,
            status if status.is_server_error() => Outcome::Ignored,
            _ if !is_grpc(response.headers()) => Outcome::Success,
            _ => match grpc(response.headers()) {
                Some(outcome) => outcome,
                None if response.body().is_end_stream() => Outcome::Ignored,
                None => Outcome::AtEnd,
            },
        }
    }

    fn finish(&self, result: Result<Response<R>, E>, held: Held) -> Result<Self::Response, E> {
        result.map(|mut response| {
            if let Some(quota) = held.quota() {
                self.answers.announce(response.headers_mut(), &quota);
            }
            response.map(|body| Body::new(body, held))
        })
    }

    fn refuse(&self, shed: Shed) -> Result<Self::Response, E> {
        Ok(self.answers.of(shed).map(Body::local))
    }

    fn unready(&self, failure: E) -> E {
        failure
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What a gRPC status says, if it is there.
pub(super) fn grpc(fields: &HeaderMap) -> Option<Outcome> {
    let status = fields.get("grpc-status")?;
    Some(match status.as_bytes() {
        b"4" | b"8" | b"14" => Outcome::Loss,
        b"2" | b"13" | b"15" => Outcome::Ignored,
        _ => Outcome::Success,
    })
}

/// A protocol whose priorities, or outcomes, are said by a function. Made by
/// [`Builder::priority_by`](super::Builder::priority_by) and [`Builder::classify_by`](super::Builder::classify_by).
#[derive(Clone, Copy)]
pub struct With<P, F, G> {
    pub(super) inner: P,
    pub(super) priority: F,
    pub(super) outcome: G,
}

impl<P: std::fmt::Debug, F, G> std::fmt::Debug for With<P, F, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("With")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Leaves a question to the protocol inside [`With`].
#[derive(Debug, Clone, Copy)]
pub struct Inner;

/// Says the priority of a request, or leaves it to the protocol.
pub trait PriorityBy<Req> {
    /// None: the protocol says.
    fn priority(&self, request: &Req) -> Option<Priority>;
}

impl<Req> PriorityBy<Req> for Inner {
    fn priority(&self, _: &Req) -> Option<Priority> {
        None
    }
}

impl<Req, F: Fn(&Req) -> Option<Priority>> PriorityBy<Req> for F {
    fn priority(&self, request: &Req) -> Option<Priority> {
        self(request)
    }
}

/// Says what an answer means, or leaves it to the protocol.
pub trait OutcomeBy<Res, E> {
    /// None: the protocol says.
    fn outcome(&self, result: Result<&Res, &E>) -> Option<Outcome>;
}

impl<Res, E> OutcomeBy<Res, E> for Inner {
    fn outcome(&self, _: Result<&Res, &E>) -> Option<Outcome> {
        None
    }
}

impl<Res, E, F: Fn(Result<&Res, &E>) -> Option<Outcome>> OutcomeBy<Res, E> for F {
    fn outcome(&self, result: Result<&Res, &E>) -> Option<Outcome> {
        self(result)
    }
}

impl<P, F, G, Req, Res, E> Protocol<Req, Res, E> for With<P, F, G>
where
    P: Protocol<Req, Res, E>,
    F: PriorityBy<Req>,
    G: OutcomeBy<Res, E>,
{
    type Response = P::Response;
    type Error = P::Error;

    fn priority(&self, request: &Req) -> Priority {
        self.priority
            .priority(request)
            .unwrap_or_else(|| self.inner.priority(request))
    }

    fn deadline(&self, request: &Req) -> Option<Instant> {
        self.inner.deadline(request)
    }

    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        self.outcome
            .outcome(result)
            .unwrap_or_else(|| self.inner.classify(result))
    }

    fn finish(&self, result: Result<Res, E>, held: Held) -> Result<P::Response, P::Error> {
        self.inner.finish(result, held)
    }

    fn refuse(&self, shed: Shed) -> Result<P::Response, P::Error> {
        self.inner.refuse(shed)
    }

    fn unready(&self, failure: E) -> P::Error {
        self.inner.unready(failure)
    }
}
