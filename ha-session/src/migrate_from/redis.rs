//! What `tower-sessions-redis-store` left: the record under the id itself.

use std::fmt;

use futures_util::future::BoxFuture;
use ha_db::redis::{Connection, Error, driver};

use super::Legacy;
use crate::store::StoreError;

const NAME: &str = "redis (tower-sessions)";

/// Sessions that `tower-sessions-redis-store` left in Redis.
#[derive(Clone)]
pub struct TowerSessionsRedis {
    connection: Connection,
}

impl TowerSessionsRedis {
    /// Reads through this connection.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }
}

impl fmt::Debug for TowerSessionsRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerSessionsRedis").finish_non_exhaustive()
    }
}

fn failed(error: Error) -> StoreError {
    StoreError::NoAnswer {
        store: NAME,
        source: Box::new(error),
    }
}

impl Legacy for TowerSessionsRedis {
    fn read<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>> {
        Box::pin(async move {
            let mut get = driver::cmd("GET");
            get.arg(id);
            self.connection.run(&get).await.map_err(failed)
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let mut del = driver::cmd("DEL");
            del.arg(id);
            self.connection.run::<()>(&del).await.map_err(failed)
        })
    }
}
