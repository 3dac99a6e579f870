//! Ours: two app servers, one that writes and one that reads. A client carries its signed token from one to the other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ha_core::sign::{Key, KeyRing};
use ha_db::postgres::{Builder, Causal, Consistency, Db, Error, Role, Router, Token};
use tokio_postgres::types::Type;

use crate::Outcome;
use crate::app::{Next, Nodes, Seen, Sql, Told, Trouble, patiently, told};

pub(crate) const TABLE: &str = "note_ours";

/// A signed token, and how often the client was told that what it stood for is gone.
#[derive(Debug, Clone, Default)]
struct Carried {
    token: Option<String>,
    losses: u64,
}

#[derive(Debug)]
pub(crate) struct Ours {
    writer: Router,
    reader: Router,
    consistency: Consistency,
    keys: KeyRing,
    /// What each client carries.
    carried: Vec<Mutex<Carried>>,
    sql: Sql,
}

pub(crate) fn builder(nodes: &Nodes) -> Builder {
    nodes
        .iter()
        .fold(Router::builder(), |builder, (name, conninfo)| {
            builder.node(name, conninfo)
        })
}

impl Ours {
    pub(crate) fn start(nodes: &Nodes, clients: usize) -> Outcome<Self> {
        Self::start_with(nodes, clients, |builder| builder)
    }

    /// `set` is applied to both routers.
    pub(crate) fn start_with(
        nodes: &Nodes,
        clients: usize,
        set: impl Fn(Builder) -> Builder,
    ) -> Outcome<Self> {
        Ok(Self {
            writer: set(builder(nodes)).build()?,
            reader: set(builder(nodes)).build()?,
            consistency: Consistency::ReadYourWrites,
            keys: KeyRing::from(Key::from_bytes(&[7; 32])?),
            carried: (0..clients).map(|_| Mutex::default()).collect(),
            sql: Sql::of(TABLE),
        })
    }

    pub(crate) fn reading(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    pub(crate) fn with_sql(mut self, sql: Sql) -> Self {
        self.sql = sql;
        self
    }

    pub(crate) fn routers(&self) -> [&Router; 2] {
        [&self.writer, &self.reader]
    }

    /// Waits until both routers have found a primary and so many replicas.
    pub(crate) async fn ready(&self, replicas: usize) -> Outcome<()> {
        for router in self.routers() {
            ready(router, replicas).await?;
        }
        Ok(())
    }

    fn context(&self, client: usize) -> (Causal, u64) {
        let Carried { token, losses } = self.carried(client).clone();
        (Causal::new(self.verified(token.as_deref())), losses)
    }

    fn verified(&self, text: Option<&str>) -> Option<Token> {
        text.and_then(|text| Token::verify(text, &self.keys).ok())
    }

    /// What a browser does with the cookie of an answer, where it has several requests under way: joined, unless a loss was told. The
    /// token of the client's new beginning takes the place of the old one then, and an answer to what was asked before it must not
    /// bring that back.
    async fn keep(&self, client: usize, (context, losses): &(Causal, u64), lost: bool) {
        let Some(new) = context.settle().await else {
            return;
        };
        let mut carried = self.carried(client);
        let old = self.verified(carried.token.as_deref());
        let first = carried.losses == *losses;
        let joined = match old {
            Some(_) if lost && first => new,
            Some(old) if !lost && !first && new.timeline() < old.need().timeline => return,
            Some(old) => old.join(new),
            None => new,
        };
        carried.token = Some(joined.sign(&self.keys));
        carried.losses += u64::from(lost);
    }

    fn carried(&self, client: usize) -> std::sync::MutexGuard<'_, Carried> {
        self.carried[client]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn write(&self, client: usize, key: i64) -> (Told, Trouble) {
        let mut trouble = Trouble::default();
        let done = patiently(&mut trouble, || async move {
            let context = self.context(client);
            let done = self
                .insert(&self.writer.db(context.0.clone()), client, key)
                .await;
            let lost = done.as_ref().is_err_and(|(_, error)| error.is_lost());
            self.keep(client, &context, lost).await;
            done.map_err(|(asked, error)| match asked {
                true if error.is_unknown() => Next::Stop,
                _ if error.is_lost() => Next::Lost,
                // Whatever fails before the commit was asked for has changed nothing.
                false => Next::Again,
                true if error.is_retryable() => Next::Again,
                true => Next::Refused,
            })
        })
        .await;
        (told(done), trouble)
    }

    /// Errors say whether the commit was asked for.
    async fn insert(&self, db: &Db, client: usize, key: i64) -> Result<(), (bool, Error)> {
        let before = |error| (false, error);
        let tx = db.transaction().await.map_err(before)?;
        let client = client as i32;
        let insert = &[(&client as _, Type::INT4), (&key as _, Type::INT8)];
        tx.query_typed(&self.sql.insert, insert)
            .await
            .map_err(|error| (false, error.into()))?;
        tx.commit().await.map(drop).map_err(|error| (true, error))
    }

    pub(crate) async fn read(&self, client: usize) -> (Option<Seen>, Trouble) {
        let mut trouble = Trouble::default();
        let seen = patiently(&mut trouble, || async move {
            let context = self.context(client);
            let db = self.reader.db(context.0.clone());
            let seen = self.list(&db, client).await;
            let lost = seen.as_ref().is_err_and(Error::is_lost);
            self.keep(client, &context, lost).await;
            seen.map_err(|error| match error.is_lost() {
                true => Next::Lost,
                false => Next::Again,
            })
        })
        .await;
        (seen.ok(), trouble)
    }

    async fn list(&self, db: &Db, client: usize) -> Result<Seen, Error> {
        let conn = db.read_with(self.consistency).await?;
        let client = client as i32;
        let rows = conn
            .query_typed(&self.sql.list, &[(&client, Type::INT4)])
            .await?;
        let status = self.reader.status();
        Ok(Seen {
            keys: rows.iter().map(|row| row.get(0)).collect(),
            on_replica: Some(status.primary.as_deref() != Some(conn.node())),
        })
    }
}

/// Waits until a router has found a primary and so many replicas.
pub(crate) async fn ready(router: &Router, replicas: usize) -> Outcome<()> {
    const LIMIT: Duration = Duration::from_secs(30);
    router.wait_primary(LIMIT).await?;
    let all = async {
        loop {
            let nodes = router.status().nodes;
            let serving = nodes
                .iter()
                .filter(|node| node.role == Role::Replica && !node.ejected);
            if serving.count() >= replicas {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, all)
        .await
        .map_err(|_| format!("{replicas} replicas do not serve: {:?}", router.status()).into())
}
