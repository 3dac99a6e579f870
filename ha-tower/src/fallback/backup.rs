use std::fmt;
use std::future::Future;

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use tower::BoxError;
use tower::util::Oneshot;
use tower_service::Service;

use super::Reason;
use crate::body::{Replay, ReplayHandle};

/// Where an answer comes from when the service has none: [`Answer`], [`FromHead`] or [`Elsewhere`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot stand in for a service that gets a body of type `{B}`",
    label = "is no fallback for these requests",
    note = "`FallbackLayer::answer` takes `Fn(Reason) -> Future<Output = Result<Response<_>, _>>`, `FallbackLayer::from_head` the same with `http::request::Parts` before the reason",
    note = "`FallbackLayer::service` takes a service that is `Clone` and gets `Request<Replay<B>>`; `B` must be `Unpin` with `Data = Bytes`"
)]
pub trait Backup<B>: Clone {
    /// The body of the requests that the service gets.
    type Body;
    /// What is kept of a request.
    type Kept;
    /// The body of this one's responses.
    type ResponseBody;
    /// Why it can fail.
    type Error: Into<BoxError>;
    /// Its answer.
    type Future: Future<Output = Result<Response<Self::ResponseBody>, Self::Error>>;

    /// What the service gets, and what is kept.
    fn keep(&self, request: Request<B>) -> (Request<Self::Body>, Self::Kept);

    /// Asks for an answer. None when it must not be asked for this request.
    fn ask(&mut self, kept: Self::Kept, reason: Reason) -> Option<Self::Future>;
}

/// A closure that only knows why. Made by [`FallbackLayer::answer`](super::FallbackLayer::answer).
#[derive(Clone)]
pub struct Answer<F>(pub(super) F);

impl<F> fmt::Debug for Answer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

impl<B, F, Fut, R, E> Backup<B> for Answer<F>
where
    F: Fn(Reason) -> Fut + Clone,
    Fut: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Body = B;
    type Kept = ();
    type ResponseBody = R;
    type Error = E;
    type Future = Fut;

    fn keep(&self, request: Request<B>) -> (Request<B>, ()) {
        (request, ())
    }

    fn ask(&mut self, (): (), reason: Reason) -> Option<Fut> {
        Some((self.0)(reason))
    }
}

/// A closure that gets the head of the request. Made by [`FallbackLayer::from_head`](super::FallbackLayer::from_head).
#[derive(Clone)]
pub struct FromHead<F>(pub(super) F);

impl<F> fmt::Debug for FromHead<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromHead")
    }
}

impl<B, F, Fut, R, E> Backup<B> for FromHead<F>
where
    F: Fn(request::Parts, Reason) -> Fut + Clone,
    Fut: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Body = B;
    type Kept = request::Parts;
    type ResponseBody = R;
    type Error = E;
    type Future = Fut;

    fn keep(&self, request: Request<B>) -> (Request<B>, request::Parts) {
        let (head, body) = request.into_parts();
        let kept = head.clone();
        (Request::from_parts(head, body), kept)
    }

    fn ask(&mut self, head: request::Parts, reason: Reason) -> Option<Fut> {
        Some((self.0)(head, reason))
    }
}

/// Another service, which gets the same request. Made by [`FallbackLayer::service`](super::FallbackLayer::service).
#[derive(Clone)]
pub struct Elsewhere<S> {
    pub(super) service: S,
    pub(super) replay_limit: usize,
    pub(super) any_method: bool,
}

impl<S> fmt::Debug for Elsewhere<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere")
            .field("replay_limit", &self.replay_limit)
            .field("any_method", &self.any_method)
            .finish_non_exhaustive()
    }
}

/// A request that can be sent once more.
pub struct Kept<B> {
    head: request::Parts,
    body: ReplayHandle<B>,
}

impl<B> fmt::Debug for Kept<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl<B, S, R> Backup<B> for Elsewhere<S>
where
    B: Body<Data = Bytes> + Unpin,
    S: Service<Request<Replay<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    type Body = Replay<B>;
    type Kept = Kept<B>;
    type ResponseBody = R;
    type Error = S::Error;
    type Future = Oneshot<S, Request<Replay<B>>>;

    fn keep(&self, request: Request<B>) -> (Request<Replay<B>>, Kept<B>) {
        let (head, body) = request.into_parts();
        let (replay, body) = Replay::new(body, self.replay_limit);
        let kept = Kept {
            head: head.clone(),
            body,
        };
        (Request::from_parts(head, replay), kept)
    }

    fn ask(&mut self, kept: Kept<B>, reason: Reason) -> Option<Self::Future> {
        let safe = self.any_method || reason.is_unsent() || kept.head.method.is_idempotent();
        if !safe {
            return None;
        }
        let body = kept.body.restart()?;
        let request = Request::from_parts(kept.head, body);
        Some(Oneshot::new(self.service.clone(), request))
    }
}
