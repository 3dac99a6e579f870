//! What all of these tests need.

use std::time::Duration;

use futures_util::StreamExt as _;
use ha_core::endpoint::Endpoint;
use ha_db::postgres::Router;
use ha_db::redis::Connection;
use ha_db::registry::{self, Registry, Watch};
use ha_testbed::postgres::Cluster;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const BEAT: Duration = Duration::from_millis(200);

pub(crate) fn endpoint(port: u16) -> Endpoint {
    format!("http://127.0.0.1:{port}").parse().unwrap()
}

pub(crate) fn ports(set: &[Endpoint]) -> Vec<u16> {
    set.iter().map(|endpoint| endpoint.address.port()).collect()
}

/// The next sets, until one has these ports.
pub(crate) async fn until(watch: &mut Watch, expected: &[u16]) -> Vec<Endpoint> {
    let mut seen = Vec::new();
    let waiting = async {
        loop {
            let set = watch.next().await.expect("never ends");
            if ports(&set) == expected {
                return set;
            }
            seen.push(ports(&set));
        }
    };
    match tokio::time::timeout(DEADLINE, waiting).await {
        Ok(set) => set,
        Err(_) => panic!("never {expected:?}, but {seen:?}"),
    }
}

/// No other set comes for so long.
pub(crate) async fn nothing_new(watch: &mut Watch, how_long: Duration) {
    if let Ok(set) = tokio::time::timeout(how_long, watch.next()).await {
        panic!("{:?}", set.map(|set| ports(&set)));
    }
}

pub(crate) async fn redis_registry(url: &str) -> (Registry, Connection) {
    let connection = Connection::from_url(url).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let registry = Registry::redis("catalog", connection.clone());
    (registry.heartbeat(BEAT).build().unwrap(), connection)
}

pub(crate) async fn postgres_registry(cluster: &Cluster) -> (Registry, Router) {
    let mut builder = Router::builder();
    for (i, node) in cluster.nodes.iter().enumerate() {
        builder = builder.node(format!("n{i}"), node.conninfo());
    }
    let router = builder.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    registry::migrate(&router).await.unwrap();
    registry::migrate(&router).await.unwrap();
    let registry = Registry::postgres("catalog", router.clone());
    (registry.heartbeat(BEAT).build().unwrap(), router)
}
