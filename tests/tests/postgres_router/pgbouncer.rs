//! The router through PgBouncer: one before each node, in each of its two modes.

use std::path::Path;
use std::time::Duration;

use ha_db::postgres::{Causal, Error, Role, Router};
use ha_testbed::ports::Reservation;
use ha_testbed::postgres::{Cluster, Postgres};
use ha_testbed::process::{Bed, Process, Spec};
use ha_testbed::setup::{self, Tool};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::support::{DEADLINE, all_in_use, eventually, prepared, sees, started, write};

/// Sessions with each server, more than the router has connections.
const SESSIONS: usize = 60;

struct Bouncers {
    ports: Vec<u16>,
    _processes: Vec<Process>,
    // Gives the ports back after the processes are gone.
    _reserved: Reservation,
}

fn settings(port: u16, server: u16, mode: &str) -> String {
    format!(
        "[databases]\n* = host=127.0.0.1 port={server}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = users\npool_mode = {mode}\n\
         default_pool_size = {SESSIONS}\nserver_login_retry = 0.1\n"
    )
}

impl Bouncers {
    async fn start(bed: &Bed, cluster: &Cluster, mode: &str) -> Self {
        setup::ensure(&[Tool::PgBouncer]).unwrap();
        let reserved = Reservation::take(cluster.nodes.len()).unwrap();
        let ports = reserved.ports().to_vec();
        let mut processes = Vec::new();
        for (node, port) in cluster.nodes.iter().zip(&ports) {
            let name = format!("pgbouncer-{mode}-{}", node.name);
            let dir = bed.make_dir(&name).unwrap();
            let file = dir.join("pgbouncer.ini");
            std::fs::write(dir.join("users"), "\"postgres\" \"\"\n").unwrap();
            let users = dir.join("users");
            let text = settings(*port, node.port, mode);
            let text = text.replace("= users", &format!("= {}", users.display()));
            std::fs::write(&file, text).unwrap();
            let spec = Spec::new(name, setup::find(Tool::PgBouncer).unwrap())
                .args([Path::new("-q"), &file])
                .port(*port);
            processes.push(bed.spawn(spec).unwrap());
        }
        Self {
            ports,
            _processes: processes,
            _reserved: reserved,
        }
    }

    fn conninfo(&self, node: usize) -> String {
        let port = self.ports[node];
        format!("host=127.0.0.1 port={port} user=postgres dbname=postgres")
    }

    async fn router(&self, cluster: &Cluster) -> Router {
        let nodes = cluster.nodes.iter().enumerate();
        let builder = nodes.fold(Router::builder(), |builder, (index, node)| {
            builder.node(&node.name, self.conninfo(index))
        });
        let router = started(builder.write_wait(DEADLINE)).await;
        all_in_use(&router, cluster.nodes.len() - 1).await;
        router
    }
}

async fn start(mode: &str) -> (Cluster, Bouncers, Router) {
    let cluster = prepared(Postgres::primary(), 1).await;
    let bed = Bed::temporary().unwrap();
    let bouncers = Bouncers::start(&bed, &cluster, mode).await;
    let router = bouncers.router(&cluster).await;
    (cluster, bouncers, router)
}

/// When the server of a connection was started. Asked without a prepared statement.
async fn life(client: &Client) -> Option<String> {
    let rows = client
        .simple_query("SELECT pg_postmaster_start_time()")
        .await;
    rows.ok()?.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)?.to_owned()),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_session_of_its_own_for_each_connection_everything_works_through_a_failover_too() {
    let (cluster, _bouncers, router) = start("session").await;
    let db = router.db(Causal::default());
    let mut on_replica = 0;
    for id in 0..50 {
        write(&db, id).await;
        let conn = db.read().await.unwrap();
        on_replica += usize::from(conn.node() == cluster.nodes[1].name);
        let kept = conn.prepare_cached("SELECT $1::bigint").await.unwrap();
        conn.query_one(&kept, &[&id]).await.unwrap();
        assert!(sees(&conn, id).await.unwrap());
    }
    assert!(on_replica > 40, "{on_replica} of 50");
    // A cancellation finds its way through.
    let conn = db.write().await.unwrap();
    let sleeping = conn.query("SELECT pg_sleep(600)", &[]);
    let late = conn.within(Duration::from_millis(100), sleeping).await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    drop(conn);
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    let lent = router.write().await.unwrap();
    assert!(life(&lent).await.is_some());
    cluster.nodes[0].kill().await.unwrap();
    eventually("a connection ends with its server", async || {
        lent.is_closed()
    })
    .await;
    drop(lent);
    cluster.promote(1).await.unwrap();
    for id in 100..120 {
        write(&db, id).await;
        // A connection may end with the failover; what it shows must be there.
        let shown = async {
            loop {
                if let Ok(shown) = sees(&db.read().await.unwrap(), id).await {
                    return shown;
                }
            }
        };
        assert!(tokio::time::timeout(DEADLINE, shown).await.unwrap());
    }
    cluster.nodes[0].start().await.unwrap();
    eventually("the old primary is known to be stale", async || {
        router.status().nodes[0].role == Role::StalePrimary
    })
    .await;
    for id in 120..130 {
        write(&db, id).await;
    }
    assert_eq!(db.read().await.unwrap().node(), cluster.nodes[1].name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_session_for_each_transaction_settings_statements_and_the_servers_life_do_not_stay()
{
    let (cluster, bouncers, router) = start("transaction").await;
    // What is one transaction works.
    let db = router.db(Causal::default());
    for id in 0..20 {
        let tx = db.transaction().await.unwrap();
        let id_type = tokio_postgres::types::Type::INT8;
        tx.query_typed("INSERT INTO note VALUES ($1)", &[(&(id as i64), id_type)])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert!(db.read().await.is_ok());
    }
    // What is prepared stays on the session that another one has by now.
    let conn = router.write().await.unwrap();
    let statement = conn.prepare("SELECT 7").await.unwrap();
    conn.batch_execute("SET statement_timeout = '4711ms'")
        .await
        .unwrap();
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(router.transaction().await.unwrap());
    }
    let refused = conn.query_one(&statement, &[]).await.unwrap_err();
    let unknown = SqlState::INVALID_SQL_STATEMENT_NAME;
    assert_eq!(refused.code(), Some(&unknown), "{refused:?}");
    let shown = conn.simple_query("SHOW statement_timeout").await.unwrap();
    let shown = format!("{shown:?}");
    assert!(!shown.contains("4711ms"), "{shown}");
    drop(others);
    drop(conn);
    // And a connection outlives the server of which everything was said that the router knows. Those of the router would be cut as soon as a
    // probe has seen the new life, and that may be at once.
    let mut outside = Vec::new();
    for _ in 0..5 {
        let conninfo = bouncers.conninfo(0);
        let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await.unwrap();
        tokio::spawn(connection);
        outside.push(client);
    }
    let before = life(&outside[0]).await.unwrap();
    cluster.nodes[0].kill().await.unwrap();
    cluster.nodes[0].start().await.unwrap();
    // Before it logs in again, PgBouncer ends whoever asks.
    eventually("it is served again", async || {
        let conninfo = bouncers.conninfo(0);
        let Ok((client, connection)) = tokio_postgres::connect(&conninfo, NoTls).await else {
            return false;
        };
        let driver = tokio::spawn(connection);
        let served = life(&client).await.is_some();
        driver.abort();
        served
    })
    .await;
    let mut outlived = false;
    for client in &outside {
        // One that is asked in the moment after a refused login is closed.
        let after = life(client).await;
        outlived |= after.is_some_and(|after| after != before);
    }
    assert!(outlived, "each of them has ended with its server");
}
