//! Every step of every store, of a request and of the Redis connection dropped after its first, second, … poll, until it runs to its
//! end: stored as a whole or not at all, and the next step works.

use std::time::Duration;

use ha_db::redis::{Connection, driver};
use ha_session::{
    Claim, Commit, Expiry, Load, Outcome, Patch, Principal, RedisStore, SessionKey, Store, Version,
};
use ha_testbed::redis::Redis;

use crate::naive::WholeBlob;
use crate::polls::{MOST_POLLS, cut_after};
use crate::postgres::migrated;
use crate::support::{Client, DEADLINE};
use crate::tiered::Bed;

/// Runs `step` for one number after the other, dropped after so many polls, until it has ended by itself three times; `check` is told
/// the number and whether it ended.
async fn cut_everywhere(
    what: &str,
    step: impl AsyncFn(usize),
    mut check: impl AsyncFnMut(usize, bool),
) {
    let mut ended = 0;
    for polls in 0..MOST_POLLS {
        let whole = cut_after(polls, step(polls)).await.is_some();
        check(polls, whole).await;
        ended += u32::from(whole);
        if ended == 3 {
            eprintln!("{what}: cut at {} points", polls - 2);
            return;
        }
    }
    panic!("{what} never ran to its end");
}

fn key(number: usize, kind: u8) -> SessionKey {
    let mut hash = [kind; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    SessionKey::from_parts([1, 2], hash)
}

fn patch(names: &[&str]) -> Patch {
    let mut patch = Patch::new();
    for name in names {
        patch.set(*name, &b"value"[..]);
    }
    patch
}

fn update(key: SessionKey, names: &[&str]) -> Commit {
    Commit::update(key, patch(names), Expiry::default(), 1 << 16)
}

async fn create(store: &impl Store, key: SessionKey) {
    let commit = Commit::create(key, patch(&["first"]), Expiry::default(), 1 << 16);
    let outcome = store.commit(commit).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
}

/// The names of a session; `None` when it is gone.
async fn names(store: &impl Store, key: SessionKey) -> Option<Vec<String>> {
    match store.load(key, Version::ZERO).await {
        Load::Found(record) => Some(record.values.into_keys().collect()),
        Load::Gone(_) => None,
        Load::Unknown(error) => panic!("{error:?}"),
    }
}

/// A store's own steps: each is there as a whole or not at all, and can be done again.
async fn steps(store: impl Store) {
    const OLD: u8 = 1;
    const NEW: u8 = 2;
    for number in 0..60 {
        create(&store, key(number, OLD)).await;
    }
    let both = ["a", "b", "first"].map(str::to_owned).to_vec();
    let before = ["first"].map(str::to_owned).to_vec();

    cut_everywhere(
        "commit",
        async |n| {
            drop(
                store
                    .commit(update(key(n, OLD), &["a", "b"]))
                    .await
                    .unwrap(),
            )
        },
        async |n, whole| {
            let found = names(&store, key(n, OLD)).await.unwrap();
            assert!(
                found == both || (!whole && found == before),
                "{n}: {found:?}"
            );
            // The same again, whether it was stored or not, changes nothing more.
            store
                .commit(update(key(n, OLD), &["a", "b"]))
                .await
                .unwrap();
            assert_eq!(names(&store, key(n, OLD)).await.unwrap(), both);
        },
    )
    .await;
    cut_everywhere(
        "rotation",
        async |n| {
            let mut commit = update(key(n, OLD), &["c"]);
            commit.rotate_to = Some(key(n, NEW));
            store.commit(commit).await.unwrap();
        },
        async |n, whole| {
            // What was sent may still be on its way, so that it comes before or after each of these.
            let before = names(&store, key(n, NEW)).await.is_some();
            let old = store.commit(update(key(n, OLD), &["d"])).await.unwrap();
            let rotated = old == Outcome::Superseded;
            assert!(rotated || matches!(old, Outcome::Committed(_)), "{old:?}");
            let values = names(&store, key(n, OLD)).await.unwrap();
            assert!(
                !values.contains(&"c".to_owned()),
                "{n}: an old id gains nothing"
            );
            let after = names(&store, key(n, NEW)).await.is_some();
            assert!(
                before <= rotated && rotated <= after,
                "{n}: one id takes writes"
            );
            assert!(!whole || rotated, "{n}");
        },
    )
    .await;
    sign_ins(&store).await;
    cut_everywhere(
        "touch and load",
        async |n| {
            store
                .touch(key(n + 30, OLD), Expiry::default())
                .await
                .unwrap();
            names(&store, key(n + 30, OLD)).await.unwrap();
        },
        async |n, _| assert!(names(&store, key(n + 30, OLD)).await.is_some(), "{n}"),
    )
    .await;
    cut_everywhere(
        "destroy",
        async |n| store.destroy(key(n + 30, OLD)).await.unwrap(),
        async |n, whole| {
            assert!(
                !whole || names(&store, key(n + 30, OLD)).await.is_none(),
                "{n}"
            );
            store.destroy(key(n + 30, OLD)).await.unwrap();
            assert!(names(&store, key(n + 30, OLD)).await.is_none(), "{n}");
        },
    )
    .await;
}

/// A sign-in takes the session to another slot. Wherever it is cut there is one key that can be used: the old one, which knows
/// nothing of the new session, or the next one, which nobody was told before it was whole.
async fn sign_ins(store: &impl Store) {
    const GUEST: u8 = 3;
    const USER: u8 = 4;
    let ann = Principal::new("ann").unwrap();
    let user = |n| SessionKey::from_parts(ann.tag(), *key(n, USER).hash());
    for number in 0..30 {
        create(store, key(number, GUEST)).await;
    }
    cut_everywhere(
        "sign-in",
        async |n| {
            let mut commit = update(key(n, GUEST), &["c"]);
            commit.rotate_to = Some(user(n));
            commit.claim = Some(Claim::new(ann.clone(), Some("phone")));
            store.commit(commit).await.unwrap();
        },
        async |n, whole| {
            // What was sent may still be on its way.
            let old = store.commit(update(key(n, GUEST), &["d"])).await.unwrap();
            let rotated = old == Outcome::Superseded;
            assert!(rotated || matches!(old, Outcome::Committed(_)), "{old:?}");
            assert!(rotated || !whole, "{n}");
            let values = names(store, key(n, GUEST)).await.unwrap();
            assert!(!values.contains(&"c".to_owned()), "{n}: gains nothing");
            if rotated {
                let values = names(store, user(n)).await.unwrap();
                assert_eq!(values, ["c", "first"], "{n}");
            }
            // Signing out with the old cookie ends whichever it is.
            store.destroy(key(n, GUEST)).await.unwrap();
            assert_eq!(names(store, key(n, GUEST)).await, None, "{n}");
            assert!(!rotated || names(store, user(n)).await.is_none(), "{n}");
        },
    )
    .await;
}

/// A whole request, from the cookie to the answer: the one after it sees all of it or nothing.
async fn requests(store: impl Store) {
    let mut client = Client::new(store);
    client.text("/set/user/ann").await;
    let at = client.clone();
    cut_everywhere(
        "request",
        async |n| drop(at.clone().patient(&format!("/set/n{n}/{n}")).await),
        async |n, whole| {
            let value = client.patient(&format!("/get/n{n}")).await;
            let stored = value == n.to_string();
            assert!(stored || (!whole && value == "nothing"), "{n}: {value}");
            assert_eq!(client.patient("/get/user").await, "ann", "{n}");
        },
    )
    .await;
}

#[tokio::test]
async fn in_memory() {
    requests(ha_session::MemoryStore::new()).await;
    steps(ha_session::MemoryStore::new()).await;
}

#[tokio::test]
async fn in_redis() {
    let redis = Redis::single().start().await.unwrap();
    let connection = Connection::from_url(&redis.url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    steps(RedisStore::new(connection.clone())).await;
    requests(RedisStore::new(connection)).await;
}

#[tokio::test]
async fn in_postgresql() {
    let (_cluster, store) = migrated(0).await;
    steps(store.clone()).await;
    requests(store).await;
}

#[tokio::test]
async fn in_both_together() {
    let bed = Bed::single().await;
    steps(bed.store.clone()).await;
    requests(bed.store.clone()).await;
}

/// A pipeline is a transaction here, a script is one by itself, and waiting for a master holds nothing.
#[tokio::test]
async fn commands_of_the_redis_connection_cut_anywhere_are_whole() {
    let redis = Redis::single().start().await.unwrap();
    let script = driver::Script::new("redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 1)");
    let pair = async |kind: &str, n: usize| {
        let mut get = driver::cmd("MGET");
        get.arg(format!("{kind}{n}a")).arg(format!("{kind}{n}b"));
        let (a, b): (Option<u8>, Option<u8>) = redis.nodes[0].command(&get).await.unwrap();
        assert_eq!(a, b, "{kind} {n}");
        a.is_some()
    };
    // Connecting is a part of it: each try has a connection of its own.
    let connect = async || {
        let connection = Connection::from_url(&redis.url()).unwrap();
        connection.ready(Duration::from_secs(10)).await.unwrap();
        connection
    };
    cut_everywhere(
        "script",
        async |n| {
            let connection = connect().await;
            let mut call = script.key(format!("s{n}a"));
            call.key(format!("s{n}b"));
            connection.script::<()>(&call).await.unwrap();
        },
        async |n, whole| assert!(pair("s", n).await || !whole, "{n}"),
    )
    .await;
    let shared = connect().await;
    cut_everywhere(
        "pipeline",
        async |n| {
            let mut pipeline = driver::pipe();
            pipeline.atomic();
            pipeline.set(format!("p{n}a"), 1).set(format!("p{n}b"), 1);
            shared.pipeline::<()>(&pipeline).await.unwrap();
        },
        async |n, whole| {
            assert!(pair("p", n).await || !whole, "{n}");
            // Nobody gets the answer that somebody else did not wait for.
            let mut echo = driver::cmd("ECHO");
            echo.arg(n);
            assert_eq!(shared.run::<usize>(&echo).await.unwrap(), n);
        },
    )
    .await;
}

/// The control: a store that reads, changes and writes back, and copies at a rotation, is caught half-way.
#[tokio::test]
async fn a_blob_store_is_caught_half_way() {
    let redis = Redis::single().start().await.unwrap();
    let connection = Connection::from_url(&redis.url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let store = WholeBlob { connection };
    let mut half = 0;
    for n in 0..MOST_POLLS {
        create(&store, key(n, 1)).await;
        let mut commit = update(key(n, 1), &["c"]);
        commit.rotate_to = Some(key(n, 2));
        let whole = cut_after(n, store.commit(commit)).await.is_some();
        let old = names(&store, key(n, 1)).await.unwrap();
        let new = names(&store, key(n, 2)).await;
        half += u32::from(old.contains(&"c".to_owned()) && new.is_none());
        if whole {
            break;
        }
    }
    assert!(half > 0, "the control must fail");
}
