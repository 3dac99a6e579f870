use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tower::BoxError;
use tower_service::Service;

use super::attempt::{Attempt, RequestBody, boxed};
use super::connect::Options;
use super::meter;
use super::protocol::UpstreamHttp;
use super::{Body, BuildError, Builder, EndpointSnapshot, Error};
use crate::balance::{self, Balance, Settings};
use crate::clock;
use crate::discover::Source;
use crate::health::Checks;
use crate::task::Owned;

/// Many endpoints behind one service. See the [module](super).
///
/// Clones are cheap and share everything. Health checks and discovery run until the last clone is dropped; requests in
/// flight do not hold them.
#[derive(Debug, Clone)]
pub struct Upstream {
    name: Arc<str>,
    balance: Balance<Attempt, UpstreamHttp>,
    // Only held.
    _background: Arc<Background>,
}

/// Ends with the last clone.
#[derive(Debug)]
struct Background {
    _ejector: Owned,
    _discovery: Owned,
}

impl Upstream {
    /// Settings of an upstream with this name, which appears in errors and logs.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(name.into())
    }

    pub(super) fn start(builder: Builder) -> Result<Self, BuildError> {
        let upstream = || builder.name.clone();
        let refused = |source| BuildError::Config {
            upstream: upstream(),
            source,
        };
        builder.validate().map_err(refused)?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime {
                upstream: upstream(),
            });
        }
        let first_pass = builder
            .health
            .as_ref()
            .is_some_and(|check| !check.starts_available());
        let name: Arc<str> = builder.name.clone().into();
        let settings = Settings {
            name: name.clone(),
            available_at_first: !first_pass,
            observes: true,
            ..builder.balancing
        };
        let balance = Balance::builder([])
            .settings(settings)
            .protocol(UpstreamHttp)
            .build()
            .map_err(refused)?;
        let Some(source) = builder.source else {
            return Err(BuildError::NoSource {
                upstream: upstream(),
            });
        };
        let checks = builder
            .health
            .map(|check| Checks::start(check, name.clone()))
            .transpose()
            .map_err(refused)?;
        let follower = Follower {
            balance: balance.clone(),
            checks,
            options: builder.options,
            limit: builder.attempt_timeout,
            name: name.clone(),
        };
        let background = Background {
            _ejector: Owned::spawn(balance.drive()),
            _discovery: follower.run(source),
        };
        Ok(Self {
            balance,
            _background: Arc::new(background),
            name,
        })
    }

    /// The name given to the builder.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is known about each endpoint now, ordered by key.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointSnapshot> {
        let now = clock::now();
        let mut endpoints: Vec<_> = self
            .balance
            .services()
            .iter()
            .map(|(endpoint, state, attempt)| {
                EndpointSnapshot::new(endpoint, state, attempt.counts(), now)
            })
            .collect();
        endpoints.sort_by(|a, b| a.key.cmp(&b.key));
        endpoints
    }

    /// Waits until at least one endpoint is available. Has no deadline of its own: put one around it.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ready(&self) {
        // A breaker becomes half-open by the passing of time alone, of which nothing tells.
        const LOOK_AGAIN: Duration = Duration::from_millis(100);
        loop {
            let changed = self.balance.changes().notify.notified();
            tokio::pin!(changed);
            // Before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            let now = clock::now();
            let available = |(endpoint, state): &(ha_core::endpoint::Endpoint, Arc<_>)| {
                let state: &balance::State = state;
                endpoint.weight.value() > 0 && state.is_available(now)
            };
            if self.balance.states().iter().any(available) {
                return;
            }
            let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
        }
    }
}

/// Applies each set of endpoints that discovery brings.
struct Follower {
    balance: Balance<Attempt, UpstreamHttp>,
    checks: Option<Checks>,
    options: Options,
    limit: Duration,
    name: Arc<str>,
}

impl Follower {
    fn run(mut self, source: Source) -> Owned {
        source.follow(self.name.clone(), move |endpoints| self.apply(endpoints))
    }

    fn apply(&mut self, endpoints: Vec<ha_core::endpoint::Endpoint>) {
        let updated = self.balance.update(endpoints, |endpoint| {
            Attempt::new(&self.name, endpoint, &self.options, self.limit)
        });
        if let Err(error) = updated {
            let error = &error as &dyn std::error::Error;
            crate::trace::error!(
                upstream = &*self.name,
                error,
                "set of endpoints refused, the last one stays"
            );
        }
        if let Some(checks) = &self.checks {
            checks.follow(self.balance.states());
        }
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

    /// Always ready: with nothing to pick, `call` answers [`Error::Unavailable`] at once.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture {
            inner: self.balance.call(request.map(boxed)),
            name: self.name.clone(),
        }
    }
}

pin_project_lite::pin_project! {
    /// The way of one request to its response head.
    ///
    /// # Cancel safety
    /// Dropping it cancels the attempt: an HTTP/1.1 connection on which a request was under way is closed. The
    /// application may have acted on the request.
    pub struct ResponseFuture {
        #[pin]
        inner: balance::ResponseFuture<Attempt, Request<RequestBody>, UpstreamHttp>,
        name: Arc<str>,
    }
}

impl std::fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("upstream", &self.name)
            .field("inner", &self.inner)
            .finish()
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match ready!(this.inner.poll(cx)) {
            Ok(response) => return Poll::Ready(Ok(response)),
            Err(error) => error,
        };
        let error = Error::from_balance(error, this.name);
        if error.is_unavailable() {
            meter::unavailable(this.name);
        }
        Poll::Ready(Err(error))
    }
}
