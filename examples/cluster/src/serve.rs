//! What edges and apps have in common: listening, draining, logging.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use ha_tower::drain::{self, Drain};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else has the address.
    #[error("port {} is taken on {}; choose another {flag}", address.port(), address.ip())]
    Taken {
        /// The flag that named it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({flag})")]
    Bind {
        /// The flag that named it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The settings of draining make no sense.
    #[error("draining cannot be set up")]
    Drain(#[from] drain::ConfigError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// The server failed.
    #[error("the server failed")]
    Server(#[source] io::Error),
}

/// How long new requests are still taken after the readiness is gone: until a load balancer in front has missed two checks.
const SETTLE: Duration = Duration::from_secs(1);

/// How long requests under way get to finish, that time included.
const FINISH: Duration = Duration::from_secs(10);

pub(crate) fn drain() -> Result<Drain, Error> {
    Ok(Drain::builder().settle(SETTLE).deadline(FINISH).build()?)
}

pub(crate) async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            Error::Taken {
                flag,
                address,
                source,
            }
        } else {
            Error::Bind {
                flag,
                address,
                source,
            }
        }
    })
}

/// Serves until SIGTERM or Ctrl-C, then drains. A second signal ends at once.
pub(crate) async fn run(
    listener: TcpListener,
    service: Router,
    admin: Option<(TcpListener, Router)>,
    drain: Drain,
) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let admin = async {
        match admin {
            Some((listener, service)) => {
                axum::serve(listener, service).await.map_err(Error::Server)
            }
            None => std::future::pending().await,
        }
    };
    let signals = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("draining");
        drain.start();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    tokio::select! {
        // The report says how many requests were cut; it is in the log.
        report = drain::serve(listener, service, drain.clone()) => {
            tracing::info!(?report, "drained");
            Ok(())
        }
        ended = admin => ended,
        () = signals => Ok(()),
    }
}

/// Logs to standard error, which the supervisor writes to a file.
pub(crate) fn log() {
    // A program that embeds this may have set up its own already.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .try_init();
}
