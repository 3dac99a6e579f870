//! The app's own tables, and when they count as there.
//!
//! Three apps start at the same moment, so creating takes a lock in the database that makes them go one by one; each
//! statement does nothing when its work is done already. An app that starts while there is no primary must still
//! serve: it looks first whether some node that can be read has the schema, and creates only when none has.

use std::time::Duration;

use ha_db::postgres::Router;
use ha_session::PostgresStore;
use tokio::time::timeout;

/// Raised with every change below.
const VERSION: i32 = 1;

/// Any number that no other application of the same database takes a lock on.
const LOCK: i64 = 0x6861_636c_7573;

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How long one try may take, waiting for the other apps' tries included.
const TRY: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Returns when the schema is there. Tries for as long as it takes: until then the app says that it is not ready.
pub(super) async fn ensure(router: &Router) {
    let mut pause = Duration::from_millis(50);
    loop {
        match timeout(TRY, attempt(router)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::info!(error = %crate::chain(&*error), "schema not there yet")
            }
            Err(_) => tracing::info!("no answer about the schema within {TRY:?}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

async fn attempt(router: &Router) -> Result<(), BoxError> {
    if is_there(router).await.unwrap_or(false) {
        return Ok(());
    }
    ha_db::idempotency::migrate(router).await?;
    PostgresStore::new(router.clone()).migrate().await?;
    let tx = router.transaction().await?;
    tx.execute("select pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    tx.batch_execute(
        "create table if not exists notes (
             id bigint generated always as identity primary key,
             owner text not null,
             text text not null,
             created_at timestamptz not null default now()
         );
         create index if not exists notes_by_owner on notes (owner, id);
         create table if not exists ha_cluster_schema (version int primary key)",
    )
    .await?;
    // Last, so that whoever sees it sees all the rest.
    tx.execute(
        "insert into ha_cluster_schema values ($1) on conflict do nothing",
        &[&VERSION],
    )
    .await?;
    tx.commit().await?;
    Ok(())
}

async fn is_there(router: &Router) -> Result<bool, BoxError> {
    let conn = router.read().await?;
    // Two steps: naming a table that does not exist is an error already when the statement is prepared.
    let exists: bool = conn
        .query_one("select to_regclass('ha_cluster_schema') is not null", &[])
        .await?
        .try_get(0)?;
    if !exists {
        return Ok(false);
    }
    let found = conn
        .query_opt(
            "select 1 from ha_cluster_schema where version >= $1",
            &[&VERSION],
        )
        .await?;
    Ok(found.is_some())
}
