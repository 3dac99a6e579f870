//! The suite that any store can run, over a real Redis, and over a blob store in it that breaks it.

use ha_session::RedisStore;
use ha_session::conformance::{Conformance, Law};

use crate::naive::WholeBlob;
use crate::redis;

#[tokio::test]
async fn redis_keeps_the_laws_and_a_blob_store_in_it_does_not() {
    let (_redis, connection) = redis::bed().await;
    let suite = Conformance::new(RedisStore::new(connection.clone()));
    for law in Law::ALL {
        // `contract` compares with the memory store, over many seeds.
        if law != Law::SameAsModel {
            suite.check(law).await.unwrap();
        }
    }
    let blob = Conformance::new(WholeBlob { connection });
    for law in [
        Law::Merge,
        Law::GoneStaysGone,
        Law::RotateOnce,
        Law::Conflict,
    ] {
        let violation = blob.check(law).await.unwrap_err();
        assert_eq!(violation.law, law, "{violation}");
    }
}
