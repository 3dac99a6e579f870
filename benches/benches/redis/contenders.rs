//! Who writes: ours by setting, and what the driver offers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ha_db::redis::{Builder, Connection};
use ha_testbed::redis::{Cluster, MASTER_NAME};
use redis::aio::{
    ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection,
};
use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelServerType};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, cmd, pipe};
use tokio::sync::Mutex;

use crate::writers::{Outcome, Writers};

const READY: Duration = Duration::from_secs(60);
/// What all of them give a command and an attempt to connect: the default of ours.
const LIMIT: Duration = Duration::from_millis(500);
/// How long `WAIT` waits, within that.
const COPIED_WITHIN: Duration = Duration::from_millis(250);

/// One of ours.
struct Setting {
    who: &'static str,
    change: fn(Builder) -> Builder,
    /// How many replicas have to have a write before it counts as acknowledged.
    copies: u64,
}

const fn setting(who: &'static str, change: fn(Builder) -> Builder) -> Setting {
    Setting {
        who,
        change,
        copies: 0,
    }
}

const PLAIN: Setting = setting("ours", |builder| builder);
const WAIT_1: Setting = Setting {
    who: "ours_wait_1",
    copies: 1,
    ..PLAIN
};
const ONE_TIMEOUT: Setting = setting("ours_one_timeout", |builder| builder.timeouts_in_a_row(1));
const NO_HOLD: Setting = setting("ours_no_hold", |builder| {
    builder.failover_hold(Duration::ZERO)
});

fn increment(key: &str) -> Cmd {
    let mut command = cmd("INCR");
    command.arg(key);
    command
}

/// The same, with how many replicas have it.
fn increment_and_wait(key: &str, copies: u64) -> Pipeline {
    let mut pipeline = pipe();
    pipeline.add_command(increment(key));
    let millis = COPIED_WITHIN.as_millis() as u64;
    pipeline.cmd("WAIT").arg(copies).arg(millis);
    pipeline
}

async fn write_ours(connection: Connection, key: String, copies: u64) -> Outcome {
    let done = if copies == 0 {
        let done = connection.run::<u64>(&increment(&key)).await;
        done.map(|_| true)
    } else {
        let pipeline = increment_and_wait(&key, copies);
        let done = connection.pipeline::<(u64, u64)>(&pipeline).await;
        done.map(|(_, copied)| copied >= copies)
    };
    match done {
        Ok(true) => Outcome::Acknowledged,
        Err(error) if error.is_not_sent() => Outcome::NotSent,
        Ok(false) | Err(_) => Outcome::Unknown,
    }
}

/// The driver does not say whether a command was sent.
async fn write_theirs(connection: &mut impl ConnectionLike, key: &str) -> Result<(), RedisError> {
    increment(key).exec_async(connection).await
}

async fn told(done: impl Future<Output = Result<(), RedisError>>) -> Outcome {
    match done.await {
        Ok(()) => Outcome::Acknowledged,
        Err(_) => Outcome::Unknown,
    }
}

async fn ours(url: &str, settings: [Setting; 3], tag: &'static str) -> Vec<Writers> {
    let mut all = Vec::new();
    for Setting {
        who,
        change,
        copies,
    } in settings
    {
        let builder = change(Connection::builder().url(url).unwrap());
        let connection = builder.build().unwrap();
        connection.ready(READY).await.unwrap();
        all.push(Writers::start(who, tag, move |key| {
            write_ours(connection.clone(), key, copies)
        }));
    }
    all
}

fn sentinel_client(cluster: &Cluster) -> SentinelClient {
    let sentinels = cluster.sentinels.iter().map(|node| node.url()).collect();
    let master = SentinelServerType::Master;
    SentinelClient::build(sentinels, MASTER_NAME.into(), None, master).unwrap()
}

async fn manager(cluster: &Cluster) -> ConnectionManager {
    let client = sentinel_client(cluster).async_get_client().await.unwrap();
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(LIMIT))
        .set_connection_timeout(Some(LIMIT));
    ConnectionManager::new_with_config(client, config)
        .await
        .unwrap()
}

/// The driver's client of the Sentinels, asked for another link after every error.
struct Asked {
    client: SentinelClient,
    /// With a number that grows, so that one link is given up once.
    link: Option<(u64, MultiplexedConnection)>,
    asked: u64,
}

impl Asked {
    async fn link(&mut self) -> Result<(u64, MultiplexedConnection), RedisError> {
        if let Some(link) = &self.link {
            return Ok(link.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(LIMIT))
            .set_connection_timeout(Some(LIMIT));
        let fresh = self
            .client
            .get_async_connection_with_config(&config)
            .await?;
        self.asked += 1;
        Ok(self.link.insert((self.asked, fresh)).clone())
    }

    fn give_up(&mut self, number: u64) {
        self.link.take_if(|(current, _)| *current == number);
    }
}

async fn write_asked(asked: Arc<Mutex<Asked>>, key: String) -> Result<(), RedisError> {
    let (number, mut link) = asked.lock().await.link().await?;
    let done = write_theirs(&mut link, &key).await;
    if done.is_err() {
        asked.lock().await.give_up(number);
    }
    done
}

/// Those that write to the master that the Sentinels name.
pub(crate) async fn at_sentinel(cluster: &Cluster) -> Vec<Writers> {
    let tag = "s";
    let settings = [PLAIN, WAIT_1, NO_HOLD];
    let mut all = ours(&cluster.sentinel_url(), settings, tag).await;
    let plain = manager(cluster).await;
    all.push(Writers::start("connection_manager", tag, move |key| {
        let mut manager = plain.clone();
        told(async move { write_theirs(&mut manager, &key).await })
    }));
    let waiting = manager(cluster).await;
    all.push(Writers::start(
        "connection_manager_wait_1",
        tag,
        move |key| {
            let mut manager = waiting.clone();
            async move {
                let pipeline = increment_and_wait(&key, 1);
                match pipeline.query_async::<(u64, u64)>(&mut manager).await {
                    Ok((_, 1..)) => Outcome::Acknowledged,
                    Ok(_) | Err(_) => Outcome::Unknown,
                }
            }
        },
    ));
    let asked = Arc::new(Mutex::new(Asked {
        client: sentinel_client(cluster),
        link: None,
        asked: 0,
    }));
    all.push(Writers::start("sentinel_client", tag, move |key| {
        told(write_asked(Arc::clone(&asked), key))
    }));
    all
}

/// Those that write to the owner of the slot of `{foo}`.
pub(crate) async fn in_cluster(cluster: &Cluster) -> Vec<Writers> {
    let tag = "{foo}";
    let settings = [PLAIN, WAIT_1, ONE_TIMEOUT];
    let mut all = ours(&cluster.cluster_url(), settings, tag).await;
    let client = ClusterClient::builder(cluster.urls())
        .response_timeout(LIMIT)
        .connection_timeout(LIMIT)
        .build()
        .unwrap();
    let connection = client.get_async_connection().await.unwrap();
    all.push(Writers::start("cluster_connection", tag, move |key| {
        let mut connection = connection.clone();
        told(async move { write_theirs(&mut connection, &key).await })
    }));
    all
}
