//! Draining and proxying through real sockets.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use ha_tower::discover;
use ha_tower::drain::{self, Drain, Phase};
use ha_tower::proxy::ReverseProxy;
use ha_tower::upstream::Upstream;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

/// `/slow` answers when it gets a permit; `/echo` streams the request back.
fn app(gate: Arc<Semaphore>) -> Router {
    let slow = get(move || async move {
        gate.acquire().await.unwrap().forget();
        "slow but whole"
    });
    let echo = post(|body: Body| async move { body });
    Router::new()
        .route("/slow", slow)
        .route("/echo", echo)
        .route("/", get(|| async { "hello" }))
}

fn drain(settle: Duration, deadline: Duration) -> Drain {
    Drain::builder()
        .settle(settle)
        .deadline(deadline)
        .build()
        .unwrap()
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn until(condition: impl Fn() -> bool) {
    timeout(LIMIT, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let _ = timeout(LIMIT, stream.read_to_string(&mut text))
        .await
        .unwrap();
    text
}

#[tokio::test]
async fn what_is_under_way_finishes_and_the_port_refuses() {
    let (listener, address) = bind().await;
    let (gate, drain) = (Arc::new(Semaphore::new(0)), drain(Duration::ZERO, LIMIT));
    let server = tokio::spawn(drain::serve(
        listener,
        app(Arc::clone(&gate)),
        drain.clone(),
    ));
    let slow = send(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| drain.in_flight() == 1).await;
    drain.start();
    timeout(LIMIT, async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    gate.add_permits(1);
    let answer = rest(slow).await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("slow but whole"),
        "{answer}"
    );
    assert!(timeout(LIMIT, server).await.unwrap().unwrap().is_clean());
}

#[tokio::test]
async fn everybody_who_waits_in_the_queue_is_served_when_the_server_begins_to_refuse() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    let drain = drain(Duration::ZERO, LIMIT);
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(send(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await);
    }
    drain.start();
    let gate = Arc::new(Semaphore::new(0));
    let server = tokio::spawn(drain::serve(listener, app(gate), drain.clone()));
    for client in clients {
        assert!(rest(client).await.ends_with("hello"));
    }
    assert!(timeout(LIMIT, server).await.unwrap().unwrap().is_clean());
}

/// The negative control: a server that is simply dropped cuts the same request.
#[tokio::test]
async fn without_a_drain_the_same_request_is_cut() {
    let (listener, address) = bind().await;
    let drain = Drain::new();
    let gate = Arc::new(Semaphore::new(0));
    let server = tokio::spawn(drain::serve(listener, app(gate), drain.clone()));
    let slow = send(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| drain.in_flight() == 1).await;
    server.abort();
    assert_eq!(rest(slow).await, "");
}

#[tokio::test]
async fn the_deadline_cuts_what_is_left_and_says_so() {
    let (listener, address) = bind().await;
    let drain = drain(Duration::ZERO, Duration::from_millis(200));
    let server = tokio::spawn(drain::serve(
        listener,
        app(Arc::new(Semaphore::new(0))),
        drain.clone(),
    ));
    let slow = send(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| drain.in_flight() == 1).await;
    drain.start();
    let report = timeout(LIMIT, server).await.unwrap().unwrap();
    assert_eq!((report.requests_cut, report.connections_cut), (1, 1));
    assert_eq!(rest(slow).await, "");
    until(|| drain.in_flight() == 0).await;
}

#[tokio::test]
async fn while_it_settles_everything_is_served_and_readyz_says_no() {
    let (listener, address) = bind().await;
    let drain = drain(LIMIT, LIMIT);
    let _server = tokio::spawn(drain::serve(
        listener,
        app(Arc::new(Semaphore::new(0))),
        drain.clone(),
    ));
    assert_eq!(drain.readyz(), 200);
    drain.start();
    assert_eq!(
        (drain.readyz().as_u16(), drain.phase()),
        (503, Phase::NotReady)
    );
    let answer = rest(send(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_client_that_never_ends_its_head_is_let_go() {
    let (listener, address) = bind().await;
    let server = drain::Server::builder(Drain::new())
        .header_read_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let _server = tokio::spawn(server.serve(listener, app(Arc::new(Semaphore::new(0)))));
    let slow = send(address, "GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    let answer = rest(slow).await; // would not end without the limit
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn axum_serve_obeys_the_drain_and_its_deadline() {
    let (listener, address) = bind().await;
    let drain = drain(Duration::ZERO, Duration::from_millis(200));
    let app = app(Arc::new(Semaphore::new(0))).layer(drain.layer());
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.signalled());
    let enforced = tokio::spawn({
        let drain = drain.clone();
        async move { drain.enforce(server).await }
    });
    let _slow = send(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    until(|| drain.in_flight() == 1).await;
    drain.start();
    let report = timeout(LIMIT, enforced).await.unwrap().unwrap().unwrap();
    assert_eq!(report.requests_cut, 1);
}

#[tokio::test]
async fn a_proxied_body_streams_both_ways_before_it_is_complete() {
    let (app_listener, app_address) = bind().await;
    tokio::spawn(drain::serve(
        app_listener,
        app(Arc::new(Semaphore::new(0))),
        Drain::new(),
    ));
    let upstream = Upstream::builder("app")
        .discover(discover::fixed([format!("http://{app_address}")]).unwrap())
        .build()
        .unwrap();
    let (listener, address) = bind().await;
    let edge = Router::new().fallback_service(ReverseProxy::new(upstream));
    tokio::spawn(drain::serve(listener, edge, Drain::new()));

    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    let mut stream = send(address, head).await;
    let mut read = Vec::new();
    timeout(LIMIT, async {
        while !read.ends_with(b"one\r\n") {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        }
    })
    .await
    .expect("the first chunk comes back while the request is still open");
    stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    timeout(LIMIT, async {
        while !read.ends_with(b"0\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        }
    })
    .await
    .unwrap();
    let text = String::from_utf8(read).unwrap();
    assert!(text.contains("two") && text.contains("via: "), "{text}");
}

#[tokio::test]
async fn nothing_behind_the_proxy_is_a_problem_document() {
    let (_, dead) = bind().await;
    let upstream = Upstream::builder("app")
        .discover(discover::fixed([format!("http://{dead}")]).unwrap())
        .build()
        .unwrap();
    let request = http::Request::get("/")
        .header("host", "x")
        .body(Body::empty())
        .unwrap();
    let proxy = ReverseProxy::new(upstream);
    let response = tower::ServiceExt::oneshot(proxy, request).await.unwrap();
    assert!(
        [502, 503].contains(&response.status().as_u16()),
        "{}",
        response.status()
    );
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    assert!(
        response
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .starts_with(b"{")
    );
}
