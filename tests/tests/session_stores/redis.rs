//! Sessions in a real Redis.

use std::time::Duration;

use crate::naive::WholeBlob;
use crate::support::{
    Client, DEADLINE, eventually, lost_in_a_merge, planted_id_is_signed_in,
    slow_request_after_sign_out,
};
use ha_db::redis::{Connection, driver};
use ha_session::{
    Claim, Commit, Expiry, Load, Outcome, Patch, Principal, RedisStore, SessionKey, Store,
    StoreError, Version,
};
use ha_testbed::redis::{Cluster, Redis};
use http::StatusCode;

pub(crate) async fn bed() -> (Cluster, Connection) {
    let redis = Redis::single().start().await.unwrap();
    let connection = Connection::from_url(&redis.url()).unwrap();
    connection.ready(Duration::from_secs(10)).await.unwrap();
    (redis, connection)
}

#[tokio::test]
async fn concurrent_changes_of_different_names_merge_and_in_a_blob_store_they_do_not() {
    let (_redis, connection) = bed().await;
    assert_eq!(
        lost_in_a_merge(RedisStore::new(connection.clone())).await,
        0
    );
    assert!(lost_in_a_merge(WholeBlob { connection }).await > 0);
}

#[tokio::test]
async fn sign_out_is_final_and_in_a_blob_store_it_is_not() {
    let (_redis, connection) = bed().await;
    let store = RedisStore::new(connection.clone());
    assert_eq!(
        slow_request_after_sign_out(store).await,
        (StatusCode::CONFLICT, false)
    );
    let (status, back) = slow_request_after_sign_out(WholeBlob { connection }).await;
    assert_eq!((status, back), (StatusCode::OK, true));
}

#[tokio::test]
async fn a_planted_id_is_never_signed_in_and_in_a_blob_store_without_rotation_it_is() {
    let (_redis, connection) = bed().await;
    assert!(!planted_id_is_signed_in(RedisStore::new(connection.clone())).await);
    assert!(planted_id_is_signed_in(WholeBlob { connection }).await);
}

#[tokio::test]
async fn only_the_hash_of_an_id_is_stored() {
    let (redis, connection) = bed().await;
    let mut client = Client::new(RedisStore::new(connection).prefix("app").unwrap());
    client.text("/sign-in/ann").await;
    let keys: Vec<String> = redis.nodes[0]
        .command(driver::cmd("KEYS").arg("*"))
        .await
        .unwrap();
    let [key] = &keys[..] else {
        panic!("one session, {keys:?}");
    };
    let (head, hash) = key.rsplit_once(':').unwrap();
    assert!(head.starts_with("app:{") && head.ends_with('}'), "{key}");
    assert_eq!(hash.len(), 64);
    let cookie = client.cookie.unwrap();
    assert!(
        !cookie.contains(hash),
        "the cookie has the secret, the store its hash"
    );
}

#[tokio::test]
async fn a_future_format_is_unknown_and_not_an_empty_session() {
    let (redis, connection) = bed().await;
    let mut client = Client::new(RedisStore::new(connection.clone()));
    client.text("/set/user/ann").await;
    let keys: Vec<String> = redis.nodes[0]
        .command(driver::cmd("KEYS").arg("*"))
        .await
        .unwrap();
    let set = |value: &str| {
        let mut set = driver::cmd("HSET");
        set.arg(&keys[0]).arg("f").arg(value);
        set
    };
    redis.nodes[0].command::<()>(&set("9")).await.unwrap();
    client.assert_unknown("/get/user").await;
    client.assert_unknown("/set/user/bob").await;
    redis.nodes[0].command::<()>(&set("1")).await.unwrap();
    assert_eq!(client.text("/get/user").await, "ann");
}

#[tokio::test]
async fn what_is_no_session_is_unknown_and_no_panic() {
    let (redis, connection) = bed().await;
    let store = RedisStore::new(connection);
    let key = SessionKey::from_parts([0xab, 0xcd], [5; 32]);
    let name = format!("ha:session:{{abcd}}:{key}");
    redis.nodes[0]
        .command::<()>(driver::cmd("SET").arg(&name).arg("text"))
        .await
        .unwrap();
    let load = store.load(key, Version::ZERO).await;
    assert!(matches!(load, Load::Unknown(_)), "{load:?}");
}

#[tokio::test]
async fn a_redis_that_is_down_is_unknown_and_signs_nobody_out() {
    let redis = Redis::single()
        .setting("appendonly", "yes")
        .setting("appendfsync", "always")
        .start()
        .await
        .unwrap();
    let connection = Connection::from_url(&redis.url()).unwrap();
    let connection = connection.with_timeout(Duration::from_millis(300));
    let mut client = Client::new(RedisStore::new(connection));
    client.patient("/sign-in/ann").await;
    redis.nodes[0].kill().await.unwrap();
    for path in ["/get/user", "/set/user/bob", "/sign-out"] {
        client.assert_unknown(path).await;
    }
    redis.nodes[0].start().await.unwrap();
    assert_eq!(client.patient("/get/user").await, "ann");
}

#[tokio::test]
async fn an_error_says_whether_a_write_may_be_stored() {
    let redis = Redis::single().start().await.unwrap();
    let connection = Connection::from_url(&redis.url()).unwrap();
    connection.ready(Duration::from_secs(10)).await.unwrap();
    let store = RedisStore::new(connection.with_timeout(Duration::from_millis(300)));
    let key = SessionKey::from_parts([0, 0], [5; 32]);
    redis.nodes[0].freeze().unwrap();
    let error = store.destroy(key).await.unwrap_err();
    assert!(error.may_have_changed(), "{error:?}");
    redis.nodes[0].kill().await.unwrap();
    let deadline = tokio::time::Instant::now() + crate::support::DEADLINE;
    loop {
        match store.destroy(key).await.unwrap_err() {
            StoreError::Unavailable { .. } => break,
            error => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_copy_never_replaces_a_newer_one_nor_an_end() {
    let (_redis, connection) = bed().await;
    let script = |body: &str| {
        let prelude = include_str!("../../../ha-session/src/store/redis/prelude.lua");
        driver::Script::new(&[prelude, body].concat())
    };
    let put = script(include_str!("../../../ha-session/src/store/redis/put.lua"));
    let end = script(include_str!(
        "../../../ha-session/src/store/redis/destroy.lua"
    ));
    let load = script(include_str!("../../../ha-session/src/store/redis/load.lua"));
    let key = "copy";
    let seen = async || {
        let parts: Vec<String> = connection.script(&load.key(key)).await.unwrap();
        (parts[0].clone(), parts[1..].last().unwrap().clone())
    };
    for (version, value, shown) in [(5, "five", "five"), (4, "four", "five"), (6, "six", "six")] {
        let mut call = put.key(key);
        call.arg(version).arg(60_000).arg(60_000).arg(60_000);
        call.arg("").arg(0).arg("").arg(0).arg(3_600_000);
        call.arg("name").arg(format!("{version}:{value}"));
        connection.script::<Vec<String>>(&call).await.unwrap();
        let (view, stored) = seen().await;
        assert_eq!(view, "live");
        assert!(stored.ends_with(shown), "{stored} after {value}");
    }
    let mut call = end.key(key);
    call.arg(60_000).arg(1).arg(1).arg("");
    connection.script::<Vec<String>>(&call).await.unwrap();
    let mut call = put.key(key);
    call.arg(u64::MAX >> 12).arg(60_000).arg(60_000).arg(60_000);
    call.arg("").arg(0).arg("").arg(0).arg(3_600_000);
    connection.script::<Vec<String>>(&call).await.unwrap();
    assert_eq!(seen().await.0, "destroyed");
}

fn patch(names: &[&str]) -> Patch {
    let mut patch = Patch::new();
    for name in names {
        patch.set(*name, &b"1"[..]);
    }
    patch
}

async fn names(store: &RedisStore, key: SessionKey) -> Option<Vec<String>> {
    match store.load(key, Version::ZERO).await {
        Load::Found(record) => Some(record.values.into_keys().collect()),
        Load::Gone(_) => None,
        Load::Unknown(error) => panic!("{error:?}"),
    }
}

/// What a replica has not confirmed is not acknowledged, also when another app server finds it done already.
#[tokio::test]
async fn a_sign_out_that_is_repeated_elsewhere_waits_for_the_replicas_as_the_first_one_did() {
    let redis = Redis::sentinel(3).start().await.unwrap();
    let store = async || {
        let connection = Connection::from_url(&redis.sentinel_url()).unwrap();
        connection.ready(DEADLINE).await.unwrap();
        RedisStore::new(connection).replicated(2)
    };
    let (one, other) = (store().await, store().await);
    let key = SessionKey::from_parts([0, 0], [5; 32]);
    let create = Commit::create(key, patch(&["a"]), Expiry::default(), 1000);
    let created = one.commit(create).await.unwrap();
    assert!(matches!(created, Outcome::Committed(_)));

    let master = redis.master().await.unwrap();
    let replicas = || redis.nodes.iter().enumerate().filter(|(n, _)| *n != master);
    for (_, replica) in replicas() {
        replica.freeze().unwrap();
    }
    for store in [&one, &other, &one] {
        let error = store.destroy(key).await.unwrap_err();
        let missed = matches!(error, StoreError::NotReplicated { wanted: 2, got: 0 });
        assert!(missed && error.may_have_changed(), "{error:?}");
    }
    for (_, replica) in replicas() {
        replica.thaw().unwrap();
    }
    eventually("they have it", async || other.destroy(key).await.is_ok()).await;
    assert_eq!(names(&one, key).await, None);
}

#[tokio::test]
async fn a_sign_out_that_cannot_reach_the_session_is_not_acknowledged() {
    let (_redis, connection) = bed().await;
    let store = RedisStore::new(connection);
    let key = |n: u8| SessionKey::from_parts([0, 0], [n; 32]);
    let create = Commit::create(key(0), patch(&["a"]), Expiry::default(), 1000);
    store.commit(create).await.unwrap();
    for n in 0..20 {
        let mut commit = Commit::update(key(n), Patch::new(), Expiry::default(), 1000);
        commit.rotate_to = Some(key(n + 1));
        let outcome = store.commit(commit).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }
    let refused = store.destroy(key(0)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(names(&store, key(20)).await.is_some());
    // From nearer it is.
    store.destroy(key(10)).await.unwrap();
    assert_eq!(names(&store, key(20)).await, None);
}

/// A try that was cut off half-way has put the session under its next key. What is removed before the next try is not there after it.
#[tokio::test]
async fn a_sign_in_that_is_tried_again_leaves_nothing_of_the_first_try() {
    let (_redis, connection) = bed().await;
    let store = RedisStore::new(connection);
    let ann = Principal::new("ann").unwrap();
    let guest = SessionKey::from_parts([0, 0], [1; 32]);
    let user = SessionKey::from_parts(ann.tag(), [2; 32]);
    assert_ne!(guest.tag(), user.tag());
    let expiry = Expiry::default();
    let create = Commit::create(guest, patch(&["coupon", "cart"]), expiry, 1000);
    store.commit(create).await.unwrap();
    let mut first_half = Commit::create(user, patch(&["coupon", "cart", "user"]), expiry, 1000);
    first_half.claim = Some(Claim::new(ann.clone(), None));
    store.commit(first_half).await.unwrap();
    let mut used = Patch::new();
    used.remove("coupon");
    let used = Commit::update(guest, used, expiry, 1000);
    store.commit(used).await.unwrap();

    let mut sign_in = Commit::update(guest, patch(&["user"]), expiry, 1000);
    sign_in.rotate_to = Some(user);
    sign_in.claim = Some(Claim::new(ann, None));
    let outcome = store.commit(sign_in).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    assert_eq!(names(&store, user).await.unwrap(), ["cart", "user"]);
}
