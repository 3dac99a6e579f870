use std::collections::BTreeSet;

use ::http::header::{CONNECTION, HOST, USER_AGENT};
use ::http::uri::PathAndQuery;
use ::http::{HeaderValue, Method, Request, StatusCode};
use bytes::Bytes;
use ha_core::config::ConfigError;
use ha_core::endpoint::Endpoint;
use ha_core::health::Finding;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::connection::{drive, open};
use super::probe::{Answer, Ask, Probe};
use super::reading::Reading;
use super::{Check, Failure, headers};

pub(super) const AGENT: &str = concat!("ha-tower/", env!("CARGO_PKG_VERSION"));

// What a head may have; the body has a limit of its own.
const HEAD_LIMIT: usize = 64 * 1024;

/// A check by one HTTP/1.1 request without a body. Passes when the status is as expected (2xx unless said otherwise), and the whole body
/// came, or the wanted text was in it. Redirects are not followed.
///
/// ```
/// use ha_tower::health::Http;
///
/// let check = Http::get("/readyz")
///     .host("shop.example")
///     .statuses([200, 204])
///     .body_contains("\"database\":\"ok\"");
/// ```
#[derive(Debug, Clone)]
pub struct Http {
    method: Method,
    path: String,
    host: Option<String>,
    // None: every 2xx.
    statuses: Option<BTreeSet<u16>>,
    contains: Option<Bytes>,
    body_limit: usize,
}

impl Http {
    /// `GET` of this path, such as `/readyz`.
    pub fn get(path: impl Into<String>) -> Check<Self> {
        Self::request(Method::GET, path)
    }

    /// `HEAD` of this path.
    pub fn head(path: impl Into<String>) -> Check<Self> {
        Self::request(Method::HEAD, path)
    }

    /// A request with this method, of this path.
    pub fn request(method: Method, path: impl Into<String>) -> Check<Self> {
        Check::new(Self {
            method,
            path: path.into(),
            host: None,
            statuses: None,
            contains: None,
            body_limit: 64 * 1024,
        })
    }

    fn path(&self) -> Result<PathAndQuery, ConfigError> {
        let refused = || {
            ConfigError::new(
                "health.path",
                format_args!("{:?}", self.path),
                "must be a path that starts with a slash",
            )
        };
        let path: PathAndQuery = self.path.parse().map_err(|_| refused())?;
        // `*` and the like parse as well.
        if path.as_str().starts_with('/') {
            Ok(path)
        } else {
            Err(refused())
        }
    }

    fn validate_host(&self) -> Result<(), ConfigError> {
        match &self.host {
            Some(host) if host.is_empty() || HeaderValue::from_str(host).is_err() => {
                Err(ConfigError::new(
                    "health.host",
                    format_args!("{host:?}"),
                    "must be the value of a Host header",
                ))
            }
            _ => Ok(()),
        }
    }

    fn validate_statuses(&self) -> Result<(), ConfigError> {
        let Some(statuses) = &self.statuses else {
            return Ok(());
        };
        if statuses.is_empty() {
            return Err(ConfigError::new(
                "health.statuses",
                "empty",
                "must have at least one status, or no check can pass",
            ));
        }
        match statuses
            .iter()
            .find(|status| !(200..=599).contains(*status))
        {
            Some(status) => Err(ConfigError::new(
                "health.statuses",
                status,
                "must be from 200 to 599",
            )),
            None => Ok(()),
        }
    }

    fn validate_body(&self) -> Result<(), ConfigError> {
        if self.body_limit == 0 {
            return Err(ConfigError::new(
                "health.body_limit",
                0,
                "must be at least 1",
            ));
        }
        let Some(contains) = &self.contains else {
            return Ok(());
        };
        let refused = |reason| {
            let text = String::from_utf8_lossy(contains);
            ConfigError::new("health.body_contains", format_args!("{text:?}"), reason)
        };
        if contains.is_empty() {
            Err(refused("must not be empty"))
        } else if contains.len() > self.body_limit {
            Err(refused("must not be longer than health.body_limit"))
        } else if self.method == Method::HEAD {
            Err(refused(
                "cannot be in the answer to a HEAD, which has no body",
            ))
        } else {
            Ok(())
        }
    }

    async fn exchange(&self, endpoint: &Endpoint) -> Result<Finding, Failure> {
        let stream = open(&endpoint.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_LIMIT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::exchange)?;
        let request = Request::builder()
            .method(&self.method)
            .uri(&self.path)
            .header(
                HOST,
                self.host.as_deref().unwrap_or(endpoint.address.authority()),
            )
            .header(CONNECTION, "close")
            .header(USER_AGENT, AGENT)
            .body(Empty::<Bytes>::new())
            .map_err(Failure::exchange)?;
        drive(connection, async {
            let response = sender.send_request(request).await;
            let (head, body) = response.map_err(Failure::exchange)?.into_parts();
            if let Some(said) = headers::said(&head.headers) {
                return Ok(said);
            }
            if !self.passes(head.status) {
                return Err(Failure::Status {
                    status: head.status,
                });
            }
            self.read(body).await
        })
        .await
    }

    fn passes(&self, status: StatusCode) -> bool {
        match &self.statuses {
            None => status.is_success(),
            Some(statuses) => statuses.contains(&status.as_u16()),
        }
    }

    // A server that cannot finish its own answer is not well, so that the body is read even if nothing is looked for.
    async fn read(&self, mut body: Incoming) -> Result<Finding, Failure> {
        let mut reading = Reading::new(self.contains.as_deref(), self.body_limit);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(Failure::exchange)?;
            if let Some(data) = frame.data_ref()
                && reading.feed(data)?
            {
                return Ok(Finding::Pass);
            }
        }
        reading.end().map(Finding::from)
    }
}

impl Check<Http> {
    /// The `Host` header. Default: host and port of the endpoint.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.probe.host = Some(host.into());
        self
    }

    /// The statuses that pass, such as `[200, 204]` or `200..=399`. Default: every 2xx.
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.probe.statuses = Some(statuses.into_iter().collect());
        self
    }

    /// A text that the body must contain. The rest of the body is not read then. Default: none, and the whole body must come.
    pub fn body_contains(mut self, text: impl Into<Bytes>) -> Self {
        self.probe.contains = Some(text.into());
        self
    }

    /// How many bytes of the body are read at most; a longer one fails, except when the wanted text came before. Default 64 KiB: a
    /// readiness answer is small, and one that is not is no readiness answer.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.probe.body_limit = bytes;
        self
    }
}

impl Ask for Http {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.method == Method::CONNECT {
            return Err(ConfigError::new(
                "health.method",
                &self.method,
                "must not be CONNECT, which asks for no path",
            ));
        }
        self.path()?;
        self.validate_host()?;
        self.validate_statuses()?;
        self.validate_body()
    }

    fn ask(&self, endpoint: Endpoint) -> Answer<'_> {
        Box::pin(async move { self.exchange(&endpoint).await })
    }
}

impl Probe for Http {}
