//! Masters of a Redis Cluster that are killed, frozen and switched over under load.

use std::time::{Duration, Instant};

use ha_testbed::redis::Redis;
use redis::cmd;

use crate::cluster::bare;
use crate::support::{DEADLINE, SLOT, Writers, connect, demoted, lost};

#[tokio::test]
async fn after_kill_9_of_a_master_writes_go_on_at_its_replica_and_the_other_shards_go_on() {
    let cluster = Redis::cluster(6)
        .setting("cluster-require-full-coverage", "no")
        .start()
        .await
        .unwrap();
    let connection = connect(&cluster.cluster_url()).await;
    let old = cluster.owner(SLOT).await.unwrap();
    let bare = bare(&cluster, old).await;
    let ours = Writers::ours("{foo}:ours", &connection);
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
    let ours = ours.finish().await;
    let lost = lost(&cluster.nodes[new], &ours).await;
    println!(
        "back after {back:?}, {} acknowledged, {} refused, {} lost",
        ours.acknowledged.len(),
        ours.refused.len(),
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
    let connection = connect(&cluster.cluster_url()).await;
    let old = cluster.owner(SLOT).await.unwrap();
    let bare = bare(&cluster, old).await;
    let ours = Writers::ours("{foo}:ours", &connection);
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
    demoted(&cluster.nodes[old]).await;
    ours.goes_on().await;
    let after_thaw = bare.count() - before_thaw;
    let bare_lost = lost(&cluster.nodes[new], &bare.finish().await).await.len();
    let ours = ours.finish().await;
    let lost = lost(&cluster.nodes[new], &ours).await;
    println!(
        "{} acknowledged, {} lost; control: {after_thaw} acknowledged after the thaw, {bare_lost} lost",
        ours.acknowledged.len(),
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
    let connection = connect(&cluster.cluster_url()).await;
    let old = cluster.owner(SLOT).await.unwrap();
    let ours = Writers::ours("{foo}:ours", &connection);
    ours.goes_on().await;
    let replica = cluster.replicas_of(old).await.unwrap()[0];
    cluster.failover_to(replica).await.unwrap();
    let new = cluster
        .wait_owner_other_than(SLOT, old, DEADLINE)
        .await
        .unwrap();
    assert_eq!(new, replica);
    ours.goes_on().await;
    let ours = ours.finish().await;
    let lost = lost(&cluster.nodes[new], &ours).await;
    println!(
        "{} acknowledged, {} refused ({:?}), {} lost",
        ours.acknowledged.len(),
        ours.refused.len(),
        ours.refused.first(),
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
}
