//! The schema, by version.

use ha_db::postgres::{Error, Router};

/// The statements of each version, the first being version 1. Only ever append.
const MIGRATIONS: &[&str] = &[
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
];

/// Held while migrating; the bytes of "hasess".
const LOCK: i64 = 0x6861_7365_7373;

/// Why the schema was not migrated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The database was not reached, or refused.
    #[error("the session schema was not migrated")]
    Database(#[source] Error),
    /// A newer version of this crate has migrated the schema already, to something that this one does not know.
    #[error("the session schema has version {found}, this version knows up to {known}")]
    Newer {
        /// The version found.
        found: i32,
        /// The newest version known.
        known: i32,
    },
}

impl From<tokio_postgres::Error> for MigrateError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

pub(super) async fn run(router: &Router) -> Result<(), MigrateError> {
    let tx = router.transaction().await.map_err(MigrateError::Database)?;
    tx.batch_execute(&format!("select pg_advisory_xact_lock({LOCK})"))
        .await?;
    tx.batch_execute("create table if not exists ha_session_schema (version int primary key)")
        .await?;
    let row = tx
        .query_one(
            "select coalesce(max(version), 0) from ha_session_schema",
            &[],
        )
        .await?;
    let found: i32 = row.try_get(0)?;
    let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    if found > known {
        return Err(MigrateError::Newer { found, known });
    }
    for (version, statements) in (1..).zip(MIGRATIONS) {
        if version > found {
            tx.batch_execute(statements).await?;
            tx.execute(
                "insert into ha_session_schema (version) values ($1)",
                &[&version],
            )
            .await?;
        }
    }
    tx.commit().await.map_err(MigrateError::Database)?;
    Ok(())
}
