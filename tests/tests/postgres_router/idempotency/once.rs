//! What is applied once and answered alike.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use ha_db::idempotency::{self, IdempotencyLayer};
use ha_testbed::postgres::Postgres;
use tokio::task::JoinSet;

use super::app::{App, count, replayed, request, router, send, start, stored};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_post_sent_fifty_times_at_once_is_applied_once_and_answered_alike() {
    let cluster = start(0).await;
    // Two app servers, each with a router of its own.
    let apps = [
        App::new(&router(&cluster).await),
        App::new(&router(&cluster).await),
    ];
    let services = [apps[0].service(), apps[1].service()];
    let mut sending = JoinSet::new();
    for number in 0..50 {
        let service = services[number % 2].clone();
        sending.spawn(async move { send(&service, request("/notes", "k1", "once")).await });
    }
    let responses = sending.join_all().await;
    for response in &responses {
        assert_eq!(response.status(), StatusCode::CREATED, "{response:?}");
        assert_eq!(response.body(), responses[0].body());
    }
    assert_eq!(
        responses
            .iter()
            .filter(|response| !replayed(response))
            .count(),
        1
    );
    assert_eq!(apps[0].runs() + apps[1].runs(), 1);
    assert_eq!(count(&cluster, 0, "once").await, 1);

    let naive = apps[0].naive();
    let mut sending = JoinSet::new();
    for _ in 0..50 {
        let naive = naive.clone();
        sending.spawn(async move { send(&naive, request("/notes", "k1", "often")).await });
    }
    sending.join_all().await;
    assert_eq!(
        count(&cluster, 0, "often").await,
        50,
        "control: without the layer"
    );
}

#[tokio::test]
async fn a_replayed_answer_is_the_first_one_byte_for_byte() {
    let cluster = start(0).await;
    let (first_app, second_app) = (
        App::new(&router(&cluster).await),
        App::new(&router(&cluster).await),
    );
    let first = send(&first_app.service(), request("/notes", "k", "text")).await;
    assert!(!replayed(&first));
    assert_eq!(first.status(), StatusCode::CREATED, "{first:?}");
    // The quoted form of the draft names the same key.
    for key in ["k", "\"k\""] {
        let again = send(&second_app.service(), request("/notes", key, "text")).await;
        assert!(replayed(&again));
        assert_eq!(again.status(), first.status());
        assert_eq!(again.body(), first.body());
        for name in [header::LOCATION, header::ETAG, header::CONTENT_TYPE] {
            assert_eq!(
                again.headers().get(&name),
                first.headers().get(&name),
                "{name}"
            );
        }
        let cookies: Vec<_> = again.headers().get_all(header::SET_COOKIE).iter().collect();
        let cookies: Vec<_> = cookies
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        assert!(
            cookies.iter().all(|cookie| !cookie.contains("secret")),
            "{cookies:?}"
        );
        assert!(
            cookies
                .iter()
                .any(|cookie| cookie.starts_with("__Host-ha-causal=")),
            "the client has to see its write: {cookies:?}"
        );
    }
    assert_eq!((first_app.runs(), second_app.runs()), (1, 0));
}

#[tokio::test]
async fn a_key_stands_for_one_request_of_one_principal() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let layer = IdempotencyLayer::builder(app.router.clone())
        .scope(|parts| {
            parts
                .headers
                .get("x-user")
                .map(|user| user.to_str().unwrap().to_owned())
        })
        .build()
        .unwrap();
    let service = app.service_with(layer);
    let by = |user: &str, mut request: Request<Body>| {
        request
            .headers_mut()
            .insert("x-user", user.parse().unwrap());
        request
    };
    assert_eq!(
        send(&service, by("alice", request("/notes", "k", "a")))
            .await
            .status(),
        201
    );

    let other_method = || {
        let mut request = request("/notes", "k", "a");
        *request.method_mut() = axum::http::Method::PUT;
        request
    };
    let other_type = || {
        let mut request = request("/notes", "k", "a");
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, "text/html".parse().unwrap());
        request
    };
    for different in [
        request("/notes", "k", "b"),
        request("/notes?x=1", "k", "a"),
        request("/fail", "k", "a"),
        other_method(),
        other_type(),
    ] {
        let response = send(&service, by("alice", different)).await;
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
    }
    assert_eq!(app.runs(), 1);
    // The same key of somebody else, and of nobody, is another key.
    for user in ["bob", ""] {
        let response = send(&service, by(user, request("/notes", "k", "b"))).await;
        assert_eq!(response.status(), 201);
        assert!(!replayed(&response));
    }
    let response = send(&service, request("/notes", "k", "c")).await;
    assert!(!replayed(&response));
    assert_eq!(app.runs(), 4);
}

#[tokio::test]
async fn many_nodes_may_migrate_at_once_and_again() {
    let cluster = Postgres::primary().start().await.unwrap();
    let router = router(&cluster).await;
    let mut migrating = JoinSet::new();
    for _ in 0..8 {
        let router = router.clone();
        migrating.spawn(async move { idempotency::migrate(&router).await });
    }
    for result in migrating.join_all().await {
        result.unwrap();
    }
    idempotency::migrate(&router).await.unwrap();
    assert_eq!(stored(&cluster, 0).await, 0);
}
