use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ha_core::endpoint::Address;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tower::BoxError;

use super::super::attempt::RequestBody;
use super::super::meter::{Attempted, Meter};
use super::dial::Dialer;
use super::limits::{Counts, Full, Limits};
use super::{ConnectError, Connections, http1};
#[cfg(feature = "http2")]
use super::{Http2, http2};

/// How connections are opened, the same for each endpoint.
#[derive(Debug, Clone)]
pub(in super::super) struct Options {
    pub(in super::super) connect_timeout: Duration,
    pub(in super::super) connections: Connections,
    #[cfg(feature = "http2")]
    pub(in super::super) http2: Option<Http2>,
}

/// Why there is no response head.
#[derive(Debug)]
pub(in super::super) enum Failure {
    Full,
    Connect(ConnectError),
    /// No byte of the request reached the application.
    Unsent(hyper::Error),
    Broken(hyper::Error),
    Request(BoxError),
}

impl Failure {
    pub(super) fn tunnel() -> Self {
        Self::Request("CONNECT asks for a tunnel, and an endpoint is no proxy".into())
    }
}

impl From<Full> for Failure {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

/// How far a request has come, for when its time is over.
#[derive(Debug, Default)]
pub(in super::super) struct Progress(AtomicU8);

impl Progress {
    const DIALLING: u8 = 1;
    const SENT: u8 = 2;

    /// It waits for a connection that is being opened.
    pub(super) fn dial(&self) {
        self.0.store(Self::DIALLING, Ordering::Relaxed);
    }

    /// It has been handed to a connection.
    pub(super) fn send(&self) {
        self.0.store(Self::SENT, Ordering::Relaxed);
    }

    /// The connection gave it back, so that it waits for another one.
    pub(super) fn start_over(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(in super::super) fn is_dialling(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::DIALLING
    }

    pub(in super::super) fn is_sent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::SENT
    }
}

/// What both protocols need.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) dialer: Dialer,
    pub(super) limits: Limits,
    pub(super) idle_timeout: Duration,
    max_age: Option<Duration>,
}

impl Base {
    fn new(
        address: &Address,
        options: &Options,
        requests_per_connection: u32,
        meter: &Meter,
    ) -> Self {
        let Connections {
            max, max_pending, ..
        } = options.connections;
        let slots = u64::from(max) * u64::from(requests_per_connection);
        Self {
            dialer: Dialer::new(address, options.connect_timeout, &options.connections),
            limits: Limits::new(slots.try_into().unwrap_or(usize::MAX), max_pending, meter),
            idle_timeout: options.connections.idle_timeout,
            max_age: options.connections.max_age,
        }
    }

    /// When a connection opened now takes its last request.
    pub(super) fn expiry(&self, now: Instant) -> Option<Instant> {
        let jitter = 1.0 - 0.1 * fastrand::f64();
        Some(now + self.max_age?.mul_f64(jitter))
    }

    /// The end of an idle time that began at `since`.
    pub(super) fn idle_until(&self, since: Instant, expiry: Option<Instant>) -> Instant {
        let idle = since + self.idle_timeout;
        expiry.map_or(idle, |expiry| expiry.min(idle))
    }
}

/// A request that a connection did not answer.
pub(super) enum Unanswered {
    /// The connection took none of it and gave it back.
    Returned(Box<Request<RequestBody>>, hyper::Error),
    Lost(hyper::Error),
}

impl From<TrySendError<Request<RequestBody>>> for Unanswered {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Returned(Box::new(request), error.into_error()),
            None => Self::Lost(error.into_error()),
        }
    }
}

/// The connections to one endpoint. Clones share them.
#[derive(Debug, Clone)]
pub(in super::super) enum Client {
    Http1(Arc<http1::Pool>),
    #[cfg(feature = "http2")]
    Http2(Arc<http2::Pool>),
}

impl Client {
    pub(in super::super) fn new(address: &Address, options: &Options, meter: &Meter) -> Self {
        #[cfg(feature = "http2")]
        if let Some(settings) = &options.http2 {
            let base = Base::new(address, options, settings.max_streams, meter);
            let pool = http2::Pool::new(address, base, settings.clone(), options.connections.max);
            return Self::Http2(Arc::new(pool));
        }
        let pool = http1::Pool::new(address, Base::new(address, options, 1, meter));
        Self::Http1(Arc::new(pool))
    }

    /// Waits for a place, takes or opens a connection, and sends the request. What was provably not sent on a pooled
    /// connection that turned out closed goes to another connection.
    ///
    /// # Cancel safety
    /// Dropping the future gives up its place; a connection that it opened or was using is closed (HTTP/1.1), or its
    /// stream is reset (HTTP/2).
    pub(in super::super) async fn send(
        &self,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Received>, Failure> {
        match self {
            Self::Http1(pool) => pool.send(request, progress).await,
            #[cfg(feature = "http2")]
            Self::Http2(pool) => pool.send(request, progress).await,
        }
    }

    pub(in super::super) fn counts(&self) -> Counts {
        match self {
            Self::Http1(pool) => pool.counts(),
            #[cfg(feature = "http2")]
            Self::Http2(pool) => pool.counts(),
        }
    }
}

/// The body of a response as it comes from a connection.
#[derive(Debug)]
pub(in super::super) struct Received {
    incoming: Incoming,
    attempted: Option<Attempted>,
    // Only held: the place of an HTTP/2 stream is taken until its body ends.
    #[cfg(feature = "http2")]
    _stream: Option<http2::Stream>,
}

impl Received {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            attempted: None,
            #[cfg(feature = "http2")]
            _stream: None,
        }
    }

    /// The attempt is in flight until the body has ended.
    pub(in super::super) fn part_of(mut self, attempted: Attempted) -> Self {
        self.attempted = (!self.incoming.is_end_stream()).then_some(attempted);
        self
    }

    #[cfg(feature = "http2")]
    pub(super) fn on_stream(incoming: Incoming, stream: http2::Stream) -> Self {
        Self {
            incoming,
            attempted: None,
            _stream: Some(stream),
        }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || self.incoming.is_end_stream() {
            self.attempted = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
