//! What the peers are made of: pools of deadpool-postgres.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{NoTls, Row};

use crate::Outcome;
use crate::app::Next;

/// As ours: connections of a pool, and how long to wait for one or to make one.
pub(crate) const SIZE: usize = 16;
const WAIT: Duration = Duration::from_secs(1);
/// What ours gives a query on a node that has fallen silent.
const QUERY: Duration = Duration::from_secs(3);

/// A pool that checks what it lends without a query, which is its default and as ours does.
pub(crate) fn pool(conninfo: &str) -> Outcome<Pool> {
    let config = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(conninfo.parse()?, NoTls, config);
    Ok(Pool::builder(manager)
        .max_size(SIZE)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(WAIT))
        .create_timeout(Some(WAIT))
        .build()?)
}

/// Runs one statement. A connection on which anything failed is closed: kept, it would fail for ever after a demotion.
pub(crate) async fn query(
    pool: &Pool,
    sql: &str,
    values: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, Next> {
    let object = pool.get().await.map_err(|_| Next::Again)?;
    match tokio::time::timeout(QUERY, object.query_typed(sql, values)).await {
        Ok(Ok(rows)) => Ok(rows),
        _ => {
            drop(Object::take(object));
            Err(Next::Again)
        }
    }
}

pub(crate) async fn insert(pool: &Pool, sql: &str, client: usize, key: i64) -> Result<(), Next> {
    let client = client as i32;
    let values = [(&client as _, Type::INT4), (&key as _, Type::INT8)];
    query(pool, sql, &values).await.map(drop)
}

pub(crate) async fn list(pool: &Pool, sql: &str, client: usize) -> Result<Vec<i64>, Next> {
    let client = client as i32;
    let rows = query(pool, sql, &[(&client, Type::INT4)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
