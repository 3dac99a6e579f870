//! Nodes that are set up wrongly: each is told with its remedy, and the rest keeps working.

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ha_db::postgres::{Builder, Causal, Event, Lsn, Problem, Role, Router, Token};
use ha_testbed::postgres::{Cluster, Node, Postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{DEADLINE, eventually, prepared, sees, started, write};

/// Makes a user that needs its password and has no more rights than it takes to write notes.
async fn with_user(cluster: &Cluster) {
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE app LOGIN PASSWORD 'right'; GRANT ALL ON note TO app; GRANT CREATE ON SCHEMA public TO app",
        )
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    for node in &cluster.nodes {
        let file = node.data_dir().join("pg_hba.conf");
        let rules = fs::read_to_string(&file).unwrap();
        let rules = format!("host all app 127.0.0.1/32 scram-sha-256\n{rules}");
        fs::write(&file, rules).unwrap();
        let client = node.client().await.unwrap();
        client
            .batch_execute("SELECT pg_reload_conf()")
            .await
            .unwrap();
    }
}

fn conninfo(port: u16, rest: &str) -> String {
    format!("host=127.0.0.1 port={port} {rest}")
}

/// Signing in by SCRAM takes thousands of hashes, which a busy machine and a build without optimization make seconds of.
fn patient(builder: Builder) -> Builder {
    let limit = Duration::from_secs(20);
    let builder = builder.connect_timeout(limit).probe_timeout(limit);
    builder.write_wait(DEADLINE).pool_wait(DEADLINE)
}

fn problem(router: &Router, name: &str) -> Option<Problem> {
    let status = router.status();
    let node = status.nodes.iter().find(|node| node.name == name).unwrap();
    node.problem.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_setting_is_told_by_node_with_a_remedy_and_the_rest_works() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let other = Postgres::primary().start().await.unwrap();
    with_user(&cluster).await;
    let (primary, replica) = (cluster.nodes[0].port, cluster.nodes[1].port);
    let right = "user=app password=right dbname=postgres";
    let told: Arc<Mutex<Vec<Event>>> = Arc::default();
    let hear = Arc::clone(&told);
    let router = Router::builder()
        .node("primary", conninfo(primary, right))
        .node("replica", conninfo(replica, right))
        .node("again", conninfo(primary, right))
        .node(
            "password",
            conninfo(replica, "user=app password=wrong dbname=postgres"),
        )
        .node(
            "database",
            conninfo(replica, "user=app password=right dbname=nowhere"),
        )
        .node("foreign", other.nodes[0].conninfo())
        .on_event(move |event| hear.lock().unwrap().push(event.clone()));
    let router = started(patient(router)).await;
    let expected = [
        ("primary", "pg_monitor", "GRANT pg_monitor"),
        ("replica", "pg_monitor", "GRANT pg_monitor"),
        ("again", "same server as primary", "each server once"),
        ("password", "user or the password", "connection string"),
        ("database", "no such database", "dbname"),
        (
            "foreign",
            "belongs to database cluster",
            "take the node out",
        ),
    ];
    for (name, what, remedy) in expected {
        eventually(name, async || {
            problem(&router, name).is_some_and(|problem| {
                problem.to_string().contains(what) && problem.remedy().contains(remedy)
            })
        })
        .await;
        let found =
            |event: &Event| matches!(event, Event::ProblemFound { node, .. } if **node == *name);
        // The listener is called after the change has taken effect.
        eventually(name, async || told.lock().unwrap().iter().any(found)).await;
    }
    let db = router.db(Causal::default());
    for id in 0..20 {
        write(&db, id).await;
        let conn = db.read().await.unwrap();
        assert!(
            ["primary", "replica"].contains(&conn.node()),
            "{}",
            conn.node()
        );
        assert!(sees(&conn, id).await.unwrap());
    }
    // The remedy works, and is seen without a restart.
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("GRANT pg_monitor TO app")
        .await
        .unwrap();
    for name in ["primary", "replica"] {
        eventually("the grant is seen", async || {
            problem(&router, name).is_none()
        })
        .await;
    }
    let solved = |event: &Event| matches!(event, Event::ProblemSolved { .. });
    eventually("it is told as solved", async || {
        told.lock().unwrap().iter().any(solved)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_grant_to_read_histories_old_tokens_go_to_the_primary_and_are_reported() {
    let cluster = prepared(Postgres::primary(), 1).await;
    with_user(&cluster).await;
    let admin = cluster.nodes[0].client().await.unwrap();
    admin
        .batch_execute("GRANT pg_monitor TO app")
        .await
        .unwrap();
    let told: Arc<Mutex<Vec<Event>>> = Arc::default();
    let hear = Arc::clone(&told);
    let nodes = cluster.nodes.iter();
    let router = nodes.fold(Router::builder(), |builder, node: &Node| {
        let rest = "user=app password=right dbname=postgres";
        builder.node(&node.name, conninfo(node.port, rest))
    });
    let router = router.on_event(move |event| hear.lock().unwrap().push(event.clone()));
    let router = started(patient(router)).await;
    let db = router.db(Causal::default());
    write(&db, 1).await;
    let token = db.token().await;
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    let promoted = cluster.nodes[1].name.clone();
    eventually("the missing grant is told", async || {
        matches!(
            problem(&router, &promoted),
            Some(Problem::NoHistory { timeline: 2 })
        )
    })
    .await;
    let conn = router.db(Causal::new(token)).read().await.unwrap();
    assert_eq!(conn.node(), promoted);
    assert!(sees(&conn, 1).await.unwrap());
    let unprovable = Event::Unprovable {
        written: 1,
        timeline: 2,
    };
    eventually("it is told", async || {
        told.lock().unwrap().contains(&unprovable)
    })
    .await;
    drop(conn);
    let admin = cluster.nodes[1].client().await.unwrap();
    let grant = "GRANT EXECUTE ON FUNCTION pg_read_file(text, bigint, bigint, boolean) TO app";
    admin.batch_execute(grant).await.unwrap();
    eventually("the grant is seen", async || {
        problem(&router, &promoted).is_none()
    })
    .await;
    // And now a lost one is told from one that survived.
    router.check(&token.unwrap()).unwrap();
    let id = router.status().system_id.unwrap();
    let lost = Token::new(id, 1, Lsn(token.unwrap().lsn().0 + (1 << 24)));
    assert!(router.check(&lost).unwrap_err().is_lost());
}

/// Leads to a server, and has it say that it is of version 11.
async fn as_version_11(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                    let bytes = &mut buffer[..read];
                    let found = bytes.windows(6).position(is_version);
                    if let Some(at) = found {
                        bytes[at..at + 2].copy_from_slice(b"11");
                    }
                    if to_client.write_all(bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// A `server_version_num` of a server that is new enough: six digits in a field of six bytes.
fn is_version(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit) && text[0] == b'1' && text[2] == b'0'
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_old_is_told_and_not_used() {
    let cluster = prepared(Postgres::primary(), 1).await;
    let old = as_version_11(([127, 0, 0, 1], cluster.nodes[1].port).into()).await;
    let router = Router::builder()
        .node("new", cluster.nodes[0].conninfo())
        .node("old", conninfo(old.port(), "user=postgres dbname=postgres"));
    let router = started(router).await;
    eventually("its version is told", async || {
        matches!(
            problem(&router, "old"),
            Some(Problem::TooOld {
                version: 110_000..120_000
            })
        )
    })
    .await;
    assert_eq!(router.status().nodes[1].role, Role::Unreachable);
    let db = router.db(Causal::default());
    write(&db, 1).await;
    assert_eq!(db.read().await.unwrap().node(), "new");
}
