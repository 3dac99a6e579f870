//! Real servers, and the published stores of tower-sessions on them.

use std::sync::Arc;
use std::time::Duration;

use ha_db::postgres::Router;
use ha_db::redis::Connection;
use ha_session::{PostgresStore, RedisStore};
use ha_testbed::postgres::Postgres;
use ha_testbed::redis::Redis;
use ha_testbed::{postgres, redis};
use tokio::time::Instant;
use tower_sessions_014::session::Id;
use tower_sessions_014::{Expiry, Session, SessionStore};
use tower_sessions_redis_store::RedisStore as TheirRedis;
use tower_sessions_redis_store::fred::prelude::{
    Client, ClientLike as _, Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy,
};
use tower_sessions_sqlx_store::PostgresStore as TheirPostgres;
use tower_sessions_sqlx_store::sqlx::PgPool;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct RedisBed {
    pub(crate) servers: redis::Cluster,
    pub(crate) connection: Connection,
    pub(crate) theirs: TheirRedis<Client>,
}

impl RedisBed {
    pub(crate) async fn start() -> Self {
        let servers = Redis::single().start().await.unwrap();
        let connection = Connection::from_url(&servers.url()).unwrap();
        connection.ready(DEADLINE).await.unwrap();
        let theirs = their_redis(&servers.url()).await;
        Self {
            servers,
            connection,
            theirs,
        }
    }

    pub(crate) fn ours(&self) -> RedisStore {
        RedisStore::new(self.connection.clone())
    }
}

/// Their store on a client that fails within seconds, as one for requests should.
pub(crate) async fn their_redis(url: &str) -> TheirRedis<Client> {
    let timeouts = ConnectionConfig {
        max_command_attempts: 1,
        ..ConnectionConfig::default()
    };
    let performance = PerformanceConfig {
        default_command_timeout: Duration::from_secs(2),
        ..PerformanceConfig::default()
    };
    let client = Client::new(
        Config::from_url(url).unwrap(),
        Some(performance),
        Some(timeouts),
        Some(ReconnectPolicy::new_constant(0, 100)),
    );
    drop(client.init().await.unwrap());
    TheirRedis::new(client)
}

/// Waits until `done` says so.
pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) struct PostgresBed {
    pub(crate) servers: postgres::Cluster,
    pub(crate) router: Router,
    pub(crate) theirs: TheirPostgres,
}

impl PostgresBed {
    pub(crate) async fn start() -> Self {
        let servers = Postgres::primary().start().await.unwrap();
        let node = &servers.nodes[0];
        let router = Router::builder()
            .node(node.name.clone(), node.conninfo())
            .build()
            .unwrap();
        router.wait_primary(DEADLINE).await.unwrap();
        PostgresStore::new(router.clone()).migrate().await.unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", node.port);
        let pool = PgPool::connect(&url).await.unwrap();
        let theirs = TheirPostgres::new(pool);
        theirs.migrate().await.unwrap();
        Self {
            servers,
            router,
            theirs,
        }
    }

    pub(crate) fn ours(&self) -> PostgresStore {
        PostgresStore::new(self.router.clone())
    }
}

pub(crate) fn session(id: Option<Id>, store: &Arc<impl SessionStore>) -> Session {
    let hour = Duration::from_secs(3600).try_into().unwrap();
    Session::new(id, Arc::clone(store), Some(Expiry::OnInactivity(hour)))
}

/// A session that says `user` is ann.
pub(crate) async fn signed_in(store: &Arc<impl SessionStore>) -> Id {
    let session = session(None, store);
    session.insert("user", "ann").await.unwrap();
    session.save().await.unwrap();
    session.id().unwrap()
}

pub(crate) async fn text(store: &Arc<impl SessionStore>, id: Id, name: &str) -> Option<String> {
    session(Some(id), store).get(name).await.unwrap()
}
