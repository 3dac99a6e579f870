//! Sessions in PostgreSQL: one row per session, one statement per step.

mod clean;
mod migrate;
mod row;

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use ha_db::postgres::{Causal, Conn, Consistency, Error, Router};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::engine::millis;
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::principal::{Principal, SessionInfo};
use crate::record::Version;
#[cfg(feature = "journal")]
use crate::store::tiered::Changes;
use crate::store::{Commit, Load, MAX_LISTED, Outcome, ROTATION_GRACE, Store, StoreError};

/// What became of a change that was told of later.
#[cfg(feature = "journal")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// It is stored, or something later is.
    Taken,
    /// The session has ended, or is of a format that this version does not know.
    Ended(&'static str),
}

pub use self::clean::{Cleaner, Pace};
pub use self::migrate::MigrateError;

const NAME: &str = "postgresql";

const LOAD: &str = "select s.format::int, s.version, s.state::int, s.data::text, \
     (extract(epoch from s.idle_until - clock_timestamp()) * 1000)::bigint, \
     (extract(epoch from s.absolute_until - clock_timestamp()) * 1000)::bigint, \
     (extract(epoch from clock_timestamp() - coalesce(s.ended_at, s.idle_until)) * 1000)::bigint, \
     s.principal, s.epoch, v.epoch, (extract(epoch from clock_timestamp() - v.revoked_at) * 1000)::bigint \
     from ha_session s left join ha_session_revocation v on v.principal = s.principal where s.key = $1";
const COMMIT: &str = "select outcome, stored_format, new_version, idle_left_ms, absolute_left_ms, ago_ms, payload::text, \
     owner, owner_epoch, revoked_ago_ms \
     from ha_session_commit_3($1, $2, $3, $4::text::jsonb, $5, $6::text::jsonb, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
const DESTROY: &str = "select ha_session_destroy_3($1, $2, $3)";
#[cfg(feature = "journal")]
const REPLAY: &str = "select outcome from ha_session_replay_3($1, $2, $3, $4::text::jsonb, $5, $6)";
#[cfg(feature = "journal")]
const NOW: &str = "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint";
const REVOKE_ALL: &str = "select new_epoch, kept from ha_session_revoke_all_2($1, $2)";
const LIST: &str = "select key, device, (extract(epoch from clock_timestamp() - claimed_at) * 1000)::bigint, \
     (extract(epoch from clock_timestamp() - used_at) * 1000)::bigint from ha_session s \
     where principal = $1 and state = 0 and idle_until > clock_timestamp() and epoch >= \
     coalesce((select v.epoch from ha_session_revocation v where v.principal = $1), 0) \
     order by used_at desc, key limit $2";
const TOUCH: &str = "update ha_session set used_at = clock_timestamp(), \
     idle_until = least(absolute_until, clock_timestamp() + $2 * interval '1 millisecond') \
     where key = $1 and state = 0 and format = 1 and idle_until > clock_timestamp()";
const PURGE: &str = "delete from ha_session where key in (select key from ha_session \
     where idle_until < clock_timestamp() - interval '1 hour' order by idle_until limit $1 for update skip locked)";
const PURGE_REVOCATIONS: &str = "delete from ha_session_revocation where principal in (select principal \
     from ha_session_revocation where revoked_at < clock_timestamp() - $2 * interval '1 millisecond' \
     order by revoked_at limit $1 for update skip locked)";

/// Sessions in PostgreSQL, through a router that finds the primary.
///
/// Each session is one row; a commit patches the changed names of its `jsonb` under the row's lock, in one round trip. All
/// time is the server's. Call [`migrate`](Self::migrate) at start-up and [`purge`](Self::purge) now and then.
///
/// # What it promises
/// What [`Store`] asks for, at the durability of the server's own `synchronous_commit` and `synchronous_standby_names`: with a
/// synchronous standby no acknowledged commit is lost with one node.
///
/// Reads go to the primary. While there is none, a replica answers those that it can prove: the cookie carries the
/// newest version that its holder was told, and a replica that has this version or a later one has everything this
/// client was promised. A session that a replica does not have, or has in an older state, is unknown and not gone. What
/// a replica cannot prove is that nobody else has just ended the session: during an outage of the primary a sign-out made
/// within the replica's lag before it may not be seen yet.
#[derive(Clone)]
pub struct PostgresStore {
    router: Router,
    primary_wait: Duration,
    /// How long the end of a session is remembered that is not known here; zero for not at all.
    remember_ms: i64,
}

impl PostgresStore {
    /// How long a read waits for the primary before it asks a replica as well, 500 ms: longer than a healthy primary needs,
    /// short enough for a user who waits.
    pub const PRIMARY_WAIT: Duration = Duration::from_millis(500);

    /// How long a read waits for the primary when no replica can prove an answer, 3 s: more than a busy one needs, and less than
    /// a request waits for its store.
    const PRIMARY_LIMIT: Duration = Duration::from_secs(3);

    /// A store on this router.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self {
            router,
            primary_wait: Self::PRIMARY_WAIT,
            remember_ms: 0,
        }
    }

    /// The same store, which remembers also the end of what it has never heard of, for so long.
    #[cfg(feature = "journal")]
    pub(crate) fn remembering(self, time: Duration) -> Self {
        let remember_ms = ms(time);
        Self {
            remember_ms,
            ..self
        }
    }

    /// Tells of a change that was acknowledged without this store.
    #[cfg(feature = "journal")]
    pub(crate) async fn replay(&self, changes: &Changes) -> Result<Replayed, StoreError> {
        let key = &changes.key.hash()[..];
        let version = i64::try_from(changes.version.get()).unwrap_or(i64::MAX);
        let values = row::replayed_values(changes);
        let idle = i64::try_from(changes.idle_ms).unwrap_or(i64::MAX);
        let absolute = i64::try_from(changes.absolute_ms).unwrap_or(i64::MAX);
        let params: &[(&(dyn ToSql + Sync), Type)] = &[
            (&key, Type::BYTEA),
            (&version, Type::INT8),
            (&changes.born, Type::BOOL),
            (&values, Type::TEXT),
            (&idle, Type::INT8),
            (&absolute, Type::INT8),
        ];
        row::replayed(self.query(REPLAY, params).await?.into_iter().next())
    }

    /// The clock of the primary, in milliseconds since 1970.
    #[cfg(feature = "journal")]
    pub(crate) async fn now_ms(&self) -> Result<u64, StoreError> {
        row::now(self.query(NOW, &[]).await?.into_iter().next())
    }

    /// Creates or upgrades the schema. Many nodes may do so at the same time; what is done already is not done again.
    ///
    /// # Errors
    /// [`MigrateError`]. The schema is unchanged then.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the migration has happened as a whole or not at all.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        migrate::run(&self.router).await
    }

    /// Deletes up to `limit` sessions that ended more than an hour ago, and as many revocations that are older than any
    /// session, and says how many. Rows that somebody else is deleting are skipped. [`clean`](Self::clean) does it all the
    /// time.
    ///
    /// # Errors
    /// [`StoreError`].
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the rows are deleted or not.
    pub async fn purge(&self, limit: u32) -> Result<u64, StoreError> {
        let limit = i64::from(limit);
        let sessions = self.execute(PURGE, &[(&limit, Type::INT8)]).await?;
        let longest = ms(Expiry::MAX_ABSOLUTE);
        let params: &[(&(dyn ToSql + Sync), Type)] =
            &[(&limit, Type::INT8), (&longest, Type::INT8)];
        Ok(sessions + self.execute(PURGE_REVOCATIONS, params).await?)
    }

    /// Goes on deleting what ended more than an hour ago until the [`Cleaner`] is dropped. Run it on every node: for each batch one of
    /// them has the turn, and the pace is that of all together. It never waits for a session that a request is at.
    #[must_use = "dropping the cleaner stops it"]
    pub fn clean(&self, pace: Pace) -> Cleaner {
        Cleaner::start(self.clone(), pace)
    }

    /// Ends a session and what it was rotated to; with a principal only if it is one of theirs. Returns the keys it ended.
    pub(crate) async fn end(
        &self,
        key: SessionKey,
        principal: Option<&Principal>,
    ) -> Result<Vec<SessionKey>, StoreError> {
        let key = row::tagged(&key);
        let principal = principal.map(Principal::as_str);
        let params: &[(&(dyn ToSql + Sync), Type)] = &[
            (&&key[..], Type::BYTEA),
            (&principal, Type::TEXT),
            (&self.remember_ms, Type::INT8),
        ];
        self.query(DESTROY, params)
            .await?
            .iter()
            .map(|row| row::key(row, 0))
            .collect()
    }

    /// Draws an epoch; says under which key the session that is kept goes on.
    pub(crate) async fn draw_epoch(
        &self,
        principal: &Principal,
        keep: Option<SessionKey>,
    ) -> Result<(u64, Option<SessionKey>), StoreError> {
        let principal = principal.as_str();
        let keep = keep.as_ref().map(row::tagged);
        let keep = keep.as_ref().map(|key| &key[..]);
        let params: &[(&(dyn ToSql + Sync), Type)] =
            &[(&principal, Type::TEXT), (&keep, Type::BYTEA)];
        row::epoch(self.query(REVOKE_ALL, params).await?.into_iter().next())
    }

    async fn query(
        &self,
        statement: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, StoreError> {
        let conn = self.primary().await?;
        let rows = conn.query_typed(statement, params).await;
        rows.map_err(|error| query_error(Error::from(error)))
    }

    async fn execute(
        &self,
        statement: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, StoreError> {
        let conn = self.primary().await?;
        let result = conn.execute_typed(statement, params).await;
        result.map_err(|error| query_error(Error::from(error)))
    }

    async fn primary(&self) -> Result<Conn, StoreError> {
        let db = self.router.db(Causal::new(None));
        db.write().await.map_err(query_error)
    }

    async fn read(
        &self,
        consistency: Consistency,
        key: SessionKey,
    ) -> Result<Option<Row>, StoreError> {
        let db = self.router.db(Causal::new(None));
        let conn = db.read_with(consistency).await.map_err(query_error)?;
        let hash = &key.hash()[..];
        let rows = conn.query_typed(LOAD, &[(&hash, Type::BYTEA)]).await;
        let rows = rows.map_err(|error| query_error(Error::from(error)))?;
        Ok(rows.into_iter().next())
    }

    async fn load_from_primary(&self, key: SessionKey, floor: Version) -> Result<Load, StoreError> {
        let row = self.read(Consistency::Strong, key).await?;
        let load = row::load(row)?;
        if let Load::Found(record) = &load
            && record.version < floor
        {
            tracing::warn!(
                found = record.version.get(),
                told = floor.get(),
                "postgresql lost acknowledged session changes"
            );
        }
        Ok(load)
    }

    /// A replica's answer, where it proves itself; otherwise why the primary did not answer.
    async fn load_from_replica(&self, key: SessionKey, floor: Version, why: StoreError) -> Load {
        let after = self.primary_wait;
        let read = self.read(Consistency::Eventual, key);
        let row = match tokio::time::timeout(after, read).await {
            Ok(Ok(row)) => row,
            Ok(Err(_)) | Err(_) => return Load::Unknown(why),
        };
        match row::load(row) {
            Ok(Load::Found(record)) if record.version < floor => Load::Unknown(StoreError::Stale {
                store: NAME,
                found: record.version,
                floor,
            }),
            Ok(Load::Found(record)) => Load::Found(record),
            // These are final wherever they are seen; the other endings may only not have arrived yet.
            Ok(Load::Gone(gone)) if gone.is_final() => Load::Gone(gone),
            Ok(Load::Gone(_)) | Ok(Load::Unknown(_)) => Load::Unknown(why),
            Err(error) => Load::Unknown(error),
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    async fn load(&self, key: SessionKey, floor: Version) -> Load {
        let after = self.primary_wait;
        let mut primary = pin!(self.load_from_primary(key, floor));
        let answer = match timeout(after, primary.as_mut()).await {
            Ok(answer) => answer,
            // It may be gone or only busy. To give up what it is at would make a busy one busier: it is waited for, while a replica
            // is asked where there is one.
            Err(_) => {
                let mut why = StoreError::Timeout { after };
                if self.router.status().nodes.len() > 1 {
                    match self.load_from_replica(key, floor, why).await {
                        Load::Unknown(error) => why = error,
                        load => return load,
                    }
                }
                let rest = Self::PRIMARY_LIMIT.saturating_sub(after);
                match timeout(rest, primary).await {
                    Ok(Ok(load)) => return load,
                    Ok(Err(error)) => return Load::Unknown(error),
                    Err(_) => return Load::Unknown(why),
                }
            }
        };
        match answer {
            Ok(load) => load,
            Err(error @ (StoreError::Format { .. } | StoreError::Corrupt { .. })) => {
                Load::Unknown(error)
            }
            Err(error) => self.load_from_replica(key, floor, error).await,
        }
    }

    async fn commit(&self, commit: Commit) -> Result<Outcome, StoreError> {
        let params = row::CommitParams::new(&commit);
        let key = &commit.key.hash()[..];
        let successor = commit.rotate_to.as_ref().map(row::tagged);
        let successor = successor.as_ref().map(|key| &key[..]);
        let idle = ms(commit.expiry.idle());
        let absolute = ms(commit.expiry.absolute());
        let grace = ms(ROTATION_GRACE);
        let max = i64::try_from(commit.max_bytes).unwrap_or(i64::MAX);
        let claim = commit.claim.as_ref();
        let principal = claim.map(|claim| claim.principal.as_str());
        let device = claim.and_then(|claim| claim.device.as_deref());
        let began = commit.began_ago.map(ms);
        let yields: Vec<&str> = commit.yields.iter().map(String::as_str).collect();
        let knows = i64::try_from(commit.knows).unwrap_or(i64::MAX);
        let rows = self
            .query(
                COMMIT,
                &[
                    (&key, Type::BYTEA),
                    (&commit.create, Type::BOOL),
                    (&successor, Type::BYTEA),
                    (&params.set, Type::TEXT),
                    (&params.remove, Type::TEXT_ARRAY),
                    (&params.expected, Type::TEXT),
                    (&idle, Type::INT8),
                    (&absolute, Type::INT8),
                    (&grace, Type::INT8),
                    (&max, Type::INT8),
                    (&principal, Type::TEXT),
                    (&device, Type::TEXT),
                    (&began, Type::INT8),
                    (&knows, Type::INT8),
                    (&yields, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        row::outcome(rows.into_iter().next())
    }

    async fn destroy(&self, key: SessionKey) -> Result<(), StoreError> {
        self.end(key, None).await.map(drop)
    }

    async fn touch(&self, key: SessionKey, expiry: Expiry) -> Result<(), StoreError> {
        let hash = &key.hash()[..];
        let idle = ms(expiry.idle());
        self.execute(TOUCH, &[(&hash, Type::BYTEA), (&idle, Type::INT8)])
            .await
            .map(drop)
    }

    async fn list(&self, principal: Principal) -> Result<Vec<SessionInfo>, StoreError> {
        let (name, limit) = (
            principal.as_str(),
            i64::try_from(MAX_LISTED).unwrap_or(i64::MAX),
        );
        let rows = self
            .query(LIST, &[(&name, Type::TEXT), (&limit, Type::INT8)])
            .await?;
        rows.iter()
            .map(|row| row::info(row, principal.tag()))
            .collect()
    }

    async fn revoke(&self, principal: Principal, key: SessionKey) -> Result<bool, StoreError> {
        let ended = self.end(key, Some(&principal)).await?;
        Ok(!ended.is_empty())
    }

    async fn revoke_all(
        &self,
        principal: Principal,
        keep: Option<SessionKey>,
    ) -> Result<u64, StoreError> {
        let (epoch, _) = self.draw_epoch(&principal, keep).await?;
        Ok(epoch)
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(millis(duration)).unwrap_or(i64::MAX)
}

/// What the server said, without the detail that it adds: that quotes what is stored, and errors are logged.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
struct Refusal {
    code: String,
    message: String,
}

impl Refusal {
    fn of(error: &Error) -> Option<Self> {
        let Error::Query(query) = error else {
            return None;
        };
        let said = query.as_db_error()?;
        Some(Self {
            code: said.code().code().to_owned(),
            message: said.message().to_owned(),
        })
    }
}

fn query_error(error: Error) -> StoreError {
    let refused = match &error {
        // The server's own refusal rolled the statement back. A broken link says nothing, and neither does a server that
        // shuts down (class 57): the commit may be done and only waiting for a standby.
        Error::Query(query) => query
            .code()
            .is_some_and(|code| !code.code().starts_with("57")),
        Error::Timeout { .. } => false,
        other => !other.is_unknown(),
    };
    let store = NAME;
    let source: Box<dyn std::error::Error + Send + Sync> = match Refusal::of(&error) {
        Some(refusal) => Box::new(refusal),
        None => Box::new(error),
    };
    if refused {
        StoreError::Unavailable { store, source }
    } else {
        StoreError::NoAnswer { store, source }
    }
}

/// Reads the values of a row.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        row::fuzz(text);
    }
}
