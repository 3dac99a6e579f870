//! A client that behaves like a browser.
//!
//! - A name resolves to several addresses. It keeps to one that works, keeps its connection alive, and goes through
//!   the others, once each, when it cannot connect or the connection breaks before an answer is complete.
//! - Only what is safe to repeat is sent again: safe and idempotent methods, and requests with an `Idempotency-Key`;
//!   others only when nothing of them can have been sent.
//! - An answer is an answer: it never sends again because of a status. That is for the page to decide.
//! - It keeps cookies and sends them back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Loopback connects in microseconds; a listener that does not accept is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than any deadline of the edges: then it is they who decide. People have left by then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer it takes, so that a broken server cannot fill the memory.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// What a page asks its browser to send.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) body: Option<serde_json::Value>,
    pub(crate) key: Option<String>,
}

impl Ask {
    pub(crate) fn get(path: &'static str) -> Self {
        Self {
            method: Method::GET,
            path,
            body: None,
            key: None,
        }
    }

    pub(crate) fn new(method: Method, path: &'static str, body: serde_json::Value) -> Self {
        Self {
            method,
            path,
            body: Some(body),
            key: None,
        }
    }

    pub(crate) fn key(mut self, key: String) -> Self {
        self.key = Some(key);
        self
    }

    fn repeatable(&self) -> bool {
        self.method.is_idempotent() || self.key.is_some()
    }
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// How often the request was sent again before this answer came.
    pub(crate) again: u64,
}

/// No answer from any address.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct NoAnswer {
    pub(crate) reason: String,
    /// Whether it is certain that no server has seen the request.
    pub(crate) unsent: bool,
    pub(crate) again: u64,
}

/// Why one attempt at one address failed.
struct Failed {
    reason: String,
    unsent: bool,
}

impl Failed {
    fn unsent(reason: String) -> Self {
        Self {
            reason,
            unsent: true,
        }
    }

    fn broken(reason: String) -> Self {
        Self {
            reason,
            unsent: false,
        }
    }
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// One browser of one person.
#[derive(Debug)]
pub(crate) struct Browser {
    addresses: Vec<SocketAddr>,
    /// The address it keeps to.
    favourite: usize,
    connection: Option<Connection>,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    /// A browser for which the name resolves to `addresses` (not empty), `favourite` first.
    pub(crate) fn new(addresses: Vec<SocketAddr>, favourite: usize) -> Self {
        let favourite = favourite % addresses.len();
        Self {
            addresses,
            favourite,
            connection: None,
            cookies: BTreeMap::new(),
        }
    }

    /// A private window: nothing is remembered.
    pub(crate) fn forget(&mut self) {
        self.cookies.clear();
    }

    /// Sends to one address after the other until one answers; each gets one chance, besides a kept connection that
    /// turns out to be dead.
    pub(crate) async fn send(&mut self, ask: &Ask) -> Result<Answer, NoAnswer> {
        let mut again = 0;
        let mut reasons = Vec::new();
        let mut unsent = true;
        let first = self.favourite;
        for step in 0..self.addresses.len() {
            let index = (first + step) % self.addresses.len();
            if index != self.favourite {
                self.favourite = index;
                self.connection = None;
            }
            // A kept connection may have died unnoticed: that says nothing about the address.
            let kept = self.connection.is_some();
            for _ in 0..=usize::from(kept) {
                match self.attempt(ask).await {
                    Ok(answer) => {
                        self.remember(&answer.headers);
                        return Ok(Answer { again, ..answer });
                    }
                    Err(failed) => {
                        self.connection = None;
                        reasons.push(format!("{}: {}", self.addresses[index], failed.reason));
                        unsent &= failed.unsent;
                        if !failed.unsent && !ask.repeatable() {
                            return Err(NoAnswer {
                                reason: reasons.join("; "),
                                unsent,
                                again,
                            });
                        }
                        again += 1;
                    }
                }
            }
        }
        // The last failure was not followed by another attempt.
        Err(NoAnswer {
            reason: reasons.join("; "),
            unsent,
            again: again.saturating_sub(1),
        })
    }

    async fn attempt(&mut self, ask: &Ask) -> Result<Answer, Failed> {
        let request = self
            .request(ask)
            .map_err(|error| Failed::unsent(error.to_string()))?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let exchange = async {
            connection
                .sender
                .ready()
                .await
                .map_err(|error| Failed::unsent(chain(&error)))?;
            let sent = connection.sender.try_send_request(request).await;
            let response = sent.map_err(|mut error| match error.take_message() {
                Some(_) => Failed::unsent(chain(error.error())),
                None => Failed::broken(chain(error.error())),
            })?;
            let (head, body) = response.into_parts();
            let body = http_body_util::Limited::new(body, BODY_LIMIT)
                .collect()
                .await;
            let body = body.map_err(|error| Failed::broken(format!("truncated: {error}")))?;
            let body = body.to_bytes();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                again: 0,
            })
        };
        let late = |_| Failed::broken(format!("no answer within {ANSWER_TIMEOUT:?}"));
        let answer = timeout(ANSWER_TIMEOUT, exchange).await.map_err(late)??;
        self.connection = Some(connection);
        Ok(answer)
    }

    async fn connect(&self) -> Result<Connection, Failed> {
        let address = self.addresses[self.favourite];
        let late = |_| Failed::unsent(format!("no connection within {CONNECT_TIMEOUT:?}"));
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(late)?;
        let stream = stream.map_err(|error| Failed::unsent(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, driver) = shaken.map_err(|error| Failed::unsent(chain(&error)))?;
        let driver = tokio::spawn(async move {
            // Its errors reach the sender as well.
            let _ = driver.await;
        });
        Ok(Connection { sender, driver })
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::builder().method(&ask.method).uri(ask.path);
        request = request.header(HOST, format!("localhost:{}", self.addresses[0].port()));
        if let Some(key) = &ask.key {
            request = request.header("idempotency-key", key);
        }
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self
                .cookies
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            request = request.header(COOKIE, pairs.join("; "));
        }
        match &ask.body {
            Some(body) => request
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(Full::new(Bytes::from(body.to_string()))),
            None => request.body(Full::default()),
        }
    }

    fn remember(&mut self, headers: &HeaderMap) {
        for line in headers.get_all(SET_COOKIE) {
            let Ok(line) = line.to_str() else { continue };
            let mut parts = line.split(';').map(str::trim);
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
                continue;
            };
            let ended = parts.any(|attribute| {
                let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
                name.eq_ignore_ascii_case("max-age")
                    && value.trim().parse().is_ok_and(|age: i64| age <= 0)
            });
            if ended || value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}

/// An error with what caused it: hyper's own text alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
