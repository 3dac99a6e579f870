use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request};

use super::{Peer, REQUEST_ID};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Other fields by which a client could claim to be somebody else.
const CLAIMS: [HeaderName; 4] = [
    FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
];

/// A request that must not be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) detail: &'static str,
}

const fn refuse(status: StatusCode, detail: &'static str) -> Result<(), Refusal> {
    Err(Refusal { status, detail })
}

/// Refuses what two HTTP implementations could read in two ways, and what would run in a circle.
pub(super) fn check(head: &request::Parts, name: &str) -> Result<(), Refusal> {
    let headers = &head.headers;
    if head.method == Method::CONNECT {
        return refuse(StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported");
    }
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths, codings.next(), codings.next()) {
        (0, None, None) => {}
        (1, None, None) if is_number(&headers[CONTENT_LENGTH]) => {}
        (0, Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {}
        (1.., Some(_), _) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "a request has a content length or a transfer coding, not both",
            );
        }
        (0, Some(_), _) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "the only transfer coding supported is chunked",
            );
        }
        _ => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "the content length is not one number",
            );
        }
    }
    if head.version == Version::HTTP_10 && headers.contains_key(TRANSFER_ENCODING) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "HTTP/1.0 knows no transfer codings",
        );
    }
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || hosts == 0 && head.version == Version::HTTP_11 && head.uri.host().is_none() {
        return refuse(StatusCode::BAD_REQUEST, "a request names exactly one host");
    }
    if via_names(headers).any(|by| by.eq_ignore_ascii_case(name)) {
        return refuse(
            StatusCode::LOOP_DETECTED,
            "this proxy has seen this request before",
        );
    }
    Ok(())
}

fn is_number(value: &HeaderValue) -> bool {
    !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit)
}

/// The received-by part of each entry: `1.1 edge-1 (comment), 2.0 other` gives `edge-1` and `other`.
fn via_names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(VIA)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|entry| entry.split_ascii_whitespace().nth(1))
}

/// Removes what speaks about the connection and not about the message.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Nearly every request of a pooled client has none of them.
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        // As bytes: one byte beyond ASCII must not hide the other names from us.
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // Whoever could have these removed would change what the message says, not how it travels.
        .filter(|name| ![HOST, CONTENT_LENGTH, TE, VIA].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// An absolute target (`GET http://host/path`) names the host by itself and wins over `Host` (RFC 9112 §3.2.2).
pub(super) fn to_origin_form(head: &mut request::Parts) {
    if let Some(authority) = head.uri.authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(host) {
            head.headers.insert(HOST, host);
        }
        let path = head.uri.path_and_query().cloned();
        head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
}

pub(super) fn add_via(headers: &mut HeaderMap, version: Version, name: &str) {
    let version = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::try_from(format!("{version} {name}")) {
        headers.append(VIA, value);
    }
}

pub(super) fn set_forwarded(head: &mut request::Parts, scheme: &'static str, trust: bool) {
    let peer = head
        .extensions
        .get::<Peer>()
        .map(|peer| peer.0.ip().to_canonical());
    let headers = &mut head.headers;
    if !trust {
        for claim in CLAIMS {
            headers.remove(claim);
        }
    }
    let before = trust.then(|| joined(headers, &FORWARDED_FOR)).flatten();
    headers.remove(FORWARDED_FOR);
    if let Some(value) = chain(before, peer) {
        headers.insert(FORWARDED_FOR, value);
    }
    if !trust || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    }
    if !trust || !headers.contains_key(FORWARDED_HOST) {
        headers.remove(FORWARDED_HOST);
        if let Some(host) = headers.get(HOST).cloned() {
            headers.insert(FORWARDED_HOST, host);
        }
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn chain(before: Option<String>, peer: Option<IpAddr>) -> Option<HeaderValue> {
    let value = match (before, peer) {
        (Some(before), Some(peer)) => format!("{before}, {peer}"),
        (Some(before), None) => before,
        (None, Some(peer)) => peer.to_string(),
        (None, None) => return None,
    };
    HeaderValue::try_from(value).ok()
}

/// The id the client sent, if it is fit to be logged, else a new one.
pub(super) fn ensure_request_id(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(id) = headers.get(REQUEST_ID) {
        let fit = (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
        if fit && headers.get_all(REQUEST_ID).iter().count() == 1 {
            return id.clone();
        }
    }
    let id = HeaderValue::try_from(format!("{:032x}", fastrand::u128(..)))
        .unwrap_or(HeaderValue::from_static("0"));
    headers.insert(REQUEST_ID, id.clone());
    id
}
