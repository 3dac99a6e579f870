//! Sessions in a Redis Cluster of six nodes: slots that move and a master that dies under load, and sign-ins in a slot on the move.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ha_db::postgres::Router;
use ha_db::redis::{Connection, driver};
use ha_session::{
    Claim, Commit, Expiry, Level, Load, Outcome, Patch, PostgresStore, Principal, RedisStore,
    SessionKey, Store, StoreError, Tiered, Version,
};
use ha_testbed::postgres::Postgres;
use ha_testbed::redis::{Node, Redis};
use ha_testbed::{postgres, redis};

#[path = "../session_stores/support.rs"]
#[allow(dead_code)]
mod support;
#[path = "../session_stores/writers.rs"]
mod writers;

use support::{Client, DEADLINE, eventually};
use writers::Writers;

struct Bed {
    redis: redis::Cluster,
    postgres: postgres::Cluster,
    connection: Connection,
    store: Tiered,
}

impl Bed {
    async fn start() -> Self {
        let (redis, postgres) =
            tokio::join!(Redis::cluster(6).start(), Postgres::primary().start());
        let (redis, postgres) = (redis.unwrap(), postgres.unwrap());
        let connection = Connection::from_url(&redis.cluster_url()).unwrap();
        let node = &postgres.nodes[0];
        let router = Router::builder()
            .node(node.name.clone(), node.conninfo())
            .write_wait(Duration::from_millis(500))
            .pool_wait(DEADLINE)
            .build()
            .unwrap();
        router.wait_primary(DEADLINE).await.unwrap();
        connection.ready(DEADLINE).await.unwrap();
        let durable = PostgresStore::new(router);
        durable.migrate().await.unwrap();
        let store = Tiered::new(RedisStore::new(connection.clone()), durable);
        Self {
            redis,
            postgres,
            connection,
            store,
        }
    }

    /// The same servers, acknowledged by Redis alone.
    fn cache_only(&self) -> Tiered {
        let redis = RedisStore::new(self.connection.clone());
        let redis = redis.prefix("cache").unwrap();
        Tiered::new(redis, self.store.postgres().clone()).level(Level::Cache)
    }

    async fn slot(&self, key: &str) -> u16 {
        let mut slot = driver::cmd("CLUSTER");
        slot.arg("KEYSLOT").arg(key);
        self.redis.nodes[0].command(&slot).await.unwrap()
    }

    /// The slots of the sessions whose keys begin like this, and who has them.
    async fn slots(&self, prefix: &str) -> Vec<(u16, usize)> {
        let mut slots = Vec::new();
        for node in &self.redis.nodes {
            let keys: Vec<String> = node
                .command(driver::cmd("KEYS").arg(format!("{prefix}:*")))
                .await
                .unwrap();
            for key in keys {
                let slot = self.slot(&key).await;
                let owner = self.redis.owner(slot).await.unwrap();
                if !slots.contains(&(slot, owner)) {
                    slots.push((slot, owner));
                }
            }
        }
        slots
    }
}

#[tokio::test]
async fn slots_that_move_and_a_master_that_dies_lose_nothing_and_at_the_cache_level_they_do() {
    let bed = Bed::start().await;
    let durable = Writers::start(&bed.store, 4).await;
    let cached = Writers::start(&bed.cache_only(), 4).await;
    tokio::join!(durable.progress(), cached.progress());

    // Each session's slot goes to the next master while its user writes.
    for (slot, owner) in bed.slots("ha:session").await {
        let to = (owner + 1) % 3;
        // A node of a busy machine may take longer than the test bed waits; what was begun is gone on with.
        eventually("the slot has moved", async || {
            if bed.redis.owner(slot).await.ok() != Some(to) {
                let _ = bed.redis.migrate_slot(slot, to).await;
            }
            bed.redis.owner(slot).await.ok() == Some(to)
        })
        .await;
    }
    durable.progress().await;

    // A master that has sessions of both kinds would be chance: one that has a cached one, and all else goes on.
    let (slot, old) = bed.slots("cache").await[0];
    let master = &bed.redis.nodes[old];
    let replica = bed.redis.replicas_of(old).await.unwrap()[0];
    let replica = &bed.redis.nodes[replica];
    // Frozen and cut off, it misses what its master acknowledges from here on.
    replica.freeze().unwrap();
    let mut cut = driver::cmd("CLIENT");
    cut.arg("KILL").arg("TYPE").arg("replica");
    master.command::<i64>(&cut).await.unwrap();
    tokio::join!(durable.progress(), cached.progress());
    master.kill().await.unwrap();
    replica.thaw().unwrap();
    let failed_over = bed.redis.wait_owner_other_than(slot, old, DEADLINE).await;
    failed_over.unwrap();
    tokio::join!(durable.progress(), cached.progress());

    assert_eq!(durable.lost_and_signed_out().await, (0, 0));
    let (lost, _) = cached.lost_and_signed_out().await;
    assert!(lost > 0, "the control");
}

/// How many scripts a node has run.
async fn scripts_run(node: &Node) -> u64 {
    let mut info = driver::cmd("INFO");
    info.arg("commandstats");
    let text: String = node.command(&info).await.unwrap();
    let calls = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("cmdstat_eval")?;
        rest.split("calls=")
            .nth(1)?
            .split(',')
            .next()?
            .parse::<u64>()
            .ok()
    });
    calls.sum()
}

#[tokio::test]
async fn after_a_failure_the_cluster_is_used_again() {
    let bed = Bed::start().await;
    let store = bed.store.clone().recheck(Duration::from_secs(3600));
    let mut client = Client::new(store);
    client.text("/sign-in/ann").await;
    let (slot, _) = bed.slots("ha:session").await[0];
    let owner = bed.redis.owner(slot).await.unwrap();
    let node = &bed.redis.nodes[owner];
    node.freeze().unwrap();
    assert_eq!(client.text("/get/user").await, "ann", "from postgresql");
    node.thaw().unwrap();
    // Of which node does not matter: it may have been failed over meanwhile.
    eventually("reads are answered by redis", async || {
        let before = sum_of_scripts(&bed).await;
        for _ in 0..10 {
            assert_eq!(client.text("/get/user").await, "ann");
        }
        sum_of_scripts(&bed).await >= before + 10
    })
    .await;
    bed.postgres.nodes[0].kill().await.unwrap();
    assert_eq!(client.text("/get/user").await, "ann");
}

async fn sum_of_scripts(bed: &Bed) -> u64 {
    let mut sum = 0;
    for node in &bed.redis.nodes {
        sum += scripts_run(node).await;
    }
    sum
}

fn patch(name: &str) -> Patch {
    let mut patch = Patch::new();
    patch.set(name, &b"1"[..]);
    patch
}

/// Tries again what the cluster refused, as a client does.
async fn committed(store: &RedisStore, commit: &Commit) -> Outcome {
    let mut outcome = None;
    eventually("it is committed", async || {
        outcome = store.commit(commit.clone()).await.ok();
        outcome.is_some()
    })
    .await;
    outcome.unwrap()
}

#[tokio::test]
async fn in_a_slot_on_the_move_a_sign_in_happens_as_a_whole_or_not_at_all() {
    let redis = Redis::cluster(6).start().await.unwrap();
    let connection = Connection::from_url(&redis.cluster_url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let patient = RedisStore::new(connection.clone());
    let store = RedisStore::new(connection.with_timeout(Duration::from_millis(300)));
    let expiry = Expiry::default();
    for moved in [false, true] {
        let ann = Principal::new(format!("ann {moved}")).unwrap();
        let key = |n: u8| SessionKey::from_parts(ann.tag(), [n; 32]);
        let [high, low] = ann.tag();
        let mut slot = driver::cmd("CLUSTER");
        let name = format!("ha:session:{{{high:02x}{low:02x}}}:x");
        slot.arg("KEYSLOT").arg(name);
        let slot: u16 = redis.nodes[0].command(&slot).await.unwrap();
        for guest in [1, 2] {
            let create = Commit::create(key(guest), patch("cart"), expiry, 1000);
            committed(&patient, &create).await;
        }
        let owner = redis.owner(slot).await.unwrap();
        let to = (owner + 1) % 3;
        redis.begin_migration(slot, to).await.unwrap();
        if moved {
            redis.move_keys(slot, owner, to, 1).await.unwrap();
        }
        // Of a guest that has gone already, and of one that has not.
        let sign_in = |guest: u8| {
            let mut commit = Commit::update(key(guest), patch("user"), expiry, 1000);
            commit.rotate_to = Some(key(guest + 10));
            commit.claim = Some(Claim::new(ann.clone(), Some("phone")));
            commit
        };
        let mut refused = 0;
        for guest in [1, 2] {
            let outcome = store.commit(sign_in(guest)).await;
            refused += u32::from(outcome.is_err());
        }
        // A session that begins with its sign-in.
        let mut new = Commit::create(key(20), patch("user"), expiry, 1000);
        new.claim = Some(Claim::new(ann.clone(), Some("laptop")));
        let begun = store.commit(new.clone()).await;
        eprintln!("moved {moved}: {refused} of 2 sign-ins refused, a new one {begun:?}");

        redis.move_keys(slot, owner, to, usize::MAX).await.unwrap();
        redis.end_migration(slot, to).await.unwrap();
        committed(&patient, &new).await;
        for guest in [1, 2] {
            // One that was refused has left the guest's session as it was, and one that was not is done.
            match committed(&patient, &sign_in(guest)).await {
                Outcome::Committed(_) | Outcome::Superseded => {}
                other => panic!("{other:?}"),
            }
            let load = patient.load(key(guest + 10), Version::ZERO).await;
            let Load::Found(record) = load else {
                panic!("{load:?}");
            };
            let names: Vec<_> = record.values.keys().collect();
            assert_eq!(names, ["cart", "user"]);
            assert_eq!(record.owner.unwrap().principal, ann);
        }
        let list = patient.list(ann.clone()).await.unwrap();
        assert_eq!(list.len(), 3, "{list:?}");
        patient.revoke_all(ann.clone(), None).await.unwrap();
        assert!(patient.list(ann).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn waiting_for_replicas_of_a_cluster_is_refused_before_anything_is_done() {
    let redis = Redis::cluster(3).start().await.unwrap();
    let connection = Connection::from_url(&redis.cluster_url()).unwrap();
    connection.ready(DEADLINE).await.unwrap();
    let store = RedisStore::new(connection);
    let key = SessionKey::from_parts([0, 0], [1; 32]);
    let create = Commit::create(key, patch("cart"), Expiry::default(), 1000);
    let refused = store.clone().replicated(1).commit(create).await;
    assert!(
        matches!(refused, Err(StoreError::Unsupported { .. })),
        "{refused:?}"
    );
    assert!(matches!(
        store.load(key, Version::ZERO).await,
        Load::Gone(_)
    ));
}
