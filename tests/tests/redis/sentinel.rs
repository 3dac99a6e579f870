//! The Redis connection follows the master that Sentinels name: killed, frozen and thawed, switched over. Beside it the driver's own Sentinel
//! client, which looks the master up once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ha_db::redis::{Connection, Error, Reason, Unknown};
use ha_testbed::redis::{Cluster, MASTER_NAME, Redis};
use redis::cmd;
use redis::sentinel::{SentinelClient, SentinelServerType};

use crate::support::{DEADLINE, STUCK, Writers, address, connect, demoted, eventually, lost};

/// Looks the master up once, as the driver's Sentinel client does, and reconnects to where it was.
async fn naive(cluster: &Cluster) -> Writers {
    let nodes = cluster.sentinels.iter().map(|node| node.url()).collect();
    let mut client =
        SentinelClient::build(nodes, MASTER_NAME.into(), None, SentinelServerType::Master).unwrap();
    let client = client.async_get_client().await.unwrap();
    let link = client.get_multiplexed_async_connection().await.unwrap();
    let link = Arc::new(tokio::sync::Mutex::new(link));
    Writers::start("naive", move |_, command| {
        let (link, client) = (link.clone(), client.clone());
        async move {
            let mut own = link.lock().await.clone();
            let done = command.exec_async(&mut own).await;
            if done
                .as_ref()
                .is_err_and(|error| error.is_unrecoverable_error())
                && let Ok(fresh) = client.get_multiplexed_async_connection().await
            {
                *link.lock().await = fresh;
            }
            done.map_err(|error| error.to_string())
        }
    })
}

async fn hears_all(connection: &Connection) {
    eventually("all sentinels heard", async || {
        let sentinels = connection.status().sentinels;
        sentinels.iter().all(|sentinel| sentinel.subscribed)
    })
    .await;
}

#[tokio::test]
async fn after_kill_9_of_the_master_writes_go_on_at_the_new_one() {
    let cluster = Redis::sentinel(3).start().await.unwrap();
    let connection = connect(&cluster.sentinel_url()).await;
    let old = cluster.master().await.unwrap();
    assert_eq!(connection.status().master, Some(address(&cluster, old)));
    let naive = naive(&cluster).await;
    let ours = Writers::ours("ours", &connection);
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
    let ours = ours.finish().await;
    assert!(ours.longest < STUCK, "a command took {:?}", ours.longest);
    let lost = lost(&cluster.nodes[new], &ours).await;
    println!(
        "back after {back:?}, {} acknowledged, {} lost, {status:?}",
        ours.acknowledged.len(),
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
    let connection = connect(&cluster.sentinel_url()).await;
    let old = cluster.master().await.unwrap();
    let naive = naive(&cluster).await;
    let ours = Writers::ours("ours", &connection);
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
    demoted(&cluster.nodes[old]).await;
    ours.goes_on().await;

    assert_eq!(connection.status().master, Some(address(&cluster, new)));
    let naive_after_thaw = naive.count() - before_thaw;
    let naive_lost = lost(&cluster.nodes[new], &naive.finish().await).await.len();
    let ours = ours.finish().await;
    assert!(ours.longest < STUCK, "a command took {:?}", ours.longest);
    let lost = lost(&cluster.nodes[new], &ours).await;
    println!(
        "{} acknowledged, {} lost; control: {naive_after_thaw} acknowledged after the thaw, {naive_lost} lost",
        ours.acknowledged.len(),
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
    let connection = connect(&cluster.sentinel_url()).await;
    hears_all(&connection).await;
    // The control follows as ours does, but does not hold commands back.
    let eager = Connection::builder()
        .url(&cluster.sentinel_url())
        .unwrap()
        .failover_hold(Duration::ZERO)
        .build()
        .unwrap();
    eager.ready(DEADLINE).await.unwrap();
    let old = cluster.master().await.unwrap();
    let control = Writers::ours("eager", &eager);
    let ours = Writers::ours("ours", &connection);
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

    let ours = ours.finish().await;
    assert!(ours.longest < STUCK, "a command took {:?}", ours.longest);
    let lost_ours = lost(&cluster.nodes[new], &ours).await;
    let lost_eager = lost(&cluster.nodes[new], &control.finish().await).await;
    let lost_eager = lost_eager.len();
    println!(
        "{} acknowledged, {} not, {} lost; without holding back {lost_eager} lost; {:?}",
        ours.acknowledged.len(),
        ours.refused.len(),
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
    hears_all(&connection).await;
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
