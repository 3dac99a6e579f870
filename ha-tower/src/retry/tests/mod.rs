//! Poll-level tests with paused time. What a socket does is tested with real servers elsewhere.

mod config;
mod grpc;
mod held;
#[cfg(feature = "metrics")]
mod metrics;
mod replayed;
mod rules;
mod waits;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ha_core::backoff::Backoff;
use ha_core::budget;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::*;
use crate::body::{BoxError, Replay, ReplayError};
use crate::problem::{LocalReply, Problem};
use crate::timeout::TimeoutLayer;
use crate::tried::Tried;

type Seen = Arc<Mutex<Vec<(Request<()>, Bytes)>>>;

#[derive(Debug, Default, thiserror::Error)]
#[error("exchange broke")]
struct Broke {
    #[source]
    source: Option<crate::upstream::Error>,
}

/// What the server does, one entry per attempt; afterwards it answers 200.
enum Act {
    Status(u16),
    After(&'static str),
    Local,
    Break,
    Unsent,
    Hangs,
    Truncated,
    Stalled,
}

/// A body of `announced` bytes made from scripted frames; `None` never comes.
struct Script {
    announced: u64,
    frames: VecDeque<Option<Result<Bytes, Broke>>>,
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broke;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        match self.frames.pop_front() {
            None => Poll::Ready(None),
            Some(None) => {
                self.frames.push_front(None);
                Poll::Pending
            }
            Some(Some(frame)) => Poll::Ready(Some(frame.map(Frame::data))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.announced)
    }
}

fn script(frames: impl IntoIterator<Item = Option<Result<&'static str, Broke>>>) -> Script {
    let frames = frames
        .into_iter()
        .map(|frame| frame.map(|frame| frame.map(Bytes::from)));
    Script {
        announced: 4,
        frames: frames.collect(),
    }
}

fn server<B>(
    acts: impl IntoIterator<Item = Act>,
) -> (
    impl Service<Request<B>, Response = Response<Script>, Error = Broke, Future: Send> + Clone,
    Seen,
)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Debug,
{
    let seen = Seen::default();
    let acts: Arc<Mutex<VecDeque<Act>>> = Arc::new(Mutex::new(acts.into_iter().collect()));
    let log = Arc::clone(&seen);
    let service = service_fn(move |request: Request<B>| {
        let act = acts.lock().unwrap().pop_front();
        let log = Arc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            log.lock()
                .unwrap()
                .push((Request::from_parts(head, ()), body));
            let mut response = Response::new(script([Some(Ok("fine"))]));
            match act {
                None => {}
                Some(Act::Status(status)) => {
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                }
                Some(Act::After(wait)) => {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    response
                        .headers_mut()
                        .insert("retry-after", wait.parse().unwrap());
                }
                Some(Act::Local) => {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    response.extensions_mut().insert(LocalReply);
                }
                Some(Act::Break) => return Err(Broke::default()),
                Some(Act::Unsent) => {
                    let endpoint = "app-1".into();
                    let source = Some(crate::upstream::Error::Full { endpoint });
                    return Err(Broke { source });
                }
                Some(Act::Hangs) => std::future::pending().await,
                Some(Act::Truncated) => {
                    *response.body_mut() = script([Some(Ok("fi")), Some(Err(Broke::default()))])
                }
                Some(Act::Stalled) => *response.body_mut() = script([Some(Ok("fi")), None]),
            }
            Ok(response)
        }
    });
    (service, seen)
}

fn request(method: Method) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri("/x")
        .body(Full::from("body"))
        .unwrap()
}

async fn attempts_of(
    layer: RetryLayer,
    request: Request<Full<Bytes>>,
    acts: Vec<Act>,
) -> (usize, Option<StatusCode>) {
    let (service, seen) = server(acts);
    let status = layer
        .layer(service)
        .oneshot(request)
        .await
        .ok()
        .map(|response| response.status());
    let seen = seen.lock().unwrap();
    for (_, body) in seen.iter() {
        assert_eq!(body, "body", "every attempt sends the whole body");
    }
    (seen.len(), status)
}

const OK: Option<StatusCode> = Some(StatusCode::OK);
const UNAVAILABLE: Option<StatusCode> = Some(StatusCode::SERVICE_UNAVAILABLE);

fn built(builder: Builder) -> RetryLayer {
    builder.build().unwrap()
}
