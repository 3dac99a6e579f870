//! Who writes: ours by setting, and what the driver offers.

use std::time::Duration;

use ha_db::redis::{Builder, Connection};
use ha_testbed::redis::{Cluster, MASTER_NAME};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelServerType};

use crate::writers::{Outcome, Writers};

const READY: Duration = Duration::from_secs(60);

/// One setting changed.
type Setting = (&'static str, fn(Builder) -> Builder);

const SENTINEL: [Setting; 4] = [
    ("ours", |builder| builder),
    ("ours_no_hold", |builder| {
        builder.failover_hold(Duration::ZERO)
    }),
    ("ours_one_timeout", |builder| builder.timeouts_in_a_row(1)),
    ("ours_check_100ms", |builder| {
        builder.check_interval(Duration::from_millis(100))
    }),
];
const CLUSTER: [Setting; 3] = [
    ("ours", |builder| builder),
    ("ours_one_timeout", |builder| builder.timeouts_in_a_row(1)),
    ("ours_check_100ms", |builder| {
        builder.check_interval(Duration::from_millis(100))
    }),
];

async fn ours(url: &str, settings: &[Setting], tag: &'static str) -> Vec<Writers> {
    let mut all = Vec::new();
    for (who, change) in settings {
        let builder = change(Connection::builder().url(url).unwrap());
        let connection = builder.build().unwrap();
        connection.ready(READY).await.unwrap();
        all.push(Writers::start(who, tag, move |command| {
            let connection = connection.clone();
            async move {
                match connection.run::<()>(&command).await {
                    Ok(()) => Outcome::Acknowledged,
                    Err(error) if error.is_not_sent() => Outcome::NotSent,
                    Err(_) => Outcome::Unknown,
                }
            }
        }));
    }
    all
}

/// Those that write to the master that the Sentinels name.
pub(crate) async fn at_sentinel(cluster: &Cluster) -> Vec<Writers> {
    let tag = "s";
    let mut all = ours(&cluster.sentinel_url(), &SENTINEL, tag).await;
    let sentinels = cluster.sentinels.iter().map(|node| node.url()).collect();
    let master = SentinelServerType::Master;
    let mut sentinel = SentinelClient::build(sentinels, MASTER_NAME.into(), None, master).unwrap();
    let client = sentinel.async_get_client().await.unwrap();
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(Duration::from_millis(500)))
        .set_connection_timeout(Some(Duration::from_millis(500)));
    let manager = ConnectionManager::new_with_config(client, config)
        .await
        .unwrap();
    all.push(Writers::start("connection_manager", tag, move |command| {
        let mut manager = manager.clone();
        async move {
            match command.exec_async(&mut manager).await {
                Ok(()) => Outcome::Acknowledged,
                Err(_) => Outcome::Unknown,
            }
        }
    }));
    all
}

/// Those that write to the owner of the slot of `{foo}`.
pub(crate) async fn in_cluster(cluster: &Cluster) -> Vec<Writers> {
    let tag = "{foo}";
    let mut all = ours(&cluster.cluster_url(), &CLUSTER, tag).await;
    let client = ClusterClient::builder(cluster.urls())
        .response_timeout(Duration::from_millis(500))
        .connection_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let connection = client.get_async_connection().await.unwrap();
    all.push(Writers::start("cluster_connection", tag, move |command| {
        let mut connection = connection.clone();
        async move {
            match command.exec_async(&mut connection).await {
                Ok(()) => Outcome::Acknowledged,
                Err(_) => Outcome::Unknown,
            }
        }
    }));
    all
}
