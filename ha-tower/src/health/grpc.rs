use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use ::http::header::{CONTENT_TYPE, TE, USER_AGENT};
use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ha_core::config::ConfigError;
use ha_core::endpoint::Endpoint;
use ha_core::health::Finding;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::task::JoinSet;

use super::connection::{drive, open};
use super::http::AGENT;
use super::probe::{Answer, Ask, Probe};
use super::{Check, Failure, headers};

const METHOD: &str = "/grpc.health.v1.Health/Check";
const SERVING: i32 = 1;
// The answer is an enum of one byte; unknown fields have some room.
const ANSWER_LIMIT: usize = 4096;

// `grpc.health.v1`, small enough to be written by hand.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A check by the standard gRPC health service (`grpc.health.v1.Health/Check`), over HTTP/2 with prior knowledge. Passes when the
/// answer is `SERVING`.
///
/// ```
/// use ha_tower::health::Grpc;
///
/// let check = Grpc::service("shop.Orders");
/// ```
#[derive(Debug, Clone)]
pub struct Grpc {
    service: String,
}

impl Grpc {
    /// Asks about the server as a whole.
    pub fn server() -> Check<Self> {
        Self::service("")
    }

    /// Asks about one service by its full name.
    pub fn service(name: impl Into<String>) -> Check<Self> {
        Check::new(Self {
            service: name.into(),
        })
    }

    async fn exchange(&self, endpoint: &Endpoint) -> Result<Finding, Failure> {
        let stream = open(&endpoint.address).await?;
        let tasks = Tasks::default();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(tasks.executor(), TokioIo::new(stream))
                .await
                .map_err(Failure::exchange)?;
        let request = Request::post(format!("http://{}{METHOD}", endpoint.address.authority()))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(Full::new(frame(&HealthCheckRequest {
                service: self.service.clone(),
            })))
            .map_err(Failure::exchange)?;
        drive(connection, async {
            let response = sender.send_request(request).await;
            judge(response.map_err(Failure::exchange)?).await
        })
        .await
    }
}

/// One uncompressed message with its length.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    bytes.put(&*message.encode_to_vec());
    bytes.freeze()
}

fn unframe(mut bytes: Bytes) -> Result<HealthCheckResponse, Failure> {
    if bytes.len() < 5 {
        return Err(Failure::exchange("the answer has no message"));
    }
    let compressed = bytes.get_u8() != 0;
    let length = bytes.get_u32() as usize;
    if compressed || bytes.len() < length {
        return Err(Failure::exchange("the answer is compressed or incomplete"));
    }
    HealthCheckResponse::decode(bytes.split_to(length)).map_err(Failure::exchange)
}

async fn judge(response: Response<Incoming>) -> Result<Finding, Failure> {
    let (head, body) = response.into_parts();
    if let Some(said) = headers::said(&head.headers) {
        return Ok(said);
    }
    if head.status != StatusCode::OK {
        return Err(Failure::Status {
            status: head.status,
        });
    }
    let body = Limited::new(body, ANSWER_LIMIT).collect().await;
    let body = body.map_err(Failure::Exchange)?;
    // An error without a message has its status in the head.
    grpc_status(body.trailers().unwrap_or(&head.headers))?;
    match unframe(body.to_bytes())?.status {
        SERVING => Ok(Finding::Pass),
        status => Err(Failure::NotServing { status }),
    }
}

fn grpc_status(headers: &HeaderMap) -> Result<(), Failure> {
    let code = headers.get("grpc-status").map(|code| code.as_bytes());
    match code {
        Some(b"0") => Ok(()),
        Some(code) => Err(Failure::GrpcStatus {
            code: String::from_utf8_lossy(code).into_owned(),
        }),
        None => Err(Failure::exchange("the answer has no gRPC status")),
    }
}

/// The tasks of one connection, which end with it.
#[derive(Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn executor(&self) -> Executor {
        Executor(self.0.clone())
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}

#[derive(Debug, Clone)]
struct Executor(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(task);
    }
}

impl Ask for Grpc {
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn ask(&self, endpoint: Endpoint) -> Answer<'_> {
        Box::pin(async move { self.exchange(&endpoint).await })
    }
}

impl Probe for Grpc {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_bytes_of_the_protocol() {
        let request = HealthCheckRequest {
            service: "a.B".to_owned(),
        };
        assert_eq!(&frame(&request)[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let empty = HealthCheckRequest::default();
        assert_eq!(&frame(&empty)[..], b"\0\0\0\0\0");
        for (bytes, status) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], 1),
            (b"\0\0\0\0\0", 0),
            // With an unknown field behind, and one more message.
            (b"\0\0\0\0\x06\x08\x02\x12\x02xx\0\0\0\0\0", 2),
        ] {
            let response = unframe(Bytes::from_static(bytes)).unwrap();
            assert_eq!(response.status, status);
        }
    }

    #[test]
    fn answers_that_are_no_messages_are_failures() {
        for bytes in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x03\x08\x01",
            b"\0\xff\xff\xff\xff\x08\x01",
            b"\0\0\0\0\x02\x0a\x07",
        ] {
            assert!(unframe(Bytes::from_static(bytes)).is_err(), "{bytes:?}");
        }
    }
}
