use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ha_core::config::ConfigError;
use ha_core::drain::Phase;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;

use super::handle::{Drain, Report};
use crate::body::BoxError;
use crate::proxy::Peer;

pub(crate) const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What [`serve`] can serve: any `Clone` service that never fails, such as an axum `Router`. Implemented for all of them,
/// and not to be implemented by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served",
    note = "a service of `Request<hyper::body::Incoming>` is needed that is `Clone + Send + 'static`, whose error is `Infallible`, \
            whose future is `Send`, and whose response body yields `Bytes`"
)]
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<Self::ResponseBody>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
    /// The body of its responses.
    type ResponseBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl<S, R> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<R>, Error = Infallible, Future: Send>,
    S: Clone + Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = R;
}

/// Serves HTTP/1.1 on `listener` until `drain` has run its course, with the defaults of [`Server`].
///
/// Never returns before [`Drain::start`].
///
/// # Cancel safety
///
/// Dropping the future closes the listener and cuts every connection at once.
pub async fn serve(listener: TcpListener, service: impl HttpService, drain: Drain) -> Report {
    Server::new(drain).serve(listener, service).await
}

/// An HTTP/1.1 server that drains.
#[derive(Clone, Debug)]
#[must_use = "a server does nothing until it serves"]
pub struct Server {
    drain: Drain,
    header_read_timeout: Duration,
}

/// Settings of a [`Server`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct ServerBuilder(Server);

impl ServerBuilder {
    /// How long a client may take to send a request head, counted from the connection's start or from the end of the
    /// request before; an idle connection is closed then, too. Default 10 s, which is ample for anyone who is not
    /// holding connections on purpose.
    pub const fn header_read_timeout(mut self, limit: Duration) -> Self {
        self.0.header_read_timeout = limit;
        self
    }

    /// The server.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the header read timeout is zero, which would serve nobody, or longer than a day.
    pub fn build(self) -> Result<Server, ConfigError> {
        const FIELD: &str = "server.header_read_timeout";
        ConfigError::positive(FIELD, self.0.header_read_timeout)?;
        ConfigError::at_most_a_day(FIELD, self.0.header_read_timeout)?;
        Ok(self.0)
    }
}

impl Server {
    /// A server that obeys `drain`, with the defaults of its [`ServerBuilder`].
    pub const fn new(drain: Drain) -> Self {
        Self {
            drain,
            header_read_timeout: HEADER_READ_TIMEOUT,
        }
    }

    /// A server that obeys `drain`, to change its settings.
    pub const fn builder(drain: Drain) -> ServerBuilder {
        ServerBuilder(Self::new(drain))
    }

    /// Serves until the drain has run its course, and says what it cut.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and cuts every connection at once.
    pub async fn serve(self, listener: TcpListener, service: impl HttpService) -> Report {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let connect = |accepted, watcher| self.connection(accepted, service.clone(), watcher);
        let watched = |accepted| connect(accepted, Some(graceful.watcher()));
        accept_until(self.drain.signalled(), &listener, &mut connections, watched).await;
        for accepted in queued(listener) {
            // Not watched: hyper would close them at once, their first request unread. The drain's layer closes each
            // after its first response.
            connections.spawn(connect(accepted, None));
        }

        let finished = async {
            graceful.shutdown().await;
            while connections.join_next().await.is_some() {}
        };
        let deadline = self.drain.reached(Phase::Deadline);
        let in_time = tokio::select! {
            biased;
            () = finished => true,
            () = deadline => false,
        };
        if in_time {
            return Report::default();
        }
        while connections.try_join_next().is_some() {}
        let report = Report {
            requests_cut: self.drain.in_flight(),
            connections_cut: connections.len(),
        };
        crate::trace::warn!(?report, "drain deadline reached");
        connections.shutdown().await;
        report
    }

    fn connection<S: HttpService>(
        &self,
        (stream, peer): (TcpStream, SocketAddr),
        service: S,
        watcher: Option<Watcher>,
    ) -> impl Future<Output = ()> + Send + use<S> {
        // Small answers must not wait for the acknowledgement of the ones before.
        let _ = stream.set_nodelay(true);
        let service =
            self.drain
                .layer()
                .layer(service)
                .map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(Peer(peer));
                    request
                });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_read_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        async move {
            let ended = match watcher {
                Some(watcher) => watcher.watch(connection).await,
                None => connection.await,
            };
            if let Err(error) = ended {
                crate::trace::debug!(%peer, error = &error as &(dyn std::error::Error + 'static), "connection ended");
            }
        }
    }
}

type Accepted = (TcpStream, SocketAddr);

async fn accept_until<F>(
    refusing: impl Future<Output = ()>,
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    connect: impl Fn(Accepted) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut refusing = std::pin::pin!(refusing);
    loop {
        tokio::select! {
            biased;
            () = &mut refusing => return,
            // Finished connections are taken out, or their results would pile up.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok(accepted) => {
                    connections.spawn(connect(accepted));
                }
                Err(error) => pause_after(&error).await,
            },
        }
    }
}

/// As long as the longest queue that Linux keeps by default. Whoever comes while it is emptied could otherwise keep it
/// from ever being empty.
const LONGEST_QUEUE: usize = 4096;

/// Whoever is in the listener's queue has a finished handshake: closing over them would reset them.
///
/// Asks the system and not the runtime, which may not have heard of them yet, and which stops saying "ready" once a
/// task has done much in one go.
fn queued(listener: TcpListener) -> Vec<Accepted> {
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    let mut queue = Vec::new();
    for _ in 0..LONGEST_QUEUE {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream));
                queue.extend(stream.ok().map(|stream| (stream, peer)));
            }
            Err(error) if concerns_nobody(&error) => {}
            Err(_) => break,
        }
    }
    queue
}

/// A client that went away before it was accepted; the next one may be fine.
fn concerns_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// An error that is not about one client (no file descriptors left) would come back at once and spin.
async fn pause_after(error: &io::Error) {
    if concerns_nobody(error) {
        return;
    }
    crate::trace::error!(
        error = error as &(dyn std::error::Error + 'static),
        "accept failed"
    );
    sleep(Duration::from_millis(100)).await;
}
