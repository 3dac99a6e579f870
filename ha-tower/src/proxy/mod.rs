//! An HTTP/1.1 reverse proxy as a service.
//!
//! [`ReverseProxy`] turns a client (an [`Upstream`](crate::upstream::Upstream), usually behind a deadline and retries)
//! into a service that never fails: bodies stream both ways, and every error becomes an answer.
//!
//! # What happens to a request
//!
//! 1. Refused with a `4xx` or `5xx` problem document, before anything is sent: `CONNECT` (501); both `Content-Length`
//!    and `Transfer-Encoding`, more than one of either, or a transfer coding other than `chunked` (400, shapes by which
//!    requests are smuggled); a transfer coding in HTTP/1.0 (400); HTTP/1.1 without exactly one host (400); our own name in `Via` (508).
//! 2. Removed (RFC 9110 §7.6.1): `Connection`, every field that it names, `Keep-Alive`, `Proxy-Connection`,
//!    `Proxy-Authenticate`, `Proxy-Authorization`, `TE` except `trailers`, `Transfer-Encoding`, `Upgrade`.
//!    From answers also `x-ha-draining`: an endpoint that leaves speaks for itself.
//! 3. Kept: the method, the path and query byte for byte, and `Host`.
//! 4. Set: `Via`; `X-Request-Id`, unless the client sent a printable one of at most 128 bytes; `X-Forwarded-For`,
//!    `X-Forwarded-Proto` and `X-Forwarded-Host`, from the [`Peer`] extension and the request. What the client itself
//!    claims in those three is dropped unless [`trust_forwarded`](Builder::trust_forwarded) says otherwise, and so are
//!    `Forwarded`, `X-Real-IP`, `X-Forwarded-Port` and `X-Forwarded-Prefix`.
//!
//! # What happens to an error
//!
//! | cause | status |
//! |---|---|
//! | no endpoint available, or no free connection to it and its queue full | 503 with `Retry-After` |
//! | no answer in time | 504 |
//! | the client's own body broke | 400 |
//! | everything else: no connection, a broken exchange, an upgrade (101) that nobody asked for | 502 |
//!
//! Each is a problem document with the request id. An error inside a response body, after its head was passed on, can
//! only cut the connection; that is how HTTP/1.1 says that something is missing.
//!
//! # Not here
//!
//! Upgrades (WebSocket) and `CONNECT` are not passed through: an upgrade request arrives as a plain one.

mod headers;
mod service;

pub use service::{Builder, ResponseFuture, ReverseProxy};

use std::net::SocketAddr;

use http::HeaderName;

/// The header that carries the id of a request from the edge through every tier and back.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Request extension: who is at the other end of the connection. [`drain::serve`](crate::drain::serve) sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(pub SocketAddr);

#[cfg(test)]
mod tests;
