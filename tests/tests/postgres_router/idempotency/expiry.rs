//! Outcomes that have expired.

use std::time::Duration;

use ha_db::idempotency::{IdempotencyLayer, Settings, Store};
use tokio::task::JoinSet;

use super::app::{App, replayed, request, router, send, start, stored};
use crate::support::eventually;

#[tokio::test]
async fn expired_outcomes_are_forgotten_and_deleted_in_batches() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let service = app.service();
    send(&service, request("/notes", "live", "live")).await;
    send(&service, request("/notes", "old", "old")).await;
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute(
            "UPDATE ha_idempotency SET expires_at = now() - interval '1 s'
                 WHERE created_at = (SELECT max(created_at) FROM ha_idempotency);
             INSERT INTO ha_idempotency SELECT sha256(i::text::bytea), '', '', 0, 0, now(), now() - interval '1 h'
                 FROM generate_series(1, 1200) i",
        )
        .await
        .unwrap();
    // An expired key is new again even before its row is deleted.
    let again = send(&service, request("/notes", "old", "new body")).await;
    assert_eq!(again.status(), 201);
    assert!(!replayed(&again));

    let store = Store::with_settings(app.router.clone(), Settings::default()).unwrap();
    let mut sweeping = JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        sweeping.spawn(async move {
            let mut deleted = 0;
            loop {
                match store.sweep(100).await.unwrap() {
                    0 => return deleted,
                    batch => {
                        assert!(batch <= 100);
                        deleted += batch;
                    }
                }
            }
        });
    }
    assert_eq!(sweeping.join_all().await.iter().sum::<u64>(), 1200);
    assert_eq!(stored(&cluster, 0).await, 2);
    assert!(replayed(
        &send(&service, request("/notes", "live", "live")).await
    ));

    // The layer does the same by itself.
    client
        .batch_execute("UPDATE ha_idempotency SET expires_at = now() - interval '1 s'")
        .await
        .unwrap();
    let layer = IdempotencyLayer::builder(app.router.clone())
        .sweep_interval(Duration::from_millis(50))
        .build()
        .unwrap();
    let service = app.service_with(layer);
    send(&service, request("/notes", "starts-the-sweeper", "x")).await;
    eventually("swept", async || stored(&cluster, 0).await == 1).await;
}
