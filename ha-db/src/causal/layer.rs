use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cookie::{Cookie, SameSite};
use ha_core::sign::KeyRing;
use http::header::{CACHE_CONTROL, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use tower_layer::Layer;

use super::service::CausalService;
use crate::postgres::{Token, TokenError};

/// The cookie's name over HTTPS. The `__Host-` prefix makes browsers insist on `Secure`, `Path=/` and no `Domain`, so that
/// no other host can plant one.
const COOKIE_NAME: &str = "__Host-ha-causal";
/// The cookie's name on `http://localhost`, where browsers refuse the prefix.
const INSECURE_COOKIE_NAME: &str = "ha-causal";
const HEADER_NAME: HeaderName = HeaderName::from_static("x-ha-causal");

/// How long a browser keeps the token: an hour. It has to outlive the lag of any replica that may still be read, and
/// the time until a failover is over; after that every node has what it stands for.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Adds [`CausalService`] to a stack. See the [module](super).
#[derive(Clone)]
pub struct CausalLayer {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    keys: KeyRing,
    carrier: Carrier,
    refused: AtomicU64,
}

#[derive(Debug, Clone)]
enum Carrier {
    Cookie { secure: bool },
    Header(HeaderName),
}

impl CausalLayer {
    /// Carries the token in a cookie: `__Host-ha-causal`, `Secure`, `HttpOnly`, `SameSite=Lax`, `Path=/`, one hour.
    #[must_use]
    pub fn cookie(keys: KeyRing) -> Self {
        Self::new(keys, Carrier::Cookie { secure: true })
    }

    /// Carries the token in the header `x-ha-causal`, on requests and responses. Meant for clients that are programs: they send
    /// back what they got last.
    #[must_use]
    pub fn header(keys: KeyRing) -> Self {
        Self::new(keys, Carrier::Header(HEADER_NAME))
    }

    /// Uses a cookie named `ha-causal` without `Secure`, which browsers accept over plain HTTP. For development on
    /// `http://localhost`. Changes nothing when the token is carried in a header.
    #[must_use]
    pub fn insecure_localhost(self) -> Self {
        match self.shared.carrier {
            Carrier::Cookie { .. } => {
                Self::new(self.shared.keys.clone(), Carrier::Cookie { secure: false })
            }
            Carrier::Header(_) => self,
        }
    }

    fn new(keys: KeyRing, carrier: Carrier) -> Self {
        Self {
            shared: Arc::new(Shared {
                keys,
                carrier,
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// How many tokens were refused so far, as garbled or wrongly signed.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for CausalLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CausalLayer")
            .field("carrier", &self.shared.carrier)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for CausalLayer {
    type Service = CausalService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CausalService::new(inner, Arc::clone(&self.shared))
    }
}

/// What a request brought.
pub(super) enum Presented {
    Nothing,
    Token(Token),
    Refused,
}

impl Shared {
    fn cookie_name(secure: bool) -> &'static str {
        if secure {
            COOKIE_NAME
        } else {
            INSECURE_COOKIE_NAME
        }
    }

    pub(super) fn read(&self, headers: &HeaderMap) -> Presented {
        let text = match &self.carrier {
            Carrier::Header(name) => match headers.get(name) {
                None => return Presented::Nothing,
                Some(value) => value.to_str().unwrap_or_default(),
            },
            Carrier::Cookie { secure } => {
                let name = Self::cookie_name(*secure);
                let found = headers
                    .get_all(COOKIE)
                    .iter()
                    .filter_map(|value| value.to_str().ok())
                    .flat_map(|value| value.split(';'))
                    .filter_map(|pair| pair.split_once('='))
                    .find(|(key, _)| key.trim() == name);
                match found {
                    None => return Presented::Nothing,
                    Some((_, value)) => value.trim(),
                }
            }
        };
        match Token::verify(text, &self.keys) {
            Ok(token) => Presented::Token(token),
            Err(reason) => {
                self.refuse(reason);
                Presented::Refused
            }
        }
    }

    fn refuse(&self, reason: TokenError) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%reason, "token refused");
    }

    pub(super) fn write(&self, token: Token, headers: &mut HeaderMap) {
        let text = token.sign(&self.keys);
        match &self.carrier {
            Carrier::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(text) {
                    headers.insert(name, value);
                    keep_out_of_caches(headers);
                }
            }
            Carrier::Cookie { secure } => {
                let max_age = cookie::time::Duration::try_from(MAX_AGE)
                    .unwrap_or(cookie::time::Duration::HOUR);
                let cookie = Cookie::build((Self::cookie_name(*secure), text))
                    .http_only(true)
                    .secure(*secure)
                    .same_site(SameSite::Lax)
                    .path("/")
                    .max_age(max_age);
                if let Ok(value) = HeaderValue::try_from(cookie.to_string()) {
                    headers.append(SET_COOKIE, value);
                    keep_out_of_caches(headers);
                }
            }
        }
    }

    /// Takes back a token that means nothing here, so that the client stops sending it.
    pub(super) fn clear(&self, headers: &mut HeaderMap) {
        if let Carrier::Cookie { secure } = &self.carrier {
            let cookie = Cookie::build((Self::cookie_name(*secure), ""))
                .http_only(true)
                .secure(*secure)
                .same_site(SameSite::Lax)
                .path("/")
                .max_age(cookie::time::Duration::ZERO);
            if let Ok(value) = HeaderValue::try_from(cookie.to_string()) {
                headers.append(SET_COOKIE, value);
            }
        }
    }
}

/// A shared cache that stores this response would give one client's token to all.
fn keep_out_of_caches(headers: &mut HeaderMap) {
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}
