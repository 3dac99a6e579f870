//! One PostgreSQL under one Patroni.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{APP, STEP, rest};
use crate::{StartError, postgres::Client, process::Process};

/// One PostgreSQL under one Patroni.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its name, also Patroni's for it.
    pub name: String,
    /// PostgreSQL's loopback port, the same after a restart.
    pub port: u16,
    /// The loopback port of Patroni's REST API.
    pub rest_port: u16,
    /// Patroni, with PostgreSQL among its helpers.
    pub process: Process,
    pub(super) data: PathBuf,
}

impl Node {
    /// PostgreSQL's address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The address of Patroni's REST API.
    pub fn rest_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.rest_port).into()
    }

    /// PostgreSQL's data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A connection string for the superuser and the database `postgres`.
    pub fn conninfo(&self) -> String {
        self.conninfo_for("postgres", "postgres")
    }

    /// A connection string for the service's user and database.
    pub fn app_conninfo(&self) -> String {
        self.conninfo_for(APP, APP)
    }

    pub(super) fn conninfo_for(&self, user: &str, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user={user} dbname={database} connect_timeout=5",
            self.port
        )
    }

    /// A connection of the superuser.
    ///
    /// # Errors
    ///
    /// When it cannot be made within 5 s.
    pub async fn client(&self) -> Result<Client, StartError> {
        Client::connect(&self.name, &self.conninfo()).await
    }

    /// Status and body of a `GET` to Patroni's REST API.
    pub(super) async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        rest::get(self.rest_port, path).await
    }

    /// Status and body of a `POST` to Patroni's REST API.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &serde_json::Value,
        limit: Duration,
    ) -> io::Result<(u16, String)> {
        rest::post(self.rest_port, path, body, limit).await
    }

    pub(super) async fn wait_answering(&self) -> Result<(), StartError> {
        self.process
            .wait_until("answering", STEP, async || {
                self.get("/liveness")
                    .await
                    .map(drop)
                    .map_err(|error| error.to_string())
            })
            .await
    }
}
