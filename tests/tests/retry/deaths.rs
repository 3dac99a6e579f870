//! Servers that die at every stage of a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ha_tower::discover;
use ha_tower::retry::RetryLayer;
use ha_tower::upstream::Upstream;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceExt as _};

#[derive(Clone, Copy, Debug)]
enum Death {
    MidHead,
    AfterHead,
    MidBody,
}

/// Reads the whole request, then dies for the first `dying` requests and answers the others.
async fn server(death: Death, dying: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"the body") {
                    if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let answer: &[u8] = match (counted.fetch_add(1, Ordering::SeqCst) < dying, death) {
                    (false, _) => {
                        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfine"
                    }
                    (true, Death::MidHead) => b"HTTP/1.1 200 OK\r\ncont",
                    (true, Death::AfterHead) => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
                    (true, Death::MidBody) => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfi",
                };
                let _ = stream.write_all(answer).await;
            });
        }
    });
    (address, requests)
}

fn upstream(addresses: &[SocketAddr]) -> Upstream {
    Upstream::builder("test")
        .discover(discover::fixed(addresses.iter().map(|at| format!("http://{at}"))).unwrap())
        .connect_timeout(Duration::from_secs(2))
        .attempt_timeout(Duration::from_secs(5))
        .build()
        .unwrap()
}

fn request(method: Method, key: bool) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri("http://test/x");
    if key {
        request = request.header("idempotency-key", "k-1");
    }
    request.body(Full::from("the body")).unwrap()
}

const DEATHS: [Death; 3] = [Death::MidHead, Death::AfterHead, Death::MidBody];

#[tokio::test]
async fn a_put_survives_a_server_that_dies_at_any_stage() {
    for death in DEATHS {
        let (address, requests) = server(death, 1).await;
        let client = RetryLayer::http().layer(upstream(&[address]));
        let response = client.oneshot(request(Method::PUT, false)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{death:?}");
        assert_eq!(
            response.collect().await.unwrap().to_bytes(),
            "fine",
            "{death:?}"
        );
        assert_eq!(requests.load(Ordering::SeqCst), 2, "{death:?}");
    }
}

#[tokio::test]
async fn without_the_layer_the_same_deaths_reach_the_caller() {
    for death in DEATHS {
        let (address, _) = server(death, 1).await;
        let failed = match upstream(&[address])
            .oneshot(request(Method::PUT, false))
            .await
        {
            Err(_) => true,
            Ok(response) => response.collect().await.is_err(),
        };
        assert!(failed, "{death:?}");
    }
}

#[tokio::test]
async fn a_post_reaches_the_server_once_and_with_a_key_and_consent_again() {
    for (consent, key, expected) in [
        (false, false, 1),
        (false, true, 1),
        (true, false, 1),
        (true, true, 2),
    ] {
        let (address, requests) = server(Death::MidHead, 1).await;
        let client = RetryLayer::builder()
            .idempotency_key(consent)
            .build()
            .unwrap()
            .layer(upstream(&[address]));
        let result = client.oneshot(request(Method::POST, key)).await;
        assert_eq!(result.is_ok(), expected == 2);
        assert_eq!(
            requests.load(Ordering::SeqCst),
            expected,
            "consent {consent}, key {key}"
        );
    }
}

#[tokio::test]
async fn a_post_that_never_left_goes_to_the_next_endpoint() {
    let (alive, requests) = server(Death::MidHead, 0).await;
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let client = RetryLayer::http().layer(upstream(&[dead, alive]));
    for _ in 0..20 {
        let response = client
            .clone()
            .oneshot(request(Method::POST, false))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 20);
}
