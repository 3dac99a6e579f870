//! The connections of an `Upstream`, looked at from their other end.

mod http1;
mod http2;
mod server;

use std::time::Duration;

use bytes::Bytes;
use ha_tower::upstream::{Body, EndpointSnapshot, Error, Upstream};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(30);

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::post(path).body(Empty::new()).unwrap()
}

async fn call(upstream: &Upstream, path: &str) -> Result<Response<Body>, Error> {
    upstream.clone().oneshot(request(path)).await
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn spawn(upstream: &Upstream, path: &'static str) -> JoinHandle<Result<String, Error>> {
    let upstream = upstream.clone();
    tokio::spawn(async move { Ok(text(call(&upstream, path).await?).await) })
}

/// What is known of the only endpoint.
fn only(upstream: &Upstream) -> EndpointSnapshot {
    upstream.endpoints().remove(0)
}
