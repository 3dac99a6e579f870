//! What a lease asks of PostgreSQL.

use ha_core::lease::{Answer, Fence, Owner, Record, Sight};
use tokio_postgres::IsolationLevel;
use tokio_postgres::types::Type;

use super::Error;
use crate::postgres::{Router, TransactionOptions};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS ha_lease (
    name text PRIMARY KEY,
    owner bytea,
    fence bigint NOT NULL,
    beat bigint NOT NULL
) WITH (fillfactor = 50);
";

/// The timeline that this server writes. It fails on a standby.
macro_rules! epoch {
    () => {
        "('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
    };
}

/// The first grant ever. Somebody else's, made meanwhile, stays.
const FIRST: &str = concat!(
    "INSERT INTO ha_lease (name, owner, fence, beat) SELECT $1, $2, ",
    epoch!(),
    " << 32, 0 WHERE ",
    epoch!(),
    " = $3 ON CONFLICT (name) DO NOTHING"
);

/// A grant, if everything is as it was seen.
const TAKE: &str = concat!(
    "UPDATE ha_lease SET owner = $2, beat = 0, fence = greatest(fence + 1, ",
    epoch!(),
    " << 32) WHERE name = $1 AND ",
    epoch!(),
    " = $3 AND owner IS NOT DISTINCT FROM $4 AND fence = $5 AND beat = $6"
);

const RENEW: &str =
    "UPDATE ha_lease SET beat = beat + 1 WHERE name = $1 AND owner = $2 AND fence = $3";

const RELEASE: &str =
    "UPDATE ha_lease SET owner = NULL WHERE name = $1 AND owner = $2 AND fence = $3";

/// What there is now. A session that does not wait for its commits could lose a grant in a crash without a failover, so for this
/// one it waits.
const SIGHT: &str = concat!(
    "SELECT ",
    epoch!(),
    ", owner, fence, beat, CASE WHEN current_setting('synchronous_commit') = 'off' \
     THEN set_config('synchronous_commit', 'on', true) END \
     FROM (VALUES (1)) one LEFT JOIN ha_lease ON name = $1"
);

/// Held against a take or a renewal until the transaction ends.
const CONFIRM: &str =
    "SELECT FROM ha_lease WHERE name = $1 AND owner = $2 AND fence = $3 FOR SHARE";

#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    Look,
    Take(Sight),
    Renew(Fence),
    Release(Fence),
}

/// A lease's row.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) router: Router,
    pub(super) name: String,
}

impl Store {
    /// Carries out a request and tells what there is after it, in one transaction. An error may mean that it was carried out.
    pub(super) async fn ask(&self, owner: Owner, request: Request) -> Result<Answer, Error> {
        let options = TransactionOptions::default()
            .isolation(IsolationLevel::ReadCommitted)
            .reserved();
        let tx = self.router.transaction_with(options).await?;
        let (name, me) = (&self.name, bytes(owner));
        let me: &[u8] = &me;
        let changed = match request {
            Request::Look => 0,
            Request::Take(Sight {
                epoch,
                record: None,
            }) => {
                let epoch = i64::from(epoch);
                let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
                    [(name, Type::TEXT), (&me, Type::BYTEA), (&epoch, Type::INT8)];
                tx.execute_typed(FIRST, &values).await?
            }
            Request::Take(Sight {
                epoch,
                record: Some(seen),
            }) => {
                let (epoch, fence, beat) = (i64::from(epoch), number(seen.fence), seen.beat as i64);
                let before = seen.owner.map(bytes);
                let before = before.as_ref().map(<[u8; 16]>::as_slice);
                let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 6] = [
                    (name, Type::TEXT),
                    (&me, Type::BYTEA),
                    (&epoch, Type::INT8),
                    (&before, Type::BYTEA),
                    (&fence, Type::INT8),
                    (&beat, Type::INT8),
                ];
                tx.execute_typed(TAKE, &values).await?
            }
            Request::Renew(fence) | Request::Release(fence) => {
                let sql = if matches!(request, Request::Renew(_)) {
                    RENEW
                } else {
                    RELEASE
                };
                let fence = number(fence);
                let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
                    [(name, Type::TEXT), (&me, Type::BYTEA), (&fence, Type::INT8)];
                tx.execute_typed(sql, &values).await?
            }
        };
        let rows = tx.query_typed(SIGHT, &[(name, Type::TEXT)]).await?;
        let row = &rows[0];
        let fence: Option<i64> = row.get(2);
        let sight = Sight {
            epoch: u32::try_from(row.get::<_, i64>(0)).unwrap_or_default(),
            record: fence.map(|fence| Record {
                owner: row
                    .get::<_, Option<&[u8]>>(1)
                    .and_then(|owner| owner.try_into().ok())
                    .map(|owner| Owner(u128::from_be_bytes(owner))),
                fence: Fence::from(fence as u64),
                beat: row.get::<_, i64>(3) as u64,
            }),
        };
        tx.commit().await?;
        Ok(Answer {
            applied: changed > 0,
            sight,
        })
    }

    /// Whether the grant still stands, for as long as the transaction of `client` runs.
    pub(super) async fn confirm(
        &self,
        client: &tokio_postgres::Client,
        owner: Owner,
        fence: Fence,
    ) -> Result<bool, Error> {
        let (owner, fence) = (bytes(owner), number(fence));
        let owner: &[u8] = &owner;
        let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
            (&self.name, Type::TEXT),
            (&owner, Type::BYTEA),
            (&fence, Type::INT8),
        ];
        Ok(!client.query_typed(CONFIRM, &values).await?.is_empty())
    }
}

fn bytes(owner: Owner) -> [u8; 16] {
    owner.0.to_be_bytes()
}

fn number(fence: Fence) -> i64 {
    u64::from(fence) as i64
}
