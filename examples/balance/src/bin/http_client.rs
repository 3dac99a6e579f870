//! Balances over one HTTP client per endpoint, here hyper's; any client that is a `tower::Service` will do.
//!
//! ```console
//! $ cargo run -p balance-examples --bin http_client
//! ```
//!
//! Three apps answer on loopback. One begins to fail: a retry on another app hides it, and soon it is hardly asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::{Router, routing::get};
use bytes::Bytes;
use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, Http};
use ha_tower::body::Replay;
use ha_tower::retry::{Attempts, RetryLayer};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt};

async fn app(name: &'static str, fails: Arc<AtomicBool>) -> Result<Endpoint, BoxError> {
    let answer = async move || {
        let answers = !fails.load(Ordering::Relaxed);
        answers.then_some(name).ok_or(StatusCode::BAD_GATEWAY)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?).parse()?;
    let router = Router::new().route("/", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(endpoint)
}

type Body = Replay<Empty<Bytes>>;

/// A client that sends whatever it is given to its own endpoint, and nothing twice by itself.
fn client(
    to: Endpoint,
) -> impl Service<Request<Body>, Response = Response<Incoming>, Error = Error, Future: Send> + Clone
{
    let mut builder = Client::builder(TokioExecutor::new());
    let client = builder.retry_canceled_requests(false).build_http();
    let aim = move |mut request: Request<Body>| {
        let target = format!("http://{}{}", to.address.authority(), request.uri());
        *request.uri_mut() = target.parse().unwrap_or_default();
        request
    };
    ServiceBuilder::new().map_request(aim).service(client)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let [never, c_fails] = [(); 2].map(|()| Arc::<AtomicBool>::default());
    let mut apps = Vec::new();
    for (name, fails) in [("a", &never), ("b", &never), ("c", &c_fails)] {
        let endpoint = app(name, fails.clone()).await?;
        apps.push((endpoint.clone(), client(endpoint)));
    }
    let balance = Balance::builder(apps).protocol(Http);
    let caller = RetryLayer::http().layer(balance.build()?);
    for round in ["all well", "c fails"] {
        c_fails.store(round == "c fails", Ordering::Relaxed);
        let (mut tally, mut attempts) = (BTreeMap::<_, u32>::new(), 0);
        for _ in 0..300 {
            let request = Request::get("/").body(Empty::new())?;
            let response = caller.clone().oneshot(request).await?;
            attempts += response.extensions().get().map_or(1, |Attempts(n)| *n);
            let status = response.status().as_u16();
            let answer = (status, response.collect().await?.to_bytes());
            *tally.entry(answer).or_default() += 1;
        }
        println!("{round}: {tally:?} in {attempts} attempts");
    }
    Ok(())
}
