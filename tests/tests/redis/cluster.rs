//! The Redis connection in a cluster: each command where its key is, also while its slot moves. Beside it a bare link to the node that had the
//! slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ha_db::redis::{Connection, Error, NotSent};
use ha_testbed::redis::{Cluster, Redis};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, cmd};

use crate::support::{DEADLINE, SLOT, Writers, connect, eventually, lost};

async fn link(cluster: &Cluster, node: usize) -> MultiplexedConnection {
    let client = redis::Client::open(cluster.nodes[node].url()).unwrap();
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap()
}

/// Links to one node, one for each writer, that wait for an answer for as long as it takes.
pub(crate) async fn bare(cluster: &Cluster, node: usize) -> Writers {
    let mut links = Vec::new();
    for _ in 0..4 {
        links.push(link(cluster, node).await);
    }
    Writers::start("{foo}:bare", move |writer, command| {
        let mut link = links[writer].clone();
        async move {
            let done = command.exec_async(&mut link).await;
            done.map_err(|error| error.to_string())
        }
    })
}

#[tokio::test]
async fn each_command_goes_to_the_owner_of_its_slot_and_what_has_none_is_refused() {
    let cluster = Redis::cluster(6).start().await.unwrap();
    let connection = connect(&cluster.cluster_url()).await;
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
    // A busy node moves its keys for longer than the default, and answers nobody meanwhile.
    let connection = connect(&cluster.cluster_url()).await.with_timeout(DEADLINE);
    let first = cluster.owner(SLOT).await.unwrap();
    let bare = bare(&cluster, first).await;
    let ours = Writers::ours("{foo}:ours", &connection);
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
    let ours = ours.finish().await;
    assert!(ours.refused.is_empty(), "{:?}", ours.refused);
    let lost = lost(&cluster.nodes[first], &ours).await;
    assert!(lost.is_empty(), "{lost:?}");
    let bare_refused = bare.finish().await.refused;
    println!(
        "{} writes and {count} increments over three moves, none refused; a bare link: {} refused",
        ours.acknowledged.len(),
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
    let connection = connect(&cluster.cluster_url()).await;
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
    let connection = connect(&cluster.cluster_url()).await;
    assert!(links().await >= before + 3);
    let clone = connection.clone();
    drop(connection);
    clone.run::<()>(&cmd("PING")).await.unwrap();
    drop(clone);
    eventually("links closed", async || links().await == before).await;
}
