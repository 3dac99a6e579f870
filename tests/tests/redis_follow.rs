//! The Redis connection follows the master: killed, frozen and thawed, switched over. Beside it the driver's own Sentinel
//! client, which looks the master up once.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ha_db::redis::{Connection, Error, Reason, Unknown};
use ha_testbed::redis::{Cluster, MASTER_NAME, Redis};
use redis::cmd;
use redis::sentinel::{SentinelClient, SentinelServerType};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(40);
/// More than any single command may take: its deadline of 500 ms, and room for a busy machine.
const STUCK: Duration = Duration::from_secs(5);

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Four writers, each setting one fresh key after the other and remembering the acknowledged ones.
struct Writers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(Instant, String)>>>,
    unknown: Arc<AtomicU64>,
    longest: Arc<Mutex<Duration>>,
}

impl Writers {
    fn start<F, Fut>(name: &'static str, set: F) -> Self
    where
        F: Fn(String) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let mut writers = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            acknowledged: Arc::default(),
            unknown: Arc::default(),
            longest: Arc::default(),
        };
        for writer in 0..4 {
            let (set, stop) = (set.clone(), writers.stop.clone());
            let (acknowledged, unknown) = (writers.acknowledged.clone(), writers.unknown.clone());
            let longest = writers.longest.clone();
            writers.tasks.spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = format!("{name}:{writer}:{number}");
                    let start = Instant::now();
                    if set(key.clone()).await {
                        acknowledged.lock().unwrap().push((start, key));
                    } else {
                        unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    let took = start.elapsed();
                    {
                        let mut longest = longest.lock().unwrap();
                        *longest = took.max(*longest);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        writers
    }

    fn ours(connection: &Connection) -> Self {
        let connection = connection.clone();
        Self::start("ours", move |key| {
            let connection = connection.clone();
            async move {
                connection
                    .run::<()>(cmd("SET").arg(key).arg(1))
                    .await
                    .is_ok()
            }
        })
    }

    /// Looks the master up once, as the driver's Sentinel client does, and reconnects to where it was.
    async fn naive(cluster: &Cluster) -> Self {
        let nodes = cluster.sentinels.iter().map(|node| node.url()).collect();
        let mut client =
            SentinelClient::build(nodes, MASTER_NAME.into(), None, SentinelServerType::Master)
                .unwrap();
        let client = client.async_get_client().await.unwrap();
        let link = client.get_multiplexed_async_connection().await.unwrap();
        let link = Arc::new(tokio::sync::Mutex::new(link));
        Self::start("naive", move |key| {
            let (link, client) = (link.clone(), client.clone());
            async move {
                let mut own = link.lock().await.clone();
                match cmd("SET").arg(key).arg(1).exec_async(&mut own).await {
                    Ok(()) => true,
                    Err(error) => {
                        if error.is_unrecoverable_error()
                            && let Ok(fresh) = client.get_multiplexed_async_connection().await
                        {
                            *link.lock().await = fresh;
                        }
                        false
                    }
                }
            }
        })
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    async fn goes_on(&self) {
        let before = self.count();
        eventually("writes go on", async || self.count() > before + 20).await;
    }

    /// Ends the writers and returns what was acknowledged.
    async fn finish(mut self) -> Vec<(Instant, String)> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

/// Which of the acknowledged keys the master does not have.
async fn lost(
    cluster: &Cluster,
    master: usize,
    acknowledged: &[(Instant, String)],
) -> Vec<(Instant, String)> {
    let keys: Vec<String> = cluster.nodes[master]
        .command(cmd("KEYS").arg("*"))
        .await
        .unwrap();
    let keys: HashSet<&str> = keys.iter().map(String::as_str).collect();
    let missing = acknowledged
        .iter()
        .filter(|(_, key)| !keys.contains(key.as_str()));
    missing.cloned().collect()
}

async fn connect(cluster: &Cluster) -> Connection {
    let connection = Connection::from_url(&cluster.sentinel_url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    connection
}

fn address(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].addr().to_string()
}

#[tokio::test]
async fn after_kill_9_of_the_master_writes_go_on_at_the_new_one() {
    let cluster = Redis::sentinel(3).start().await.unwrap();
    let connection = connect(&cluster).await;
    let old = cluster.master().await.unwrap();
    assert_eq!(connection.status().master, Some(address(&cluster, old)));
    let naive = Writers::naive(&cluster).await;
    let ours = Writers::ours(&connection);
    ours.goes_on().await;

    let killed = Instant::now();
    cluster.nodes[old].kill().await.unwrap();
    let new = cluster.wait_master_other_than(old, DEADLINE).await.unwrap();
    eventually("connected to the new master", async || {
        connection.status().master == Some(address(&cluster, new))
    })
    .await;
    ours.goes_on().await;
    let back = killed.elapsed();

    let status = connection.status();
    assert_eq!(status.switches, 1, "{status:?}");
    let before = naive.count();
    ours.goes_on().await;
    assert_eq!(
        naive.count(),
        before,
        "control: what looks the master up once is stuck"
    );
    naive.finish().await;
    let longest = *ours.longest.lock().unwrap();
    assert!(longest < STUCK, "a command took {longest:?}");
    let acknowledged = ours.finish().await;
    let lost = lost(&cluster, new, &acknowledged).await;
    println!(
        "back after {back:?}, {} acknowledged, {} lost, {status:?}",
        acknowledged.len(),
        lost.len()
    );
    assert!(
        lost.iter().all(|(start, _)| *start <= killed),
        "only what was replicated too late: {lost:?}"
    );
}

#[tokio::test]
async fn a_frozen_master_that_thaws_after_the_failover_gets_no_acknowledged_write() {
    let cluster = Redis::sentinel(3).start().await.unwrap();
    let connection = connect(&cluster).await;
    let old = cluster.master().await.unwrap();
    let naive = Writers::naive(&cluster).await;
    let ours = Writers::ours(&connection);
    ours.goes_on().await;
    naive.goes_on().await;

    cluster.nodes[old].freeze().unwrap();
    let frozen = Instant::now();
    // Would wait until the thaw, and then be acknowledged by the wrong master.
    let patient = connection.with_timeout(Duration::from_secs(3600));
    let patient =
        tokio::spawn(async move { patient.run::<()>(cmd("SET").arg("patient").arg(1)).await });
    let new = cluster.wait_master_other_than(old, DEADLINE).await.unwrap();
    ours.goes_on().await;
    println!("back after {:?}", frozen.elapsed());
    let patient = tokio::time::timeout(DEADLINE, patient)
        .await
        .expect("ends with the failover");
    let error = patient.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unknown {
                why: Unknown::Demoted(_),
                ..
            }
        ),
        "{error:?}"
    );
    let before_thaw = naive.count();
    cluster.nodes[old].thaw().unwrap();
    // The old master is a master to itself until a Sentinel tells it otherwise.
    eventually("old master demoted", async || {
        let role: Vec<redis::Value> = cluster.nodes[old]
            .command(&cmd("ROLE"))
            .await
            .unwrap_or_default();
        role.first() == Some(&redis::Value::BulkString(b"slave".to_vec()))
    })
    .await;
    ours.goes_on().await;

    assert_eq!(connection.status().master, Some(address(&cluster, new)));
    let longest = *ours.longest.lock().unwrap();
    assert!(longest < STUCK, "a command took {longest:?}");
    let naive_after_thaw = naive.count() - before_thaw;
    let naive_lost = lost(&cluster, new, &naive.finish().await).await.len();
    let acknowledged = ours.finish().await;
    let lost = lost(&cluster, new, &acknowledged).await;
    println!(
        "{} acknowledged, {} lost; control: {naive_after_thaw} acknowledged after the thaw, {naive_lost} lost",
        acknowledged.len(),
        lost.len()
    );
    assert!(
        lost.iter().all(|(start, _)| *start <= frozen),
        "lost: {lost:?}"
    );
    assert!(
        naive_lost > 0,
        "control: what does not follow loses what the old master acknowledges"
    );
}

#[tokio::test]
async fn on_a_switchover_no_command_is_stuck_and_no_acknowledged_write_is_lost() {
    let cluster = Redis::sentinel(3).start().await.unwrap();
    let connection = connect(&cluster).await;
    eventually("all sentinels heard", async || {
        connection
            .status()
            .sentinels
            .iter()
            .all(|sentinel| sentinel.subscribed)
    })
    .await;
    // The control follows as ours does, but does not hold commands back.
    let eager = Connection::builder()
        .url(&cluster.sentinel_url())
        .unwrap()
        .failover_hold(Duration::ZERO)
        .build()
        .unwrap();
    eager.ready(DEADLINE).await.unwrap();
    let old = cluster.master().await.unwrap();
    let control = {
        let eager = eager.clone();
        Writers::start("eager", move |key| {
            let eager = eager.clone();
            async move { eager.run::<()>(cmd("SET").arg(key).arg(1)).await.is_ok() }
        })
    };
    let ours = Writers::ours(&connection);
    ours.goes_on().await;

    let _: () = cluster.sentinels[1]
        .command(cmd("SENTINEL").arg("FAILOVER").arg(MASTER_NAME))
        .await
        .unwrap();
    let new = cluster.wait_master_other_than(old, DEADLINE).await.unwrap();
    eventually("connected to the new master", async || {
        connection.status().master == Some(address(&cluster, new))
            && eager.status().master == Some(address(&cluster, new))
    })
    .await;
    ours.goes_on().await;
    control.goes_on().await;

    let longest = *ours.longest.lock().unwrap();
    assert!(longest < STUCK, "a command took {longest:?}");
    let refused = ours.unknown.load(Ordering::Relaxed);
    let acknowledged = ours.finish().await;
    let lost_ours = lost(&cluster, new, &acknowledged).await;
    let lost_eager = lost(&cluster, new, &control.finish().await).await.len();
    println!(
        "{} acknowledged, {refused} not, {} lost; without holding back {lost_eager} lost; {:?}",
        acknowledged.len(),
        lost_ours.len(),
        connection.status()
    );
    assert!(lost_ours.is_empty(), "lost: {lost_ours:?}");
    assert!(
        lost_eager > 0,
        "control: without holding back acknowledged writes are lost"
    );
}

#[tokio::test]
async fn an_idle_connection_is_told_of_the_new_master_by_a_sentinel() {
    let cluster = Redis::sentinel(3).start().await.unwrap();
    // Nothing is sent and nothing is checked: only the announcement can tell.
    let connection = Connection::builder()
        .url(&cluster.sentinel_url())
        .unwrap()
        .check_interval(Duration::from_secs(3600))
        .failover_hold(Duration::ZERO)
        .build()
        .unwrap();
    connection.ready(DEADLINE).await.unwrap();
    eventually("all sentinels heard", async || {
        connection
            .status()
            .sentinels
            .iter()
            .all(|sentinel| sentinel.subscribed)
    })
    .await;
    let old = cluster.master().await.unwrap();
    let _: () = cluster.sentinels[0]
        .command(cmd("SENTINEL").arg("FAILOVER").arg(MASTER_NAME))
        .await
        .unwrap();
    let new = cluster.wait_master_other_than(old, DEADLINE).await.unwrap();
    eventually("connected to the new master", async || {
        connection.status().master == Some(address(&cluster, new))
    })
    .await;
    assert_eq!(connection.status().last_reason, Some(Reason::SwitchMaster));
}

#[tokio::test]
async fn an_idle_connection_finds_out_by_itself_that_its_node_was_demoted() {
    let cluster = Redis::single().replicas(1).start().await.unwrap();
    let connection = Connection::builder()
        .node(address(&cluster, 0))
        .check_interval(Duration::from_millis(50))
        .build()
        .unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let (host, port) = ("127.0.0.1", cluster.nodes[1].port);
    let _: () = cluster.nodes[1]
        .command(cmd("REPLICAOF").arg("NO").arg("ONE"))
        .await
        .unwrap();
    let _: () = cluster.nodes[0]
        .command(cmd("REPLICAOF").arg(host).arg(port))
        .await
        .unwrap();
    eventually("given up", async || connection.status().master.is_none()).await;
    assert_eq!(connection.status().last_reason, Some(Reason::NotMaster));
}

#[tokio::test]
async fn a_node_whose_role_is_not_master_is_never_used() {
    let cluster = Redis::single().replicas(1).start().await.unwrap();
    let connection = Connection::builder()
        .node(address(&cluster, 1))
        .build()
        .unwrap();
    let error = connection
        .run::<()>(cmd("SET").arg("a").arg(1))
        .await
        .unwrap_err();
    assert!(error.is_not_sent(), "{error:?}");
    let failure = connection.status().last_failure.unwrap();
    assert!(failure.contains("ROLE is slave"), "{failure}");
    // Reads are not given to it either: what it shows may be older than what this client wrote.
    assert!(
        connection
            .run::<Option<String>>(cmd("GET").arg("a"))
            .await
            .unwrap_err()
            .is_not_sent()
    );

    // Promoted, it is good.
    let _: () = cluster.nodes[1]
        .command(cmd("REPLICAOF").arg("NO").arg("ONE"))
        .await
        .unwrap();
    connection.ready(DEADLINE).await.unwrap();
    connection
        .run::<()>(cmd("SET").arg("a").arg(1))
        .await
        .unwrap();

    // Demoted under an open connection, it refuses, and is given up.
    let (host, port) = ("127.0.0.1", cluster.nodes[0].port);
    let _: () = cluster.nodes[1]
        .command(cmd("REPLICAOF").arg(host).arg(port))
        .await
        .unwrap();
    let error = connection
        .run::<()>(cmd("SET").arg("a").arg(2))
        .await
        .unwrap_err();
    assert!(error.is_not_sent(), "{error:?}");
    let status = connection.status();
    assert_eq!(status.master, None, "{status:?}");
    assert!(
        matches!(
            status.last_reason,
            Some(Reason::ReadOnly | Reason::NotMaster | Reason::Io)
        ),
        "{status:?}"
    );
}

#[tokio::test]
async fn every_command_ends_by_its_deadline_on_a_frozen_server() {
    let cluster = Redis::single().start().await.unwrap();
    let connection = Connection::builder()
        .node(address(&cluster, 0))
        .command_timeout(Duration::from_millis(200))
        .connect_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    connection.ready(DEADLINE).await.unwrap();
    cluster.nodes[0].freeze().unwrap();
    // Sent and unanswered until enough of them have said that the node is of no use; from then on not even sent.
    let mut unknown = 0;
    loop {
        let start = Instant::now();
        let error = connection
            .run::<()>(cmd("INCR").arg("n"))
            .await
            .unwrap_err();
        assert!(start.elapsed() < STUCK);
        match error {
            Error::Unknown { .. } => unknown += 1,
            Error::NotSent { .. } => break,
            other => panic!("{other:?}"),
        }
        assert!(unknown <= 3, "still used");
    }
    assert!(unknown > 0);
    let status = connection.status();
    assert_eq!(
        (status.master, status.last_reason),
        (None, Some(Reason::Timeouts))
    );

    cluster.nodes[0].thaw().unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let n: u64 = connection.run(cmd("GET").arg("n")).await.unwrap();
    assert!(n <= unknown, "a command that was not sent ran");
}

#[tokio::test]
async fn servers_may_come_up_after_the_connection() {
    let cluster = Redis::single().start().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    let connection = Connection::from_url(&cluster.url()).unwrap();
    let short = connection.with_timeout(Duration::from_millis(100));
    assert!(
        short
            .run::<()>(&cmd("PING"))
            .await
            .unwrap_err()
            .is_not_sent()
    );
    // A command that waits is sent as soon as there is a master.
    let patient = connection.with_timeout(DEADLINE);
    let waiting = tokio::spawn(async move { patient.run::<u64>(cmd("INCR").arg("n")).await });
    eventually("one waits", async || connection.status().waiting == 1).await;
    cluster.nodes[0].start().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), 1);
    assert_eq!(connection.status().waiting, 0);
}

#[tokio::test]
async fn too_many_waiting_commands_are_refused_at_once() {
    let cluster = Redis::single().start().await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    let connection = Connection::builder()
        .node(address(&cluster, 0))
        .max_waiting(3)
        .build()
        .unwrap();
    let patient = connection.with_timeout(DEADLINE);
    let mut waiting = JoinSet::new();
    for _ in 0..3 {
        let patient = patient.clone();
        waiting.spawn(async move { patient.run::<()>(&cmd("PING")).await });
    }
    eventually("three wait", async || connection.status().waiting == 3).await;
    let error = patient.run::<()>(&cmd("PING")).await.unwrap_err();
    assert!(
        error.to_string().contains("3 commands are waiting"),
        "{error}"
    );
    // Given-up waits make room.
    waiting.shutdown().await;
    assert_eq!(connection.status().waiting, 0);
}

#[tokio::test]
async fn scripts_pipelines_and_errors_of_the_command_itself() {
    let cluster = Redis::single().start().await.unwrap();
    let connection = Connection::from_url(&cluster.url()).unwrap();
    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let mut call = script.key("n");
    call.arg(2);
    assert_eq!(connection.script::<u64>(&call).await.unwrap(), 2);
    connection
        .run::<()>(cmd("SCRIPT").arg("FLUSH"))
        .await
        .unwrap();
    assert_eq!(
        connection.script::<u64>(&call).await.unwrap(),
        4,
        "loaded again"
    );

    let mut pipeline = redis::pipe();
    pipeline.atomic().incr("n", 1).incr("n", 1);
    assert_eq!(
        connection.pipeline::<(u64, u64)>(&pipeline).await.unwrap(),
        (5, 6)
    );

    let error = connection
        .run::<()>(cmd("LPUSH").arg("n").arg(1))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Server(_)), "{error:?}");
    let error = connection
        .run::<(u64, u64)>(cmd("GET").arg("n"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Reply(_)), "{error:?}");
    assert_eq!(
        connection.status().connects,
        1,
        "none of this costs the connection"
    );
}

#[tokio::test]
async fn the_last_handle_takes_its_links_and_tasks_along() {
    let cluster = Redis::single().start().await.unwrap();
    let links = async || -> usize {
        let list: String = cluster.nodes[0]
            .command(cmd("CLIENT").arg("LIST"))
            .await
            .unwrap();
        list.lines().count()
    };
    let before = links().await;
    let connection = Connection::from_url(&cluster.url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    assert!(links().await > before);
    let clone = connection.clone();
    drop(connection);
    clone.run::<()>(&cmd("PING")).await.unwrap();
    drop(clone);
    eventually("links closed", async || links().await == before).await;
}
