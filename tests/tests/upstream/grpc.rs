//! gRPC through an upstream: the head of an answer says 200 and the trailers say how it went.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ha_core::breaker::State;
use ha_tower::balance::RoundRobin;
use ha_tower::discover;
use ha_tower::upstream::{Http2, Upstream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

const GRPC: &str = "application/grpc";

/// Answers every request with 200 and one message, and ends with the status 0, or 14 while it fails.
struct Server {
    addr: SocketAddr,
    fails: Arc<AtomicBool>,
    _accepting: JoinSet<()>,
}

impl Server {
    /// `kind` is what it calls its answers.
    async fn start(kind: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let fails = Arc::<AtomicBool>::default();
        let knob = fails.clone();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, kind, knob.clone()));
            }
        });
        Self {
            addr,
            fails,
            _accepting: accepting,
        }
    }
}

async fn serve(stream: TcpStream, kind: &'static str, fails: Arc<AtomicBool>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let head = Response::builder().header(CONTENT_TYPE, kind);
        let head = head.body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        // One empty message: not compressed, and no byte long.
        body.send_data(Bytes::from_static(&[0; 5]), false).unwrap();
        let status = if fails.load(Ordering::Relaxed) {
            "14"
        } else {
            "0"
        };
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        body.send_trailers(trailers).unwrap();
    }
}

/// Two servers, one of which fails; how the answers to 100 calls ended, and the breaker of the one that fails.
async fn run(kind: &'static str) -> (BTreeMap<String, usize>, State) {
    let servers = [Server::start(kind).await, Server::start(kind).await];
    let urls = servers
        .iter()
        .map(|server| format!("http://{}", server.addr));
    let upstream = Upstream::builder("grpc")
        .discover(discover::fixed(urls).unwrap())
        .balance(RoundRobin)
        .http2(Http2::prior_knowledge())
        .build()
        .unwrap();
    servers[1].fails.store(true, Ordering::Relaxed);
    let mut ends = BTreeMap::new();
    for _ in 0..100 {
        let request = Request::post("/shop.Orders/Get").body(Empty::<Bytes>::new());
        let response = upstream.clone().oneshot(request.unwrap()).await.unwrap();
        assert!(response.status().is_success());
        let body = response.into_body().collect().await.unwrap();
        let status = &body.trailers().unwrap()["grpc-status"];
        *ends.entry(status.to_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(upstream.endpoints().iter().all(|e| e.in_flight == 0));
    let key = servers[1].addr.to_string();
    let endpoints = upstream.endpoints();
    let failing = endpoints.iter().find(|e| e.key.as_str() == key).unwrap();
    (ends, failing.breaker)
}

#[tokio::test]
async fn a_server_whose_trailers_say_unavailable_is_left_alone() {
    let (ends, breaker) = run(GRPC).await;
    assert_eq!(ends, [("0".into(), 95), ("14".into(), 5)].into());
    assert_eq!(breaker, State::Open);
}

#[tokio::test]
async fn who_looks_at_the_head_alone_goes_on_asking_it() {
    let (ends, breaker) = run("application/octet-stream").await;
    assert_eq!(ends, [("0".into(), 50), ("14".into(), 50)].into());
    assert_eq!(breaker, State::Closed);
}
