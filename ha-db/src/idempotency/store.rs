//! Claiming a key, and storing what it came to.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use ha_core::config::ConfigError;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::error::Error;
use super::fingerprint::{Fingerprint, digest};
use super::key::Key;
use super::schema;
use crate::postgres::{self, Causal, Lsn, Position, Router, Token, Unit, after};

/// Settings of a [`Store`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// How long an outcome is kept; default 24 h, longer than any client goes on trying.
    pub expiry: Duration,
    /// How long a repetition waits for a first run that has not ended; default 2 s, below the deadlines that clients and
    /// proxies usually have.
    pub wait: Duration,
    /// The deadline of each statement; default 2 s. They are reads and writes of one row by its key.
    pub statement: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            expiry: Duration::from_secs(24 * 60 * 60),
            wait: Duration::from_secs(2),
            statement: Duration::from_secs(2),
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), ConfigError> {
        ConfigError::positive("expiry", self.expiry)?;
        ConfigError::positive("statement", self.statement)?;
        // PostgreSQL's timestamps end somewhere, and sums with them fail only when the first outcome is stored.
        if self.expiry > Duration::from_secs(100 * 366 * 24 * 60 * 60) {
            let value = format_args!("{:?}", self.expiry).to_string();
            return Err(ConfigError::new(
                "expiry",
                value,
                "must be at most a hundred years",
            ));
        }
        Ok(())
    }
}

/// Remembers the outcomes of keyed writes, in the database that the writes are in. Cheap to clone.
///
/// ```no_run
/// # async fn example(router: ha_db::postgres::Router) -> Result<(), Box<dyn std::error::Error>> {
/// use ha_db::idempotency::{Claim, Fingerprint, Key, Store};
/// use ha_db::postgres::Causal;
///
/// let store = Store::new(router.clone());
/// let causal = Causal::new(None);
/// let key = Key::parse("payment-4711")?;
/// let fingerprint = Fingerprint::of([b"100 EUR to Bob".as_slice()]);
/// let receipt = match store.claim(&causal, "alice", &key, &fingerprint).await? {
///     Claim::Done(receipt) => receipt,
///     Claim::First(run) => {
///         let tx = router.db(causal).transaction().await?;      // part of the run's transaction
///         tx.execute("INSERT INTO payment VALUES (4711)", &[]).await?;
///         tx.commit().await?;
///         run.finish(b"receipt 1").await?;                      // commits both
///         b"receipt 1".to_vec()
///     }
/// };
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    router: Router,
    settings: Settings,
}

/// What a key turned out to be.
#[derive(Debug)]
pub enum Claim {
    /// It is new: do the work, then [`Run::finish`].
    First(Box<Run>),
    /// The work is done; this is its outcome.
    Done(Vec<u8>),
}

impl Store {
    /// A store with default settings.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self {
            router,
            settings: Settings::default(),
        }
    }

    /// A store with other settings.
    ///
    /// # Errors
    /// [`ConfigError`], naming setting and value.
    pub fn with_settings(router: Router, settings: Settings) -> Result<Self, ConfigError> {
        settings.check()?;
        Ok(Self { router, settings })
    }

    /// Finds out whether this key of this scope is new, done or running.
    ///
    /// When it is new, everything done through [`Db`](crate::postgres::Db)s of `causal` becomes part of one transaction until the
    /// [`Run`] ends. When it is done, `causal` is advanced so far that the client sees the original write.
    ///
    /// # Errors
    /// [`Error::KeyReused`] for another fingerprint, [`Error::Busy`] when the first run did not end within
    /// [`Settings::wait`], [`Error::Database`]. Nothing was done in any case.
    ///
    /// # Cancel safety
    /// Dropped half way, nothing has happened.
    pub async fn claim(
        &self,
        causal: &Causal,
        scope: &str,
        key: &Key,
        fingerprint: &Fingerprint,
    ) -> Result<Claim, Error> {
        let id = digest([scope.as_bytes(), key.as_str().as_bytes()]);
        let deadline = after(self.settings.wait);
        let mut pause = Duration::from_millis(5);
        loop {
            let unit = Unit::begin(&self.router, causal).await?;
            match self.look(&unit, &id).await? {
                Look::Busy => {
                    // Waiting costs no connection: the unit ends before the pause.
                    unit.rollback().await?;
                    let now = Instant::now();
                    if now >= deadline {
                        return Err(Error::Busy);
                    }
                    let jittered = pause.mul_f64(0.5 + fastrand::f64());
                    sleep(jittered.min(deadline - now)).await;
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                Look::New => {
                    return Ok(Claim::First(Box::new(Run {
                        unit,
                        causal: causal.clone(),
                        id,
                        fingerprint: *fingerprint,
                        settings: self.settings.clone(),
                    })));
                }
                Look::Done {
                    stored,
                    outcome,
                    written,
                } => {
                    if stored != fingerprint.as_bytes() {
                        unit.rollback().await?;
                        return Err(Error::KeyReused);
                    }
                    // The commit's position covers the original write, whose own may never have reached the client. It is acknowledged
                    // now, so its loss would have to be told as that of a write, and not only of something seen.
                    let seen = unit.commit().await?;
                    causal.advance(seen.join(Token::at(seen.system_id(), written, seen.seen())));
                    return Ok(Claim::Done(outcome));
                }
            }
        }
    }

    async fn look(&self, unit: &Unit, id: &[u8; 32]) -> Result<Look, Error> {
        const LOCK: &str = "SELECT pg_try_advisory_xact_lock($1)";
        const FIND: &str = "SELECT fingerprint, outcome, timeline, lsn FROM ha_idempotency WHERE id = $1 AND expires_at > now()";
        let client = unit.client().await?;
        let [a, b, c, d, e, f, g, h, ..] = *id;
        let number = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let id = id.as_slice();
        // Sent together, in this order: the second statement's snapshot is newer than the lock.
        let (lock_parameters, find_parameters): ([Parameter<'_>; 1], [Parameter<'_>; 1]) =
            ([(&number, Type::INT8)], [(&id, Type::BYTEA)]);
        let both = async {
            tokio::try_join!(
                client.query_typed(LOCK, &lock_parameters),
                client.query_typed(FIND, &find_parameters),
            )
        };
        let (lock, found) = bounded("looking a key up", self.settings.statement, both).await?;
        let locked = lock.first().is_some_and(|row| row.get(0));
        Ok(match found.into_iter().next() {
            // Whoever holds the lock now can only be another repetition: what is stored is final.
            Some(row) => Look::Done {
                stored: row.get(0),
                outcome: row.get(1),
                written: Position {
                    timeline: row.get::<_, i32>(2).unsigned_abs(),
                    // The commit ends past where it began.
                    lsn: Lsn(row.get::<_, i64>(3).unsigned_abs() + 1),
                },
            },
            None if locked => Look::New,
            None => Look::Busy,
        })
    }

    /// Deletes up to `batch` expired outcomes and says how many there were. Safe to run anywhere, at any time.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe; the rows are deleted or not.
    pub async fn sweep(&self, batch: u32) -> Result<u64, Error> {
        schema::sweep(&self.router, batch.into(), self.settings.statement).await
    }
}

enum Look {
    New,
    Busy,
    Done {
        stored: Vec<u8>,
        outcome: Vec<u8>,
        written: Position,
    },
}

type Parameter<'a> = (&'a (dyn tokio_postgres::types::ToSql + Sync), Type);

/// The one run under a key. Dropped without [`finish`](Self::finish), everything it did is rolled back and the key is new again.
pub struct Run {
    unit: Unit,
    causal: Causal,
    id: [u8; 32],
    fingerprint: Fingerprint,
    settings: Settings,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Run {
    /// The transaction.
    #[must_use]
    pub fn unit(&self) -> &Unit {
        &self.unit
    }

    /// Stores the outcome and commits it together with everything that was done. The context of the claim is advanced to
    /// the commit.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when a statement had failed before; [`Error::CommitUnknown`] when the connection broke while
    /// committing; [`Error::Busy`] when another run has stored an outcome meanwhile; [`Error::Database`]. Only after
    /// `CommitUnknown` something may have been committed.
    ///
    /// # Cancel safety
    /// Dropped half way, the outcome is unknown; claiming the same key again tells.
    pub async fn finish(self, outcome: &[u8]) -> Result<(), Error> {
        // The row of an expired outcome may still be there, one of a live outcome may not.
        const STORE: &str = "
            INSERT INTO ha_idempotency (id, fingerprint, outcome, expires_at, timeline, lsn)
            VALUES ($1, $2, $3, now() + make_interval(secs => $4),
                ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
                (pg_current_wal_insert_lsn() - '0/0')::bigint)
            ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, outcome = excluded.outcome,
                timeline = excluded.timeline, lsn = excluded.lsn, created_at = excluded.created_at, expires_at = excluded.expires_at
            WHERE ha_idempotency.expires_at <= now()
            RETURNING 1";
        let stored = {
            let client = self.unit.client().await?;
            let (id, fingerprint) = (self.id.as_slice(), self.fingerprint.as_bytes());
            let expiry = self.settings.expiry.as_secs_f64();
            let parameters: [Parameter<'_>; 4] = [
                (&id, Type::BYTEA),
                (&fingerprint, Type::BYTEA),
                (&outcome, Type::BYTEA),
                (&expiry, Type::FLOAT8),
            ];
            let storing = client.query_typed(STORE, &parameters);
            bounded("storing an outcome", self.settings.statement, storing).await?
        };
        if stored.is_empty() {
            self.unit.rollback().await?;
            return Err(Error::Busy);
        }
        self.causal.advance(self.unit.commit().await?);
        Ok(())
    }

    /// Rolls everything back; the key is new again. Dropping does the same without waiting for it.
    ///
    /// # Errors
    /// [`Error::Database`]; the transaction is gone nevertheless.
    pub async fn abandon(self) -> Result<(), Error> {
        self.unit.rollback().await?;
        Ok(())
    }
}

async fn bounded<T>(
    what: &'static str,
    limit: Duration,
    running: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match timeout(limit, running).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
            Err(Error::RolledBack)
        }
        Ok(Err(error)) => Err(Error::Database(error.into())),
        Err(_) => Err(Error::Database(postgres::Error::Timeout { what, limit })),
    }
}
