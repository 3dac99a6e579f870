//! Registries on real stores: who comes, who drains, who is killed, and stores that fail over or go away. Beside it a naive registry that
//! believes whatever it reads.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use ha_core::endpoint::Weight;
use ha_db::postgres::Router;
use ha_db::redis::Connection;
use ha_db::registry::{self, Announcement, Error, Member, Registry, Standing, Watch};
use ha_testbed::postgres::Postgres;
use ha_testbed::process::{Bed, Spec};
use ha_testbed::redis::Redis;
use ha_tower::discover;
use ha_tower::upstream::Upstream;
use redis::cmd;

use crate::support::{
    BEAT, DEADLINE, endpoint, nothing_new, ports, postgres_registry, redis_registry, until,
};

/// What the watcher knows of who has this port.
fn of(watch: &Watch, port: u16) -> Member {
    let mut all = watch.members().into_iter();
    all.find(|member| member.endpoint.address.port() == port)
        .unwrap()
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
    let suspected = of(&watch, 3002).suspected_after;
    let dropped = Instant::now();
    drop(two);
    until(&mut watch, &[3001, 3003]).await;
    let after = dropped.elapsed();
    println!("dropped: gone after {after:?}, suspected after {suspected:?}");
    // Its last heartbeat was written at most one interval before, and heard of after that.
    assert!(after + BEAT >= suspected, "{after:?} {suspected:?}");

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

/// Heartbeats are refused from one moment to the next while looks work. They beat in turn, so that they fall silent one after the other.
#[tokio::test]
async fn a_store_that_takes_no_writes_costs_nobody_and_one_who_dies_meanwhile_leaves_later() {
    let cluster = Redis::single()
        .replicas(1)
        .setting("min-replicas-to-write", "1")
        .start()
        .await
        .unwrap();
    let (registry, connection) = redis_registry(&cluster.url()).await;
    let mut watch = registry.watch();
    let mut all: Vec<Announcement> = Vec::new();
    for port in 3001..=3004 {
        let one = registry.announce(endpoint(port));
        one.announced(DEADLINE).await.unwrap();
        all.push(one);
        // As far apart as four can be.
        tokio::time::sleep(BEAT / 4).await;
    }
    until(&mut watch, &[3001, 3002, 3003, 3004]).await;
    regular(&watch).await;
    cluster.nodes[1].kill().await.unwrap();
    let standing = |all: &[Announcement], what| all.iter().all(|one| one.standing() == what);
    let end = Instant::now() + DEADLINE;
    while !standing(&all, Standing::Failing) {
        assert!(Instant::now() < end, "{all:?}");
        tokio::time::sleep(BEAT).await;
    }
    assert!(watch.failure().is_none(), "looks go on");
    // Ten times what makes a single one suspect.
    nothing_new(&mut watch, BEAT * 34).await;
    let members = watch.members();
    let silent = members.iter().filter(|member| member.phi >= 8.0);
    assert_eq!(silent.count(), 4, "control: {members:?}");
    drop(all.remove(0));
    cluster.nodes[1].start().await.unwrap();
    until(&mut watch, &[3002, 3003, 3004]).await;
    while !standing(&all, Standing::Announced) {
        assert!(Instant::now() < end, "{all:?}");
        tokio::time::sleep(BEAT).await;
    }
    drop(connection);
}

/// Waits until so many heartbeats have come that phi knows how regular they are.
async fn regular(watch: &Watch) {
    let end = Instant::now() + DEADLINE;
    let irregular = |watch: &Watch| {
        let members = watch.members();
        let mut all = members.iter();
        all.any(|member| member.suspected_after > BEAT * 8)
    };
    while irregular(watch) {
        assert!(Instant::now() < end, "{:?}", watch.members());
        tokio::time::sleep(BEAT).await;
    }
}

/// A pool that the app has used up.
#[tokio::test]
async fn a_full_pool_of_postgres_does_not_take_an_app_out() {
    let cluster = Postgres::primary().start().await.unwrap();
    let small = Router::builder()
        .node("n0", cluster.nodes[0].conninfo())
        .pool_size(1)
        .warm_connections(0)
        .pool_wait(Duration::from_millis(100));
    let router = small.build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    registry::migrate(&router).await.unwrap();
    let registry = Registry::postgres("catalog", router.clone());
    let registry = registry.heartbeat(BEAT).build().unwrap();
    let _held = router.write().await.unwrap();
    assert!(router.write().await.is_err(), "control: the pool is full");
    let mut watch = registry.watch();
    let one = registry.announce(endpoint(3001));
    let two = registry.announce(endpoint(3002));
    until(&mut watch, &[3001, 3002]).await;
    nothing_new(&mut watch, BEAT * 10).await;
    two.drain().await.unwrap();
    until(&mut watch, &[3001]).await;
    assert_eq!(one.standing(), Standing::Announced);
}

/// An announcement that the store never confirmed does not take its successor along.
#[tokio::test]
async fn who_was_never_confirmed_drains_without_a_word() {
    let cluster = Redis::single().start().await.unwrap();
    let (registry, _) = redis_registry(&cluster.url()).await;
    cluster.nodes[0].freeze().unwrap();
    let first = registry.announce(endpoint(3001));
    let end = Instant::now() + DEADLINE;
    while first.standing() != Standing::Failing {
        assert!(Instant::now() < end, "{first:?}");
        tokio::time::sleep(BEAT).await;
    }
    // Its heartbeats end with it, and those of the successor begin.
    let draining = tokio::spawn(first.drain());
    let mut watch = registry.watch();
    let second = registry.announce(endpoint(3001));
    draining.await.unwrap().unwrap();
    cluster.nodes[0].thaw().unwrap();
    second.announced(DEADLINE).await.unwrap();
    until(&mut watch, &[3001]).await;
    nothing_new(&mut watch, BEAT * 10).await;
    assert_eq!(second.standing(), Standing::Announced);
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
                .args(["--exact", "stores::an_app_server_that_announces_itself"])
                .env("REGISTRY_TEST_URL", cluster.url())
                .env("REGISTRY_TEST_PORT", port.to_string())
                .as_owner(),
        )
        .unwrap()
    };
    let apps = [start(3001), start(3002), start(3003)];
    let mut watch = registry.watch();
    until(&mut watch, &[3001, 3002, 3003]).await;
    regular(&watch).await;
    let suspected = of(&watch, 3002).suspected_after;
    let killed = Instant::now();
    apps[1].kill().await.unwrap();
    let set = until(&mut watch, &[3001, 3003]).await;
    let gone = killed.elapsed();
    let member = of(&watch, 3002);
    println!(
        "killed with SIGKILL: gone after {gone:?}, phi says {:?} after the last heartbeat",
        member.suspected_after
    );
    assert_eq!(ports(&set), [3001, 3003]);
    // Not before its time, counted from a heartbeat that came at most one interval before.
    assert!(gone + BEAT >= suspected, "{gone:?} {suspected:?}");
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
