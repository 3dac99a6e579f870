//! Every future of a registry dropped after its first, second, … poll, until it runs to its end: written as a whole or not at all, and the
//! next step works.

use std::time::Instant;

use futures_util::StreamExt as _;
use ha_db::postgres::Router;
use ha_db::redis::Connection;
use ha_db::registry::{self, Error, Registry, Standing};
use ha_testbed::postgres::{Client, Postgres};
use ha_testbed::redis::Redis;
use redis::cmd;

use crate::polls::{MOST_POLLS, cut_after};
use crate::support::{BEAT, DEADLINE, endpoint, ports, postgres_registry, redis_registry};

/// What the store holds of a key, seen past the registry: how often it has beaten, and whether it has drained.
trait Look {
    async fn look(&self, key: &str) -> Option<(i64, bool)>;
}

struct InRedis(Connection);

impl Look for InRedis {
    async fn look(&self, key: &str) -> Option<(i64, bool)> {
        let mut read = cmd("HGET");
        read.arg("ha:registry:{catalog}").arg(key);
        let text: Option<String> = self.0.run(&read).await.unwrap();
        let row: serde_json::Value = serde_json::from_str(&text?).unwrap();
        Some((row["b"].as_i64().unwrap(), row["e"] == ""))
    }
}

struct InPostgres(Client);

impl Look for InPostgres {
    async fn look(&self, key: &str) -> Option<(i64, bool)> {
        let sql =
            "SELECT beat, endpoint = '' FROM ha_registry WHERE service = 'catalog' AND key = $1";
        let row = self.0.query_opt(sql, &[&key]).await.unwrap()?;
        Some((row.get(0), row.get(1)))
    }
}

async fn until_written(store: &impl Look, key: &str) -> (i64, bool) {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(row) = store.look(key).await {
            return row;
        }
        assert!(Instant::now() < end, "{key} is never written");
        tokio::time::sleep(BEAT / 10).await;
    }
}

async fn announcements(registry: &Registry, store: &impl Look) {
    for polls in 0..MOST_POLLS {
        let port = 4000 + u16::try_from(polls).unwrap();
        let key = format!("127.0.0.1:{port}");
        let announcement = registry.announce(endpoint(port));
        // Waiting is given up, and waited for again.
        let waited = cut_after(polls, announcement.announced(DEADLINE)).await;
        announcement.announced(DEADLINE).await.unwrap();
        assert!(waited.is_none_or(|waited| waited.is_ok()), "{polls} polls");
        assert_eq!(announcement.standing(), Standing::Announced);
        assert!(!until_written(store, &key).await.1);

        let whole = cut_after(polls, announcement.drain()).await;
        if let Some(drained) = &whole {
            assert!(drained.is_ok(), "{polls} polls: {drained:?}");
            assert!(store.look(&key).await.unwrap().1, "{polls} polls");
        }
        // Taken out or not, it says nothing more. What was under way may land once.
        tokio::time::sleep(BEAT / 2).await;
        let before = store.look(&key).await;
        tokio::time::sleep(BEAT * 2).await;
        assert_eq!(store.look(&key).await, before, "{polls} polls");
        // Who comes after it under its key is taken in.
        let successor = registry.announce(endpoint(port));
        successor.announced(DEADLINE).await.unwrap();
        let mut watch = registry.watch();
        let end = Instant::now() + DEADLINE;
        while !watch
            .next()
            .await
            .is_some_and(|set| ports(&set).contains(&port))
        {
            assert!(Instant::now() < end, "{polls} polls");
        }
        let drained = successor.drain().await;
        assert!(
            matches!(drained, Ok(())),
            "its own, not the predecessor's: {drained:?}"
        );
        if whole.is_some() && polls > 0 {
            eprintln!("drain: cut at {polls} points");
            assert!(polls > 1, "it was never cut");
            return;
        }
    }
    panic!("drain never ran to its end");
}

/// A set that a cut wait would have delivered is delivered by the next one.
async fn sets(registry: &Registry) {
    let mut watch = registry.watch();
    let first = registry.announce(endpoint(5000));
    let mut late = 0;
    for polls in 0..20 {
        let port = 5001 + u16::try_from(polls).unwrap();
        let one = registry.announce(endpoint(port));
        let cut = cut_after(polls % 4, watch.next()).await;
        late += u32::from(cut.is_none());
        let mut seen = cut.flatten();
        let end = Instant::now() + DEADLINE;
        while !seen.is_some_and(|set| ports(&set).contains(&port)) {
            assert!(Instant::now() < end, "{polls} polls");
            seen = watch.next().await;
        }
        one.drain().await.unwrap();
    }
    assert!(late > 0, "it was never cut");
    drop(first);
}

#[tokio::test]
async fn in_redis_every_wait_can_be_given_up() {
    let cluster = Redis::single().start().await.unwrap();
    let (registry, connection) = redis_registry(&cluster.url()).await;
    announcements(&registry, &InRedis(connection)).await;
    sets(&registry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_postgresql_every_wait_can_be_given_up() {
    let cluster = Postgres::primary().start().await.unwrap();
    let (registry, _) = postgres_registry(&cluster).await;
    let client = cluster.nodes[0].client().await.unwrap();
    announcements(&registry, &InPostgres(client)).await;
    sets(&registry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_cut_leaves_nothing_half_done() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = Router::builder()
        .node("n0", cluster.nodes[0].conninfo())
        .build()
        .unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    let none_is_left = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' OR wait_event_type = 'Lock'";
        let end = Instant::now() + DEADLINE;
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            assert!(Instant::now() < end, "a transaction is left");
            tokio::time::sleep(BEAT / 10).await;
        }
    };
    for polls in 0..MOST_POLLS {
        let whole: Option<Result<(), Error>> = cut_after(polls, registry::migrate(&router)).await;
        none_is_left().await;
        registry::migrate(&router).await.unwrap();
        // All of it is there, whichever of the two made it.
        let sql =
            "SELECT service, key, incarnation, beat, every_ms, seen_at, endpoint FROM ha_registry";
        assert!(client.query(sql, &[]).await.unwrap().is_empty());
        client
            .batch_execute("DROP TABLE ha_registry")
            .await
            .unwrap();
        if let Some(whole) = whole {
            whole.unwrap();
            eprintln!("migration: cut at {polls} points");
            assert!(polls > 1);
            return;
        }
    }
    panic!("it never ran to its end");
}
