//! What `tower-sessions-sqlx-store` left: a table with one row per session.

use std::fmt;

use futures_util::future::BoxFuture;
use ha_db::postgres::{Causal, Error, Router};
use tokio_postgres::types::Type;

use super::Legacy;
use crate::error::ConfigError;
use crate::store::StoreError;

const NAME: &str = "postgresql (tower-sessions)";

/// Sessions that the PostgreSQL store of `tower-sessions-sqlx-store` left. Reads the primary.
#[derive(Clone)]
pub struct TowerSessionsPostgres {
    router: Router,
    read: String,
    delete: String,
}

impl TowerSessionsPostgres {
    /// Reads `tower_sessions.session`, where that store keeps them unless told otherwise.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self::statements(router, "tower_sessions", "session")
    }

    /// The same with another schema and table.
    ///
    /// # Errors
    /// [`ConfigError::TableName`] when one is empty or holds what no name of that store can.
    pub fn table(self, schema: &str, table: &str) -> Result<Self, ConfigError> {
        let allowed = |char: char| char.is_alphanumeric() || char == '_' || char == '$';
        for name in [schema, table] {
            if name.is_empty() || !name.chars().all(allowed) {
                return Err(ConfigError::TableName {
                    name: name.to_owned(),
                });
            }
        }
        Ok(Self::statements(self.router, schema, table))
    }

    fn statements(router: Router, schema: &str, table: &str) -> Self {
        let table = format!("\"{schema}\".\"{table}\"");
        Self {
            router,
            read: format!("select data from {table} where id = $1 and expiry_date > now()"),
            delete: format!("delete from {table} where id = $1"),
        }
    }
}

impl fmt::Debug for TowerSessionsPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerSessionsPostgres")
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

fn failed(error: Error) -> StoreError {
    StoreError::NoAnswer {
        store: NAME,
        source: Box::new(error),
    }
}

impl Legacy for TowerSessionsPostgres {
    fn read<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>> {
        Box::pin(async move {
            let db = self.router.db(Causal::new(None));
            let conn = db.write().await.map_err(failed)?;
            let rows = conn.query_typed(&self.read, &[(&id, Type::TEXT)]).await;
            let rows = rows.map_err(|error| failed(Error::from(error)))?;
            Ok(rows.first().map(|row| row.get(0)))
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let db = self.router.db(Causal::new(None));
            let conn = db.write().await.map_err(failed)?;
            let done = conn.execute_typed(&self.delete, &[(&id, Type::TEXT)]).await;
            done.map(drop).map_err(|error| failed(Error::from(error)))
        })
    }
}
