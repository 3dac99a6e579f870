//! The Redis connection to one server: its role, its deadlines, its bounds, and what it leaves behind.

use std::time::{Duration, Instant};

use ha_db::redis::{Connection, Error, Reason};
use ha_testbed::redis::Redis;
use redis::cmd;
use tokio::task::JoinSet;

use crate::support::{DEADLINE, STUCK, address, eventually};

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

#[tokio::test]
async fn a_slow_script_costs_those_who_wait_behind_it_and_not_the_connection() {
    let cluster = Redis::single().start().await.unwrap();
    let builder = || Connection::builder().node(address(&cluster, 0));
    // The control counts unanswered commands alone, as many as are under way at once.
    let (ours, hasty) = (builder(), builder().timeouts_in_a_row(1));
    let (ours, hasty) = (ours.build().unwrap(), hasty.build().unwrap());
    for connection in [&ours, &hasty] {
        connection.ready(DEADLINE).await.unwrap();
    }
    let script = redis::Script::new(
        "local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
         local till = now() + ARGV[1]
         while now() < till do end",
    );
    let mut slow = script.prepare_invoke();
    slow.arg(0);
    ours.script::<()>(&slow).await.unwrap();
    let mut slow = script.prepare_invoke();
    slow.arg(900);
    // Known to the server by now, it is the first on the link, and the others stand behind it.
    let behind_it = async |connection: &Connection| {
        let patient = connection.with_timeout(DEADLINE);
        let others = async {
            let mut under_way = JoinSet::new();
            for _ in 0..50 {
                let connection = connection.clone();
                under_way.spawn(async move { connection.run::<u64>(cmd("INCR").arg("n")).await });
            }
            let mut unknown = 0;
            while let Some(done) = under_way.join_next().await {
                unknown += u32::from(done.unwrap().is_err_and(|error| error.is_unknown()));
            }
            unknown
        };
        tokio::join!(patient.script::<()>(&slow), others)
    };
    let (ran, unknown) = behind_it(&ours).await;
    ran.unwrap();
    assert!(unknown > 3, "{unknown}");
    let value: u64 = ours
        .with_timeout(DEADLINE)
        .run(cmd("INCR").arg("after"))
        .await
        .unwrap();
    assert_eq!(value, 1);
    assert_eq!(ours.status().connects, 1, "{:?}", ours.status());
    let (ran, _) = behind_it(&hasty).await;
    assert!(
        ran.unwrap_err().is_unknown(),
        "the control: cut with the link"
    );
    eventually("the control gives its link up", async || {
        hasty.status().connects > 1
    })
    .await;
}

#[tokio::test]
async fn deadlines_that_never_end_are_cut_to_a_day() {
    let cluster = Redis::single().start().await.unwrap();
    let connection = Connection::from_url(&cluster.url()).unwrap();
    connection.ready(Duration::MAX).await.unwrap();
    let patient = connection.with_timeout(Duration::MAX);
    patient.run::<()>(&cmd("PING")).await.unwrap();
}
