//! The Redis connection with TLS and ACL users, and what it says when something is set up wrongly: the error names the address, the user or
//! the name, and once that is put right the connection works without being made anew.

use std::time::{Duration, Instant};

use ha_db::redis::{ConfigError, Connection, Error, Failure, NotSent, Step};
use ha_db::tls::Tls;
use ha_testbed::redis::{Cluster, MASTER_NAME, Node, Redis};
use redis::cmd;

use crate::support::DEADLINE;

const SHORT: Duration = Duration::from_secs(3);

async fn works(connection: &Connection) {
    connection.ready(DEADLINE).await.unwrap();
    let patient = connection.with_timeout(DEADLINE);
    patient.run::<()>(cmd("SET").arg("a").arg(1)).await.unwrap();
    let got: u64 = patient.run(cmd("GET").arg("a")).await.unwrap();
    assert_eq!(got, 1);
}

/// Waits until the connection knows why, and takes the error of a command apart.
async fn refused(connection: &Connection, expected: impl Fn(&Failure) -> bool) -> Error {
    let end = Instant::now() + DEADLINE;
    loop {
        let error = connection
            .with_timeout(SHORT)
            .run::<()>(cmd("SET").arg("a").arg(1))
            .await
            .unwrap_err();
        assert!(error.is_not_sent() && error.is_unavailable(), "{error:?}");
        if error.failure().is_some_and(&expected) {
            return error;
        }
        assert!(Instant::now() < end, "{error:?}");
    }
}

fn tls_address(node: &Node) -> String {
    node.announced().to_string()
}

fn all(cluster: &Cluster, sentinels: bool) -> String {
    let nodes = if sentinels {
        &cluster.sentinels
    } else {
        &cluster.nodes
    };
    let all: Vec<_> = nodes.iter().map(tls_address).collect();
    all.join(",")
}

#[tokio::test]
async fn one_server_with_tls_and_a_login_by_url_alone() {
    let cluster = Redis::single()
        .tls()
        .acl("app", "s3:cret@")
        .start()
        .await
        .unwrap();
    let ca = cluster.ca_file().unwrap();
    let (ca, node) = (ca.display(), tls_address(&cluster.nodes[0]));
    let url = format!("rediss://app:s3%3Acret%40@{node}?tls_ca_file={ca}");
    let connection = Connection::from_url(&url).unwrap();
    works(&connection).await;
    // What is on the wire is not the command.
    let list: String = connection.run(cmd("CLIENT").arg("LIST")).await.unwrap();
    assert!(list.contains("user=app"), "{list}");
    let again = Connection::builder()
        .node(node)
        .user("app")
        .password("s3:cret@")
        .tls(
            Tls::builder()
                .ca_pem(cluster.ca().unwrap())
                .build()
                .unwrap(),
        )
        .build()
        .unwrap();
    works(&again).await;
}

#[tokio::test]
async fn sentinels_and_servers_with_tls_and_a_login_each_across_a_failover() {
    let cluster = Redis::sentinel(3)
        .tls()
        .acl("app", "app-secret")
        .sentinel_acl("watch", "watch-secret")
        .start()
        .await
        .unwrap();
    let ca = cluster.ca_file().unwrap();
    let (ca, sentinels) = (ca.display(), all(&cluster, true));
    let base = format!("rediss+sentinel://app:app-secret@{sentinels}/{MASTER_NAME}");
    let url = format!("{base}?sentinel_user=watch&sentinel_password=watch-secret&tls_ca_file={ca}");
    let connection = Connection::from_url(&url).unwrap();
    works(&connection).await;

    // Without a login at the Sentinels, and with a wrong one.
    for (extra, user) in [
        ("", "default"),
        ("&sentinel_user=watch&sentinel_password=hunter2", "watch"),
    ] {
        let url = format!("{base}?tls_ca_file={ca}{extra}");
        let stranger = Connection::from_url(&url).unwrap();
        let error = refused(&stranger, |failure| {
            matches!(failure, Failure::Login { address, user: u, .. } if sentinels.contains(address) && u == user)
        })
        .await;
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }

    let old = cluster.master().await.unwrap();
    cluster.nodes[old].kill().await.unwrap();
    let new = cluster.wait_master_other_than(old, DEADLINE).await.unwrap();
    works(&connection).await;
    let status = connection.status();
    assert_eq!(status.master, Some(tls_address(&cluster.nodes[new])));
    assert!(
        status.sentinels.iter().all(|sentinel| sentinel.subscribed),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_cluster_with_tls_and_a_login_across_a_moved_slot() {
    let cluster = Redis::cluster(6)
        .tls()
        .acl("app", "app-secret")
        .start()
        .await
        .unwrap();
    let ca = cluster.ca_file().unwrap();
    let url = format!(
        "rediss+cluster://app:app-secret@{}?tls_ca_file={}",
        all(&cluster, false),
        ca.display()
    );
    let connection = Connection::from_url(&url).unwrap();
    works(&connection).await;
    // Slot of "a".
    let from = cluster.owner(15_495).await.unwrap();
    cluster.migrate_slot(15_495, (from + 1) % 3).await.unwrap();
    works(&connection).await;
    let status = connection.status();
    let masters: Vec<_> = status.nodes.iter().filter(|node| node.connected).collect();
    assert!(masters.iter().all(|node| {
        cluster
            .nodes
            .iter()
            .any(|own| tls_address(own) == node.address)
    }));
}

#[tokio::test]
async fn a_wrong_login_is_named_and_works_once_it_is_put_right() {
    let cluster = Redis::single().start().await.unwrap();
    let node = cluster.nodes[0].addr().to_string();
    let set = async |words: &[&str]| {
        let mut command = cmd("ACL");
        command.arg("SETUSER").arg(words);
        cluster.nodes[0].command::<()>(&command).await.unwrap();
    };
    set(&["app", "on", ">right", "~*", "+@all"]).await;
    let url = format!("redis://app:hunter2@{node}");
    let connection = Connection::from_url(&url).unwrap();
    let error = refused(&connection, |failure| {
        matches!(failure, Failure::Login { address, user, .. } if *address == node && user == "app")
    })
    .await;
    assert!(error.failure().unwrap().needs_repair());
    assert!(!format!("{error:?} {error} {connection:?}").contains("hunter2"));
    assert!(
        connection
            .status()
            .last_failure
            .unwrap()
            .contains("\"app\"")
    );
    set(&["app", ">hunter2"]).await;
    works(&connection).await;

    // One that may not do what the connection needs.
    set(&["poor", "on", ">poor", "~*", "+set", "+get"]).await;
    let poor = Connection::from_url(&format!("redis://poor:poor@{node}")).unwrap();
    let error = refused(&poor, |failure| {
        matches!(failure, Failure::NotAllowed { .. })
    })
    .await;
    let Some(Failure::NotAllowed { user, source, .. }) = error.failure() else {
        panic!("{error:?}");
    };
    assert_eq!(user, "poor");
    assert!(source.to_string().contains("role"), "{source}");
    set(&["poor", "+role", "+ping"]).await;
    works(&poor).await;
}

#[tokio::test]
async fn an_unknown_master_name_is_named_with_the_sentinel_that_does_not_know_it() {
    let cluster = Redis::sentinel(1).replicas(0).start().await.unwrap();
    let sentinel = cluster.sentinels[0].addr().to_string();
    let url = format!("redis+sentinel://{sentinel}/nobody");
    let connection = Connection::from_url(&url).unwrap();
    let error = refused(&connection, |failure| {
        matches!(failure, Failure::UnknownMaster { name, sentinel: s } if name == "nobody" && *s == sentinel)
    })
    .await;
    assert!(matches!(
        error,
        Error::NotSent {
            why: NotSent::NoMaster,
            ..
        }
    ));
    let text = error.failure().unwrap().to_string();
    assert!(
        text.contains("SENTINEL MASTERS"),
        "names the remedy: {text}"
    );
    // Once the Sentinel is told of it, it works.
    let mut monitor = cmd("SENTINEL");
    let port = cluster.nodes[0].port;
    monitor
        .arg("MONITOR")
        .arg("nobody")
        .arg("127.0.0.1")
        .arg(port)
        .arg(1);
    let _: () = cluster.sentinels[0].command(&monitor).await.unwrap();
    works(&connection).await;
}

#[tokio::test]
async fn tls_where_there_is_none_and_none_where_there_is() {
    let cluster = Redis::single().tls().start().await.unwrap();
    let (plain, tls) = (
        cluster.nodes[0].addr().to_string(),
        tls_address(&cluster.nodes[0]),
    );
    let ca = cluster.ca_file().unwrap();
    let ca = ca.display();
    let connection = Connection::from_url(&format!("rediss://{plain}?tls_ca_file={ca}")).unwrap();
    let error = refused(&connection, |failure| {
        matches!(failure, Failure::TimedOut { address, step: Step::Tls, .. } if *address == plain)
    })
    .await;
    assert!(
        error
            .failure()
            .unwrap()
            .to_string()
            .contains("a port without TLS")
    );
    let connection = Connection::from_url(&format!("redis://{tls}")).unwrap();
    let error = refused(
        &connection,
        |failure| matches!(failure, Failure::Greeting { address, .. } if *address == tls),
    )
    .await;
    assert!(error.failure().unwrap().to_string().contains("rediss://"));
    // Somebody else's authority.
    let other = Redis::single().tls().start().await.unwrap();
    let other = Tls::builder().ca_pem(other.ca().unwrap()).build().unwrap();
    let connection = Connection::builder().node(&tls).tls(other).build().unwrap();
    let error = refused(&connection, |failure| {
        matches!(failure, Failure::Tls { .. })
    })
    .await;
    let source = std::error::Error::source(error.failure().unwrap()).unwrap();
    assert!(source.to_string().contains("certificate"), "{source}");
    // A file that is not there is refused before anything is connected.
    let error = Connection::from_url(&format!("rediss://{tls}?tls_ca_file=/no/such")).unwrap_err();
    assert!(matches!(error, ConfigError::Tls(_)), "{error}");
}

#[tokio::test]
async fn what_is_no_node_of_a_cluster_is_named() {
    let cluster = Redis::single().start().await.unwrap();
    let node = cluster.nodes[0].addr().to_string();
    let connection = Connection::from_url(&format!("redis+cluster://{node}")).unwrap();
    refused(
        &connection,
        |failure| matches!(failure, Failure::NotCluster { address, .. } if *address == node),
    )
    .await;
}
