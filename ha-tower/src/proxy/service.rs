use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use ha_core::config::ConfigError;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use super::{REQUEST_ID, headers};
use crate::body::{BoxError, Buffered, ReplayError};
use crate::health::DRAINING;
use crate::problem::Problem;
use crate::upstream;

/// Passes requests on to a client and answers for it when it fails.
///
/// Ready at all times: the client's readiness is driven within each call. Its error type is [`Infallible`], so it can be
/// axum's `fallback_service` as it is.
#[derive(Clone, Debug)]
pub struct ReverseProxy<C> {
    client: C,
    config: Arc<Config>,
}

#[derive(Clone, Debug)]
struct Config {
    name: String,
    scheme: &'static str,
    trust_forwarded: bool,
}

impl<C> ReverseProxy<C> {
    /// A proxy in front of `client` with the defaults of its [`Builder`].
    #[must_use]
    pub fn new(client: C) -> Self {
        Self::from_builder(Self::builder(client))
    }

    /// A proxy in front of `client`, to change its settings.
    pub fn builder(client: C) -> Builder<C> {
        let config = Config {
            name: format!("ha-{:08x}", fastrand::u32(..)),
            scheme: "http",
            trust_forwarded: false,
        };
        Builder { client, config }
    }

    fn from_builder(builder: Builder<C>) -> Self {
        Self {
            client: builder.client,
            config: Arc::new(builder.config),
        }
    }
}

/// Settings of a [`ReverseProxy`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder<C> {
    client: C,
    config: Config,
}

impl<C> Builder<C> {
    /// The pseudonym in `Via`, by which a request that comes round again is recognised. Two proxies that may stand in
    /// one chain need two names. Default `ha-` and eight random digits.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Says `https` in `X-Forwarded-Proto`, because TLS ends in front of this proxy. Default `http`.
    pub fn https(mut self) -> Self {
        self.config.scheme = "https";
        self
    }

    /// Whether whoever connects is trusted to say who the client was: then `X-Forwarded-For` grows by one address, and
    /// `X-Forwarded-Proto`, `-Host` and the like are kept. Default false, since otherwise any client can claim any
    /// address.
    pub fn trust_forwarded(mut self, trust: bool) -> Self {
        self.config.trust_forwarded = trust;
        self
    }

    /// The proxy.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the name is not a token of letters, digits, `-`, `.` and `_`.
    pub fn build(self) -> Result<ReverseProxy<C>, ConfigError> {
        let name = &self.config.name;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(ConfigError::new(
                "proxy.name",
                format_args!("{name:?}"),
                "must be letters, digits, '-', '.' and '_', at least one",
            ));
        }
        Ok(ReverseProxy::from_builder(self))
    }
}

impl<C, B, R> Service<Request<B>> for ReverseProxy<C>
where
    C: Service<Request<B>, Response = Response<R>> + Clone,
    C::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
{
    type Response = Response<Buffered<R>>;
    type Error = Infallible;
    type Future = ResponseFuture<C, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let config = Arc::clone(&self.config);
        let request_id = headers::ensure_request_id(&mut head.headers);
        let state = match headers::check(&head, &config.name) {
            Err(refusal) => State::Refused { refusal },
            Ok(()) => {
                headers::remove_hop_by_hop(&mut head.headers);
                // `Connection: x-request-id` would have taken the id away.
                head.headers.insert(REQUEST_ID, request_id.clone());
                headers::to_origin_form(&mut head);
                headers::set_forwarded(&mut head, config.scheme, config.trust_forwarded);
                headers::add_via(&mut head.headers, head.version, &config.name);
                head.version = Version::HTTP_11;
                let request = Request::from_parts(head, body);
                State::Sent {
                    response: Oneshot::new(self.client.clone(), request),
                }
            }
        };
        ResponseFuture {
            config,
            request_id,
            state,
        }
    }
}

pin_project! {
    /// The response of [`ReverseProxy`].
    #[derive(Debug)]
    pub struct ResponseFuture<C, B>
    where
        C: Service<Request<B>>,
    {
        config: Arc<Config>,
        request_id: HeaderValue,
        #[pin]
        state: State<C, B>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<C, B>
    where
        C: Service<Request<B>>,
    {
        Refused { refusal: headers::Refusal },
        Sent { #[pin] response: Oneshot<C, Request<B>> },
    }
}

impl<C, B, R> Future for ResponseFuture<C, B>
where
    C: Service<Request<B>, Response = Response<R>>,
    C::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<Buffered<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.state.project() {
            StateProj::Refused { refusal } => Problem::new(refusal.status)
                .detail(refusal.detail)
                .request_id(this.request_id.clone())
                .into_response(),
            StateProj::Sent { response } => match ready!(response.poll(cx)) {
                // The request carried no `Upgrade`; passed on, it would turn the client's connection into a tunnel.
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    Problem::new(StatusCode::BAD_GATEWAY)
                        .detail("the endpoint switched protocols unasked")
                        .request_id(this.request_id.clone())
                        .into_response()
                }
                Ok(mut response) => {
                    headers::remove_hop_by_hop(response.headers_mut());
                    // The endpoint leaves, and not this proxy.
                    response.headers_mut().remove(DRAINING);
                    let version = response.version();
                    headers::add_via(response.headers_mut(), version, &this.config.name);
                    *response.version_mut() = Version::HTTP_11;
                    response.map(Buffered::stream)
                }
                Err(error) => {
                    let error = error.into();
                    crate::trace::warn!(
                        request_id = ?this.request_id,
                        error = &*error as &(dyn Error + 'static),
                        "request failed"
                    );
                    describe(&*error)
                        .request_id(this.request_id.clone())
                        .into_response()
                }
            },
        };
        response
            .headers_mut()
            .insert(REQUEST_ID, this.request_id.clone());
        Poll::Ready(Ok(response))
    }
}

/// Says what failed without saying where: addresses of endpoints are for the log.
fn describe(error: &(dyn Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<upstream::Error>() {
            if error.is_unavailable() {
                return Problem::new(StatusCode::SERVICE_UNAVAILABLE)
                    .detail("no endpoint is available")
                    .retry_after(Duration::from_secs(1));
            }
            if error.is_full() {
                return Problem::new(StatusCode::SERVICE_UNAVAILABLE)
                    .detail("the endpoint has too much to do")
                    .retry_after(Duration::from_secs(1));
            }
            if error.is_timeout() {
                return Problem::new(StatusCode::GATEWAY_TIMEOUT)
                    .detail("the endpoint did not answer in time");
            }
        } else if let Some(ReplayError::Body(_)) = error.downcast_ref() {
            return Problem::new(StatusCode::BAD_REQUEST).detail("the request body broke off");
        }
        cause = error.source();
    }
    Problem::new(StatusCode::BAD_GATEWAY).detail("the exchange with the endpoint failed")
}
