//! The stores of both sides, each with the clients that its makers publish it for, set up as well as they can be.

use std::time::Duration;

use fred::prelude::{
    Builder, Client, ClientLike as _, Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy,
    ServerConfig,
};
use fred::types::config::UnresponsiveConfig;
use ha_db::postgres::Router as Database;
use ha_db::redis::Connection;
use ha_session::{PostgresStore, RedisStore};
use ha_testbed::redis::{Cluster, MASTER_NAME};
use tower_sessions_redis_store::RedisStore as TheirRedis;
use tower_sessions_sqlx_store::PostgresStore as TheirPostgres;
use tower_sessions_sqlx_store::sqlx::PgPool;
use tower_sessions_sqlx_store::sqlx::postgres::PgPoolOptions;

use crate::{LIMIT, Outcome};

/// Connections of sqlx to one node: as many as our router has by default.
const POOL: u32 = 16;
/// How long a client of theirs waits before it gives something up and tries again: as long as a store of ours waits for a failover.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the servers are reached.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    /// The Redis, as a URL of ours and as a configuration of fred's.
    pub(crate) redis: (String, Config),
    /// Name and connection string of each PostgreSQL node.
    pub(crate) nodes: Vec<(String, String)>,
    /// The one address that sqlx takes.
    pub(crate) sqlx: String,
}

/// A Redis with or without Sentinels.
pub(crate) fn redis_of(cluster: &Cluster) -> Outcome<(String, Config)> {
    if cluster.sentinels.is_empty() {
        return redis_at(&cluster.url());
    }
    let hosts: Vec<_> = cluster.sentinels.iter().map(|node| node.addr()).collect();
    let hosts = hosts.iter().map(|at| (at.ip().to_string(), at.port()));
    let config = Config {
        server: ServerConfig::new_sentinel(hosts.collect(), MASTER_NAME),
        ..Config::default()
    };
    Ok((cluster.sentinel_url(), config))
}

/// A Redis by itself.
pub(crate) fn redis_at(url: &str) -> Outcome<(String, Config)> {
    Ok((url.to_owned(), Config::from_url(url)?))
}

/// One app server's stores of ours, on connections that they share. The schema is there afterwards.
#[derive(Debug, Clone)]
pub(crate) struct Ours {
    pub(crate) redis: RedisStore,
    pub(crate) postgres: PostgresStore,
}

impl Ours {
    pub(crate) async fn connect(ways: &Ways) -> Outcome<Self> {
        Ok(Self {
            redis: redis(&ways.redis.0).await?,
            postgres: postgres(&ways.nodes).await?,
        })
    }
}

/// Our store on a connection of its own.
pub(crate) async fn redis(url: &str) -> Outcome<RedisStore> {
    let connection = Connection::from_url(url)?;
    connection.ready(LIMIT).await?;
    Ok(RedisStore::new(connection))
}

/// Our store on a router of its own.
pub(crate) async fn postgres(nodes: &[(String, String)]) -> Outcome<PostgresStore> {
    let mut builder = Database::builder();
    for (name, conninfo) in nodes {
        builder = builder.node(name.clone(), conninfo.clone());
    }
    let database = builder.build()?;
    database.wait_primary(LIMIT).await?;
    let store = PostgresStore::new(database);
    store.migrate().await?;
    Ok(store)
}

/// One app server's stores of tower-sessions. The schema is there afterwards.
#[derive(Debug, Clone)]
pub(crate) struct Theirs {
    pub(crate) redis: TheirRedis<Client>,
    pub(crate) postgres: TheirPostgres,
    client: Client,
    pool: PgPool,
}

impl Theirs {
    pub(crate) async fn connect(ways: &Ways) -> Outcome<Self> {
        let client = fred(ways.redis.1.clone())?;
        // It reconnects by itself until it is told to quit.
        drop(tokio::time::timeout(LIMIT, client.init()).await??);
        let pool = pool(&ways.sqlx).await?;
        let postgres = TheirPostgres::new(pool.clone());
        postgres.migrate().await?;
        Ok(Self {
            redis: TheirRedis::new(client.clone()),
            postgres,
            client,
            pool,
        })
    }

    /// Ends what runs in the background, whether the servers answer or not.
    pub(crate) async fn close(self) {
        let ended = async { tokio::join!(self.client.quit(), self.pool.close()) };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            eprintln!("tower-sessions' connections did not end within {PATIENCE:?}");
        }
    }
}

/// A connection that notices a server which has gone silent, asks the Sentinels anew, does the same after an answer of a demoted master,
/// and sends again what was not answered. None of that is its default.
fn fred(config: Config) -> Outcome<Client> {
    let client = Builder::from_config(config)
        .set_policy(ReconnectPolicy::new_constant(0, 100))
        .set_performance_config(PerformanceConfig {
            default_command_timeout: PATIENCE,
            ..PerformanceConfig::default()
        })
        .set_connection_config(ConnectionConfig {
            connection_timeout: PATIENCE / 2,
            internal_command_timeout: PATIENCE / 2,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(PATIENCE / 2),
                interval: PATIENCE / 8,
            },
            ..ConnectionConfig::default()
        })
        .build()?;
    Ok(client)
}

pub(crate) async fn pool(url: &str) -> Outcome<PgPool> {
    let options = PgPoolOptions::new()
        .max_connections(POOL)
        .acquire_timeout(PATIENCE);
    // The first connections to a busy server may take longer than a request should wait.
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match options.clone().connect(url).await {
            Ok(pool) => return Ok(pool),
            Err(error) if tokio::time::Instant::now() >= end => return Err(error.into()),
            Err(_) => tokio::time::sleep(PATIENCE / 10).await,
        }
    }
}
