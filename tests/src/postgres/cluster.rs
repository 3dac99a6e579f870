//! The nodes together: who follows whom, and how far.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Node, STEP,
    files::{make_standby, signal},
    slot,
};
use crate::{
    StartError,
    error::chain,
    parts::member,
    ports::Reservation,
    process::{Bed, Spec, run},
};

/// The nodes. Dropping it ends them all and removes their state.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; number 0 was started as the primary.
    pub nodes: Vec<Node>,
    pub(super) bin: PathBuf,
    pub(super) bed: Bed,
    pub(super) _ports: Reservation,
}

impl Cluster {
    /// Where the nodes keep their state and logs.
    pub fn dir(&self) -> &Path {
        self.bed.dir()
    }

    /// The connection strings of all nodes, in order.
    pub fn conninfos(&self) -> Vec<String> {
        self.nodes.iter().map(Node::conninfo).collect()
    }

    /// The node with this number.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn node(&self, index: usize) -> Result<&Node, StartError> {
        member(&self.nodes, index)
    }

    /// Makes a replica a primary and returns when it takes writes. Nothing happens to the old primary: whoever wants
    /// it gone kills it first.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached, is no replica, or does not become a primary in a minute.
    ///
    /// # Cancel safety
    ///
    /// The promotion may go on when the future is dropped.
    pub async fn promote(&self, index: usize) -> Result<(), StartError> {
        let node = self.node(index)?;
        node.execute("promote it", "select pg_promote(true, 60)")
            .await?;
        self.wait_query(index, "a primary", "select not pg_is_in_recovery()", STEP)
            .await
    }

    /// Stops a replica from showing what it receives; it goes on receiving.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached or is no replica.
    pub async fn pause_replay(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?
            .execute("pause replay", "select pg_wal_replay_pause()")
            .await?;
        // The request alone is answered at once; until the state changes more may still become visible.
        self.wait_query(
            index,
            "paused",
            "select pg_get_wal_replay_pause_state() = 'paused'",
            STEP,
        )
        .await
    }

    /// Lets a replica show what it received.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached or is no replica.
    pub async fn resume_replay(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?
            .execute("resume replay", "select pg_wal_replay_resume()")
            .await
    }

    /// Lets a replica show a commit only this long after it was made; zero ends it. It goes on receiving.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached.
    pub async fn delay_replay(&self, index: usize, delay: Duration) -> Result<(), StartError> {
        let delay = delay.as_millis().to_string();
        let setting = ("recovery_min_apply_delay", &*delay);
        let node = self.node(index)?;
        node.configure("delay replay", &[setting]).await?;
        // In milliseconds, whatever the unit in which it is shown.
        let set = format!(
            "select setting = '{delay}' from pg_settings where name = 'recovery_min_apply_delay'"
        );
        self.wait_query(index, "delayed", &set, STEP).await
    }

    /// Cuts a replica off from its primary: it goes on showing what it has and gets nothing more, until it is told to
    /// [`follow`](Self::follow) again.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached, or goes on receiving for a minute.
    pub async fn stop_receiving(&self, index: usize) -> Result<(), StartError> {
        self.node(index)?
            .configure("cut it off", &[("primary_conninfo", "")])
            .await?;
        let ended = "select not exists (select from pg_stat_wal_receiver)";
        self.wait_query(index, "cut off", ended, STEP).await
    }

    /// Makes a node stream from another one, which must be a primary, and returns when it does.
    ///
    /// A running replica is re-pointed. Anything else, an old primary above all, is killed, rewound to where the two
    /// histories part, and started as a replica: what only it had is lost.
    ///
    /// # Errors
    ///
    /// When one of the two cannot be reached, `pg_rewind` fails, or it does not stream in a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future can leave the node dead or not streaming; calling it again repairs that.
    pub async fn follow(&self, index: usize, primary: usize) -> Result<(), StartError> {
        let (node, source) = (self.node(index)?, self.node(primary)?);
        let slot = slot(&node.name);
        let create = format!(
            "select pg_create_physical_replication_slot('{slot}') \
             where not exists (select from pg_replication_slots where slot_name = '{slot}')"
        );
        source.execute("create a replication slot", &create).await?;
        let conninfo = format!("{} application_name={}", source.replication(), node.name);
        if node.process.is_running() && node.is_replica().await.unwrap_or(false) {
            let settings = [
                ("primary_conninfo", &*conninfo),
                ("primary_slot_name", &*slot),
            ];
            node.configure("re-point it", &settings).await?;
        } else {
            node.kill().await?;
            self.rewind(node, source).await?;
            make_standby(&self.bed, &node.name, &node.data, &source.replication())?;
            node.start().await?;
        }
        let streams = format!(
            "select count(*) = 1 from pg_stat_replication where state = 'streaming' and application_name = '{}'",
            node.name
        );
        self.wait_query(primary, "streaming to the other node", &streams, STEP)
            .await
    }

    /// Takes back what a dead node has beyond the point where its history and the source's part.
    async fn rewind(&self, node: &Node, source: &Node) -> Result<(), StartError> {
        // pg_rewind first finishes the crash recovery, in a mode that refuses to be a standby.
        match fs::remove_file(signal(&node.data)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StartError::io(&node.name, "prepare its rewind")(error));
            }
            _ => {}
        }
        // pg_rewind compares with the source's control file, which still shows the time before its promotion
        // until a checkpoint has been made.
        source.execute("make a checkpoint", "checkpoint").await?;
        let spec = Spec::new(format!("{}-rewind", node.name), self.bin.join("pg_rewind"))
            .args([
                "--no-sync",
                "--source-server",
                &source.conninfo(),
                "--target-pgdata",
            ])
            .arg(&node.data);
        run(&self.bed, spec, node.process.dir(), STEP).await
    }

    /// Returns when every running replica of `primary` shows what is on the primary now.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    pub async fn wait_caught_up(
        &self,
        primary: usize,
        deadline: Duration,
    ) -> Result<(), StartError> {
        self.wait_position(primary, "caught up", "replay_lsn", deadline)
            .await
    }

    /// Returns when every running replica of `primary` has received and written what is on the primary now, shown or
    /// not.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    pub async fn wait_flushed(&self, primary: usize, deadline: Duration) -> Result<(), StartError> {
        self.wait_position(primary, "received", "flush_lsn", deadline)
            .await
    }

    async fn wait_position(
        &self,
        primary: usize,
        what: &'static str,
        column: &str,
        deadline: Duration,
    ) -> Result<(), StartError> {
        let node = self.node(primary)?;
        let client = node.client().await?;
        // Not the flushed position: what was committed asynchronously is seen on the primary too.
        let asked = client
            .query_one("select pg_current_wal_insert_lsn()::text", &[])
            .await;
        let row = asked.map_err(StartError::postgres(&node.name, "read the position"))?;
        let lsn: String = row.get(0);
        let reached =
            format!("select application_name from pg_stat_replication where {column} >= '{lsn}'");
        node.process
            .wait_until(what, deadline, async || {
                // A replica that is just connecting again is not in the view, and must not count as in step.
                let expected = self
                    .replicas_of(primary)
                    .await
                    .map_err(|error| chain(&error))?;
                let rows = client
                    .query(&reached, &[])
                    .await
                    .map_err(|error| chain(&error))?;
                let there: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                let behind: Vec<_> = expected
                    .into_iter()
                    .filter(|name| !there.iter().any(|there| there == name))
                    .collect();
                if behind.is_empty() {
                    Ok(())
                } else {
                    Err(format!("behind: {}", behind.join(", ")))
                }
            })
            .await
    }

    /// The running nodes that are set up to stream from `primary`.
    async fn replicas_of(&self, primary: usize) -> Result<Vec<&str>, StartError> {
        let from = format!("port={}", self.node(primary)?.port);
        let mut names = Vec::new();
        for node in self.nodes.iter().filter(|node| node.process.is_running()) {
            let client = node.client().await?;
            let query = "select pg_is_in_recovery(), current_setting('primary_conninfo')";
            let asked = client.query_one(query, &[]).await;
            let row = asked.map_err(StartError::postgres(&node.name, "ask what it follows"))?;
            let conninfo: String = row.get(1);
            if row.get(0) && conninfo.split(' ').any(|word| word == from) {
                names.push(node.name.as_str());
            }
        }
        Ok(names)
    }

    /// Returns when `count` replicas stream from `primary`.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_streaming(
        &self,
        primary: usize,
        count: usize,
        deadline: Duration,
    ) -> Result<(), StartError> {
        let streaming = format!(
            "select count(*) >= {count} from pg_stat_replication where state = 'streaming'"
        );
        self.wait_query(primary, "streaming to its replicas", &streaming, deadline)
            .await
    }

    /// Asks a node until it answers "true".
    pub(super) async fn wait_query(
        &self,
        index: usize,
        what: &'static str,
        query: &str,
        deadline: Duration,
    ) -> Result<(), StartError> {
        let node = self.node(index)?;
        node.process
            .wait_until(what, deadline, async || {
                let client = node.client().await.map_err(|error| chain(&error))?;
                let row = client
                    .query_one(query, &[])
                    .await
                    .map_err(|error| chain(&error))?;
                if row.get(0) {
                    Ok(())
                } else {
                    Err(format!("false: {query}"))
                }
            })
            .await
    }
}
