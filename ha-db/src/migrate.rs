//! Tables of this crate's own.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::Type;

use crate::postgres::{Error, Router};

/// Serializes the migrations of all tables over all app servers: the first eight bytes of "ha-idemp" as a number.
const LOCK: i64 = 0x6861_2d69_6465_6d70;

/// A migration that has to wait longer has met something that is not a migration.
const LIMIT: Duration = Duration::from_secs(15);

/// Runs `schema` if `table` is missing, in one transaction; everybody may do so at once.
pub(crate) async fn create(
    router: &Router,
    table: &str,
    schema: &str,
    what: &'static str,
) -> Result<(), Error> {
    let migrating = async {
        let transaction = router.transaction().await?;
        let exists = "SELECT to_regclass($1) IS NOT NULL";
        let rows = transaction
            .query_typed(exists, &[(&table, Type::TEXT)])
            .await?;
        if !rows[0].get::<_, bool>(0) {
            let lock = "SELECT pg_advisory_xact_lock($1)";
            transaction
                .query_typed(lock, &[(&LOCK, Type::INT8)])
                .await?;
            transaction.batch_execute(schema).await?;
        }
        transaction.commit().await.map(drop)
    };
    match timeout(LIMIT, migrating).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { what, limit: LIMIT }),
    }
}
