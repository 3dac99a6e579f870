//! `IdempotencyLayer` on real PostgreSQL: applied once, answered once, across concurrency, cancellation and failover. Beside each
//! promise the same service without the layer.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use ha_core::sign::{Key, KeyRing};
use ha_db::causal::CausalLayer;
use ha_db::idempotency::{self, IdempotencyLayer, Settings, Store};
use ha_db::postgres::{self, Db};
use ha_testbed::postgres::{Cluster, Postgres};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tower::ServiceExt;

const DEADLINE: Duration = Duration::from_secs(40);

async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !done().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn start(replicas: usize) -> Cluster {
    let cluster = Postgres::primary()
        .replicas(replicas)
        .start()
        .await
        .unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE note (id bigserial PRIMARY KEY, text text NOT NULL)")
        .await
        .unwrap();
    let router = router(&cluster).await;
    idempotency::migrate(&router).await.unwrap();
    cluster
}

fn builder(cluster: &Cluster) -> postgres::Builder {
    let mut builder = postgres::Router::builder();
    for node in &cluster.nodes {
        builder = builder.node(&node.name, node.conninfo());
    }
    builder.pool_size(20).pool_wait(Duration::from_secs(10))
}

async fn router(cluster: &Cluster) -> postgres::Router {
    let router = builder(cluster).build().unwrap();
    router.wait_primary(DEADLINE).await.unwrap();
    router
}

/// Lets a test stop a handler between its write and its answer.
#[derive(Default)]
struct Gate {
    written: Notify,
    go: Notify,
}

#[derive(Clone)]
struct App {
    router: postgres::Router,
    runs: Arc<AtomicU32>,
    gate: Option<Arc<Gate>>,
}

impl axum::extract::FromRef<App> for postgres::Router {
    fn from_ref(app: &App) -> Self {
        app.router.clone()
    }
}

impl App {
    fn new(router: &postgres::Router) -> Self {
        Self {
            router: router.clone(),
            runs: Arc::default(),
            gate: None,
        }
    }

    fn gated(router: &postgres::Router) -> (Self, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        (
            Self {
                gate: Some(gate.clone()),
                ..Self::new(router)
            },
            gate,
        )
    }

    fn routes(&self) -> Router<()> {
        Router::new()
            .route("/notes", post(add).put(add).get(add))
            .route("/fail", post(fail))
            .route("/panic", post(panics))
            .route("/conflict", post(conflict))
            .route("/liar", post(liar))
            .route("/long", post(async || "x".repeat(300 * 1024)))
            .with_state(self.clone())
    }

    /// The service without the layer.
    fn naive(&self) -> Router {
        self.routes().layer(CausalLayer::cookie(keys()))
    }

    fn service(&self) -> Router {
        self.service_with(
            IdempotencyLayer::builder(self.router.clone())
                .wait(Duration::from_secs(15))
                .build()
                .unwrap(),
        )
    }

    fn service_with(&self, layer: IdempotencyLayer) -> Router {
        self.routes()
            .layer(layer)
            .layer(CausalLayer::cookie(keys()))
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

fn keys() -> KeyRing {
    KeyRing::from(Key::from_bytes(&[7; 32]).unwrap())
}

#[derive(Debug)]
struct Failed(postgres::Error);

impl IntoResponse for Failed {
    fn into_response(self) -> axum::response::Response {
        let status = if self.0.is_unavailable() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        };
        (status, self.0.to_string()).into_response()
    }
}

impl<E: Into<postgres::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

async fn insert(db: &Db, text: &str) -> Result<i64, Failed> {
    let tx = db.transaction().await?;
    let row = tx
        .query_one("INSERT INTO note (text) VALUES ($1) RETURNING id", &[&text])
        .await?;
    tx.commit().await?;
    Ok(row.get(0))
}

async fn add(State(app): State<App>, db: Db, text: String) -> Result<impl IntoResponse, Failed> {
    let run = app.runs.fetch_add(1, Ordering::SeqCst);
    let id = insert(&db, &text).await?;
    if let Some(gate) = &app.gate {
        gate.written.notify_one();
        gate.go.notified().await;
    }
    let headers = [
        (header::LOCATION, format!("/notes/{id}")),
        (header::SET_COOKIE, "handler=secret".to_owned()),
        (header::ETAG, format!("\"{run}\"")),
    ];
    Ok((
        StatusCode::CREATED,
        headers,
        format!("{{\"id\":{id},\"run\":{run}}}"),
    ))
}

async fn fail(State(app): State<App>, db: Db, text: String) -> Result<impl IntoResponse, Failed> {
    let run = app.runs.fetch_add(1, Ordering::SeqCst);
    let id = insert(&db, &text).await?;
    if run == 0 {
        return Ok((StatusCode::BAD_GATEWAY, "first time".to_owned()));
    }
    Ok((StatusCode::CREATED, id.to_string()))
}

async fn panics(State(app): State<App>, db: Db, text: String) -> Result<String, Failed> {
    let run = app.runs.fetch_add(1, Ordering::SeqCst);
    insert(&db, &text).await?;
    assert!(run > 0, "the handler panics the first time");
    Ok("ok".to_owned())
}

/// A statement that fails outside of a transaction of its own, and an answer that says so.
async fn conflict(State(app): State<App>, db: Db) -> Result<StatusCode, Failed> {
    app.runs.fetch_add(1, Ordering::SeqCst);
    let write = db.write().await?;
    Ok(
        match write
            .execute("INSERT INTO note VALUES (1, 'a'), (1, 'b')", &[])
            .await
        {
            Ok(_) => StatusCode::CREATED,
            Err(_) => StatusCode::CONFLICT,
        },
    )
}

/// A statement that fails, and an answer that claims success.
async fn liar(db: Db) -> Result<StatusCode, Failed> {
    insert(&db, "lost").await?;
    let write = db.write().await?;
    let _ = write.execute("SELECT 1 / 0", &[]).await;
    Ok(StatusCode::CREATED)
}

fn request(path: &str, key: &str, text: &str) -> Request<Body> {
    Request::post(path)
        .header("idempotency-key", key)
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from(text.to_owned()))
        .unwrap()
}

async fn send(service: &Router, request: Request<Body>) -> Response<Bytes> {
    let response = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

fn replayed(response: &Response<Bytes>) -> bool {
    response
        .headers()
        .get("idempotency-replayed")
        .is_some_and(|value| value == "true")
}

async fn count(cluster: &Cluster, node: usize, text: &str) -> i64 {
    let client = cluster.nodes[node].client().await.unwrap();
    client
        .query_one("SELECT count(*) FROM note WHERE text = $1", &[&text])
        .await
        .unwrap()
        .get(0)
}

async fn stored(cluster: &Cluster, node: usize) -> i64 {
    let client = cluster.nodes[node].client().await.unwrap();
    client
        .query_one("SELECT count(*) FROM ha_idempotency", &[])
        .await
        .unwrap()
        .get(0)
}

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
async fn bad_keys_and_bodies_are_refused_before_anything_is_done() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let layer = IdempotencyLayer::builder(app.router.clone())
        .max_body(10)
        .build()
        .unwrap();
    let service = app.service_with(layer);
    let long = "k".repeat(256);
    for key in ["", "\"", "a b", "a,b", &long] {
        let response = send(&service, request("/notes", key, "a")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{key}");
    }
    let mut two = request("/notes", "a", "a");
    two.headers_mut()
        .append("idempotency-key", "b".parse().unwrap());
    assert_eq!(send(&service, two).await.status(), StatusCode::BAD_REQUEST);
    let mut binary = request("/notes", "a", "a");
    binary.headers_mut().insert(
        "idempotency-key",
        axum::http::HeaderValue::from_bytes(b"\xff").unwrap(),
    );
    assert_eq!(
        send(&service, binary).await.status(),
        StatusCode::BAD_REQUEST
    );

    let announced = request("/notes", "k", "eleven byte");
    assert_eq!(
        send(&service, announced).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let chunks =
        futures_util::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(Bytes::from("x"))));
    let streamed = request("/notes", "k", "").map(|_| Body::from_stream(chunks));
    assert_eq!(
        send(&service, streamed).await.status(),
        StatusCode::PAYLOAD_TOO_LARGE
    );
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
    let broken = request("/notes", "k", "").map(|_| Body::from_stream(broken));
    assert_eq!(
        send(&service, broken).await.status(),
        StatusCode::BAD_REQUEST
    );
    assert_eq!((app.runs(), stored(&cluster, 0).await), (0, 0));

    // Without a key, or with a method that is safe, the layer is not there.
    let mut keyless = request("/notes", "k", "far more than ten bytes");
    keyless.headers_mut().remove("idempotency-key");
    assert_eq!(send(&service, keyless).await.status(), 201);
    for _ in 0..2 {
        let mut get = request("/notes", "k", "get");
        *get.method_mut() = axum::http::Method::GET;
        assert!(!replayed(&send(&service, get).await));
    }
    assert_eq!((app.runs(), stored(&cluster, 0).await), (3, 0));
}

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
             INSERT INTO ha_idempotency SELECT sha256(i::text::bytea), '', '', now(), now() - interval '1 h'
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

#[tokio::test]
async fn a_missing_causal_layer_is_named_and_nothing_is_done() {
    let cluster = start(0).await;
    let app = App::new(&router(&cluster).await);
    let service = app
        .routes()
        .layer(IdempotencyLayer::new(app.router.clone()));
    for mut bad in [request("/notes", "k", "a"), request("/notes", "k", "a")] {
        if app.runs() == 0 {
            bad.headers_mut().remove("idempotency-key");
        }
        let response = send(&service, bad).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(String::from_utf8_lossy(response.body()).contains("CausalLayer"));
    }
    assert_eq!(app.runs(), 0);
}
