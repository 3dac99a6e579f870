//! What all of these tests need.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use ha_core::sign::{Key, KeyRing};
use ha_db::postgres::{Builder, Db, Error, NodeStatus, Role, Router};
use ha_testbed::postgres::Cluster;

pub(crate) const DEADLINE: Duration = Duration::from_secs(40);

/// Waits until `done` says so.
pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A cluster with an empty table of notes on all nodes.
pub(crate) async fn prepared(bed: ha_testbed::postgres::Builder, replicas: usize) -> Cluster {
    let cluster = bed.replicas(replicas).start().await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE note (id bigint PRIMARY KEY)")
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster
}

pub(crate) async fn write(db: &Db, id: i64) {
    let tx = db.transaction().await.unwrap();
    tx.execute("INSERT INTO note VALUES ($1)", &[&id])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

pub(crate) async fn sees(
    client: &tokio_postgres::Client,
    id: i64,
) -> Result<bool, tokio_postgres::Error> {
    let sql = "SELECT count(*) = 1 FROM note WHERE id = $1";
    Ok(client.query_one(sql, &[&id]).await?.get(0))
}

/// A builder that knows every node of the cluster by its own name.
pub(crate) fn builder(cluster: &Cluster) -> Builder {
    let nodes = cluster.nodes.iter();
    nodes.fold(Router::builder(), |builder, node| {
        builder.node(&node.name, node.conninfo())
    })
}

/// A router that has found its primary.
pub(crate) async fn started(builder: Builder) -> Router {
    let router = builder.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    router
}

pub(crate) async fn all_in_use(router: &Router, replicas: usize) {
    eventually("all replicas serve", async || {
        let status = router.status();
        let serving = |node: &&NodeStatus| node.role == Role::Replica && !node.ejected;
        status.nodes.iter().filter(serving).count() == replicas
    })
    .await;
}

pub(crate) fn keys() -> KeyRing {
    KeyRing::from(Key::from_bytes(&[7; 32]).unwrap())
}

/// A failure of the database as an answer of the app.
#[derive(Debug)]
pub(crate) struct Failed(Error);

impl IntoResponse for Failed {
    fn into_response(self) -> axum::response::Response {
        let status = if self.0.is_unavailable() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        (status, self.0.to_string()).into_response()
    }
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}
