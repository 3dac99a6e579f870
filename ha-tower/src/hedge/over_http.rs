use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::Body;

use super::policy::{Classify, Copies, Policy, Split};
use crate::body::{Replay, ReplayHandle};
use crate::retry::MARKER;
use crate::route;
use crate::timeout::Deadline;
use crate::tried::Tried;

/// Response extension: how many hedges were sent for this answer, when there was one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedged {
    /// How many.
    pub sent: u32,
    /// Which attempt brought the answer: 0 is the first one, 1 the first hedge.
    pub winner: u32,
}

/// Says on a gRPC request how many attempts there were before.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

type Idempotent = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;

/// Hedges HTTP requests, gRPC among them, by the rules in the [module documentation](super).
#[derive(Clone)]
pub struct Http {
    pub(super) idempotency_key: bool,
    pub(super) idempotent: Option<Idempotent>,
    pub(super) replay_limit: usize,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            idempotency_key: false,
            idempotent: None,
            replay_limit: 64 * 1024,
        }
    }
}

impl Http {
    fn may_repeat(&self, head: &request::Parts, policy: Option<&route::Policy>) -> bool {
        if head.method == Method::CONNECT || head.headers.contains_key(UPGRADE) {
            return false;
        }
        // On a retry by our own layer the balancer has noted the attempt before; a tier in front notes nothing here.
        let of_front = || head.extensions.get().is_none_or(Tried::is_empty);
        if is_repeat(&head.headers) && of_front() {
            return false;
        }
        policy
            .and_then(route::Policy::idempotent)
            .unwrap_or_else(|| {
                head.method.is_idempotent()
                    || self.idempotency_key && has_key(head)
                    || self.idempotent.as_ref().is_some_and(|says| says(head))
            })
    }
}

/// Whether somebody says that this is not the first attempt, or something about attempts that cannot be read.
fn is_repeat(headers: &HeaderMap) -> bool {
    headers.contains_key(PREVIOUS_ATTEMPTS)
        || headers.contains_key(MARKER) && attempt_number(headers) != Some(1)
}

fn attempt_number(headers: &HeaderMap) -> Option<u32> {
    headers.get(MARKER)?.to_str().ok()?.parse().ok()
}

/// Exactly one that is not empty; with others a server cannot keep its side.
fn has_key(head: &request::Parts) -> bool {
    let mut keys = head.headers.get_all("idempotency-key").iter();
    let first = keys.next().map(HeaderValue::as_bytes);
    first.is_some_and(|key| !key.trim_ascii().is_empty()) && keys.next().is_none()
}

/// What the copies of an HTTP request are made from.
#[derive(Debug)]
pub struct Template<B> {
    head: request::Parts,
    replay: ReplayHandle<B>,
}

impl<B> Policy<Request<B>> for Http
where
    B: Body<Data = Bytes> + Unpin,
{
    type Inner = Request<Replay<B>>;
    type Template = Template<B>;

    fn split(&self, request: Request<B>) -> Split<Self::Inner, Template<B>> {
        let (mut head, body) = request.into_parts();
        let policy = head.extensions.get::<route::Policy>();
        let (off, delay) = match policy.and_then(route::Policy::hedge) {
            Some(route::Hedge::Off) => (true, None),
            Some(route::Hedge::After(delay)) => (false, Some(delay)),
            None => (false, None),
        };
        let repeatable = !off && self.may_repeat(&head, policy);
        let deadline = head.extensions.get().map(|Deadline(at)| at.into_std());
        if !repeatable {
            return Split {
                first: Request::from_parts(head, Replay::once(body)),
                template: None,
                delay,
                deadline,
            };
        }
        if head.extensions.get::<Tried>().is_none() {
            head.extensions.insert(Tried::new());
        }
        let (body, replay) = Replay::new(body, self.replay_limit);
        let copy = head.clone();
        let template = Template { head: copy, replay };
        Split {
            first: Request::from_parts(head, body),
            template: Some(template),
            delay,
            deadline,
        }
    }
}

impl<B: Body> Copies<Request<Replay<B>>> for Template<B> {
    fn copy(&self, hedge: u32) -> Option<Request<Replay<B>>> {
        let body = self.replay.fork()?;
        let mut head = self.head.clone();
        // Attempts count from 1, and one of the retry layer's was sent.
        let before = attempt_number(&head.headers).unwrap_or(1);
        let number = HeaderValue::from(before.saturating_add(hedge));
        head.headers.insert(MARKER, number);
        Some(Request::from_parts(head, body))
    }
}

impl<R, E> Classify<Response<R>, E> for Http {
    fn is_success(&self, result: Result<&Response<R>, &E>) -> bool {
        let Ok(response) = result else {
            return false;
        };
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return false;
        }
        // Of gRPC: cancelled, unknown, deadline exceeded, exhausted, internal, unavailable, data loss.
        let grpc = response
            .headers()
            .get("grpc-status")
            .map(HeaderValue::as_bytes);
        !matches!(
            grpc,
            Some(b"1" | b"2" | b"4" | b"8" | b"13" | b"14" | b"15")
        )
    }

    fn report(&self, response: &mut Response<R>, sent: u32, winner: u32) {
        response.extensions_mut().insert(Hedged { sent, winner });
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("idempotency_key", &self.idempotency_key)
            .field("replay_limit", &self.replay_limit)
            .finish_non_exhaustive()
    }
}
