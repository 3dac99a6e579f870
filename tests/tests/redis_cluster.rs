//! The Redis connection in a cluster: slots that move, masters that are killed, frozen and switched over, all under load. Beside it
//! a bare link to the node that had the slot.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ha_db::redis::{Connection, Error, NotSent};
use ha_testbed::redis::{Cluster, Redis};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, cmd};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(60);
/// Slot of `{foo}`.
const SLOT: u16 = 12_182;

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(cluster: &Cluster) -> Connection {
    let connection = Connection::from_url(&cluster.cluster_url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    connection
}

/// Writers that set one fresh key of the slot after the other and remember the acknowledged ones.
struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(Instant, String)>>>,
    refused: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicU64>,
}

impl Writers {
    fn start<F, Fut>(name: &'static str, set: F) -> Self
    where
        F: Fn(usize, Cmd) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let mut writers = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            acknowledged: Arc::default(),
            refused: Arc::default(),
            count: Arc::default(),
        };
        for writer in 0..4 {
            let set = set.clone();
            let (stop, count) = (writers.stop.clone(), writers.count.clone());
            let (acknowledged, refused) = (writers.acknowledged.clone(), writers.refused.clone());
            writers.tasks.spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("{{foo}}:{name}:{writer}:{number}");
                    let mut command = cmd("SET");
                    command.arg(&key).arg(1);
                    let start = Instant::now();
                    match set(writer, command).await {
                        Ok(()) => {
                            acknowledged.lock().unwrap().push((start, key));
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => refused.lock().unwrap().push(error),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        writers
    }

    fn ours(connection: &Connection) -> Self {
        let connection = connection.clone();
        Self::start("ours", move |_, command| {
            let connection = connection.clone();
            async move {
                let done = connection.run::<()>(&command).await;
                done.map_err(|error| format!("{error:?}"))
            }
        })
    }

    /// Links to one node, one for each writer, that wait for an answer for as long as it takes.
    async fn bare(cluster: &Cluster, node: usize) -> Self {
        let mut links = Vec::new();
        for _ in 0..4 {
            links.push(link(cluster, node).await);
        }
        Self::start("bare", move |writer, command| {
            let mut link = links[writer].clone();
            async move {
                let done = command.exec_async(&mut link).await;
                done.map_err(|error| error.to_string())
            }
        })
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    async fn goes_on(&self) {
        let before = self.count();
        eventually("writes go on", async || self.count() > before + 20).await;
    }

    async fn finish(mut self) -> (Vec<(Instant, String)>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        // A bare link to a node that is gone or frozen would wait for ever.
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
        self.tasks.shutdown().await;
        (
            std::mem::take(&mut *self.acknowledged.lock().unwrap()),
            std::mem::take(&mut *self.refused.lock().unwrap()),
        )
    }
}

async fn link(cluster: &Cluster, node: usize) -> MultiplexedConnection {
    let client = redis::Client::open(cluster.nodes[node].url()).unwrap();
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap()
}

/// Which of the acknowledged keys this node does not have.
async fn lost(
    cluster: &Cluster,
    node: usize,
    acknowledged: &[(Instant, String)],
) -> Vec<(Instant, String)> {
    let keys: Vec<String> = cluster.nodes[node]
        .command(cmd("KEYS").arg("*"))
        .await
        .unwrap();
    let keys: HashSet<&str> = keys.iter().map(String::as_str).collect();
    let missing = acknowledged
        .iter()
        .filter(|(_, key)| !keys.contains(key.as_str()));
    missing.cloned().collect()
}

#[tokio::test]
async fn each_command_goes_to_the_owner_of_its_slot_and_what_has_none_is_refused() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let connection = connect(&cluster).await;
    for i in 0..100 {
        let key = format!("key-{i}");
        connection
            .run::<()>(cmd("SET").arg(&key).arg(i))
            .await
            .unwrap();
        let got: u64 = connection.run(cmd("GET").arg(&key)).await.unwrap();
        assert_eq!(got, i);
    }
    let mut counts = Vec::new();
    for node in &cluster.nodes[..3] {
        counts.push(node.command::<u64>(&cmd("DBSIZE")).await.unwrap());
    }
    assert_eq!(counts.iter().sum::<u64>(), 100);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");

    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for i in 0..20 {
        let mut call = script.key(format!("script-{i}"));
        call.arg(2);
        assert_eq!(connection.script::<u64>(&call).await.unwrap(), 2);
    }
    let mut pipeline = redis::pipe();
    pipeline.atomic().incr("{foo}a", 1).incr("{foo}b", 2);
    let both: (u64, u64) = connection.pipeline(&pipeline).await.unwrap();
    assert_eq!(both, (1, 2));
    connection.run::<()>(&cmd("PING")).await.unwrap();

    let mut apart = redis::pipe();
    apart.incr("a", 1).incr("b", 2);
    for error in [
        connection.pipeline::<()>(&apart).await.unwrap_err(),
        connection
            .run::<()>(cmd("KEYS").arg("*"))
            .await
            .unwrap_err(),
        connection.run::<()>(&cmd("FLUSHALL")).await.unwrap_err(),
    ] {
        let why = NotSent::NotOneSlot;
        assert!(
            matches!(&error, Error::NotSent { why: w, .. } if *w == why),
            "{error:?}"
        );
        assert!(!error.is_unavailable());
    }
    // The server looks at all keys of a command.
    let error = connection
        .run::<()>(cmd("MGET").arg("a").arg("b"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Server(_)), "{error:?}");
    let status = connection.status();
    assert_eq!(status.nodes.iter().filter(|node| node.connected).count(), 3);
    assert_eq!((status.connects, status.in_flight), (3, 0), "{status:?}");
}

#[tokio::test]
async fn a_slot_that_moves_under_load_costs_no_command_and_applies_each_once() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let connection = connect(&cluster).await;
    let first = cluster.owner(SLOT).await.unwrap();
    let bare = Writers::bare(&cluster, first).await;
    let ours = Writers::ours(&connection);
    // One counter, which would show what is applied twice.
    let stop = Arc::new(AtomicBool::new(false));
    let counting = {
        let (stop, connection) = (stop.clone(), connection.clone());
        tokio::spawn(async move {
            let mut acknowledged = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let value: u64 = connection.run(cmd("INCR").arg("{foo}count")).await.unwrap();
                acknowledged += 1;
                assert_eq!(value, acknowledged);
            }
            acknowledged
        })
    };
    ours.goes_on().await;
    bare.goes_on().await;
    for hop in 1..=3 {
        cluster.migrate_slot(SLOT, (first + hop) % 3).await.unwrap();
        ours.goes_on().await;
    }
    // It is back where it was, by then with a higher epoch.
    assert_eq!(cluster.owner(SLOT).await.unwrap(), first);
    stop.store(true, Ordering::Relaxed);
    let count = counting.await.unwrap();
    let value: u64 = connection.run(cmd("GET").arg("{foo}count")).await.unwrap();
    assert_eq!(value, count);
    let (acknowledged, refused) = ours.finish().await;
    assert!(refused.is_empty(), "{refused:?}");
    let lost = lost(&cluster, first, &acknowledged).await;
    assert!(lost.is_empty(), "{lost:?}");
    let (_, bare_refused) = bare.finish().await;
    println!(
        "{} writes and {count} increments over three moves, none refused; a bare link: {} refused",
        acknowledged.len(),
        bare_refused.len()
    );
    assert!(
        bare_refused.iter().any(|error| error.contains("Moved")),
        "control: a link to one node is refused"
    );
}

#[tokio::test]
async fn while_a_slot_is_half_moved_everything_is_found_where_it_is() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let connection = connect(&cluster).await;
    for i in 0..10 {
        let key = format!("{{foo}}{i}");
        connection
            .run::<()>(cmd("SET").arg(key).arg(i))
            .await
            .unwrap();
    }
    let from = cluster.owner(SLOT).await.unwrap();
    let to = (from + 1) % 3;
    cluster.begin_migration(SLOT, to).await.unwrap();
    assert_eq!(cluster.move_keys(SLOT, from, to, 5).await.unwrap(), 5);
    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], 100)");
    for i in 0..10_u64 {
        let key = format!("{{foo}}{i}");
        let got: u64 = connection.run(cmd("GET").arg(&key)).await.unwrap();
        assert_eq!(got, i);
        let got: u64 = connection.script(&script.key(&key)).await.unwrap();
        assert_eq!(got, i + 100);
        let mut transaction = redis::pipe();
        transaction.atomic().incr(&key, 100).incr(&key, 100);
        let got: (u64, u64) = connection.pipeline(&transaction).await.unwrap();
        assert_eq!(got, (i + 200, i + 300), "a transaction");
        let mut pipeline = redis::pipe();
        pipeline.incr(&key, 100).get(&key);
        let got: (u64, u64) = connection.pipeline(&pipeline).await.unwrap();
        assert_eq!(got, (i + 400, i + 400), "a pipeline");
    }
    // A new key goes to the new owner at once; keys on both sides cannot be had in one command.
    connection
        .run::<()>(cmd("SET").arg("{foo}new").arg(1))
        .await
        .unwrap();
    let there: Vec<String> = cluster.nodes[to]
        .command(cmd("KEYS").arg("*"))
        .await
        .unwrap();
    assert!(there.contains(&"{foo}new".to_owned()), "{there:?}");
    let hasty = connection.with_timeout(Duration::from_millis(200));
    let mut both = cmd("MGET");
    (0..10).for_each(|i| {
        both.arg(format!("{{foo}}{i}"));
    });
    let error = hasty.run::<Vec<u64>>(&both).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotSent {
                why: NotSent::Refused,
                ..
            }
        ),
        "{error:?}"
    );
    // One that waits for the end of the move gets its answer.
    let patient = connection.with_timeout(DEADLINE);
    let waiting = tokio::spawn(async move { patient.run::<Vec<u64>>(&both).await });
    cluster.migrate_slot(SLOT, to).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().len(), 10);
}

#[tokio::test]
async fn after_kill_9_of_a_master_writes_go_on_at_its_replica_and_the_other_shards_go_on() {
    let cluster = Redis::cluster(6)
        .setting("cluster-require-full-coverage", "no")
        .start()
        .await
        .unwrap();
    let connection = connect(&cluster).await;
    let old = cluster.owner(SLOT).await.unwrap();
    let bare = Writers::bare(&cluster, old).await;
    let ours = Writers::ours(&connection);
    ours.goes_on().await;
    let killed = Instant::now();
    cluster.nodes[old].kill().await.unwrap();
    // "bar" is in another shard.
    assert_ne!(cluster.owner(5061).await.unwrap(), old);
    connection
        .run::<()>(cmd("SET").arg("bar").arg(1))
        .await
        .unwrap();
    let new = cluster
        .wait_owner_other_than(SLOT, old, DEADLINE)
        .await
        .unwrap();
    ours.goes_on().await;
    let back = killed.elapsed();
    let before = bare.count();
    ours.goes_on().await;
    assert_eq!(bare.count(), before, "control: a link to one node is stuck");
    let (acknowledged, refused) = ours.finish().await;
    let lost = lost(&cluster, new, &acknowledged).await;
    println!(
        "back after {back:?}, {} acknowledged, {} refused, {} lost",
        acknowledged.len(),
        refused.len(),
        lost.len()
    );
    assert!(
        lost.iter().all(|(start, _)| *start <= killed),
        "only what was replicated too late: {lost:?}"
    );
    assert_eq!(connection.status().switches, 1);
    // The old one comes back as a replica, and nothing changes for clients.
    cluster.nodes[old].start().await.unwrap();
    cluster.wait_cluster_ok(DEADLINE).await.unwrap();
    connection
        .run::<()>(cmd("SET").arg("{foo}last").arg(1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_frozen_master_that_thaws_after_the_failover_gets_no_acknowledged_write() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let connection = connect(&cluster).await;
    let old = cluster.owner(SLOT).await.unwrap();
    let bare = Writers::bare(&cluster, old).await;
    let ours = Writers::ours(&connection);
    ours.goes_on().await;
    bare.goes_on().await;
    cluster.nodes[old].freeze().unwrap();
    let frozen = Instant::now();
    // Would wait until the thaw, and then be acknowledged by the wrong master.
    let patient = connection.with_timeout(Duration::from_secs(3600));
    let patient = tokio::spawn(async move {
        let mut command = cmd("SET");
        patient.run::<()>(command.arg("{foo}patient").arg(1)).await
    });
    let new = cluster
        .wait_owner_other_than(SLOT, old, DEADLINE)
        .await
        .unwrap();
    ours.goes_on().await;
    println!("back after {:?}", frozen.elapsed());
    let patient = tokio::time::timeout(DEADLINE, patient)
        .await
        .expect("ends with the failover");
    let error = patient.unwrap().unwrap_err();
    assert!(error.is_unknown(), "{error:?}");
    let before_thaw = bare.count();
    cluster.nodes[old].thaw().unwrap();
    eventually("old master demoted", async || {
        let role: Vec<redis::Value> = cluster.nodes[old]
            .command(&cmd("ROLE"))
            .await
            .unwrap_or_default();
        role.first() == Some(&redis::Value::BulkString(b"slave".to_vec()))
    })
    .await;
    ours.goes_on().await;
    let after_thaw = bare.count() - before_thaw;
    let (bare_acknowledged, _) = bare.finish().await;
    let bare_lost = lost(&cluster, new, &bare_acknowledged).await.len();
    let (acknowledged, _) = ours.finish().await;
    let lost = lost(&cluster, new, &acknowledged).await;
    println!(
        "{} acknowledged, {} lost; control: {after_thaw} acknowledged after the thaw, {bare_lost} lost",
        acknowledged.len(),
        lost.len()
    );
    assert!(
        lost.iter().all(|(start, _)| *start <= frozen),
        "lost: {lost:?}"
    );
    assert!(
        bare_lost > 0,
        "control: a link that waits for the old master loses what that acknowledges"
    );
}

#[tokio::test]
async fn on_a_switchover_no_acknowledged_write_is_lost() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let connection = connect(&cluster).await;
    let old = cluster.owner(SLOT).await.unwrap();
    let ours = Writers::ours(&connection);
    ours.goes_on().await;
    let replica = cluster.replicas_of(old).await.unwrap()[0];
    cluster.failover_to(replica).await.unwrap();
    let new = cluster
        .wait_owner_other_than(SLOT, old, DEADLINE)
        .await
        .unwrap();
    assert_eq!(new, replica);
    ours.goes_on().await;
    let (acknowledged, refused) = ours.finish().await;
    let lost = lost(&cluster, new, &acknowledged).await;
    println!(
        "{} acknowledged, {} refused ({:?}), {} lost",
        acknowledged.len(),
        refused.len(),
        refused.first(),
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn a_cluster_may_come_up_after_the_connection_and_any_node_may_be_the_one_that_is_named() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    // A replica alone is named, beside one that does not exist.
    let url = format!("redis+cluster://127.0.0.1:1,{}", cluster.nodes[4].addr());
    cluster.nodes[4].freeze().unwrap();
    let connection = Connection::from_url(&url).unwrap();
    let error = connection.ready(Duration::from_secs(2)).await.unwrap_err();
    let failure = error.failure().unwrap().to_string();
    assert!(failure.contains("127.0.0.1:1"), "{failure}");
    cluster.nodes[4].thaw().unwrap();
    connection.ready(DEADLINE).await.unwrap();
    connection
        .run::<()>(cmd("SET").arg("foo").arg(1))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_last_handle_takes_its_links_and_tasks_along() {
    let cluster = Redis::cluster(3).start().await.unwrap();
    let links = async || -> usize {
        let mut sum = 0;
        for node in &cluster.nodes {
            let list: String = node.command(cmd("CLIENT").arg("LIST")).await.unwrap();
            sum += list.lines().count();
        }
        sum
    };
    let before = links().await;
    let connection = connect(&cluster).await;
    assert!(links().await >= before + 3);
    let clone = connection.clone();
    drop(connection);
    clone.run::<()>(&cmd("PING")).await.unwrap();
    drop(clone);
    eventually("links closed", async || links().await == before).await;
}
