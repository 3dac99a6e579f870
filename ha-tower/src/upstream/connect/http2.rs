//! HTTP/2: a connection carries many requests as streams, and the fewest connections that suffice are open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use ha_core::endpoint::Address;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;

use super::super::attempt::RequestBody;
use super::client::{Base, Failure, Progress, Received, Unanswered};
use super::driver::{Driver, Keeper};
use super::io::{Io, Wrote};
use super::limits::{Counts, Open};
use super::{ConnectError, Http2};
use crate::clock;

/// The HTTP/2 connections to one endpoint.
#[derive(Debug)]
pub(in super::super) struct Pool {
    base: Base,
    authority: Option<Authority>,
    settings: Http2,
    max: usize,
    connections: Mutex<Vec<Arc<Shared>>>,
    // One connects for all that wait. Keeps when connecting failed last, and why.
    opening: tokio::sync::Mutex<Option<(Instant, ConnectError)>>,
}

/// A connection as its streams share it.
#[derive(Debug)]
struct Shared {
    sender: SendRequest<RequestBody>,
    expiry: Option<Instant>,
    // What the endpoint allows, as far as it has said so.
    allowed: AtomicUsize,
    streams: Mutex<Streams>,
}

#[derive(Debug)]
struct Streams {
    open: usize,
    idle_since: Instant,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one request on a connection, until this is dropped.
#[derive(Debug)]
pub(in super::super) struct Stream {
    connection: Arc<Shared>,
    reused: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl Stream {
    /// A place on the connection if fewer than `limit` are taken.
    fn take(connection: &Arc<Shared>, limit: usize, reused: bool) -> Option<Self> {
        let mut streams = connection.streams();
        if streams.open >= limit {
            return None;
        }
        streams.open += 1;
        Some(Self {
            connection: connection.clone(),
            reused,
            permit: None,
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut streams = self.connection.streams();
        streams.open -= 1;
        if streams.open == 0 {
            streams.idle_since = clock::now();
        }
        drop(streams);
        // Whoever gets it next finds the place.
        drop(self.permit.take());
    }
}

impl Pool {
    pub(super) fn new(address: &Address, base: Base, settings: Http2, max: u32) -> Self {
        Self {
            base,
            authority: address.authority().parse().ok(),
            settings,
            max: max.try_into().unwrap_or(usize::MAX),
            connections: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Received>, Failure> {
        // With a protocol it asks for a stream of another kind (RFC 8441).
        if request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none() {
            return Err(Failure::tunnel());
        }
        self.address(&mut request)
            .map_err(|error| Failure::Request(error.into()))?;
        let mut permit = Some(self.base.limits.slot().await?);
        loop {
            let mut stream = self.stream(progress).await?;
            stream.permit = permit.take();
            crate::timeout::tell(&mut request);
            progress.send();
            let mut sender = stream.connection.sender.clone();
            match sender
                .try_send_request(request)
                .await
                .map_err(Unanswered::from)
            {
                Ok(response) => {
                    return Ok(response.map(|incoming| Received::on_stream(incoming, stream)));
                }
                Err(Unanswered::Returned(returned, _)) if stream.reused => {
                    progress.start_over();
                    request = *returned;
                    permit = stream.permit.take();
                    self.forget(&stream.connection);
                }
                Err(Unanswered::Returned(_, error)) => return Err(Failure::Unsent(error)),
                Err(Unanswered::Lost(error)) if was_refused(&error) => {
                    return Err(Failure::Unsent(error));
                }
                Err(Unanswered::Lost(error)) => return Err(Failure::Broken(error)),
            }
        }
    }

    /// A `Host` field of the caller becomes the authority, as RFC 9113 wants it, and else the endpoint's is.
    fn address(&self, request: &mut Request<RequestBody>) -> Result<(), http::Error> {
        *request.version_mut() = Version::HTTP_2;
        let host = request.headers_mut().remove(HOST);
        let given = |host: HeaderValue| Authority::try_from(host.as_bytes()).ok();
        let path = request.uri().path_and_query().cloned();
        let mut target = Uri::builder()
            .scheme(Scheme::HTTP)
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if let Some(authority) = host.and_then(given).or_else(|| self.authority.clone()) {
            target = target.authority(authority);
        }
        *request.uri_mut() = target.build()?;
        Ok(())
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Shared>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn stream(self: &Arc<Self>, progress: &Progress) -> Result<Stream, Failure> {
        if let Some(stream) = self.free() {
            return Ok(stream);
        }
        progress.dial();
        let asked = clock::now();
        let mut failed = self.opening.lock().await;
        // Meanwhile another may have connected, or tried to.
        if let Some(stream) = self.free() {
            return Ok(stream);
        }
        match &*failed {
            Some((at, error)) if *at >= asked => return Err(error.clone().into()),
            _ => {}
        }
        if let Some(stream) = self.least_busy() {
            return Ok(stream);
        }
        match self.open().await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                *failed = Some((clock::now(), error.clone()));
                Err(error.into())
            }
        }
    }

    /// A place on the first connection that has one, so that the last ones can go idle.
    fn free(&self) -> Option<Stream> {
        let mut connections = self.connections();
        connections.retain(|connection| !connection.sender.is_closed());
        connections.iter().find_map(|connection| {
            let allowed = connection.allowed.load(Ordering::Relaxed);
            let limit = allowed.clamp(1, self.settings.max_streams as usize);
            Stream::take(connection, limit, true)
        })
    }

    /// With all connections open and their streams taken, because the endpoint allows fewer than we do: the place to queue.
    fn least_busy(&self) -> Option<Stream> {
        let connections = self.connections();
        if connections.len() < self.max {
            return None;
        }
        let least = connections.iter().min_by_key(|c| c.streams().open)?;
        Stream::take(least, usize::MAX, true)
    }

    async fn open(self: &Arc<Self>) -> Result<Stream, ConnectError> {
        let opened = self.base.dialer.open(async |tcp| {
            let now = clock::now();
            let io = Io::new(tcp, Wrote::default(), self.base.limits.opened());
            let (sender, connection) = self.builder().handshake(io).await?;
            let shared = Arc::new(Shared {
                sender,
                expiry: self.base.expiry(now),
                allowed: AtomicUsize::new(connection.current_max_send_streams()),
                streams: Mutex::new(Streams {
                    open: 0,
                    idle_since: now,
                }),
            });
            let keeper = Keep {
                pool: Arc::downgrade(self),
                connection: Arc::downgrade(&shared),
            };
            let first_look = self.base.idle_until(now, shared.expiry) - now;
            tokio::spawn(Driver::new(connection, keeper, first_look));
            Ok(shared)
        });
        let shared = opened.await?;
        let mut connections = self.connections();
        // Before others can see it, so that the one that connected is among those that are served.
        let stream = Stream {
            connection: shared.clone(),
            reused: false,
            permit: None,
        };
        shared.streams().open = 1;
        connections.push(shared);
        Ok(stream)
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .adaptive_window(self.settings.adaptive_window)
            .keep_alive_interval(self.settings.keep_alive_interval)
            .keep_alive_timeout(self.settings.keep_alive_timeout);
        builder
    }

    fn forget(&self, gone: &Arc<Shared>) {
        self.connections()
            .retain(|connection| !Arc::ptr_eq(connection, gone));
    }

    pub(super) fn counts(&self) -> Counts {
        let connections = self.connections();
        let idle = connections.iter().filter(|c| c.streams().open == 0).count();
        self.base.limits.counts(idle)
    }
}

/// Whether the endpoint said that it has not looked at the request: the stream was refused, or it was younger than
/// the last one that the endpoint promised to answer when it said goodbye.
fn was_refused(error: &hyper::Error) -> bool {
    let Some(error) = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>())
    else {
        return false;
    };
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

struct Keep {
    pool: Weak<Pool>,
    connection: Weak<Shared>,
}

impl Keeper<Connection<Io<Open>, RequestBody, TokioExecutor>> for Keep {
    fn progressed(&mut self, connection: &Connection<Io<Open>, RequestBody, TokioExecutor>) {
        if let Some(shared) = self.connection.upgrade() {
            let allowed = connection.current_max_send_streams();
            shared.allowed.store(allowed, Ordering::Relaxed);
        }
    }

    fn look(&mut self, now: Instant) -> Option<Instant> {
        let pool = self.pool.upgrade()?;
        let connection = self.connection.upgrade()?;
        // Under the lock of the list, so that no request takes a place meanwhile.
        let mut connections = pool.connections();
        let streams = connection.streams();
        let old = connection.expiry.is_some_and(|expiry| expiry <= now);
        let end = match streams.open {
            0 => pool.base.idle_until(streams.idle_since, connection.expiry),
            _ => pool.base.idle_until(now, connection.expiry),
        };
        drop(streams);
        if old || end <= now {
            connections.retain(|other| !Arc::ptr_eq(other, &connection));
            return None;
        }
        Some(end)
    }

    fn ended(&mut self) {
        if let (Some(pool), Some(connection)) = (self.pool.upgrade(), self.connection.upgrade()) {
            pool.forget(&connection);
        }
    }
}
