//! Connections over TLS, to a server with a certificate that is made here.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::time::Duration;

use ha_db::postgres::{Builder, CertificateProblem, ConnectError, Error, Router};
use ha_db::tls::Tls;
use ha_testbed::postgres::{Cluster, Postgres};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::{eventually, started};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    fn tls(&self) -> Tls {
        Tls::builder().ca_pem(self.pem.as_bytes()).build().unwrap()
    }
}

/// A server that is `db.example`, by a certificate of `authority`.
async fn start(authority: &Authority) -> Cluster {
    let cluster = Postgres::primary().start().await.unwrap();
    let node = &cluster.nodes[0];
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    let owner = fs::metadata(node.data_dir()).unwrap();
    for (file, text) in [
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        let path = node.data_dir().join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let client = node.client().await.unwrap();
    for statement in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
        client.batch_execute(statement).await.unwrap();
    }
    eventually("the server speaks TLS", async || {
        let fresh = node.client().await.unwrap();
        let row = fresh.query_one("SHOW ssl", &[]).await.unwrap();
        row.get::<_, String>(0) == "on"
    })
    .await;
    cluster
}

fn to(cluster: &Cluster, host: &str) -> Builder {
    let port = cluster.nodes[0].port;
    Router::builder().node(
        "a",
        format!("host={host} hostaddr=127.0.0.1 port={port} user=postgres dbname=postgres"),
    )
}

async fn refused(builder: Builder) -> CertificateProblem {
    let router = builder.build().unwrap();
    match router.try_node("a").await {
        Err(ConnectError::Certificate { problem, source }) => {
            assert!(std::error::Error::source(&source).is_some());
            problem
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_server_is_reached_over_tls_and_statements_are_cancelled_over_it() {
    let authority = Authority::new();
    let cluster = start(&authority).await;
    let router = started(to(&cluster, "db.example").tls(authority.tls())).await;
    let conn = router.write().await.unwrap();
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert!(
        conn.query_one(encrypted, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
    drop(conn);
    let conn = router.read().await.unwrap();
    let slow = conn.query("SELECT pg_sleep(600)", &[]);
    let late = conn.within(Duration::from_millis(100), slow).await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "{late:?}");
    // The control: without it the same node is reached in plain text.
    let plain = started(to(&cluster, "db.example")).await;
    let conn = plain.write().await.unwrap();
    assert!(
        !conn
            .query_one(encrypted, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_authority_and_a_wrong_host_are_told_apart() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let cluster = start(&authority).await;
    assert_eq!(
        refused(to(&cluster, "db.example").tls(stranger.tls())).await,
        CertificateProblem::UnknownAuthority
    );
    assert_eq!(
        refused(to(&cluster, "other.example").tls(authority.tls())).await,
        CertificateProblem::WrongHost
    );
    // A server without TLS is not talked to in plain text.
    let plain = Postgres::primary().start().await.unwrap();
    let router = to(&plain, "db.example")
        .tls(authority.tls())
        .build()
        .unwrap();
    let error = router.try_node("a").await.unwrap_err();
    assert!(matches!(error, ConnectError::Postgres(_)), "{error:?}");
    let nobody = router.try_node("b").await.unwrap_err();
    assert_eq!(nobody.to_string(), "no node is named \"b\"");
}
