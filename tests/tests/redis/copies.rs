//! Writes that wait for replicas, in one pipeline with what they wait for.

use std::time::Duration;

use ha_db::redis::{Connection, Error, NotSent, Reason};
use ha_testbed::redis::Redis;
use redis::{Cmd, Pipeline, cmd};

use crate::support::{DEADLINE, SLOT, Writers, address, connect, lost};

fn set(key: &str) -> Cmd {
    let mut command = cmd("SET");
    command.arg(key).arg(1);
    command
}

/// Long enough for a busy replica, and what a frozen one is waited for.
const BUSY: u64 = 20_000;
const FROZEN: u64 = 2_000;

/// The command, with how many of so many replicas have it within so many milliseconds.
fn copied(command: Cmd, replicas: u32, millis: u64) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.add_command(command);
    pipeline.cmd("WAIT").arg(replicas).arg(millis);
    pipeline
}

async fn copies(
    connection: &Connection,
    key: &str,
    replicas: u32,
    millis: u64,
) -> Result<u32, Error> {
    let pipeline = copied(set(key), replicas, millis);
    let (_, copies): (String, u32) = connection.pipeline(&pipeline).await?;
    Ok(copies)
}

#[tokio::test]
async fn it_is_said_how_many_replicas_have_a_write() {
    let cluster = Redis::single().replicas(2).start().await.unwrap();
    let connection = connect(&format!("redis://{}", address(&cluster, 0))).await;
    let patient = connection.with_timeout(DEADLINE);
    assert_eq!(copies(&patient, "a", 2, BUSY).await.unwrap(), 2);
    cluster.nodes[1].freeze().unwrap();
    assert_eq!(copies(&patient, "b", 2, FROZEN).await.unwrap(), 1);
    cluster.nodes[2].freeze().unwrap();
    // The control: without waiting it is acknowledged as if nothing were wrong.
    patient.run::<()>(&set("c")).await.unwrap();
    assert_eq!(copies(&patient, "d", 1, FROZEN).await.unwrap(), 0);
    let there: u32 = patient.run(cmd("EXISTS").arg("c").arg("d")).await.unwrap();
    assert_eq!(there, 2, "on the master alone");
    cluster.nodes[1].thaw().unwrap();
    cluster.nodes[2].thaw().unwrap();

    // A replica refuses both, each in its own words, and nothing of it has run.
    let connection = Connection::builder()
        .node(address(&cluster, 0))
        // Only the refusal tells it.
        .check_interval(Duration::from_secs(3600))
        .build()
        .unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let port = cluster.nodes[1].port;
    let mut demote = cmd("REPLICAOF");
    demote.arg("127.0.0.1").arg(port);
    let mut promote = cmd("REPLICAOF");
    promote.arg("NO").arg("ONE");
    let _: () = cluster.nodes[1].command(&promote).await.unwrap();
    let _: () = cluster.nodes[0].command(&demote).await.unwrap();
    let error = copies(&connection, "e", 1, FROZEN).await.unwrap_err();
    assert!(error.is_not_sent(), "{error:?}");
    assert_eq!(connection.status().last_reason, Some(Reason::ReadOnly));
}

#[tokio::test]
async fn a_write_that_waits_goes_where_its_slot_is_and_waiting_alone_goes_nowhere() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let connection = connect(&cluster.cluster_url()).await;
    let first = cluster.owner(SLOT).await.unwrap();
    let writing = connection.with_timeout(DEADLINE);
    let writers = Writers::start("{foo}:copied", move |_, command| {
        let connection = writing.clone();
        async move {
            let pipeline = copied(command, 1, 200);
            let done = connection.pipeline::<(String, u32)>(&pipeline).await;
            done.map(drop).map_err(|error| format!("{error:?}"))
        }
    });
    writers.goes_on().await;
    for hop in 1..=3 {
        cluster.migrate_slot(SLOT, (first + hop) % 3).await.unwrap();
        writers.goes_on().await;
    }
    let told = writers.finish().await;
    assert!(told.refused.is_empty(), "{:?}", told.refused);
    let lost = lost(&cluster.nodes[first], &told).await;
    assert!(lost.is_empty(), "{lost:?}");
    let patient = connection.with_timeout(DEADLINE);
    let last = copies(&patient, "{foo}last", 1, BUSY).await;
    assert_eq!(last.unwrap(), 1);

    let mut wait = cmd("WAIT");
    wait.arg(1).arg(100);
    let error = connection.run::<u32>(&wait).await.unwrap_err();
    let why = NotSent::NotOneSlot;
    assert!(matches!(&error, Error::NotSent { why: w, .. } if *w == why));
}

/// What most of the servers have outlives the master: of those that counted a replica none is gone.
#[tokio::test]
async fn after_kill_9_of_the_master_no_write_is_lost_that_a_replica_had() {
    let cluster = Redis::sentinel(3).start().await.unwrap();
    let connection = connect(&cluster.sentinel_url()).await;
    let old = cluster.master().await.unwrap();
    let writing = connection.clone();
    let writers = Writers::start("copied", move |_, command| {
        let connection = writing.clone();
        async move {
            let pipeline = copied(command, 1, 200);
            match connection.pipeline::<(String, u32)>(&pipeline).await {
                Ok((_, 0)) => Err("on the master alone".to_owned()),
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error:?}")),
            }
        }
    });
    writers.goes_on().await;
    cluster.nodes[old].kill().await.unwrap();
    let new = cluster.wait_master_other_than(old, DEADLINE).await.unwrap();
    writers.goes_on().await;
    let told = writers.finish().await;
    let lost = lost(&cluster.nodes[new], &told).await;
    println!(
        "{} acknowledged, {} not",
        told.acknowledged.len(),
        told.refused.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
}
