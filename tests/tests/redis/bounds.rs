//! What is bounded in the Redis connection, and what a future that is dropped half way leaves behind: nothing.

use std::future::Future;
use std::time::{Duration, Instant};

use ha_db::redis::{Connection, Error, NotSent};
use ha_testbed::redis::Redis;
use redis::cmd;
use tokio::task::JoinSet;

use crate::polls::{MOST_POLLS, cut_after};
use crate::support::{DEADLINE, SLOT};

/// Cuts what `make` makes at each point at which it waits, until it ends by itself, and looks after each that all is well.
async fn cut_everywhere<F: Future>(connection: &Connection, what: &str, make: impl Fn() -> F) {
    for at in 0..MOST_POLLS {
        // Its first poll ends at its first await point.
        let ended = cut_after(at + 1, make()).await.is_some();
        let status = connection.status();
        assert_eq!(
            (status.waiting, status.in_flight),
            (0, 0),
            "{what} cut at {at}: {status:?}"
        );
        if ended {
            assert!(at > 0, "{what} never waits");
            return;
        }
    }
    panic!("{what} does not end");
}

async fn alive(connection: &Connection) {
    let patient = connection.with_timeout(DEADLINE);
    let pong: String = patient.run(&cmd("PING")).await.unwrap();
    assert_eq!(pong, "PONG");
}

/// Everything that can be awaited, cut at each point.
async fn cut_all(connection: &Connection) {
    let mut incr = cmd("INCR");
    incr.arg("{foo}n");
    let script = redis::Script::new("return redis.call('INCR', KEYS[1])");
    let call = script.key("{foo}n");
    let mut transaction = redis::pipe();
    transaction.atomic().incr("{foo}n", 1).incr("{foo}n", 1);
    let mut pipeline = redis::pipe();
    pipeline.incr("{foo}n", 1).incr("{foo}n", 1);
    cut_everywhere(connection, "run", || connection.run::<u64>(&incr)).await;
    cut_everywhere(connection, "script", || connection.script::<u64>(&call)).await;
    cut_everywhere(connection, "transaction", || {
        connection.pipeline::<(u64, u64)>(&transaction)
    })
    .await;
    cut_everywhere(connection, "pipeline", || {
        connection.pipeline::<(u64, u64)>(&pipeline)
    })
    .await;
}

#[tokio::test]
async fn every_future_can_be_dropped_wherever_it_waits() {
    let cluster = Redis::single().start().await.unwrap();
    let connection = Connection::from_url(&cluster.url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    cut_all(&connection).await;
    alive(&connection).await;
    assert_eq!(connection.status().connects, 1, "none of it cost the link");

    // Without a master, where commands wait for one.
    cluster.nodes[0].kill().await.unwrap();
    let end = Instant::now() + DEADLINE;
    while connection.status().master.is_some() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let short = connection.with_timeout(Duration::from_millis(50));
    let mut incr = cmd("INCR");
    incr.arg("n");
    cut_everywhere(&short, "run without a master", || short.run::<u64>(&incr)).await;
    cut_everywhere(&short, "ready without a master", || {
        short.ready(Duration::from_millis(50))
    })
    .await;
    cluster.nodes[0].start().await.unwrap();
    alive(&connection).await;
}

#[tokio::test]
async fn every_future_can_be_dropped_while_a_slot_moves() {
    let cluster = Redis::cluster(3).start().await.unwrap();
    let connection = Connection::from_url(&cluster.cluster_url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let connection = connection.with_timeout(DEADLINE);
    let mut set = cmd("SET");
    set.arg("{foo}n").arg(0);
    connection.run::<()>(&set).await.unwrap();
    let from = cluster.owner(SLOT).await.unwrap();
    let to = (from + 1) % 3;
    cluster.begin_migration(SLOT, to).await.unwrap();
    cluster.move_keys(SLOT, from, to, usize::MAX).await.unwrap();
    // Asked for and answered elsewhere.
    cut_all(&connection).await;
    cluster.end_migration(SLOT, to).await.unwrap();
    cut_all(&connection).await;
    alive(&connection).await;
    // Nobody took a word meant for another command: what is not there yet is only had by asking.
    let n: u64 = connection.run(cmd("GET").arg("{foo}n")).await.unwrap();
    assert!(n > 0);
}

#[tokio::test]
async fn no_more_commands_than_allowed_are_under_way() {
    let cluster = Redis::single().start().await.unwrap();
    let connection = Connection::builder()
        .node(cluster.nodes[0].addr().to_string())
        .max_in_flight(3)
        // The frozen server is not given up during the test.
        .timeouts_in_a_row(u32::MAX)
        .build()
        .unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let patient = connection.with_timeout(DEADLINE);
    cluster.nodes[0].freeze().unwrap();
    let mut under_way = JoinSet::new();
    for _ in 0..3 {
        let patient = patient.clone();
        under_way.spawn(async move { patient.run::<u64>(cmd("INCR").arg("n")).await });
    }
    let end = Instant::now() + DEADLINE;
    while connection.status().in_flight < 3 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..10 {
        let error = patient.run::<u64>(cmd("INCR").arg("n")).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::NotSent {
                    why: NotSent::Full { limit: 3 },
                    ..
                }
            ),
            "{error:?}"
        );
    }
    cluster.nodes[0].thaw().unwrap();
    while let Some(done) = under_way.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(connection.status().in_flight, 0);
    let n: u64 = patient.run(cmd("GET").arg("n")).await.unwrap();
    assert_eq!(n, 3, "what was refused did not run");
}
