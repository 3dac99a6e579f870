//! The suite that any store can run, over each of ours on real servers, and over a blob store that breaks it.

use ha_session::conformance::{Conformance, Law};
use ha_session::{RedisStore, Store};

use crate::naive::WholeBlob;
use crate::postgres::patient;
use crate::redis;
use crate::support::DEADLINE;
use crate::tiered::Bed;

/// Every law, and the comparison with the memory store over some more seeds.
async fn keeps_the_laws(store: impl Store + Clone, seeds: u64) {
    let suite = Conformance::new(store);
    for seed in 0..seeds {
        let more = suite.clone().seed(seed).steps(250);
        more.check(Law::SameAsModel).await.unwrap();
    }
    for law in Law::ALL {
        if law != Law::SameAsModel {
            suite.check(law).await.unwrap();
        }
    }
}

#[tokio::test]
async fn redis_keeps_the_laws_and_a_blob_store_in_it_does_not() {
    let (_redis, connection) = redis::bed().await;
    // The laws say nothing of how fast it is on a busy machine.
    let connection = connection.with_timeout(DEADLINE);
    keeps_the_laws(RedisStore::new(connection.clone()), 8).await;
    let blob = Conformance::new(WholeBlob { connection });
    for law in [
        Law::CreateOnce,
        Law::Merge,
        Law::GoneStaysGone,
        Law::RotateOnce,
        Law::Conflict,
    ] {
        let violation = blob.check(law).await.unwrap_err();
        assert_eq!(violation.law, law, "{violation}");
    }
}

#[tokio::test]
async fn postgresql_keeps_the_laws() {
    let (_cluster, store) = patient().await;
    keeps_the_laws(store, 6).await;
}

#[tokio::test]
async fn both_together_keep_the_laws() {
    let bed = Bed::patient().await;
    keeps_the_laws(bed.store.clone(), 4).await;
}
