//! Sessions in Redis and PostgreSQL together, while one, the other or both are taken away.

use std::time::Duration;

use axum::extract::Path;
use axum::routing::get;

use crate::postgres::{migrate, patient_router};
use crate::support::{
    Client, DEADLINE, eventually, keys, lost_in_a_merge, planted_id_is_signed_in,
    slow_request_after_sign_out,
};
use crate::writers::Writers;
use ha_db::postgres::{Builder, Router};
use ha_db::redis::{Connection, driver};
use ha_session::{Level, PostgresStore, RedisStore, Session, SessionError, SessionLayer, Tiered};
use ha_testbed::postgres::Postgres;
use ha_testbed::redis::Redis;
use ha_testbed::{postgres, redis};
use http::StatusCode;

pub(crate) struct Bed {
    pub(crate) redis: redis::Cluster,
    pub(crate) postgres: postgres::Cluster,
    pub(crate) connection: Connection,
    pub(crate) store: Tiered,
}

impl Bed {
    pub(crate) async fn start(redis: redis::Builder) -> Self {
        let router = Router::builder().write_wait(Duration::from_millis(500));
        Self::start_with(redis, router).await
    }

    /// A bed whose requests wait for a connection for as long as it takes.
    pub(crate) async fn patient() -> Self {
        Self::start_with(Redis::single(), patient_router()).await
    }

    async fn start_with(redis: redis::Builder, router: Builder) -> Self {
        let (redis, postgres) = tokio::join!(redis.start(), Postgres::primary().start());
        let (redis, postgres) = (redis.unwrap(), postgres.unwrap());
        let url = if redis.sentinels.is_empty() {
            redis.url()
        } else {
            redis.sentinel_url()
        };
        let connection = Connection::from_url(&url).unwrap();
        let node = &postgres.nodes[0];
        let router = router
            .node(node.name.clone(), node.conninfo())
            .build()
            .unwrap();
        router.wait_primary(DEADLINE).await.unwrap();
        connection.ready(DEADLINE).await.unwrap();
        let durable = PostgresStore::new(router);
        migrate(&durable).await;
        let store = Tiered::new(RedisStore::new(connection.clone()), durable);
        Self {
            redis,
            postgres,
            connection,
            store,
        }
    }

    pub(crate) async fn single() -> Self {
        Self::start(Redis::single()).await
    }

    /// The same Redis by itself, under other keys.
    pub(crate) fn redis_store(&self) -> RedisStore {
        RedisStore::new(self.connection.clone())
            .prefix("alone")
            .unwrap()
    }

    /// The same servers, acknowledged by Redis alone.
    pub(crate) fn cache_only(&self) -> Tiered {
        let redis = RedisStore::new(self.connection.clone());
        let redis = redis.prefix("cache").unwrap();
        Tiered::new(redis, self.store.postgres().clone()).level(Level::Cache)
    }

    /// The same servers, acknowledged by Redis and so many replicas.
    fn replicated(&self, replicas: u32) -> Tiered {
        let connection = Connection::from_url(&self.redis.sentinel_url()).unwrap();
        let redis = RedisStore::new(connection).prefix("replicated").unwrap();
        Tiered::new(redis, self.store.postgres().clone()).level(Level::Replicated(replicas))
    }

    pub(crate) async fn flush(&self) {
        let flush = driver::cmd("FLUSHALL");
        self.redis.nodes[0].command::<()>(&flush).await.unwrap();
    }

    /// Redis as it is now, to be put back later: what an old master brings along.
    pub(crate) async fn snapshot(&self) -> Vec<(String, Vec<u8>)> {
        let node = &self.redis.nodes[0];
        let keys: Vec<String> = node.command(driver::cmd("KEYS").arg("*")).await.unwrap();
        let mut copies = Vec::new();
        for key in keys {
            let bytes = node.command(driver::cmd("DUMP").arg(&key)).await.unwrap();
            copies.push((key, bytes));
        }
        copies
    }

    pub(crate) async fn put_back(&self, copies: &[(String, Vec<u8>)]) {
        for (key, bytes) in copies {
            let mut restore = driver::cmd("RESTORE");
            restore.arg(key).arg(0).arg(&bytes[..]).arg("REPLACE");
            self.redis.nodes[0].command::<()>(&restore).await.unwrap();
        }
    }
}

#[tokio::test]
async fn requests_merge_sign_out_is_final_and_planted_ids_gain_nothing() {
    let bed = Bed::single().await;
    assert_eq!(lost_in_a_merge(bed.store.clone()).await, 0);
    assert_eq!(
        slow_request_after_sign_out(bed.store.clone()).await,
        (StatusCode::CONFLICT, false)
    );
    assert!(!planted_id_is_signed_in(bed.store.clone()).await);
}

#[tokio::test]
async fn flushing_redis_loses_nothing_and_at_the_cache_level_everything() {
    let bed = Bed::single().await;
    let mut durable = Client::new(bed.store.clone());
    let mut cached = Client::new(bed.cache_only());
    for client in [&mut durable, &mut cached] {
        client.text("/sign-in/ann").await;
        client.text("/set/cart/1").await;
    }
    bed.flush().await;
    assert_eq!(durable.text("/get/user").await, "ann");
    assert_eq!(durable.text("/get/cart").await, "1");
    assert_eq!(cached.text("/get/user").await, "nothing", "the control");

    // What was read through is in Redis again.
    bed.postgres.nodes[0].kill().await.unwrap();
    assert_eq!(durable.text("/get/user").await, "ann");
}

#[tokio::test]
async fn without_redis_reads_and_writes_go_on_and_nobody_is_signed_out() {
    let bed = Bed::single().await;
    let mut client = Client::new(bed.store.clone());
    client.text("/sign-in/ann").await;
    for broken in ["killed", "frozen"] {
        if broken == "killed" {
            bed.redis.nodes[0].kill().await.unwrap();
        } else {
            bed.redis.nodes[0].freeze().unwrap();
        }
        assert_eq!(client.text("/get/user").await, "ann", "{broken}");
        client.text(&format!("/set/note/{broken}")).await;
        assert_eq!(client.text("/get/note").await, broken);
        let mut other = Client::new(bed.store.clone());
        other.text("/sign-in/bob").await;
        other.text("/sign-out").await;
        if broken == "killed" {
            bed.redis.nodes[0].start().await.unwrap();
        } else {
            bed.redis.nodes[0].thaw().unwrap();
        }
        assert_eq!(client.text("/get/note").await, broken);
    }
}

#[tokio::test]
async fn an_old_copy_in_redis_is_never_served_to_a_client_that_was_told_more() {
    let bed = Bed::single().await;
    let mut durable = Client::new(bed.store.clone());
    let mut cached = Client::new(bed.cache_only());
    for client in [&mut durable, &mut cached] {
        client.text("/set/note/old").await;
    }
    let old = bed.snapshot().await;
    for client in [&mut durable, &mut cached] {
        client.text("/set/note/new").await;
    }
    bed.put_back(&old).await;
    assert_eq!(durable.text("/get/note").await, "new");
    assert_eq!(cached.text("/get/note").await, "old", "the control");

    // Nor while PostgreSQL cannot be asked.
    bed.put_back(&old).await;
    bed.postgres.nodes[0].kill().await.unwrap();
    durable.assert_unknown("/get/note").await;
    bed.postgres.nodes[0].start().await.unwrap();
    assert_eq!(durable.patient("/get/note").await, "new");
}

#[tokio::test]
async fn a_sign_out_holds_against_a_redis_that_comes_back_with_old_data() {
    let bed = Bed::single().await;
    let recheck = Duration::from_secs(1);
    let mut client = Client::new(bed.store.clone().recheck(recheck));
    client.text("/sign-in/ann").await;
    let mut copy = client.clone();
    client.text("/sign-out").await;
    assert_eq!(copy.text("/get/user").await, "nothing", "at once");

    client.text("/sign-in/ann").await;
    let mut copy = client.clone();
    let old = bed.snapshot().await;
    client.text("/sign-out").await;
    bed.put_back(&old).await;
    eventually("the old copy is found out", async || {
        copy.text("/get/user").await == "nothing"
    })
    .await;
    // It stays found out: the end is in Redis now.
    bed.postgres.nodes[0].kill().await.unwrap();
    assert_eq!(copy.text("/get/user").await, "nothing");
}

#[tokio::test]
async fn a_sign_out_that_redis_missed_is_made_up_for() {
    let bed = Bed::start(
        Redis::single()
            .setting("appendonly", "yes")
            .setting("appendfsync", "always"),
    )
    .await;
    // Only what Redis is told can end it: the copy is trusted for an hour.
    let store = bed.store.clone().recheck(Duration::from_secs(3600));
    // The second time PostgreSQL has ended it already, by a sign-out whose answer was lost.
    for ended_before in [false, true] {
        let mut client = Client::new(store.clone());
        client.text("/sign-in/ann").await;
        let mut copy = client.clone();
        assert_eq!(copy.text("/get/user").await, "ann");
        bed.redis.nodes[0].kill().await.unwrap();
        if ended_before {
            let admin = bed.postgres.nodes[0].client().await.unwrap();
            let end = "update ha_session set state = 2, ended_at = now() where state = 0";
            assert_eq!(admin.execute(end, &[]).await.unwrap(), 1);
        }
        client.text("/sign-out").await;
        let refused = bed.connection.status().not_sent;
        eventually("redis was tried again in vain", async || {
            bed.connection.status().not_sent >= refused + 2
        })
        .await;
        bed.redis.nodes[0].start().await.unwrap();
        eventually("redis is told", async || {
            copy.text("/get/user").await == "nothing"
        })
        .await;
        bed.connection.ready(DEADLINE).await.unwrap();
    }
}

#[tokio::test]
async fn without_postgresql_reads_go_on_and_without_both_nothing_is_known() {
    let bed = Bed::start(
        Redis::single()
            .setting("appendonly", "yes")
            .setting("appendfsync", "always"),
    )
    .await;
    let store = bed.store.clone().recheck(Duration::ZERO);
    let mut client = Client::new(store);
    client.text("/sign-in/ann").await;

    bed.postgres.nodes[0].kill().await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.text("/get/user").await, "ann");
    }
    client.assert_unknown("/set/user/bob").await;
    client.assert_unknown("/sign-out").await;
    let cookie = client.cookie.clone();
    let mut stranger = Client::new(bed.store.clone());
    stranger.assert_unknown("/sign-in/eve").await;
    assert_eq!(stranger.cookie, None);

    bed.redis.nodes[0].kill().await.unwrap();
    for path in ["/get/user", "/set/user/bob", "/sign-out"] {
        client.assert_unknown(path).await;
    }
    assert_eq!(client.cookie, cookie);

    bed.postgres.nodes[0].start().await.unwrap();
    assert_eq!(
        client.patient("/get/user").await,
        "ann",
        "redis is still down"
    );
    bed.redis.nodes[0].start().await.unwrap();
    client.patient("/set/note/1").await;
    assert_eq!(client.patient("/get/note").await, "1");
}

#[tokio::test]
async fn a_failover_of_redis_loses_nothing_and_at_the_cache_level_it_does() {
    let bed = Bed::start(Redis::sentinel(3)).await;
    let durable = Writers::start(&bed.store, 3).await;
    let cached = Writers::start(&bed.cache_only(), 3).await;
    let replicated = Writers::start(&bed.replicated(2), 3).await;
    replicated.progress().await;
    let old = bed.redis.master().await.unwrap();
    let master = &bed.redis.nodes[old];
    let replicas = bed.redis.nodes.iter().enumerate();
    let replicas: Vec<_> = replicas.filter(|(index, _)| *index != old).collect();

    // Frozen and cut off, they miss what the master acknowledges from here on.
    for (_, replica) in &replicas {
        replica.freeze().unwrap();
    }
    let mut cut = driver::cmd("CLIENT");
    cut.arg("KILL").arg("TYPE").arg("replica");
    master.command::<i64>(&cut).await.unwrap();
    tokio::join!(durable.progress(), cached.progress());
    master.kill().await.unwrap();
    for (_, replica) in &replicas {
        replica.thaw().unwrap();
    }
    let failed_over = bed.redis.wait_master_other_than(old, DEADLINE);
    failed_over.await.unwrap();
    tokio::join!(durable.progress(), cached.progress());

    assert_eq!(durable.lost_and_signed_out().await, (0, 0));
    // Refused while its replicas were away, it has nothing to lose. One of them is gone for good: nothing is confirmed by two.
    assert_eq!(replicated.lost_and_signed_out().await, (0, 0));
    let (lost, _) = cached.lost_and_signed_out().await;
    assert!(lost > 0, "the control");
}

/// The same app with a list of devices and a way out everywhere.
fn devices(store: Tiered) -> Client {
    type Answer<T> = Result<T, SessionError>;
    let login = async |session: Session, Path(user): Path<String>| -> Answer<&'static str> {
        session.set_principal(&user)?;
        session.insert("user", user)?;
        Ok("in")
    };
    let others = async |session: Session| -> Answer<&'static str> {
        session.revoke_others().await?;
        Ok("out")
    };
    let user = async |session: Session| -> Answer<String> {
        let user: Option<String> = session.get("user").await?;
        Ok(user.unwrap_or_else(|| "nothing".into()))
    };
    let app = axum::Router::new()
        .route("/login/{user}", get(login))
        .route("/others", get(others))
        .route("/get/user", get(user));
    Client::of(app.layer(SessionLayer::new(store, keys())))
}

#[tokio::test]
async fn logging_out_the_others_holds_in_every_outage_and_never_ends_this_one() {
    let bed = Bed::start(
        Redis::single()
            .setting("appendonly", "yes")
            .setting("appendfsync", "always"),
    )
    .await;
    // Only what Redis is told can end a copy: it is trusted for an hour.
    let store = bed.store.clone().recheck(Duration::from_secs(3600));
    for redis_is_there in [true, false] {
        let client = devices(store.clone());
        let (mut phone, mut laptop) = (client.clone(), client);
        for one in [&mut phone, &mut laptop] {
            one.patient("/login/ann").await;
            assert_eq!(one.patient("/get/user").await, "ann");
        }
        if !redis_is_there {
            bed.redis.nodes[0].kill().await.unwrap();
        }
        phone.patient("/others").await;
        if !redis_is_there {
            bed.redis.nodes[0].start().await.unwrap();
        }
        eventually("redis is told", async || {
            laptop.patient("/get/user").await == "nothing"
        })
        .await;
        assert_eq!(phone.patient("/get/user").await, "ann");
        bed.connection.ready(DEADLINE).await.unwrap();

        // What Redis was told holds while PostgreSQL is away, and so does the copy of the one that stays. Not where Redis has just come
        // back: a read that passes it over leaves no copy there.
        assert_eq!(phone.patient("/get/user").await, "ann");
        bed.postgres.nodes[0].kill().await.unwrap();
        if redis_is_there {
            assert_eq!(phone.patient("/get/user").await, "ann");
        }
        let (status, text) = laptop.send("/get/user").await;
        let in_doubt = status == StatusCode::SERVICE_UNAVAILABLE;
        assert!(in_doubt || text == "nothing", "{status} {text}");
        bed.postgres.nodes[0].start().await.unwrap();
        phone.patient("/others").await;
    }
    // A flush takes no revocation back.
    let mut phone = devices(store.clone());
    phone.patient("/login/eve").await;
    let mut laptop = devices(store);
    laptop.patient("/login/eve").await;
    phone.patient("/others").await;
    bed.flush().await;
    assert_eq!(laptop.patient("/get/user").await, "nothing");
    assert_eq!(phone.patient("/get/user").await, "eve");
}

#[tokio::test]
async fn an_old_redis_brings_no_revoked_session_back() {
    let bed = Bed::single().await;
    let store = bed.store.clone().recheck(Duration::from_secs(1));
    let client = devices(store);
    let (mut phone, mut laptop) = (client.clone(), client);
    for one in [&mut phone, &mut laptop] {
        one.patient("/login/ann").await;
        assert_eq!(one.patient("/get/user").await, "ann");
    }
    let old = bed.snapshot().await;
    phone.patient("/others").await;
    assert_eq!(laptop.patient("/get/user").await, "nothing", "at once");
    bed.flush().await;
    bed.put_back(&old).await;
    eventually("the old copy is found out", async || {
        laptop.patient("/get/user").await == "nothing"
    })
    .await;
    assert_eq!(phone.patient("/get/user").await, "ann");
}
