use std::error::Error;

use ha_tower::discover;
use ha_tower::upstream::{self, Upstream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::both_are_in_flight;
use crate::laws::{Case, Errors};
use crate::probe::Probe;
use crate::subject::Bed;

/// An HTTP server that ends when this is dropped.
struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves the probe on a port of its own. What it fails with cuts the connection.
fn serve(probe: &Probe) -> (Server, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let listener = TcpListener::from_std(listener).unwrap();
    let service = TowerToHyperService::new(probe.clone());
    let accepting = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            connections.spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                // It fails when it is told to.
                let _ = connection.await;
            });
        }
    });
    (Server(accepting.abort_handle()), address)
}

/// The probe behind a socket.
pub(crate) fn upstream() -> Case {
    fn tells(error: &(dyn Error + 'static)) -> bool {
        let error = error.downcast_ref::<upstream::Error>();
        error.is_some_and(|error| {
            matches!(error, upstream::Error::Exchange { .. }) && error.source().is_some()
        })
    }
    Case {
        errors: Errors::Told(tells),
        shared: Some(|shared| Box::pin(both_are_in_flight(shared))),
        ..Case::new(|probe| {
            let (server, address) = serve(probe);
            let apps = discover::fixed([address.as_str()]).unwrap();
            let upstream = Upstream::builder("apps").discover(apps);
            let upstream = upstream
                .attempt_timeout(std::time::Duration::from_secs(30))
                .build()
                .unwrap();
            let counted = upstream.clone();
            Bed::service(upstream).permits(move || {
                let _serves = &server;
                let endpoints = counted.endpoints();
                endpoints
                    .iter()
                    .map(|endpoint| endpoint.in_flight)
                    .sum::<u32>() as usize
            })
        })
    }
}
