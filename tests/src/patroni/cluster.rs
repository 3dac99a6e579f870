//! The nodes together: who leads, and whether all is well.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{APP, Node, STEP};
use crate::{
    StartError,
    error::chain,
    parts::member,
    ports::Reservation,
    postgres::Client,
    process::{Bed, Process},
    wait,
};

/// The nodes. Dropping it ends them all and removes their state.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; any of them may be the leader.
    pub nodes: Vec<Node>,
    /// Where Patroni keeps who leads.
    pub etcd: Process,
    pub(super) bed: Bed,
    pub(super) ports: Reservation,
}

impl Cluster {
    /// Where the nodes keep their state and logs.
    pub fn dir(&self) -> &Path {
        self.bed.dir()
    }

    /// The address etcd serves clients on.
    pub fn etcd_addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.ports()[0]).into()
    }

    /// Waits until the cluster that has just been started is healthy and the service's database is there.
    pub(super) async fn wait_ready(&self) -> Result<(), StartError> {
        for node in &self.nodes {
            node.wait_answering().await?;
        }
        let leader = self.wait_leader(STEP).await?;
        self.create_app(leader).await?;
        self.wait_healthy(STEP).await
    }

    /// Resolves when a process of it has ended. A Patroni that cannot start its PostgreSQL gives up and ends, and the
    /// others wait for it for ever.
    pub(super) async fn any_ended(&self) -> StartError {
        loop {
            let nodes = self.nodes.iter().map(|node| &node.process);
            if let Some(error) = nodes.chain([&self.etcd]).find_map(Process::ended) {
                return error;
            }
            tokio::time::sleep(wait::BETWEEN).await;
        }
    }

    /// The node with this number.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn node(&self, index: usize) -> Result<&Node, StartError> {
        member(&self.nodes, index)
    }

    /// Kills a node: Patroni, PostgreSQL and all backends, as a loss of power would.
    ///
    /// # Errors
    ///
    /// See [`Process::kill`].
    pub async fn kill_node(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.kill().await
    }

    /// Kills a node's PostgreSQL and leaves its Patroni, which notices.
    ///
    /// # Errors
    ///
    /// See [`Process::kill`].
    pub async fn kill_postgres(&self, index: usize) -> Result<(), StartError> {
        let node = self.node(index)?;
        let postmaster = fs::read_to_string(node.data.join("postmaster.pid"))
            .ok()
            .and_then(|text| text.lines().next()?.trim().parse().ok());
        node.process
            .kill_inside(node.data.clone(), postmaster)
            .await
    }

    /// Kills a node's Patroni and leaves its PostgreSQL, which goes on taking writes although another node will be made
    /// the primary: the case that loses writes without synchronous replication.
    ///
    /// # Errors
    ///
    /// See [`Process::kill`].
    pub fn kill_patroni(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.kill_alone()
    }

    /// Stops a node: the clients' backends first, then PostgreSQL, then Patroni.
    ///
    /// # Errors
    ///
    /// See [`Process::freeze`].
    pub fn freeze_node(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.freeze()
    }

    /// Lets a node go on.
    ///
    /// # Errors
    ///
    /// See [`Process::thaw`].
    pub fn thaw_node(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?.process.thaw()
    }

    /// Starts a node's Patroni after a kill, which brings its PostgreSQL back; returns when Patroni answers. Wait for the
    /// cluster with [`wait_healthy`](Self::wait_healthy).
    ///
    /// # Errors
    ///
    /// When Patroni does not answer in two minutes.
    pub async fn start_node(&self, index: usize) -> Result<(), StartError> {
        let node = self.node(index)?;
        node.process.start()?;
        node.wait_answering().await
    }

    /// Hands leadership over as an operator would, to a synchronous replica, and returns which one when it leads and takes
    /// writes.
    ///
    /// # Errors
    ///
    /// When there is no leader, no synchronous replica, or the other does not lead by the deadline.
    ///
    /// # Cancel safety
    ///
    /// Patroni may hand over all the same when the future is dropped.
    pub async fn switchover(&self, deadline: Duration) -> Result<usize, StartError> {
        let old = self.wait_leader(deadline).await?;
        let node = &self.nodes[old];
        self.wait("handed over", deadline, async || {
            let (_, body) = node
                .get("/cluster")
                .await
                .map_err(|error| error.to_string())?;
            let known: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            let members = known["members"].as_array().map_or(&[][..], Vec::as_slice);
            let candidate = members
                .iter()
                .find(|member| member["role"] == "sync_standby");
            let candidate = candidate.ok_or_else(|| body.clone())?;
            let order = json!({"leader": node.name, "candidate": candidate["name"]});
            match node.post("/switchover", &order, deadline).await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("status {status}: {body}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        self.wait_leader_other_than(old, deadline).await
    }

    /// The node that calls itself the leader, the one with the newest history when two do. Nothing when none does.
    pub async fn leader(&self) -> Option<usize> {
        let asked = self.nodes.iter().enumerate().map(async |(index, node)| {
            let (status, body) = node.get("/primary").await.ok()?;
            let body: Value = serde_json::from_str(&body).ok()?;
            (status == 200).then(|| (body["timeline"].as_u64().unwrap_or(0), index))
        });
        join_all(asked)
            .await
            .into_iter()
            .flatten()
            .max()
            .map(|(_, index)| index)
    }

    /// Waits for a leader that takes writes.
    ///
    /// # Errors
    ///
    /// When there is none in time.
    pub async fn wait_leader(&self, deadline: Duration) -> Result<usize, StartError> {
        self.find_leader(None, deadline).await
    }

    /// Waits until another node than `old` is the leader: after a failover, that is.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_leader_other_than(
        &self,
        old: usize,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        self.find_leader(Some(old), deadline).await
    }

    async fn find_leader(
        &self,
        not: Option<usize>,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        let what = if not.is_some() { "failed over" } else { "led" };
        self.wait(what, deadline, async || match self.leader().await {
            Some(index) if Some(index) == not => {
                Err(format!("{} still leads", self.nodes[index].name))
            }
            Some(index) => {
                let client = self.nodes[index]
                    .client()
                    .await
                    .map_err(|error| chain(&error))?;
                let row = client
                    .query_one("select pg_is_in_recovery()", &[])
                    .await
                    .map_err(|error| chain(&error))?;
                if row.get(0) {
                    Err(format!("{} is still a replica", self.nodes[index].name))
                } else {
                    Ok(index)
                }
            }
            None => Err("nobody leads".to_owned()),
        })
        .await
    }

    /// Waits until all nodes are there, one leads, all others stream from it, one of them synchronously.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_healthy(&self, deadline: Duration) -> Result<(), StartError> {
        let replicas = self.nodes.len().saturating_sub(1);
        self.wait("healthy", deadline, async || {
            let leader = self.leader().await.ok_or("nobody leads")?;
            let client = self.nodes[leader].client().await.map_err(|error| chain(&error))?;
            let row = client
                .query_one(
                    // The sender of a connection that a replica has given up stays for seconds, beside its new one.
                    "select count(distinct application_name) filter (where state = 'streaming'), \
                     count(*) filter (where sync_state in ('sync', 'quorum')), \
                     coalesce(string_agg(concat_ws(' ', application_name, state, sync_state), ', '), 'no replica') \
                     from pg_stat_replication",
                    &[],
                )
                .await
                .map_err(|error| chain(&error))?;
            let (streaming, synchronous): (i64, i64) = (row.get(0), row.get(1));
            if usize::try_from(streaming) != Ok(replicas) || (replicas > 0 && synchronous == 0) {
                return Err(format!("{} leads {}", self.nodes[leader].name, row.get::<_, String>(2)));
            }
            // Patroni commits a new synchronous standby to etcd before it counts for a failover.
            let (_, body) = self.nodes[leader].get("/cluster").await.map_err(|error| error.to_string())?;
            let known: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            let members = known["members"].as_array().map_or(&[][..], Vec::as_slice);
            let synchronous = members.iter().any(|member| member["role"] == "sync_standby");
            if members.len() == self.nodes.len() && (synchronous || replicas == 0) { Ok(()) } else { Err(body) }
        })
        .await
    }

    async fn wait<T, F, Look>(
        &self,
        what: &'static str,
        deadline: Duration,
        look: F,
    ) -> Result<T, StartError>
    where
        F: FnMut() -> Look,
        Look: Future<Output = Result<T, String>>,
    {
        let waited = wait::until(deadline, Duration::from_millis(50), look).await;
        waited.map_err(|last| StartError::Deadline {
            part: "Patroni".to_owned(),
            port: None,
            what,
            after: deadline,
            last,
            log: self.logs(),
        })
    }

    fn logs(&self) -> String {
        let log = |node: &Node| format!("--- {}\n{}", node.name, node.process.log_tail(8));
        self.nodes.iter().map(log).collect::<Vec<_>>().join("\n")
    }

    async fn create_app(&self, leader: usize) -> Result<(), StartError> {
        let node = self.node(leader)?;
        let failed = || StartError::postgres(&node.name, "create the service's user and database");
        let client = node.client().await?;
        for statement in [
            format!("create role {APP} login password '{APP}'"),
            format!("grant pg_monitor to {APP}"),
            format!("create database {APP} owner {APP}"),
        ] {
            client.batch_execute(&statement).await.map_err(failed())?;
        }
        // Who may call a function is kept per database.
        let client = Client::connect(&node.name, &node.conninfo_for("postgres", APP)).await?;
        let grant = format!(
            "do $$ declare f regprocedure; begin \
             for f in select oid::regprocedure from pg_proc where proname = 'pg_read_file' \
             loop execute format('grant execute on function %s to {APP}', f); end loop; end $$"
        );
        client.batch_execute(&grant).await.map_err(failed())
    }
}
