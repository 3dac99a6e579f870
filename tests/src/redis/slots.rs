//! A cluster's slots: who has them, and how they move.

use std::time::Duration;

use ::redis::{Cmd, FromRedisValue, RedisError, Value, cmd};

use super::{Cluster, Node, STEP};
use crate::{StartError, error::chain, parts::member, wait};

/// How many slots every cluster has.
pub const SLOTS: u16 = 16_384;

/// What one node says about one node, itself or another.
#[derive(Debug)]
struct Line {
    port: u16,
    myself: bool,
    master: bool,
    slots: Vec<(u16, u16)>,
}

/// Reads `CLUSTER NODES`; slots on the move are not among what it says of the owner.
fn parse(text: &str) -> Vec<Line> {
    let parse_line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let address = words.get(1)?.split('@').next()?;
        let flags: Vec<&str> = words.get(2)?.split(',').collect();
        let range = |text: &&str| {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        Some(Line {
            port: address.rsplit(':').next()?.parse().ok()?,
            myself: flags.contains(&"myself"),
            master: flags.contains(&"master"),
            slots: words.iter().skip(8).filter_map(range).collect(),
        })
    };
    text.lines().filter_map(parse_line).collect()
}

impl Line {
    fn has(&self, slot: u16) -> bool {
        self.slots
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&slot))
    }
}

impl Node {
    async fn lines(&self) -> Result<Vec<Line>, RedisError> {
        let text: String = self.query(cmd("CLUSTER").arg("NODES")).await?;
        Ok(parse(&text))
    }

    async fn id(&self) -> Result<String, StartError> {
        self.command(cmd("CLUSTER").arg("MYID")).await
    }

    async fn cluster_command<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, StartError> {
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg(words);
        self.command(&command).await
    }
}

impl Cluster {
    /// The address of a cluster, as `redis+cluster://HOST:PORT,…`, naming every node.
    pub fn cluster_url(&self) -> String {
        let all: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.addr().to_string())
            .collect();
        format!("redis+cluster://{}", all.join(","))
    }

    /// Makes the started nodes a cluster: the first `shards` share the slots, the others are their replicas in turn.
    pub(super) async fn form(&self, shards: usize) -> Result<(), StartError> {
        let (masters, replicas) = self.nodes.split_at(shards);
        for (i, node) in masters.iter().enumerate() {
            let bound = |i: usize| (usize::from(SLOTS) * i / shards).to_string();
            let last = (usize::from(SLOTS) * (i + 1) / shards - 1).to_string();
            let _: () = node
                .cluster_command(&["ADDSLOTSRANGE", &bound(i), &last])
                .await?;
        }
        for (i, node) in self.nodes.iter().enumerate() {
            let epoch = (i + 1).to_string();
            let _: () = node.cluster_command(&["SET-CONFIG-EPOCH", &epoch]).await?;
        }
        for node in &self.nodes[1..] {
            let (port, bus) = (node.announced().port(), node.bus_port.unwrap_or_default());
            let (port, bus) = (port.to_string(), bus.to_string());
            let _: () = self.nodes[0]
                .cluster_command(&["MEET", "127.0.0.1", &port, &bus])
                .await?;
        }
        let count = self.nodes.len();
        for node in &self.nodes {
            node.wait("known to all nodes", STEP, move |node: &Node| async move {
                let lines = node.lines().await?;
                let known = lines.len() == count && lines.iter().all(|line| line.port != 0);
                Ok(known.then_some(()).ok_or_else(|| format!("{lines:?}")))
            })
            .await?;
        }
        for (i, node) in replicas.iter().enumerate() {
            let id = masters[i % shards].id().await?;
            let _: () = node.cluster_command(&["REPLICATE", &id]).await?;
        }
        self.wait_cluster_ok(STEP).await?;
        for (i, master) in masters.iter().enumerate() {
            let own = (0..replicas.len()).filter(|r| r % shards == i).count();
            master.wait_joined(own).await?;
        }
        Ok(())
    }

    /// Waits until every running node calls the cluster's state ok.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_cluster_ok(&self, deadline: Duration) -> Result<(), StartError> {
        for node in self.nodes.iter().filter(|node| node.process.is_running()) {
            node.process
                .wait_until("part of a cluster that is ok", deadline, async || {
                    let info: Result<String, _> = node.query(cmd("CLUSTER").arg("INFO")).await;
                    match info {
                        Ok(info) if info.contains("cluster_state:ok") => Ok(()),
                        Ok(info) => Err(info),
                        Err(error) => Err(chain(&error)),
                    }
                })
                .await?;
        }
        Ok(())
    }

    /// Which node has `slot`, by its own word and that of a majority of the nodes that answer.
    ///
    /// # Errors
    ///
    /// When there is none within 60 s.
    pub async fn owner(&self, slot: u16) -> Result<usize, StartError> {
        self.find_owner(slot, None, STEP).await
    }

    /// Waits until another node than `old` has `slot`: after a failover, or a migration.
    ///
    /// # Errors
    ///
    /// When that does not happen in time.
    pub async fn wait_owner_other_than(
        &self,
        slot: u16,
        old: usize,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        self.find_owner(slot, Some(old), deadline).await
    }

    async fn find_owner(
        &self,
        slot: u16,
        not: Option<usize>,
        deadline: Duration,
    ) -> Result<usize, StartError> {
        let waited = wait::until(deadline, Duration::from_millis(50), async || {
            let mut votes = vec![0_usize; self.nodes.len()];
            let mut answers = 0;
            let mut own_word = vec![false; self.nodes.len()];
            for (i, node) in self.nodes.iter().enumerate() {
                let Ok(lines) = node.lines().await else {
                    continue;
                };
                answers += 1;
                for line in lines.iter().filter(|line| line.master && line.has(slot)) {
                    own_word[i] |= line.myself;
                    let port =
                        |node: &Node| node.port == line.port || node.tls_port == Some(line.port);
                    if let Some(named) = self.nodes.iter().position(port) {
                        votes[named] += 1;
                    }
                }
            }
            let found = (0..self.nodes.len())
                .find(|i| own_word[*i] && votes[*i] * 2 > answers && Some(*i) != not);
            found.ok_or_else(|| format!("votes by node: {votes:?}, not {not:?}"))
        });
        waited.await.map_err(|last| StartError::Deadline {
            part: "Redis".to_owned(),
            port: None,
            what: "agreed on the owner of a slot",
            after: deadline,
            last,
            log: self.nodes[0].process.log_tail(20),
        })
    }

    /// The replicas that follow `master` and are in step, by number.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn replicas_of(&self, master: usize) -> Result<Vec<usize>, StartError> {
        let node = member(&self.nodes, master)?;
        let info: String = node.command(cmd("INFO").arg("replication")).await?;
        let online = |port: u16| {
            info.lines().any(|line| {
                line.starts_with("slave")
                    && line.contains(&format!("port={port},"))
                    && line.contains("state=online")
            })
        };
        Ok((0..self.nodes.len())
            .filter(|i| online(self.nodes[*i].announced().port()))
            .collect())
    }

    /// Lets the replica of that number take over from its master, which hands over in order: Redis's own `CLUSTER FAILOVER`. Returns when
    /// it calls itself a master.
    ///
    /// # Errors
    ///
    /// When it refuses, as a master does, or has not taken over within 60 s.
    pub async fn failover_to(&self, replica: usize) -> Result<(), StartError> {
        // Redis gives an attempt up after five seconds, on a busy machine without success.
        const ATTEMPT: Duration = Duration::from_secs(6);
        let node = member(&self.nodes, replica)?;
        let attempts = STEP.as_secs() / ATTEMPT.as_secs();
        let mut waited = Ok(());
        for _ in 0..attempts {
            let _: () = node.cluster_command(&["FAILOVER"]).await?;
            waited = node
                .wait("the master of its shard", ATTEMPT, async |node: &Node| {
                    let role: Vec<Value> = node.query(&cmd("ROLE")).await?;
                    let master = role.first() == Some(&Value::BulkString(b"master".to_vec()));
                    Ok(master.then_some(()).ok_or_else(|| format!("{role:?}")))
                })
                .await;
            if waited.is_ok() {
                break;
            }
        }
        waited
    }

    /// Moves `slot` with all its keys to node `to` while clients use it.
    ///
    /// # Errors
    ///
    /// When a node does not answer or refuses.
    pub async fn migrate_slot(&self, slot: u16, to: usize) -> Result<(), StartError> {
        let from = self.begin_migration(slot, to).await?;
        self.move_keys(slot, from, to, usize::MAX).await?;
        self.end_migration(slot, to).await
    }

    /// The first step: from here on `to` takes what it is asked for with `ASKING`. Returns the owner.
    ///
    /// # Errors
    ///
    /// As [`migrate_slot`](Self::migrate_slot).
    pub async fn begin_migration(&self, slot: u16, to: usize) -> Result<usize, StartError> {
        let from = self.owner(slot).await?;
        let (source, target) = (&self.nodes[from], member(&self.nodes, to)?);
        let (source_id, target_id) = (source.id().await?, target.id().await?);
        let slot = slot.to_string();
        let _: () = target
            .cluster_command(&["SETSLOT", &slot, "IMPORTING", &source_id])
            .await?;
        source
            .cluster_command(&["SETSLOT", &slot, "MIGRATING", &target_id])
            .await
            .map(|()| from)
    }

    /// The second step: moves keys, at most so many, and returns how many went.
    ///
    /// # Errors
    ///
    /// As [`migrate_slot`](Self::migrate_slot).
    pub async fn move_keys(
        &self,
        slot: u16,
        from: usize,
        to: usize,
        most: usize,
    ) -> Result<usize, StartError> {
        let (source, target) = (member(&self.nodes, from)?, member(&self.nodes, to)?);
        let mut moved = 0;
        while moved < most {
            let batch = (most - moved).min(100).to_string();
            let keys: Vec<Vec<u8>> = source
                .cluster_command(&["GETKEYSINSLOT", &slot.to_string(), &batch])
                .await?;
            if keys.is_empty() {
                break;
            }
            let mut command = cmd("MIGRATE");
            command
                .arg("127.0.0.1")
                .arg(target.announced().port())
                .arg("")
                .arg(0)
                .arg(1000);
            if let Some(login) = &target.login {
                command.arg("AUTH2").arg(&login.user).arg(&login.password);
            }
            // A key that was deleted meanwhile is no error.
            let _: Value = source.command(command.arg("KEYS").arg(&keys)).await?;
            moved += keys.len();
        }
        Ok(moved)
    }

    /// The last step: `to` is the owner.
    ///
    /// # Errors
    ///
    /// As [`migrate_slot`](Self::migrate_slot).
    pub async fn end_migration(&self, slot: u16, to: usize) -> Result<(), StartError> {
        let target = member(&self.nodes, to)?;
        let id = target.id().await?;
        let slot = slot.to_string();
        // The new owner first: nobody is then sent to one that does not know.
        let _: () = target
            .cluster_command(&["SETSLOT", &slot, "NODE", &id])
            .await?;
        for (i, node) in self.nodes.iter().enumerate() {
            let role: Result<Vec<Value>, _> = node.query(&cmd("ROLE")).await;
            let master =
                role.is_ok_and(|role| role.first() == Some(&Value::BulkString(b"master".to_vec())));
            if i != to && master {
                let _: () = node
                    .cluster_command(&["SETSLOT", &slot, "NODE", &id])
                    .await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_on_the_move_still_belongs_to_its_owner() {
        let text = "aa 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-99 200 [200->-bb]\n\
                    bb 127.0.0.1:7001@17001,host master,fail - 0 0 2 connected 100-199\n\
                    cc 127.0.0.1:7002@17002 slave aa 0 0 1 connected\n";
        let lines = parse(text);
        assert_eq!(lines.len(), 3);
        assert!(lines[0].has(200) && lines[0].has(0) && !lines[0].has(100));
        assert!(lines[0].myself && lines[1].master && lines[1].has(150));
        assert!(!lines[2].master && lines[2].slots.is_empty());
        assert_eq!(lines[1].port, 7001);
    }
}
