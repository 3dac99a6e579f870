//! Announcements in a table of PostgreSQL, read and written on the primary.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::Error;
use super::wire::Row;
use crate::postgres::{Error as DbError, Router};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS ha_registry (
    service text NOT NULL,
    key text NOT NULL,
    incarnation bigint NOT NULL,
    beat bigint NOT NULL,
    every_ms bigint NOT NULL,
    seen_at timestamptz NOT NULL,
    endpoint text NOT NULL,
    PRIMARY KEY (service, key)
) WITH (fillfactor = 50);
";

/// A row is refused from somebody who has a successor, or has drained.
const BEAT: &str = "
INSERT INTO ha_registry AS kept (service, key, incarnation, beat, every_ms, seen_at, endpoint)
VALUES ($1, $2, CASE WHEN $3 = 0 THEN (extract(epoch FROM clock_timestamp()) * 1000)::bigint ELSE $3 END,
        $4, $5, clock_timestamp(), $6)
ON CONFLICT (service, key) DO UPDATE SET
    incarnation = CASE WHEN $3 = 0 THEN greatest(excluded.incarnation, kept.incarnation + 1) ELSE $3 END,
    beat = excluded.beat, every_ms = excluded.every_ms, seen_at = excluded.seen_at, endpoint = excluded.endpoint
WHERE $3 = 0 OR kept.incarnation < $3 OR (kept.incarnation = $3 AND (kept.endpoint <> '' OR $6 = ''))
RETURNING incarnation";

const LOOK: &str = "
SELECT key, incarnation, beat, every_ms,
       (extract(epoch FROM clock_timestamp() - seen_at) * 1000)::bigint, endpoint
FROM ha_registry WHERE service = $1";

/// What has been dead for longer than any watcher remembers.
const SWEEP: &str = "DELETE FROM ha_registry WHERE service = $1 AND seen_at < clock_timestamp() - interval '2 hours'";

/// Creates the table `ha_registry` where it is missing. Every app server may call it at start, all at once. A role without
/// the right to create tables can call it as well once the table is there.
///
/// # Errors
/// [`Error::Postgres`]. Nothing is left half done.
///
/// # Cancel safety
/// Dropped half way, it is rolled back; call it again.
pub async fn migrate(router: &Router) -> Result<(), Error> {
    let what = "creating the registry's table";
    Ok(crate::migrate::create(router, "ha_registry", SCHEMA, what).await?)
}

/// `None` when a successor has the key.
pub(super) async fn beat(
    router: &Router,
    service: &str,
    key: &str,
    incarnation: i64,
    beat: i64,
    every: Duration,
    text: &str,
) -> Result<Option<i64>, Error> {
    // A pool that the app has used up must not take it out of the set as well.
    let conn = router.write_reserved().await?;
    let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
    let rows = conn
        .query_typed(
            BEAT,
            &[
                (&service, Type::TEXT),
                (&key, Type::TEXT),
                (&incarnation, Type::INT8),
                (&beat, Type::INT8),
                (&every, Type::INT8),
                (&text, Type::TEXT),
            ],
        )
        .await
        .map_err(DbError::from)?;
    if beat % 100 == 0 {
        // The heartbeat is written; the next sweep does as well.
        if let Err(error) = conn.query_typed(SWEEP, &[(&service, Type::TEXT)]).await {
            tracing::debug!(service, %error, "rows of the dead are not cleared");
        }
    }
    Ok(rows.first().map(|row| row.get(0)))
}

pub(super) async fn look(router: &Router, service: &str) -> Result<Vec<Row>, Error> {
    // A replica that does not replay would make everybody look dead.
    let conn = router.write_reserved().await?;
    let rows = conn
        .query_typed(LOOK, &[(&service, Type::TEXT)])
        .await
        .map_err(DbError::from)?;
    let read = |row: &tokio_postgres::Row| {
        let text: &str = row.get(5);
        Row::read(
            row.get(0),
            row.get(1),
            row.get(2),
            row.get(3),
            row.get(4),
            text,
        )
    };
    Ok(rows.iter().filter_map(read).collect())
}
