//! Registries on real stores: who comes, who drains, who is killed, and stores that fail over or go away. Beside it a naive registry that
//! believes whatever it reads.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use ha_core::endpoint::{Endpoint, Weight};
use ha_db::postgres::Router;
use ha_db::redis::Connection;
use ha_db::registry::{self, Error, Registry, Standing, Watch};
use ha_testbed::postgres::Postgres;
use ha_testbed::process::{Bed, Spec};
use ha_testbed::redis::Redis;
use ha_tower::discover;
use ha_tower::upstream::Upstream;
use redis::cmd;

const DEADLINE: Duration = Duration::from_secs(60);
const BEAT: Duration = Duration::from_millis(200);

fn endpoint(port: u16) -> Endpoint {
    format!("http://127.0.0.1:{port}").parse().unwrap()
}

fn ports(set: &[Endpoint]) -> Vec<u16> {
    set.iter().map(|endpoint| endpoint.address.port()).collect()
}

/// The next sets, until one has these ports.
async fn until(watch: &mut Watch, expected: &[u16]) -> Vec<Endpoint> {
    let mut seen = Vec::new();
    let waiting = async {
        loop {
            let set = watch.next().await.expect("never ends");
            if ports(&set) == expected {
                return set;
            }
            seen.push(ports(&set));
        }
    };
    match tokio::time::timeout(DEADLINE, waiting).await {
        Ok(set) => set,
        Err(_) => panic!("never {expected:?}, but {seen:?}"),
    }
}

/// No other set comes for so long.
async fn nothing_new(watch: &mut Watch, how_long: Duration) {
    if let Ok(set) = tokio::time::timeout(how_long, watch.next()).await {
        panic!("{:?}", set.map(|set| ports(&set)));
    }
}

async fn redis_registry(url: &str) -> (Registry, Connection) {
    let connection = Connection::from_url(url).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let registry = Registry::redis("catalog", connection.clone());
    (registry.heartbeat(BEAT).build().unwrap(), connection)
}

async fn coming_and_going(registry: &Registry) {
    let mut watch = registry.watch();
    let mut first = endpoint(3001);
    first.weight = Weight::new(5).unwrap();
    first.locality.zone = "eu-1a".into();
    first.metadata.insert("version".into(), "7".into());
    let one = registry.announce(first.clone());
    one.announced(DEADLINE).await.unwrap();
    assert_eq!(until(&mut watch, &[3001]).await, [first]);
    let two = registry.announce(endpoint(3002));
    until(&mut watch, &[3001, 3002]).await;
    nothing_new(&mut watch, BEAT * 5).await;

    // Who drains is gone at once, and is not suspected but known to be.
    let suspected = watch.members()[0].suspected_after;
    let drained = Instant::now();
    one.drain().await.unwrap();
    until(&mut watch, &[3002]).await;
    println!("drained: gone after {:?}", drained.elapsed());
    assert_eq!(watch.members().len(), 1);

    // Another one under its key is taken in, and a late heartbeat or drain of the old one is nothing to it.
    let again = registry.announce(endpoint(3001));
    until(&mut watch, &[3001, 3002]).await;
    let third = registry.announce(endpoint(3003));
    until(&mut watch, &[3001, 3002, 3003]).await;
    let successor = registry.announce(endpoint(3001));
    successor.announced(DEADLINE).await.unwrap();
    let end = Instant::now() + DEADLINE;
    while again.standing() != Standing::Superseded {
        assert!(Instant::now() < end, "{again:?}");
        tokio::time::sleep(BEAT / 4).await;
    }
    let error = again.drain().await.unwrap_err();
    assert!(matches!(error, Error::Superseded { .. }), "{error}");
    nothing_new(&mut watch, BEAT * 5).await;

    // Who is dropped without a word is gone when its silence is too long, not before.
    let dropped = Instant::now();
    drop(two);
    until(&mut watch, &[3001, 3003]).await;
    let after = dropped.elapsed();
    println!("dropped: gone after {after:?}, suspected after {suspected:?}");
    assert!(after + BEAT >= suspected.min(BEAT * 2), "{after:?}");

    // A new watcher finds those who are there, and not the dead.
    let mut late = registry.watch();
    let set = tokio::time::timeout(DEADLINE, late.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ports(&set), [3001, 3003]);
    drop((successor, third));
}

#[tokio::test]
async fn in_redis_who_comes_is_seen_who_drains_is_gone_and_who_falls_silent_fades() {
    let cluster = Redis::single().start().await.unwrap();
    let (registry, _) = redis_registry(&cluster.url()).await;
    coming_and_going(&registry).await;
}

#[tokio::test]
async fn in_a_redis_cluster_it_is_the_same() {
    let cluster = Redis::cluster(3).start().await.unwrap();
    let (registry, _) = redis_registry(&cluster.cluster_url()).await;
    coming_and_going(&registry).await;
}

async fn postgres_registry(cluster: &ha_testbed::postgres::Cluster) -> (Registry, Router) {
    let mut builder = Router::builder();
    for (i, node) in cluster.nodes.iter().enumerate() {
        builder = builder.node(format!("n{i}"), node.conninfo());
    }
    let router = builder.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    registry::migrate(&router).await.unwrap();
    registry::migrate(&router).await.unwrap();
    let registry = Registry::postgres("catalog", router.clone());
    (registry.heartbeat(BEAT).build().unwrap(), router)
}

#[tokio::test]
async fn in_postgres_who_comes_is_seen_who_drains_is_gone_and_who_falls_silent_fades() {
    let cluster = Postgres::primary().start().await.unwrap();
    let (registry, _) = postgres_registry(&cluster).await;
    coming_and_going(&registry).await;
}

#[tokio::test]
async fn registrations_survive_a_failover_of_redis_and_the_set_stays_meanwhile() {
    let cluster = Redis::sentinel(3).start().await.unwrap();
    let (registry, connection) = redis_registry(&cluster.sentinel_url()).await;
    let mut watch = registry.watch();
    let all: Vec<_> = (3001..=3003)
        .map(|port| registry.announce(endpoint(port)))
        .collect();
    until(&mut watch, &[3001, 3002, 3003]).await;
    let old = cluster.master().await.unwrap();
    cluster.nodes[old].kill().await.unwrap();
    // A naive reader of the master sees nothing while there is none, and would take everybody out.
    let look = connection
        .run::<Vec<String>>(cmd("HKEYS").arg("ha:registry:{catalog}"))
        .await;
    assert!(look.is_err(), "control: {look:?}");
    let new = cluster.wait_master_other_than(old, DEADLINE).await.unwrap();
    let end = Instant::now() + DEADLINE;
    while watch.failure().is_some() || all.iter().any(|one| one.standing() != Standing::Announced) {
        assert!(Instant::now() < end, "{all:?}");
        tokio::time::sleep(BEAT).await;
    }
    // A failover that loses everything is healed by the next heartbeats.
    let _: () = cluster.nodes[new].command(&cmd("FLUSHALL")).await.unwrap();
    nothing_new(&mut watch, BEAT * 10).await;
    let mut late = registry.watch();
    until(&mut late, &[3001, 3002, 3003]).await;
}

#[tokio::test]
async fn registrations_survive_a_failover_of_postgres_and_a_store_that_is_away_changes_nothing() {
    let cluster = Postgres::primary().replicas(1).start().await.unwrap();
    let (registry, _router) = postgres_registry(&cluster).await;
    let mut watch = registry.watch();
    let all: Vec<_> = (3001..=3003)
        .map(|port| registry.announce(endpoint(port)))
        .collect();
    until(&mut watch, &[3001, 3002, 3003]).await;
    cluster.nodes[0].kill().await.unwrap();
    let end = Instant::now() + DEADLINE;
    while watch.failure().is_none() {
        assert!(Instant::now() < end);
        tokio::time::sleep(BEAT).await;
    }
    // Ten times what makes a single one suspect.
    nothing_new(&mut watch, BEAT * 34).await;
    cluster.promote(1).await.unwrap();
    while watch.failure().is_some() || all.iter().any(|one| one.standing() != Standing::Announced) {
        assert!(Instant::now() < end, "{all:?} {:?}", watch.failure());
        tokio::time::sleep(BEAT).await;
    }
    nothing_new(&mut watch, BEAT * 10).await;
    // And it works as before.
    let mut all = all;
    all.pop().unwrap().drain().await.unwrap();
    until(&mut watch, &[3001, 3002]).await;
}

/// Started again by the test below as a process of its own; by itself it does nothing.
#[tokio::test]
async fn an_app_server_that_announces_itself() {
    let Ok(url) = std::env::var("REGISTRY_TEST_URL") else {
        return;
    };
    let port: u16 = std::env::var("REGISTRY_TEST_PORT")
        .unwrap()
        .parse()
        .unwrap();
    let (registry, _) = redis_registry(&url).await;
    let _announcement = registry.announce(endpoint(port));
    // Ends with the test's bed.
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_the_set_when_phi_says_so() {
    let cluster = Redis::single().start().await.unwrap();
    let (registry, _) = redis_registry(&cluster.url()).await;
    let bed = Bed::temporary().unwrap();
    let program = std::env::current_exe().unwrap();
    let start = |port: u16| {
        let name = format!("app-{port}");
        bed.spawn(
            Spec::new(name, &program)
                .args(["--exact", "an_app_server_that_announces_itself"])
                .env("REGISTRY_TEST_URL", cluster.url())
                .env("REGISTRY_TEST_PORT", port.to_string())
                .as_owner(),
        )
        .unwrap()
    };
    let apps = [start(3001), start(3002), start(3003)];
    let mut watch = registry.watch();
    until(&mut watch, &[3001, 3002, 3003]).await;
    // Some heartbeats, so that phi knows them.
    let end = Instant::now() + DEADLINE;
    while watch
        .members()
        .iter()
        .any(|member| member.suspected_after > BEAT * 8)
    {
        assert!(Instant::now() < end, "{:?}", watch.members());
        tokio::time::sleep(BEAT).await;
    }
    let victim = |watch: &Watch| {
        let all = watch.members();
        all.into_iter()
            .find(|member| member.endpoint.address.port() == 3002)
            .unwrap()
    };
    let killed = Instant::now();
    apps[1].kill().await.unwrap();
    let set = until(&mut watch, &[3001, 3003]).await;
    let gone = killed.elapsed();
    let member = victim(&watch);
    println!(
        "killed with SIGKILL: gone after {gone:?}, phi says {:?} after the last heartbeat",
        member.suspected_after
    );
    assert_eq!(ports(&set), [3001, 3003]);
    assert!(member.phi >= 8.0, "{member:?}");
    // Not before its time, counted from a heartbeat that came at most one interval earlier.
    assert!(member.silence >= member.suspected_after, "{member:?}");
    // The control: the naive reader of the store still sees it.
    let mut stored = cmd("HEXISTS");
    stored.arg("ha:registry:{catalog}").arg("127.0.0.1:3002");
    assert!(cluster.nodes[0].command::<bool>(&stored).await.unwrap());
}

#[tokio::test]
async fn an_upstream_of_ha_tower_follows_the_stream_as_it_is() {
    let cluster = Redis::single().start().await.unwrap();
    let (registry, _) = redis_registry(&cluster.url()).await;
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let source = discover::stream(registry.watch()).on_event(move |event| {
        if let discover::Event::Updated(change) = event {
            let _ = sender.send(change.total);
        }
    });
    let upstream = Upstream::builder("catalog")
        .discover(source)
        .build()
        .unwrap();
    let one = registry.announce(endpoint(3001));
    let two = registry.announce(endpoint(3002));
    let total = async |events: &mut tokio::sync::mpsc::UnboundedReceiver<usize>, wanted| {
        let waiting = async { while events.recv().await != Some(wanted) {} };
        tokio::time::timeout(DEADLINE, waiting).await.unwrap();
    };
    total(&mut events, 2).await;
    one.drain().await.unwrap();
    total(&mut events, 1).await;
    // The last one may drain: an empty set is never delivered.
    two.drain().await.unwrap();
    drop(upstream);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused_by_name_and_value() {
    let connection = Connection::from_url("redis://127.0.0.1:1").unwrap();
    let registry = || Registry::redis("catalog", connection.clone());
    for (builder, part) in [
        (Registry::redis("", connection.clone()), "service is \"\""),
        (
            Registry::redis("{x}", connection.clone()),
            "service is \"{x}\"",
        ),
        (registry().heartbeat(Duration::ZERO), "heartbeat is 0ns"),
        (
            registry().look_every(Duration::from_secs(90_000)),
            "look_every is 90000s",
        ),
        (registry().threshold(0.0), "threshold is 0"),
        (registry().threshold(f64::NAN), "threshold is NaN"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}
