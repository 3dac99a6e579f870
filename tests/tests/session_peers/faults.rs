//! What a fault does to users of tower-sessions with its own stores, and to those of ours beside it: theirs must fail the check.

use std::time::Duration;

use axum::Router;
use ha_db::redis::{Connection, driver};
use ha_session::{Level, RedisStore, Tiered};
use ha_testbed::redis::{Node, Redis};
use http::StatusCode;
use tower_sessions_014::session_store::ExpiredDeletion as _;

use crate::app::{self, Browser, Gate};
use crate::bed::{DEADLINE, PostgresBed, RedisBed, eventually, their_redis};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn durable(redis: RedisStore, postgres: &PostgresBed) -> Router {
    app::ours(Tiered::new(redis, postgres.ours()), HOUR, &Gate::default())
}

async fn run(node: &Node, words: &[&str]) {
    let mut command = driver::cmd(words[0]);
    command.arg(&words[1..]);
    node.command::<()>(&command).await.unwrap();
}

async fn keys(node: &Node) -> Vec<String> {
    let mut command = driver::cmd("KEYS");
    node.command(command.arg("*")).await.unwrap()
}

#[tokio::test]
async fn a_key_that_is_missing_for_a_moment_signs_out_of_theirs_and_not_of_ours() {
    let (redis, postgres) = tokio::join!(RedisBed::start(), PostgresBed::start());
    let ours = durable(redis.ours(), &postgres);
    let theirs = app::theirs(redis.theirs.clone(), HOUR, false, &Gate::default());
    let mut our_user = Browser::signed_in(&ours).await;
    let mut their_user = Browser::signed_in(&theirs).await;
    assert!(their_user.is_signed_in().await);
    let node = &redis.servers.nodes[0];
    let away: Vec<String> = keys(node).await;
    assert_eq!(away.len(), 2);
    for key in &away {
        run(node, &["RENAME", key, &format!("away:{key}")]).await;
    }
    assert!(our_user.is_signed_in().await);
    assert!(!their_user.is_signed_in().await);
    for key in &away {
        run(node, &["RENAME", &format!("away:{key}"), key]).await;
    }
    assert!(our_user.is_signed_in().await);
    assert!(!their_user.is_signed_in().await, "for good");
}

#[tokio::test]
async fn a_flush_loses_what_theirs_acknowledged_and_nothing_that_ours_did() {
    let (redis, postgres) = tokio::join!(RedisBed::start(), PostgresBed::start());
    let ours = durable(redis.ours(), &postgres);
    let theirs = app::theirs(redis.theirs.clone(), HOUR, false, &Gate::default());
    let mut our_user = Browser::signed_in(&ours).await;
    let mut their_user = Browser::signed_in(&theirs).await;
    for user in [&mut our_user, &mut their_user] {
        user.ok("/set/cart/full").await;
    }
    run(&redis.servers.nodes[0], &["FLUSHALL"]).await;
    assert!(our_user.is_signed_in().await);
    assert_eq!(our_user.ok("/get/cart").await, "full");
    assert!(!their_user.is_signed_in().await);
    assert_eq!(their_user.ok("/get/cart").await, "");
}

/// A replica was promoted, and the old master acknowledges one more write before anybody tells it. So does a failover that loses the end
/// of the stream.
#[tokio::test]
async fn what_an_old_master_acknowledged_is_lost_by_theirs_and_not_by_ours_at_durable() {
    let (servers, postgres) =
        tokio::join!(Redis::single().replicas(1).start(), PostgresBed::start());
    let servers = servers.unwrap();
    let (old, new) = (&servers.nodes[0], &servers.nodes[1]);
    let apps = async |node: &Node| {
        let connection = Connection::from_url(&node.url()).unwrap();
        connection.ready(DEADLINE).await.unwrap();
        let tiered = Tiered::new(RedisStore::new(connection), postgres.ours());
        let gate = Gate::default();
        let theirs = their_redis(&node.url()).await;
        [
            app::ours(tiered.clone(), HOUR, &gate),
            app::ours(tiered.level(Level::Cache), HOUR, &gate),
            app::theirs(theirs, HOUR, false, &gate),
        ]
    };
    let mut users = Vec::new();
    for app in apps(old).await {
        let mut user = Browser::signed_in(&app).await;
        user.ok("/set/cart/empty").await;
        users.push(user);
    }
    // The stream has one order.
    run(old, &["SET", "after", "all"]).await;
    eventually("the replica has all of it", async || {
        keys(new).await.contains(&"after".to_owned())
    })
    .await;
    run(new, &["REPLICAOF", "NO", "ONE"]).await;
    for user in &mut users {
        user.ok("/set/cart/full").await;
    }
    old.kill().await.unwrap();
    let mut found = Vec::new();
    for (user, app) in users.iter().zip(apps(new).await) {
        let mut user = user.at(&app);
        assert!(user.is_signed_in().await);
        found.push(user.ok("/get/cart").await);
    }
    assert_eq!(found, ["full", "empty", "empty"]);
}

/// Reading keeps a session alive. Theirs does so only if it writes everything back for every request, and then takes with it what others have
/// written since it was read.
#[tokio::test]
async fn a_session_that_is_only_read_expires_in_theirs_or_loses_writes_and_ours_does_neither() {
    let bed = RedisBed::start().await;
    let (gate, their_gate) = (Gate::default(), Gate::default());
    let node = &bed.servers.nodes[0];
    let lives_longer = async |begun: &Router, read: &Router| {
        run(node, &["FLUSHALL"]).await;
        let user = Browser::signed_in(begun).await;
        let key = keys(node).await.remove(0);
        let left = async || {
            let mut ttl = driver::cmd("TTL");
            node.command::<u64>(ttl.arg(&key)).await.unwrap()
        };
        let before = left().await;
        user.at(read).ok("/get/user").await;
        left().await > before + HOUR.as_secs()
    };
    let [short, long] = [HOUR, DAY].map(|idle| app::ours(bed.ours(), idle, &gate));
    assert!(lives_longer(&short, &long).await);
    let [their_short, their_long] =
        [HOUR, DAY].map(|idle| app::theirs(bed.theirs.clone(), idle, false, &their_gate));
    assert!(!lives_longer(&their_short, &their_long).await);
    let saving = app::theirs(bed.theirs.clone(), DAY, true, &their_gate);
    assert!(lives_longer(&their_short, &saving).await);

    let keeps_a_write = async |begun: &Router, read: &Router, gate: &Gate| {
        let user = Browser::signed_in(begun).await;
        let mut slow = user.at(read);
        let slow = tokio::spawn(async move { slow.ok("/read-slowly/user").await });
        gate.arrived.notified().await;
        user.clone().ok("/set/cart/full").await;
        gate.go.notify_one();
        assert_eq!(slow.await.unwrap(), "ann");
        user.clone().ok("/get/cart").await == "full"
    };
    assert!(keeps_a_write(&short, &long, &gate).await);
    assert!(keeps_a_write(&their_short, &their_long, &their_gate).await);
    assert!(!keeps_a_write(&their_short, &saving, &their_gate).await);
}

/// The app server dies after the handler has asked for a new id, and before the answer has left.
#[tokio::test]
async fn a_rotation_that_is_cut_off_signs_out_of_theirs_and_not_of_ours() {
    let bed = RedisBed::start().await;
    let survives = async |app: &Router, gate: &Gate| {
        let mut user = Browser::signed_in(app).await;
        let mut rotating = user.clone();
        let task = tokio::spawn(async move { rotating.send("/rotate-slowly").await });
        gate.arrived.notified().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        user.is_signed_in().await
    };
    let gate = Gate::default();
    assert!(survives(&app::ours(bed.ours(), HOUR, &gate), &gate).await);
    let theirs = app::theirs(bed.theirs.clone(), HOUR, false, &gate);
    assert!(!survives(&theirs, &gate).await);
}

/// Whoever sees the keys of Redis, in a backup or a `MONITOR`, is signed in as everybody with theirs.
#[tokio::test]
async fn a_key_of_the_store_is_a_cookie_of_theirs_and_not_of_ours() {
    let bed = RedisBed::start().await;
    let gate = Gate::default();
    let node = &bed.servers.nodes[0];
    let opens = async |app: &Router| {
        run(node, &["FLUSHALL"]).await;
        let user = Browser::signed_in(app).await;
        let by_id = |(name, _): &(&String, &String)| name.ends_with("id");
        let (name, value) = user.cookies.iter().find(by_id).unwrap();
        let key = keys(node).await.remove(0);
        let shown = key.contains(value.as_str());
        let parts = std::iter::once(&*key).chain(key.split([':', '{', '}']));
        let mut opened = false;
        for part in parts.filter(|part| !part.is_empty()) {
            let mut thief = Browser::new(app);
            thief.cookies.insert(name.clone(), part.to_owned());
            opened |= thief.ok("/get/user").await == "ann";
        }
        assert_eq!(opened, shown);
        opened
    };
    assert!(!opens(&app::ours(bed.ours(), HOUR, &gate)).await);
    assert!(opens(&app::theirs(bed.theirs.clone(), HOUR, false, &gate)).await);
}

#[tokio::test]
async fn a_value_of_a_megabyte_is_refused_by_ours_and_kept_by_theirs() {
    let bed = RedisBed::start().await;
    let gate = Gate::default();
    let ours = app::ours(bed.ours(), HOUR, &gate);
    let theirs = app::theirs(bed.theirs.clone(), HOUR, false, &gate);
    let answer = async |app: &Router| {
        let mut user = Browser::signed_in(app).await;
        let (status, text) = user.send("/set-big/1048576").await;
        assert!(user.is_signed_in().await);
        (status, text)
    };
    let (status, text) = answer(&ours).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(text.contains("big"), "names the value: {text}");
    assert_eq!(answer(&theirs).await.0, StatusCode::OK);
}

/// One expired row is held by a request. Ours deletes the others; theirs waits for it, with all the rows that it has deleted so far locked.
#[tokio::test]
async fn a_row_that_somebody_holds_holds_up_the_deletion_of_theirs_and_not_of_ours() {
    let bed = PostgresBed::start().await;
    let gate = Gate::default();
    let ours = app::ours(bed.ours(), HOUR, &gate);
    let theirs = app::theirs(bed.theirs.clone(), HOUR, false, &gate);
    for _ in 0..3 {
        Browser::signed_in(&ours).await;
        Browser::signed_in(&theirs).await;
    }
    let node = &bed.servers.nodes[0];
    let admin = node.client().await.unwrap();
    admin
        .batch_execute(
            "update ha_session set idle_until = now() - interval '2 hours'; \
             update tower_sessions.session set expiry_date = now() - interval '2 hours'",
        )
        .await
        .unwrap();
    let mut holder = node.client().await.unwrap();
    let held = holder.transaction().await.unwrap();
    for table in ["ha_session", "tower_sessions.session"] {
        let lock = format!("select from {table} limit 1 for update");
        held.batch_execute(&lock).await.unwrap();
    }
    let purged = tokio::time::timeout(DEADLINE, bed.ours().purge(100)).await;
    assert_eq!(purged.unwrap().unwrap(), 2);

    let store = bed.theirs.clone();
    let deleting = tokio::spawn(async move { store.delete_expired().await });
    let waits = "select count(*) = 1 from pg_stat_activity \
                 where wait_event_type = 'Lock' and query like '%delete from%tower_sessions%'";
    eventually("theirs waits", async || {
        admin.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    assert!(!deleting.is_finished());
    held.rollback().await.unwrap();
    let deleted = tokio::time::timeout(DEADLINE, deleting).await;
    deleted.unwrap().unwrap().unwrap();
    assert_eq!(bed.ours().purge(100).await.unwrap(), 1);
}
