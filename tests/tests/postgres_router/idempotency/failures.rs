//! Handlers that fail, are slow or are given up.

use std::time::Duration;

use axum::http::{StatusCode, header};
use ha_db::idempotency::{self, IdempotencyLayer};
use ha_testbed::postgres::Postgres;

use super::app::{App, builder, count, replayed, request, router, send, start, stored};
use crate::support::{eventually, started};

#[tokio::test]
async fn a_server_error_or_panic_leaves_nothing_and_the_next_try_starts_afresh() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let service = app.service();
    let response = send(&service, request("/fail", "k", "fail")).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.body(), "first time", "the handler's own answer");
    assert_eq!(
        (count(&cluster, 0, "fail").await, stored(&cluster, 0).await),
        (0, 0)
    );
    let response = send(&service, request("/fail", "k", "fail")).await;
    assert_eq!(response.status(), 201);
    assert_eq!(count(&cluster, 0, "fail").await, 1);

    let control = App::new(&app.router);
    send(&control.naive(), request("/fail", "k", "naive")).await;
    assert_eq!(
        count(&cluster, 0, "naive").await,
        1,
        "control: the failed try left its write"
    );

    let app = App::new(&app.router);
    let service = app.service();
    let panicking = service.clone();
    let panicked =
        tokio::spawn(async move { send(&panicking, request("/panic", "p", "panic")).await }).await;
    assert!(panicked.unwrap_err().is_panic());
    let response = send(&service, request("/panic", "p", "panic")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(count(&cluster, 0, "panic").await, 1);
}

#[tokio::test]
async fn a_failed_statement_takes_the_unit_along_and_success_is_not_claimed() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let service = app.service();
    for run in 1..=2 {
        let response = send(&service, request("/conflict", "c", "")).await;
        assert_eq!(
            response.status(),
            StatusCode::CONFLICT,
            "the handler's answer"
        );
        assert_eq!(app.runs(), run, "not stored");
    }
    let response = send(&service, request("/liar", "l", "")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        (count(&cluster, 0, "lost").await, stored(&cluster, 0).await),
        (0, 0)
    );

    let response = send(&service, request("/long", "long", "")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(String::from_utf8_lossy(response.body()).contains("262144 bytes"));
    assert_eq!(stored(&cluster, 0).await, 0);
}

#[tokio::test]
async fn a_repetition_of_a_running_request_waits_a_bounded_time_and_is_told_to_come_back() {
    let cluster = start(0).await;
    let (app, gate) = App::gated(&router(&cluster).await);
    let layer = IdempotencyLayer::builder(app.router.clone())
        .wait(Duration::from_millis(200))
        .build()
        .unwrap();
    let service = app.service_with(layer);
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, request("/notes", "k", "slow")).await }
    });
    gate.written.notified().await;
    let response = send(&service, request("/notes", "k", "slow")).await;
    assert_eq!(response.status(), StatusCode::CONFLICT);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    assert_eq!(
        count(&cluster, 0, "slow").await,
        0,
        "not visible before the answer"
    );
    gate.go.notify_one();
    assert_eq!(first.await.unwrap().status(), 201);
    assert!(replayed(
        &send(&service, request("/notes", "k", "slow")).await
    ));
    assert_eq!(app.runs(), 1);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_rolled_back() {
    let cluster = start(0).await;
    let (app, _gate) = App::gated(&router(&cluster).await);
    let layer = IdempotencyLayer::builder(app.router.clone())
        .hold(Duration::from_millis(300))
        .build()
        .unwrap();
    let response = send(&app.service_with(layer), request("/notes", "k", "slow")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    let again = send(
        &App::new(&app.router).service(),
        request("/notes", "k", "slow"),
    )
    .await;
    assert_eq!(again.status(), 201);
    assert_eq!(count(&cluster, 0, "slow").await, 1);
}

#[tokio::test]
async fn a_request_cancelled_at_any_point_is_applied_whole_or_not_at_all() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let service = app.service();
    let mut whole = 0;
    // Dropped after its nth turn, for each n until it runs to its end.
    for turns in 0..500 {
        let text = format!("cancelled-{turns}");
        let mut sending = Box::pin(send(&service, request("/notes", &text, &text)));
        let mut left = turns;
        let ended = std::future::poll_fn(|cx| {
            if left == 0 {
                return std::task::Poll::Ready(false);
            }
            left -= 1;
            sending.as_mut().poll(cx).map(|_| true)
        })
        .await;
        drop(sending);
        let rows = count(&cluster, 0, &text).await;
        assert!(rows <= 1);
        // The connection that was cut off may still be committing, which the repetition waits for.
        let again = send(&service, request("/notes", &text, &text)).await;
        assert_eq!(again.status(), 201, "after {turns} turns: {again:?}");
        assert_eq!(count(&cluster, 0, &text).await, 1, "after {turns} turns");
        if ended {
            assert!(replayed(&again));
            whole += 1;
        }
        if whole > 2 {
            println!("a request takes {turns} turns; {} runs", app.runs());
            return;
        }
    }
    panic!("never ran to its end");
}

#[tokio::test]
async fn a_commit_that_outlasts_the_handlers_limit_is_not_called_undone() {
    let cluster = Postgres::primary()
        .replicas(1)
        .synchronous(true)
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE note (id bigserial PRIMARY KEY, text text NOT NULL)")
        .await
        .unwrap();
    let router = builder(&cluster).commit_timeout(Duration::from_secs(2));
    let router = started(router).await;
    idempotency::migrate(&router).await.unwrap();
    let app = App::new(&router);
    let hold = Duration::from_secs(1);
    let layer = IdempotencyLayer::builder(router.clone()).hold(hold);
    let service = app.service_with(layer.build().unwrap());
    cluster.nodes[1].kill().await.unwrap();
    let response = send(&service, request("/notes", "k", "late")).await;
    let body = String::from_utf8_lossy(response.body()).into_owned();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.contains("the outcome is not known yet"), "{body}");
    // It was applied after all, and the same key finds that out.
    cluster.nodes[1].start().await.unwrap();
    eventually("it is there", async || {
        count(&cluster, 0, "late").await == 1
    })
    .await;
    let again = send(&service, request("/notes", "k", "late")).await;
    assert_eq!(again.status(), StatusCode::CREATED);
    assert!(replayed(&again) && app.runs() == 1);
    assert_eq!(count(&cluster, 0, "late").await, 1);
}
