use std::convert::Infallible;

use ha_core::sign::{Key, KeyRing};
use http::header::{CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};

use super::CausalLayer;
use crate::postgres::{Causal, Lsn, Token};

fn keys(byte: u8) -> KeyRing {
    KeyRing::from(Key::from_bytes(&[byte; 32]).unwrap())
}

fn token(lsn: u64) -> Token {
    Token::new(7, 1, Lsn(lsn))
}

/// Sends a request through the layer to a handler that has come to `reached`.
async fn send(
    layer: &CausalLayer,
    request: Request<()>,
    reached: Option<Token>,
) -> (Option<Token>, Response<()>) {
    let found = std::sync::Arc::new(std::sync::Mutex::new(None));
    let seen = found.clone();
    let handler = service_fn(move |request: Request<()>| {
        let causal = request.extensions().get::<Causal>().unwrap().clone();
        *seen.lock().unwrap() = causal.token();
        if let Some(token) = reached {
            causal.advance(token);
        }
        async { Ok::<_, Infallible>(Response::new(())) }
    });
    let response = layer.layer(handler).oneshot(request).await.unwrap();
    let found = *found.lock().unwrap();
    (found, response)
}

fn with_cookie(name: &str, value: &str) -> Request<()> {
    Request::builder()
        .header(COOKIE, format!("theme=dark; {name}={value}; x=y"))
        .body(())
        .unwrap()
}

fn set_cookie(response: &Response<()>) -> Option<&str> {
    response
        .headers()
        .get(SET_COOKIE)
        .map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_write_is_carried_by_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let layer = CausalLayer::cookie(keys(1));
    let (_, response) = send(&layer, Request::new(()), Some(token(9))).await;
    let cookie = set_cookie(&response).unwrap();
    for attribute in [
        "HttpOnly",
        "Secure",
        "SameSite=Lax",
        "Path=/",
        "Max-Age=3600",
    ] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
    let value = cookie.strip_prefix("__Host-ha-causal=").unwrap();
    let value = value.split(';').next().unwrap();
    let (found, response) = send(&layer, with_cookie("__Host-ha-causal", value), None).await;
    assert_eq!(found, Some(token(9)));
    assert_eq!(set_cookie(&response), None, "no change, no cookie");
}

#[tokio::test]
async fn plain_http_on_localhost_is_an_explicit_choice() {
    let layer = CausalLayer::cookie(keys(1)).insecure_localhost();
    let (_, response) = send(&layer, Request::new(()), Some(token(9))).await;
    let cookie = set_cookie(&response).unwrap();
    assert!(cookie.starts_with("ha-causal="), "{cookie}");
    assert!(!cookie.contains("Secure"), "{cookie}");
}

#[tokio::test]
async fn a_header_carries_it_for_programs() {
    let layer = CausalLayer::header(keys(1));
    let (_, response) = send(&layer, Request::new(()), Some(token(9))).await;
    let value = response.headers()["x-ha-causal"].clone();
    assert_eq!(set_cookie(&response), None);
    let request = Request::builder()
        .header("x-ha-causal", value)
        .body(())
        .unwrap();
    let (found, response) = send(&layer, request, Some(token(12))).await;
    assert_eq!(found, Some(token(9)));
    let text = response.headers()["x-ha-causal"].to_str().unwrap();
    assert_eq!(Token::verify(text, &keys(1)), Ok(token(12)));
}

#[tokio::test]
async fn garbled_and_forged_tokens_count_as_none_and_are_replaced() {
    let layer = CausalLayer::cookie(keys(1));
    let forged = token(9).sign(&keys(2));
    let bad = [
        "",
        "x",
        "%%%",
        "a b",
        &forged,
        &forged[1..],
        &"A".repeat(5000),
    ];
    for (count, text) in bad.iter().enumerate() {
        let (found, response) = send(&layer, with_cookie("__Host-ha-causal", text), None).await;
        assert_eq!(found, None, "{text}");
        assert!(
            set_cookie(&response).unwrap().contains("Max-Age=0"),
            "{text}"
        );
        assert_eq!(layer.refused(), count as u64 + 1);

        let request = with_cookie("__Host-ha-causal", text);
        let (_, response) = send(&CausalLayer::cookie(keys(1)), request, Some(token(3))).await;
        assert!(
            set_cookie(&response).unwrap().contains("Max-Age=3600"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_key_that_was_rotated_out_of_signing_still_reads() {
    let rotated = KeyRing::new(
        Key::from_bytes(&[2; 32]).unwrap(),
        [Key::from_bytes(&[1; 32]).unwrap()],
    );
    let layer = CausalLayer::cookie(rotated);
    let old = token(9).sign(&keys(1));
    let (found, _) = send(&layer, with_cookie("__Host-ha-causal", &old), None).await;
    assert_eq!(found, Some(token(9)));
    assert_eq!(layer.refused(), 0);
}

#[tokio::test]
async fn a_handlers_own_cache_control_stays() {
    let handler = service_fn(|request: Request<()>| async move {
        request
            .extensions()
            .get::<Causal>()
            .unwrap()
            .advance(token(1));
        let response = Response::builder()
            .header(CACHE_CONTROL, "private")
            .body(())
            .unwrap();
        Ok::<_, Infallible>(response)
    });
    let layer = CausalLayer::cookie(keys(1));
    let response = layer
        .layer(handler)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert_eq!(response.headers()[CACHE_CONTROL], "private");
}
