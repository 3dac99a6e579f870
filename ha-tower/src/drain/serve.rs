use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
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
use tower_service::Service;

use ha_core::drain::Phase;

use super::handle::{Drain, Report};
use crate::body::BoxError;
use crate::proxy::Peer;

/// Serves HTTP/1.1 on `listener` until `drain` has run its course, with the defaults of [`Server`].
///
/// Never returns before [`Drain::start`].
///
/// # Cancel safety
///
/// Dropping the future cuts every connection at once.
pub async fn serve<S, R>(listener: TcpListener, service: S, drain: Drain) -> Report
where
    S: Service<Request<Incoming>, Response = Response<R>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    Server::new(drain).serve(listener, service).await
}

/// An HTTP/1.1 server that drains.
#[derive(Clone, Debug)]
#[must_use = "a server does nothing until it serves"]
pub struct Server {
    drain: Drain,
    header_read_timeout: Duration,
}

impl Server {
    /// A server that obeys `drain`.
    pub const fn new(drain: Drain) -> Self {
        Self {
            drain,
            header_read_timeout: Duration::from_secs(10),
        }
    }

    /// How long a client may take to send a request head, counted from the connection's start or from the end of the
    /// request before; an idle connection is closed then, too. Default 10 s, which is ample for anyone who is not
    /// holding connections on purpose.
    pub const fn header_read_timeout(mut self, limit: Duration) -> Self {
        self.header_read_timeout = limit;
        self
    }

    /// Serves until the drain has run its course, and says what it cut.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts every connection at once.
    pub async fn serve<S, R>(self, listener: TcpListener, service: S) -> Report
    where
        S: Service<Request<Incoming>, Response = Response<R>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut refusing = std::pin::pin!(self.drain.signalled());
        loop {
            tokio::select! {
                biased;
                () = &mut refusing => break,
                // Finished connections are taken out, or their results would pile up.
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => {
                        connections.spawn(self.connection(accepted, &service, graceful.watcher()));
                    }
                    Err(error) => pause_after(&error).await,
                },
            }
        }
        // Whoever is in the queue has a finished handshake: closing the listener now would reset them.
        while let Some(Ok(accepted)) = listener.accept().now_or_never() {
            connections.spawn(self.connection(accepted, &service, graceful.watcher()));
        }
        drop(listener);

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
            ..Report::default()
        };
        tracing::warn!(?report, "drain deadline reached");
        connections.shutdown().await;
        report
    }

    fn connection<S, R>(
        &self,
        (stream, peer): (TcpStream, SocketAddr),
        service: &S,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: Service<Request<Incoming>, Response = Response<R>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        // Small answers must not wait for the acknowledgement of the ones before.
        let _ = stream.set_nodelay(true);
        let service = tower_layer::Layer::layer(&self.drain.layer(), service.clone()).map_request(
            move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                request
            },
        );
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_read_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        async move {
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%peer, error = &error as &(dyn std::error::Error + 'static), "connection ended");
            }
        }
    }
}

/// A client that went away before it was accepted concerns nobody; anything else (no file descriptors left) would come
/// back at once and spin.
async fn pause_after(error: &io::Error) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    ) {
        return;
    }
    tracing::error!(
        error = error as &(dyn std::error::Error + 'static),
        "accept failed"
    );
    sleep(Duration::from_millis(100)).await;
}
