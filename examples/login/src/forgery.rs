//! Requests that another site made the browser send.
//!
//! `SameSite=Lax` keeps the cookie from most of them. This refuses the rest, by what browsers say about where a request comes from:
//! `Sec-Fetch-Site`, and where an older browser does not send it, whether `Origin` is this host. Requests of programs carry
//! neither, and no cookie that somebody else could abuse.

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Answers 403 to what changes something and comes from another site. Looking is let through: a `GET` must not change anything.
pub async fn refuse_other_sites(request: Request, next: Next) -> Response {
    let looks = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if looks || is_of_this_site(request.headers()) {
        return next.run(request).await;
    }
    StatusCode::FORBIDDEN.into_response()
}

fn is_of_this_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    match (headers.get(ORIGIN), headers.get(HOST)) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin
            .as_bytes()
            .splitn(3, |byte| *byte == b'/')
            .nth(2)
            .is_some_and(|authority| authority == host.as_bytes()),
        (Some(_), None) => false,
    }
}
