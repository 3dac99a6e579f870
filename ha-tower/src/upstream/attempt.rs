use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ha_core::endpoint::{Endpoint, EndpointKey};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::BoxError;
use tower_service::Service;

use super::Error;

pub(super) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Sends one attempt to one endpoint. Owns the connections to it, so that they close when it is removed.
#[derive(Clone)]
pub(super) struct Attempt {
    client: Client<HttpConnector, RequestBody>,
    key: EndpointKey,
    authority: Option<Authority>,
    limit: Duration,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Attempt {
    pub(super) fn new(endpoint: &Endpoint, connect: Duration, limit: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(connect));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            // A hidden retry would pass by the budget and the list of tried endpoints.
            .retry_canceled_requests(false)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self {
            client,
            key: endpoint.key.clone(),
            // An address that was parsed is an authority as well; if not, each request says so.
            authority: endpoint.address.authority().parse::<Authority>().ok(),
            limit,
        }
    }

    fn target(&self, uri: &Uri) -> Result<Uri, http::Error> {
        let path = uri.path_and_query().cloned();
        let mut builder = Uri::builder().scheme(Scheme::HTTP);
        if let Some(authority) = &self.authority {
            builder = builder.authority(authority.clone());
        }
        builder
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build()
    }
}

impl Service<Request<RequestBody>> for Attempt {
    type Response = Response<Incoming>;
    type Error = Error;
    type Future = AttemptFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> AttemptFuture {
        let sent = match self.target(request.uri()) {
            Ok(uri) => {
                *request.uri_mut() = uri;
                // The hop to the endpoint is HTTP/1.1 whatever the hop to here was.
                *request.version_mut() = Version::HTTP_11;
                Ok(self.client.request(request))
            }
            Err(source) => Err(Some(source.into())),
        };
        AttemptFuture {
            sent,
            sleep: tokio::time::sleep(self.limit),
            key: self.key.clone(),
            limit: self.limit,
        }
    }
}

pin_project_lite::pin_project! {
    /// One attempt, up to the response head.
    pub(super) struct AttemptFuture {
        sent: Result<legacy::ResponseFuture, Option<BoxError>>,
        #[pin]
        sleep: tokio::time::Sleep,
        key: EndpointKey,
        limit: Duration,
    }
}

impl Future for AttemptFuture {
    type Output = Result<Response<Incoming>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let endpoint = || this.key.clone();
        let sent = match this.sent {
            Ok(sent) => sent,
            Err(source) => {
                return match source.take() {
                    Some(source) => Poll::Ready(Err(Error::Request {
                        endpoint: endpoint(),
                        source,
                    })),
                    // Polled after it was ready, which the contract leaves open.
                    None => Poll::Pending,
                };
            }
        };
        if let Poll::Ready(result) = Pin::new(sent).poll(cx) {
            return Poll::Ready(result.map_err(|e| Error::from_client(endpoint(), e)));
        }
        if this.sleep.poll(cx).is_ready() {
            return Poll::Ready(Err(Error::Timeout {
                endpoint: endpoint(),
                limit: *this.limit,
            }));
        }
        Poll::Pending
    }
}

pub(super) fn boxed<B>(body: B) -> RequestBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}
