use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full};
use tower::util::BoxCloneService;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::upstream;

type Change = Builder<Client>;
type Client = BoxCloneService<Request<Empty<Bytes>>, Response<Full<Bytes>>, Infallible>;
type Seen = Arc<Mutex<Option<http::request::Parts>>>;

async fn pass(
    change: impl FnOnce(Change) -> Change,
    request: Request<Empty<Bytes>>,
) -> (Response<Bytes>, Option<http::request::Parts>) {
    let seen = Seen::default();
    let log = Arc::clone(&seen);
    let client = service_fn(move |request: Request<Empty<Bytes>>| {
        *log.lock().unwrap() = Some(request.into_parts().0);
        async {
            Ok::<_, Infallible>(
                Response::builder()
                    .header("connection", "x-private, close")
                    .header("x-private", "1")
                    .header("keep-alive", "timeout=5")
                    .header("x-ha-draining", "true")
                    .header("x-public", "2")
                    .body(Full::<Bytes>::from("answer"))
                    .unwrap(),
            )
        }
    });
    let builder = ReverseProxy::builder(BoxCloneService::new(client)).name("edge-1");
    let proxy = change(builder).build().unwrap();
    let (head, body) = proxy.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        Response::from_parts(head, body),
        seen.lock().unwrap().take(),
    )
}

fn get(headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let mut request = Request::get("/a%2Fb?c=d").header("host", "shop.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Empty::new()).unwrap()
}

#[tokio::test]
async fn connection_fields_and_what_they_name_are_removed_both_ways() {
    let request = get(&[
        ("connection", "close, X-Secret"),
        ("connection", "host"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "gzip, trailers"),
        ("upgrade", "websocket"),
        ("authorization", "Bearer t"),
    ]);
    let (response, seen) = pass(|proxy| proxy, request).await;
    let seen = seen.unwrap();
    for gone in [
        "connection",
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
    ] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["host"], "shop.example");
    assert_eq!(seen.headers["authorization"], "Bearer t");
    assert_eq!(seen.uri, "/a%2Fb?c=d");
    for gone in ["x-private", "connection", "x-ha-draining"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    assert_eq!(response.headers()["x-public"], "2");
    assert_eq!(response.headers()["via"], "1.1 edge-1");
    assert_eq!(response.body(), "answer");
}

#[tokio::test]
async fn a_byte_beyond_ascii_hides_no_name_in_connection() {
    let mut request = get(&[("x-secret", "1")]);
    let names = HeaderValue::from_bytes(b"\xff, x-secret").unwrap();
    request.headers_mut().insert("connection", names);
    let seen = pass(|proxy| proxy, request).await.1.unwrap();
    assert!(!seen.headers.contains_key("x-secret"));
}

#[tokio::test]
async fn the_path_so_far_cannot_be_removed_by_naming_it() {
    let request = get(&[("connection", "via"), ("via", "1.1 edge-0")]);
    let seen = pass(|proxy| proxy, request).await.1.unwrap();
    let via: Vec<_> = seen.headers.get_all("via").iter().collect();
    assert_eq!(via, ["1.1 edge-0", "1.1 edge-1"]);
}

#[tokio::test]
async fn other_claims_about_the_client_pass_only_when_trusted() {
    let claims = [
        ("forwarded", "for=9.9.9.9"),
        ("x-real-ip", "9.9.9.9"),
        ("x-forwarded-port", "1"),
        ("x-forwarded-prefix", "/evil"),
    ];
    for trust in [false, true] {
        let (_, seen) = pass(|proxy| proxy.trust_forwarded(trust), get(&claims)).await;
        let seen = seen.unwrap();
        for (name, _) in claims {
            assert_eq!(seen.headers.contains_key(name), trust, "{name}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_a_502_and_not_a_tunnel() {
    let client = service_fn(|_: Request<Empty<Bytes>>| async {
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        Ok::<_, Infallible>(response)
    });
    let response = ReverseProxy::new(client).oneshot(get(&[])).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}

#[test]
fn a_name_that_is_no_token_is_refused_by_value() {
    for name in ["", "edge 1", "edge,1", "edge\n"] {
        let refused = ReverseProxy::builder(()).name(name).build().unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "proxy.name is {name:?}: must be letters, digits, '-', '.' and '_', at least one"
            )
        );
    }
}

#[tokio::test]
async fn a_transfer_coding_in_http_1_0_is_refused() {
    let mut request = get(&[("transfer-encoding", "chunked")]);
    *request.version_mut() = Version::HTTP_10;
    let (response, seen) = pass(|proxy| proxy, request).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(seen.is_none());
}

#[tokio::test]
async fn smuggling_shapes_are_refused_before_anything_is_sent() {
    for headers in [
        &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
        &[("content-length", "5"), ("content-length", "5")],
        &[("content-length", "+5")],
        &[("content-length", "5, 5")],
        &[("transfer-encoding", "gzip, chunked")],
        &[
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "identity"),
        ],
        &[("transfer-encoding", "xchunked")],
        &[("host", "second.example")],
    ] {
        let (response, seen) = pass(|proxy| proxy, get(headers)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{headers:?}");
        assert!(seen.is_none(), "{headers:?}");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
    }
    for headers in [
        &[("content-length", "5")][..],
        &[("transfer-encoding", "Chunked")],
    ] {
        assert_eq!(
            pass(|proxy| proxy, get(headers)).await.0.status(),
            StatusCode::OK,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_request_without_a_host_is_refused_in_http_1_1_and_passes_in_1_0() {
    let mut request = get(&[]);
    request.headers_mut().remove("host");
    assert_eq!(
        pass(|proxy| proxy, request.clone()).await.0.status(),
        StatusCode::BAD_REQUEST
    );
    *request.version_mut() = Version::HTTP_10;
    let (response, seen) = pass(|proxy| proxy, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(seen.unwrap().headers["via"], "1.0 edge-1");
}

#[tokio::test]
async fn a_circle_is_noticed_by_the_name_in_via() {
    let (response, seen) = pass(|proxy| proxy, get(&[("via", "1.0 other, 1.1 Edge-1 (x)")])).await;
    assert_eq!(response.status(), StatusCode::LOOP_DETECTED);
    assert!(seen.is_none());
    let (response, _) = pass(|proxy| proxy, get(&[("via", "1.1 edge-2")])).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn connect_is_not_supported() {
    let mut request = get(&[]);
    *request.method_mut() = Method::CONNECT;
    assert_eq!(
        pass(|proxy| proxy, request).await.0.status(),
        StatusCode::NOT_IMPLEMENTED
    );
}

#[tokio::test]
async fn a_clients_claims_about_itself_count_only_when_trusted() {
    let claims = [
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
    ];
    for (trust, values) in [
        (false, ["10.0.0.7", "http", "shop.example"]),
        (true, ["9.9.9.9, 10.0.0.7", "https", "evil.example"]),
    ] {
        let mut request = get(&claims);
        request
            .extensions_mut()
            .insert(Peer("[::ffff:10.0.0.7]:4000".parse().unwrap()));
        let (_, seen) = pass(|proxy| proxy.trust_forwarded(trust), request).await;
        let headers = seen.unwrap().headers;
        for ((name, _), value) in claims.iter().zip(values) {
            assert_eq!(headers[*name], value, "{name}, trust {trust}");
        }
    }
    let (_, seen) = pass(|proxy| proxy.https(), get(&claims)).await;
    let headers = seen.unwrap().headers;
    assert!(
        !headers.contains_key("x-forwarded-for"),
        "unknown peer: no claim at all"
    );
    assert_eq!(headers["x-forwarded-proto"], "https");
}

#[tokio::test]
async fn a_fit_request_id_is_kept_and_any_other_replaced() {
    let long = "x".repeat(129);
    for (id, kept) in [
        ("abc-1", true),
        ("with space", false),
        ("", false),
        (long.as_str(), false),
    ] {
        let (response, seen) = pass(
            |proxy| proxy,
            get(&[("x-request-id", id), ("connection", "x-request-id")]),
        )
        .await;
        let sent = seen.unwrap().headers[REQUEST_ID].clone();
        assert_eq!(response.headers()[REQUEST_ID], sent);
        assert_eq!(sent == id, kept, "{id:?}");
        assert!(!sent.is_empty());
    }
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let mut request = get(&[]);
    *request.uri_mut() = "http://user@real.example:81/p?q".parse().unwrap();
    let seen = pass(|proxy| proxy, request).await.1.unwrap();
    assert_eq!(seen.headers["host"], "real.example:81");
    assert_eq!(seen.uri, "/p?q");
}

#[tokio::test]
async fn nothing_available_and_no_free_connection_are_503_with_retry_after_and_a_timeout_is_504() {
    let endpoint = || "10.1.2.3:80".into();
    let fails = [
        (
            upstream::Error::Unavailable {
                upstream: "shop".into(),
                known: 3,
            },
            StatusCode::SERVICE_UNAVAILABLE,
            true,
        ),
        (
            upstream::Error::Full {
                endpoint: endpoint(),
            },
            StatusCode::SERVICE_UNAVAILABLE,
            true,
        ),
        (
            upstream::Error::Timeout {
                endpoint: endpoint(),
                limit: Duration::from_secs(1),
                sent: true,
            },
            StatusCode::GATEWAY_TIMEOUT,
            false,
        ),
    ];
    for (error, status, says_when) in fails {
        let error = Arc::new(Mutex::new(Some(error)));
        let client = service_fn(move |_: Request<Empty<Bytes>>| {
            let error = error.lock().unwrap().take().unwrap();
            async { Err::<Response<Empty<Bytes>>, _>(error) }
        });
        let proxy = ReverseProxy::new(client);
        let response = proxy.oneshot(get(&[])).await.unwrap();
        let says = response.headers().contains_key("retry-after");
        assert_eq!((response.status(), says), (status, says_when));
    }
}

#[tokio::test]
async fn a_client_that_fails_is_a_502_with_the_request_id_and_no_address() {
    let client = service_fn(|_: Request<Empty<Bytes>>| async {
        Err::<Response<Empty<Bytes>>, _>(std::io::Error::other("10.1.2.3 is down"))
    });
    let response = ReverseProxy::new(client)
        .oneshot(get(&[("x-request-id", "r-9")]))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    assert!(text.contains("r-9") && !text.contains("10.1.2.3"), "{text}");
}
