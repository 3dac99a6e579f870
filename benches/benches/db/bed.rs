//! The servers of one measurement, and what they hold at its end.

use std::collections::BTreeMap;

use ha_testbed::link::Link;
use ha_testbed::postgres::{self, Client, Cluster};
use ha_testbed::{StartError, patroni};

use crate::Outcome;
use crate::app::{Nodes, Sql, schema};
use crate::{bare, gitlab, libpq, ours};

/// A primary, which is node 0, and its replicas. With links, clients reach the nodes through them and the nodes each other
/// without.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) links: Vec<Link>,
}

impl Bed {
    pub(crate) async fn start(builder: postgres::Builder, linked: bool) -> Outcome<Self> {
        let cluster = builder.start().await?;
        let mut links = Vec::new();
        if linked {
            for node in &cluster.nodes {
                links.push(Link::to(node.addr()).await?);
            }
        }
        let bed = Self { cluster, links };
        create(&bed.cluster.nodes[0].client().await?).await?;
        bed.cluster.wait_caught_up(0, LIMIT).await?;
        Ok(bed)
    }

    /// What clients are configured with.
    pub(crate) fn nodes(&self) -> Nodes {
        let nodes = self.cluster.nodes.iter().enumerate();
        nodes
            .map(|(index, node)| {
                let port = self
                    .links
                    .get(index)
                    .map_or(node.port, |link| link.addr().port());
                (node.name.clone(), conninfo(port, "postgres", "postgres"))
            })
            .collect()
    }

    /// The rows of the primary of the newest timeline.
    pub(crate) async fn truth(&self, table: &str) -> Outcome<Vec<(i32, i64)>> {
        let mut clients = Vec::new();
        for node in &self.cluster.nodes {
            clients.push(node.client().await);
        }
        truth(clients, table).await
    }
}

/// How long any step of a measurement may take.
pub(crate) const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

pub(crate) fn conninfo(port: u16, user: &str, database: &str) -> String {
    format!("host=127.0.0.1 port={port} user={user} dbname={database}")
}

/// A cluster that Patroni looks after; its service user is nobody special.
pub(crate) fn patroni_nodes(cluster: &patroni::Cluster) -> Nodes {
    let nodes = cluster.nodes.iter();
    nodes
        .map(|node| {
            let conninfo = conninfo(node.port, patroni::APP, patroni::APP);
            (node.name.clone(), conninfo)
        })
        .collect()
}

pub(crate) async fn patroni_client(node: &patroni::Node) -> Result<Client, StartError> {
    Client::connect(&node.name, &node.app_conninfo()).await
}

/// The tables of all contenders.
pub(crate) async fn create(client: &Client) -> Outcome<()> {
    for table in [ours::TABLE, libpq::TABLE, gitlab::TABLE, bare::TABLE] {
        client.batch_execute(&schema(table)).await?;
    }
    Ok(())
}

/// The rows of that one of the clients' servers which is a primary of the newest timeline.
pub(crate) async fn truth(
    clients: Vec<Result<Client, StartError>>,
    table: &str,
) -> Outcome<Vec<(i32, i64)>> {
    const TIMELINE: &str = "SELECT CASE WHEN NOT pg_is_in_recovery() \
        THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END";
    let mut primaries = BTreeMap::new();
    for client in clients.into_iter().flatten() {
        let asked = tokio::time::timeout(LIMIT, client.query_one(TIMELINE, &[])).await?;
        // One that is being demoted refuses the function; it is no primary either.
        if let Ok(row) = asked
            && let Some(timeline) = row.get::<_, Option<i32>>(0)
        {
            primaries.insert(timeline, client);
        }
    }
    let (_, newest) = primaries.pop_last().ok_or("no node is a primary")?;
    let rows = newest.query(&Sql::of(table).all, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
