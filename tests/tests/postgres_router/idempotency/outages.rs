//! The database ends between the write and its answer.

use std::time::Duration;

use axum::http::{StatusCode, header};

use super::app::{App, builder, count, replayed, request, router, send, start};
use crate::support::DEADLINE;

#[tokio::test]
async fn the_primary_dies_between_write_and_answer_and_the_retry_applies_once() {
    let cluster = start(1).await;
    let (app, gate) = App::gated(&router(&cluster).await);
    let service = app.service();
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, request("/notes", "k", "failover")).await }
    });
    gate.written.notified().await;
    cluster.nodes[0].kill().await.unwrap();
    gate.go.notify_one();
    let response = first.await.unwrap();
    assert_eq!(
        response.status(),
        StatusCode::SERVICE_UNAVAILABLE,
        "{response:?}"
    );
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");

    cluster.promote(1).await.unwrap();
    // Another app server, as the client's retry meets it.
    let other = App::new(&router(&cluster).await);
    let again = send(&other.service(), request("/notes", "k", "failover")).await;
    assert_eq!(again.status(), 201, "{again:?}");
    assert!(!replayed(&again));
    assert_eq!(count(&cluster, 1, "failover").await, 1);
}

#[tokio::test]
async fn an_answer_lost_with_the_primary_is_found_on_its_successor() {
    let cluster = start(1).await;
    let app = App::new(&router(&cluster).await);
    let answer = send(&app.service(), request("/notes", "k", "kept")).await;
    send(&app.naive(), request("/notes", "n", "naive")).await;
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    // Both answers are lost on their way, and so is the primary.
    cluster.nodes[0].kill().await.unwrap();
    cluster.promote(1).await.unwrap();
    let other = App::new(&router(&cluster).await);
    let again = send(&other.service(), request("/notes", "k", "kept")).await;
    assert!(replayed(&again));
    assert_eq!(again.body(), answer.body());
    assert_eq!(count(&cluster, 1, "kept").await, 1);
    send(&other.naive(), request("/notes", "n", "naive")).await;
    assert_eq!(
        count(&cluster, 1, "naive").await,
        2,
        "control: without the layer"
    );
}

#[tokio::test]
async fn after_an_unknown_commit_the_retry_finds_the_truth() {
    let cluster = start(0).await;
    // A commit that takes longer than we wait for it.
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW WHEN (NEW.text = 'slow commit') EXECUTE FUNCTION slow();",
        )
        .await
        .unwrap();
    let impatient = builder(&cluster)
        .commit_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    impatient.wait_primary(DEADLINE).await.unwrap();
    let app = App::new(&impatient);
    let response = send(&app.service(), request("/notes", "k", "slow commit")).await;
    assert_eq!(
        response.status(),
        StatusCode::SERVICE_UNAVAILABLE,
        "{response:?}"
    );
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    assert!(
        String::from_utf8_lossy(response.body()).contains("not known yet"),
        "{response:?}"
    );

    // The retry waits until the commit is through, or finds that it never was; then there is one row either way.
    let other = App::new(&router(&cluster).await);
    let again = send(&other.service(), request("/notes", "k", "slow commit")).await;
    assert_eq!(again.status(), 201, "{again:?}");
    assert_eq!(count(&cluster, 0, "slow commit").await, 1);
    println!("replayed: {}", replayed(&again));
}
