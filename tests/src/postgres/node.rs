//! One server, and what can be done to it.

use std::path::{Path, PathBuf};

use super::{Client, STEP};
use crate::{StartError, error::chain, parts::node_controls, process::Process};

/// One PostgreSQL server.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node {
    /// Its name, also in the primary's `pg_stat_replication.application_name`.
    pub name: String,
    /// Its loopback port, the same after a restart.
    pub port: u16,
    /// Its postmaster and all backends.
    pub process: Process,
    pub(super) data: PathBuf,
}

impl Node {
    node_controls!();

    /// A connection string for the superuser and the database `postgres`.
    pub fn conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres connect_timeout=5",
            self.port
        )
    }

    pub(super) fn replication(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A connection of its own.
    ///
    /// # Errors
    ///
    /// When it cannot be made within 5 s.
    pub async fn client(&self) -> Result<Client, StartError> {
        Client::connect(&self.name, &self.conninfo()).await
    }

    /// Whether it is in recovery, that is, a replica.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub async fn is_replica(&self) -> Result<bool, StartError> {
        let client = self.client().await?;
        let asked = client.query_one("select pg_is_in_recovery()", &[]).await;
        Ok(asked
            .map_err(StartError::postgres(&self.name, "ask for its role"))?
            .get(0))
    }

    /// Stops the postmaster alone: what is connected goes on, and nobody new is answered, until [`thaw`](Self::thaw).
    ///
    /// # Errors
    ///
    /// See [`Process::freeze_alone`].
    pub fn freeze_postmaster(&self) -> Result<(), StartError> {
        self.process.freeze_alone()
    }

    pub(super) async fn wait_ready(&self) -> Result<(), StartError> {
        self.process
            .wait_until("accepting connections", STEP, async || {
                let client = self.client().await.map_err(|error| chain(&error))?;
                let asked = client
                    .query_one("select current_setting('data_directory')", &[])
                    .await;
                let data: String = asked.map_err(|error| chain(&error))?.get(0);
                // A stranger on the same port would answer just as well.
                if Path::new(&data) == self.data {
                    Ok(())
                } else {
                    Err(format!("the server of {data} answers"))
                }
            })
            .await
    }

    /// Changes settings of a running server.
    pub(super) async fn configure(
        &self,
        what: &'static str,
        settings: &[(&str, &str)],
    ) -> Result<(), StartError> {
        for (name, value) in settings {
            self.execute(what, &format!("alter system set {name} = '{value}'"))
                .await?;
        }
        self.execute(what, "select pg_reload_conf()").await
    }

    pub(super) async fn execute(
        &self,
        what: &'static str,
        statement: &str,
    ) -> Result<(), StartError> {
        let client = self.client().await?;
        client
            .batch_execute(statement)
            .await
            .map_err(StartError::postgres(&self.name, what))
    }
}
