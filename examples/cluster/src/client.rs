//! A small HTTP client for the admin addresses of edges and apps: one request, one bounded answer, one deadline.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest answer that is read.
const MAX_BODY: usize = 1024 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens there, or the connection broke.
    #[error("no connection to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The exchange broke.
    #[error("{address} did not answer properly")]
    Http {
        /// Where.
        address: SocketAddr,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{address} did not answer within {limit:?}")]
    Timeout {
        /// Where.
        address: SocketAddr,
        /// The deadline.
        limit: Duration,
    },
}

/// Sends a request without a body and reads the whole answer.
///
/// # Errors
/// See [`Error`].
pub async fn send(
    method: Method,
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<(StatusCode, Bytes), Error> {
    timeout(limit, exchange(method, address, path))
        .await
        .map_err(|_| Error::Timeout { address, limit })?
}

async fn exchange(
    method: Method,
    address: SocketAddr,
    path: &str,
) -> Result<(StatusCode, Bytes), Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Http { address, source };
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| Error::Connect { address, source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(e.into()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, address.to_string())
        .body(Full::<Bytes>::default())
        .map_err(|e| failed(e.into()))?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| failed(e.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(failed)?;
        Ok((status, body.to_bytes()))
    };
    // The connection is polled beside the exchange rather than spawned, so that both end together.
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(e) => Err(failed(e.into())),
        },
    }
}
