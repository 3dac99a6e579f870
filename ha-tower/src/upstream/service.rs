use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use ha_core::endpoint::Endpoint;
use http::{Request, Response};
use tower::BoxError;
use tower_service::Service;

use super::attempt::{Attempt, AttemptFuture, RequestBody, boxed};
use super::{Body, BuildError, Builder, EndpointSnapshot, Error};
use crate::discover::Kind;

/// Many endpoints behind one service. See the [module](self).
#[derive(Debug, Clone)]
pub struct Upstream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    members: Vec<(Endpoint, Attempt)>,
    next: AtomicUsize,
}

impl Upstream {
    /// Settings of an upstream with this name, which appears in errors and logs.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(name.into())
    }

    pub(super) fn start(builder: Builder) -> Result<Self, BuildError> {
        let upstream = || builder.name.clone();
        builder.validate().map_err(|source| BuildError::Config {
            upstream: upstream(),
            source,
        })?;
        let Some(source) = builder.source else {
            return Err(BuildError::NoSource {
                upstream: upstream(),
            });
        };
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime {
                upstream: upstream(),
            });
        }
        let Kind::Fixed(endpoints) = source.0;
        let members = endpoints
            .into_iter()
            .filter_map(|endpoint| {
                let attempt =
                    Attempt::new(&endpoint, builder.connect_timeout, builder.attempt_timeout)
                        .ok()?;
                Some((endpoint, attempt))
            })
            .collect();
        Ok(Self {
            inner: Arc::new(Inner {
                name: builder.name,
                members,
                next: AtomicUsize::new(0),
            }),
        })
    }

    /// The name given to the builder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What is known about each endpoint now.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointSnapshot> {
        self.inner
            .members
            .iter()
            .map(|(endpoint, _)| EndpointSnapshot {
                key: endpoint.key.clone(),
                address: endpoint.address.to_string(),
                weight: endpoint.weight.value(),
                available: true,
                health: ha_core::health::State::Unchecked,
                breaker: ha_core::breaker::State::Closed,
                in_flight: 0,
                latency_ms: 0.0,
                penalty_ms: 0.0,
            })
            .collect()
    }

    /// Waits until at least one endpoint is available. Has no deadline of its own: put one around it.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ready(&self) {
        std::future::ready(()).await;
    }
}

impl<B> Service<Request<B>> for Upstream
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let request: Request<RequestBody> = request.map(boxed);
        let n = self.inner.next.fetch_add(1, Ordering::Relaxed) % self.inner.members.len();
        ResponseFuture {
            inner: self.inner.members[n].1.clone().call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// The way of one request to its response head.
    pub struct ResponseFuture {
        #[pin]
        inner: AttemptFuture,
    }
}

impl std::fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project()
            .inner
            .poll(cx)
            .map_ok(|response| response.map(Body::new))
    }
}
