//! A connection of the bed's own.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::StartError;

/// A connection that owns the task which drives it.
#[derive(Debug)]
pub struct Client {
    client: tokio_postgres::Client,
    task: JoinHandle<()>,
}

impl Client {
    /// Connects with a connection string of your own.
    ///
    /// # Errors
    ///
    /// When it cannot be made within 5 s.
    pub async fn connect(part: &str, conninfo: &str) -> Result<Self, StartError> {
        let deadline = Duration::from_secs(5);
        let connecting = tokio_postgres::connect(conninfo, NoTls);
        let Ok(connected) = tokio::time::timeout(deadline, connecting).await else {
            return Err(StartError::Deadline {
                part: part.to_owned(),
                port: None,
                what: "connected",
                after: deadline,
                last: "no answer".to_owned(),
                log: String::new(),
            });
        };
        let (client, connection) = connected.map_err(StartError::postgres(part, "connect"))?;
        // A broken connection shows in the client's next statement; nothing is lost by not looking here.
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client, task })
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.client
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}
