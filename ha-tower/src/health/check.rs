use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ha_core::endpoint::{Address, Endpoint, EndpointKey};
use ha_core::health::{Finding, Health};
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Http;
use crate::balance::State;
use crate::task::Owned;

/// The running checks of one upstream, one task per endpoint.
#[derive(Debug)]
pub(crate) struct Checks {
    check: Http,
    running: HashMap<EndpointKey, (Address, Owned)>,
}

impl Checks {
    pub(crate) fn new(check: Http) -> Self {
        Self {
            check,
            running: HashMap::new(),
        }
    }

    /// Starts checks of endpoints that are new or have moved, and ends those of endpoints that are gone.
    pub(crate) fn follow(&mut self, members: Vec<(Endpoint, Arc<State>)>) {
        let mut before = std::mem::take(&mut self.running);
        for (endpoint, state) in members {
            let task = match before.remove(&endpoint.key) {
                Some((address, task)) if address == endpoint.address => task,
                _ => Owned::spawn(run(self.check.clone(), endpoint.address.clone(), state)),
            };
            self.running.insert(endpoint.key, (endpoint.address, task));
        }
    }
}

async fn run(check: Http, address: Address, state: Arc<State>) {
    // The settings were validated by the builder.
    let Ok(mut health) = Health::new(check.config.clone()) else {
        return;
    };
    loop {
        let result = tokio::time::timeout(check.timeout, once(&check, &address)).await;
        let result = result.unwrap_or(Err(Failure::Timeout(check.timeout)));
        if let Err(failure) = &result {
            tracing::debug!(endpoint = %state.key, %failure, "health check failed");
        }
        let finding = result.map_or(Finding::Fail, Finding::from);
        if let Some(new) = health.observe(finding) {
            tracing::info!(endpoint = %state.key, state = ?new, "health changed");
            state.set_health(new, health.is_available());
        }
        tokio::time::sleep(health.next_check_in(fastrand::f64())).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("no connection: {0}")]
    Connect(#[from] std::io::Error),
    #[error("broken exchange: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("request could not be made: {0}")]
    Request(#[from] http::Error),
    #[error("answered {0}")]
    Status(StatusCode),
}

async fn once(check: &Http, address: &Address) -> Result<(), Failure> {
    let stream = TcpStream::connect((address.host(), address.port())).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Dropped with this future, and the connection with it.
    let _connection = Owned::spawn(async move {
        // An error shows up at the request as well.
        let _ = connection.await;
    });
    let path = check.path.as_ref().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, address.authority())
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("ha-tower/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    // A server that cannot finish its own answer is not well.
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    if status.is_success() {
        Ok(())
    } else {
        Err(Failure::Status(status))
    }
}
