//! The table, and its cleaning.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::Type;

use super::error::Error;
use crate::postgres::{self, Router};

// Timeline and position are those of the log just before the commit. bytea keeps its case: digests and outcomes are opaque. fillfactor stays at 100, since rows are not updated.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS ha_idempotency (
    id bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    outcome bytea NOT NULL,
    timeline int NOT NULL,
    lsn bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS ha_idempotency_expires_at ON ha_idempotency (expires_at);
";

/// Creates the table `ha_idempotency` where it is missing. Every app server may call it at start, all at once. A role without
/// the right to create tables can call it as well once the table is there.
///
/// # Errors
/// [`Error::Database`]. Nothing is left half done.
///
/// # Cancel safety
/// Dropped half way, it is rolled back; call it again.
pub async fn migrate(router: &Router) -> Result<(), Error> {
    let what = "creating the idempotency table";
    crate::migrate::create(router, "ha_idempotency", SCHEMA, what)
        .await
        .map_err(Error::Database)
}

/// Deletes up to `batch` expired rows, leaving alone those that somebody else is deleting.
pub(super) async fn sweep(router: &Router, batch: i64, limit: Duration) -> Result<u64, Error> {
    const DELETE: &str = "
        WITH expired AS (
            SELECT id FROM ha_idempotency WHERE expires_at <= now()
            ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ), deleted AS (
            DELETE FROM ha_idempotency USING expired WHERE ha_idempotency.id = expired.id RETURNING 1
        )
        SELECT count(*) FROM deleted";
    let sweeping = async {
        let connection = router.write().await?;
        let rows = connection
            .query_typed(DELETE, &[(&batch, Type::INT8)])
            .await
            .map_err(postgres::Error::from)?;
        Ok(rows[0].get::<_, i64>(0).unsigned_abs())
    };
    match timeout(limit, sweeping).await {
        Ok(result) => result,
        Err(_) => Err(Error::Database(postgres::Error::Timeout {
            what: "deleting expired outcomes",
            limit,
        })),
    }
}
