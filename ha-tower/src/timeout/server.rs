use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ha_core::config::ConfigError;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::ResponseFuture;
use super::deadline::Deadline;
use super::header::Told;
use super::metrics::Side;
use super::reply::Form;
use crate::body::Buffered;

/// Honours the time that callers say they have left.
///
/// Reads [`TIMEOUT_MS`](super::TIMEOUT_MS), and `grpc-timeout` of a gRPC request; the shorter of both counts. Then, in this
/// order:
///
/// 1. Less than [`minimum`](ServerBuilder::minimum) is left: refused at once, the service inside is not called.
/// 2. More than [`maximum`](ServerBuilder::maximum) is told: it counts as the maximum. Nobody can keep this server working
///    for longer than it wants.
/// 3. Nothing is told, or nothing that can be read: [`without_header`](ServerBuilder::without_header).
/// 4. A [`Deadline`] that a layer further out has set and that is earlier wins.
///
/// The service inside finds the result as [`Deadline`] among the request's extensions, and is dropped when it has passed. The
/// answer is then, and when refused, `504` with a problem document; a gRPC request gets status 4 (`DEADLINE_EXCEEDED`) as
/// trailers only.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer {
    config: Config,
}

#[derive(Clone, Copy, Debug)]
struct Config {
    minimum: Duration,
    maximum: Duration,
    without_header: Duration,
}

impl DeadlineLayer {
    /// The server's side with its defaults: at most 30 s, refused below 1 ms, 30 s for who tells nothing.
    #[must_use]
    pub const fn server() -> Self {
        let maximum = Duration::from_secs(30);
        Self {
            config: Config {
                minimum: Duration::from_millis(1),
                maximum,
                without_header: maximum,
            },
        }
    }

    /// The server's side, to change its numbers.
    pub const fn builder() -> ServerBuilder {
        let Self { config } = Self::server();
        ServerBuilder {
            minimum: config.minimum,
            maximum: config.maximum,
            without_header: None,
        }
    }
}

/// Sets the numbers of a [`DeadlineLayer`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct ServerBuilder {
    minimum: Duration,
    maximum: Duration,
    without_header: Option<Duration>,
}

impl ServerBuilder {
    /// With less than this left a request is refused at once. Default 1 ms: less is gone before an answer is back. Set it to
    /// what the fastest answer of the service takes.
    pub const fn minimum(mut self, rest: Duration) -> Self {
        self.minimum = rest;
        self
    }

    /// The longest that a caller is believed. Default 30 s, what many clients wait by default.
    pub const fn maximum(mut self, rest: Duration) -> Self {
        self.maximum = rest;
        self
    }

    /// What a caller has that tells nothing or garbage. Default [`maximum`](Self::maximum).
    pub const fn without_header(mut self, rest: Duration) -> Self {
        self.without_header = Some(rest);
        self
    }

    /// The layer.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense, and its value: zero, more than a day, a minimum above
    /// the maximum, or a `without_header` that is not between the two.
    pub fn build(self) -> Result<DeadlineLayer, ConfigError> {
        let without_header = self.without_header.unwrap_or(self.maximum);
        for (field, value) in [
            ("deadline.minimum", self.minimum),
            ("deadline.maximum", self.maximum),
            ("deadline.without_header", without_header),
        ] {
            ConfigError::positive(field, value)?;
            ConfigError::at_most_a_day(field, value)?;
        }
        if self.minimum > self.maximum {
            return Err(ConfigError::new(
                "deadline.minimum",
                format_args!("{:?}", self.minimum),
                "must not be longer than deadline.maximum",
            ));
        }
        if !(self.minimum..=self.maximum).contains(&without_header) {
            return Err(ConfigError::new(
                "deadline.without_header",
                format_args!("{without_header:?}"),
                "must be from deadline.minimum to deadline.maximum",
            ));
        }
        let config = Config {
            minimum: self.minimum,
            maximum: self.maximum,
            without_header,
        };
        Ok(DeadlineLayer { config })
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = ServerDeadline<S>;

    fn layer(&self, inner: S) -> ServerDeadline<S> {
        ServerDeadline {
            inner,
            config: self.config,
        }
    }
}

/// The service made by [`DeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ServerDeadline<S> {
    inner: S,
    config: Config,
}

impl Config {
    /// What a request has that came with these headers.
    fn rest(&self, told: Told) -> Duration {
        if told.malformed {
            Side::Server.malformed();
            crate::trace::debug!("a header told a rest of time that cannot be read");
        }
        match told.rest {
            None => self.without_header,
            Some(rest) if rest > self.maximum => {
                Side::Server.clamped();
                self.maximum
            }
            Some(rest) => rest,
        }
    }
}

impl<S, B, R> Service<Request<B>> for ServerDeadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<Buffered<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = Instant::now();
        let form = Form::of(request.headers());
        let rest = self.config.rest(Told::read(request.headers()));
        let deadline = Deadline::after(now, rest).narrow(request.extensions_mut());
        if deadline.remaining(now) < self.config.minimum {
            Side::Server.refused();
            return ResponseFuture::refused(form, Side::Server);
        }
        ResponseFuture::called(self.inner.call(request), deadline, form, Side::Server)
    }
}
