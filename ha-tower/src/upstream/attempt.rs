use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "tracing")]
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ha_core::endpoint::{Endpoint, EndpointKey};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tower::BoxError;
use tower_service::Service;

use super::connect::{Client, Counts, Options, Progress, Received};
use super::meter::Meter;
use super::{ConnectError, Error};
use crate::timeout;

pub(super) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Sends one attempt to one endpoint. Owns the connections to it, so that they close when it is removed.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    client: Client,
    key: EndpointKey,
    limit: Duration,
    meter: Meter,
    #[cfg(feature = "tracing")]
    upstream: Arc<str>,
}

impl Attempt {
    pub(super) fn new(
        upstream: &str,
        endpoint: &Endpoint,
        options: &Options,
        limit: Duration,
    ) -> Self {
        let meter = Meter::new(upstream, &endpoint.key);
        Self {
            client: Client::new(&endpoint.address, options, &meter),
            key: endpoint.key.clone(),
            limit,
            meter,
            #[cfg(feature = "tracing")]
            upstream: upstream.into(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.client.counts()
    }

    async fn send(self, request: Request<RequestBody>) -> Result<Response<Received>, Error> {
        let mut attempted = self.meter.begin();
        let result = self.exchange(request).await;
        attempted.ended(&result);
        result.map(|response| response.map(|received| received.part_of(attempted)))
    }

    async fn exchange(
        self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Received>, Error> {
        timeout::limit_attempt(&mut request, self.limit);
        let progress = Progress::default();
        let late = tokio::time::sleep(self.limit);
        tokio::select! {
            biased;
            result = self.client.send(request, &progress) => {
                result.map_err(|failure| Error::from_failure(self.key, failure))
            }
            () = late => Err(self.too_late(&progress)),
        }
    }
}

impl Attempt {
    fn too_late(self, progress: &Progress) -> Error {
        let (endpoint, limit) = (self.key, self.limit);
        if progress.is_dialling() {
            // A limit shorter than the connect timeout must not hide that the endpoint cannot be reached.
            let source = ConnectError::Timeout { limit };
            return Error::Connect { endpoint, source };
        }
        Error::Timeout {
            endpoint,
            limit,
            sent: progress.is_sent(),
        }
    }
}

impl Service<Request<RequestBody>> for Attempt {
    type Response = Response<Received>;
    type Error = Error;
    // Sending on a hyper connection is a future without a name.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Received>, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let attempt = self.clone();
        #[cfg(feature = "tracing")]
        {
            use tracing::Instrument as _;
            let (upstream, endpoint) = (&*attempt.upstream, &attempt.key);
            let span = tracing::debug_span!("attempt", upstream, %endpoint);
            if !span.is_disabled() {
                return Box::pin(attempt.send(request).instrument(span));
            }
        }
        Box::pin(attempt.send(request))
    }
}

pub(super) fn boxed<B>(body: B) -> RequestBody
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}
