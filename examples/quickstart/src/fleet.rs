//! The part that you do not copy: three apps in one process that can be crashed and brought back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use ha_session::SessionLayer;
use ha_tower::drain::{self, Drain};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::{BoxError, app};

/// Where the apps listen and what ends them, so that they can be broken and healed from outside.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) addresses: Arc<Vec<String>>,
    sessions: SessionLayer,
    running: Arc<Mutex<HashMap<usize, AbortHandle>>>,
}

impl Fleet {
    const NAMES: [&str; 3] = ["app-1", "app-2", "app-3"];

    pub(crate) async fn start(sessions: SessionLayer) -> Result<Self, BoxError> {
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for _ in Self::NAMES {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            addresses.push(listener.local_addr()?.to_string());
            listeners.push(listener);
        }
        let fleet = Self {
            addresses: addresses.into(),
            sessions,
            running: Arc::default(),
        };
        for (index, listener) in listeners.into_iter().enumerate() {
            fleet.run(index, listener);
        }
        Ok(fleet)
    }

    fn run(&self, index: usize, listener: TcpListener) {
        let app = app(Self::NAMES[index], self.sessions.clone());
        let server = tokio::spawn(drain::serve(listener, app, Drain::new()));
        self.set(index, Some(server.abort_handle()));
    }

    /// Aborting a server drops its listener and every connection at once.
    fn set(&self, index: usize, server: Option<AbortHandle>) {
        let mut running = self
            .running
            .lock()
            .expect("no code panics while it holds this lock");
        let before = match server {
            Some(server) => running.insert(index, server),
            None => running.remove(&index),
        };
        before.inspect(AbortHandle::abort);
    }

    pub(crate) async fn command(
        State(fleet): State<Self>,
        Path((n, what)): Path<(usize, String)>,
    ) -> (StatusCode, String) {
        let Some(index) = n.checked_sub(1).filter(|index| *index < Self::NAMES.len()) else {
            return (
                StatusCode::NOT_FOUND,
                format!("there is no app {n}, only 1 to 3\n"),
            );
        };
        match what.as_str() {
            "fail" => fleet.set(index, None),
            "heal" => match TcpListener::bind(&fleet.addresses[index]).await {
                Ok(listener) => fleet.run(index, listener),
                Err(error) => {
                    return (
                        StatusCode::CONFLICT,
                        format!("app {n} cannot listen: {error}\n"),
                    );
                }
            },
            _ => return (StatusCode::NOT_FOUND, "say fail or heal\n".to_owned()),
        }
        (
            StatusCode::OK,
            format!("{}: {what}ed\n", Self::NAMES[index]),
        )
    }
}
