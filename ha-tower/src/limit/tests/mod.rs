mod adaptive;
mod limit;
#[cfg(feature = "metrics")]
mod metrics;
mod outer;
mod queue;
#[cfg(feature = "rate-limit")]
mod rate;
mod shed;
mod throttle;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::Service;

use super::*;
use crate::problem::LocalReply;

const MS: Duration = Duration::from_millis(1);

type Answer = Response<Full<Bytes>>;

fn request() -> Request<()> {
    Request::new(())
}

fn with<T: Clone + Send + Sync + 'static>(extension: T) -> Request<()> {
    let mut request = request();
    request.extensions_mut().insert(extension);
    request
}

fn answer(status: u16) -> Answer {
    let mut response = Response::new(Full::from("answer"));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// Answers after so long, with what `status` says.
fn app<F: Future<Output = Result<Answer, Infallible>>>(
    call: impl Fn() -> F + Clone,
) -> impl Service<Request<()>, Response = Answer, Error = Infallible, Future = F> + Clone {
    tower::service_fn(move |_| call())
}

fn slow() -> impl Service<
    Request<()>,
    Response = Answer,
    Error = Infallible,
    Future: Future<Output = Result<Answer, Infallible>> + Send,
> + Clone {
    app(|| async {
        tokio::time::sleep(10 * MS).await;
        Ok(answer(200))
    })
}

/// Whether this is a refusal of ours, complete with all that belongs to one.
fn is_refusal<B>(response: &Response<B>, status: u16) -> bool {
    response.status() == status
        && response.extensions().get::<LocalReply>().is_some()
        && response.headers()["content-type"] == "application/problem+json"
        && response.headers().contains_key("retry-after")
}

/// Polls so often, then drops; whether it had ended.
async fn dropped_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
