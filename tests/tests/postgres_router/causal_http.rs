//! `CausalLayer` on real PostgreSQL: what a client wrote through one app server it reads through another, replicas that lag
//! included. Beside it reads without causality, which miss it.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use ha_core::sign::{Key, KeyRing};
use ha_db::causal::CausalLayer;
use ha_db::idempotency::{self, IdempotencyLayer};
use ha_db::postgres::{self, Consistency, Db, Lsn, Token};
use ha_testbed::postgres::{Cluster, Postgres};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::support::{DEADLINE, Failed, builder, eventually, keys, started};

async fn start() -> Cluster {
    let cluster = Postgres::primary().replicas(2).start().await.unwrap();
    let client = cluster.nodes[0].client().await.unwrap();
    client
        .batch_execute("CREATE TABLE note (text text NOT NULL)")
        .await
        .unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    cluster
}

async fn router(cluster: &Cluster) -> postgres::Router {
    // Lag alone shall not take a replica out here: what is tested is the proof per client.
    let router = started(builder(cluster).max_lag(Duration::from_secs(3600))).await;
    // Reads have to come from a replica for the controls to mean anything.
    eventually("a replica serves", async || {
        let conn = router
            .db(postgres::Causal::new(None))
            .read_with(Consistency::Eventual)
            .await;
        conn.is_ok_and(|conn| conn.node() != cluster.nodes[0].name)
    })
    .await;
    router
}

async fn add(db: Db, text: String) -> Result<StatusCode, Failed> {
    let tx = db.transaction().await?;
    tx.execute("INSERT INTO note VALUES ($1)", &[&text]).await?;
    tx.commit().await?;
    Ok(StatusCode::CREATED)
}

/// Writes without a transaction of its own, then fails.
async fn add_and_fail(db: Db, text: String) -> Result<StatusCode, Failed> {
    db.write()
        .await?
        .execute("INSERT INTO note VALUES ($1)", &[&text])
        .await?;
    Ok(StatusCode::IM_A_TEAPOT)
}

#[derive(serde::Deserialize)]
struct Find {
    text: String,
    #[serde(default)]
    eventual: bool,
}

async fn find(db: Db, Query(find): Query<Find>) -> Result<impl IntoResponse, Failed> {
    let consistency = if find.eventual {
        Consistency::Eventual
    } else {
        Consistency::ReadYourWrites
    };
    let conn = db.read_with(consistency).await?;
    let row = conn
        .query_one("SELECT count(*) FROM note WHERE text = $1", &[&find.text])
        .await?;
    let count: i64 = row.get(0);
    Ok(([("x-node", conn.node().to_owned())], count.to_string()))
}

fn routes(router: &postgres::Router) -> Router {
    Router::new()
        .route("/notes", post(add))
        .route("/notes-and-fail", post(add_and_fail))
        .route("/notes", get(find))
        .with_state(router.clone())
}

fn app(router: &postgres::Router) -> Router {
    routes(router).layer(CausalLayer::cookie(keys()))
}

async fn send(service: &Router, request: Request<Body>) -> Response<Bytes> {
    let response = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

fn cookie(response: &Response<Bytes>) -> Option<String> {
    let value = response
        .headers()
        .get(header::SET_COOKIE)?
        .to_str()
        .unwrap();
    Some(value.split(';').next().unwrap().to_owned())
}

fn post_note(path: &str, text: &str) -> Request<Body> {
    Request::post(path)
        .body(Body::from(text.to_owned()))
        .unwrap()
}

fn get_note(text: &str, eventual: bool, cookie: Option<&str>) -> Request<Body> {
    let mut request = Request::get(format!("/notes?text={text}&eventual={eventual}"));
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_client_sees_through_one_app_server_what_it_wrote_through_another() {
    let cluster = start().await;
    let (one, two) = (router(&cluster).await, router(&cluster).await);
    let (one, two) = (app(&one), app(&two));
    for replica in [1, 2] {
        cluster.pause_replay(replica).await.unwrap();
    }
    // An answer that is no success carries the token as well: its write is committed.
    for path in ["/notes", "/notes-and-fail"] {
        let text = path.trim_start_matches('/');
        let written = send(&one, post_note(path, text)).await;
        let cookie = cookie(&written).expect("a write moves the token");

        let seen = send(&two, get_note(text, false, Some(&cookie))).await;
        assert_eq!(seen.body(), "1", "{path}: {seen:?}");
        assert_eq!(seen.headers()["x-node"], cluster.nodes[0].name.as_str());

        // Controls: eventual reads, and a client that lost its token, go to a replica and miss it.
        let eventual = send(&two, get_note(text, true, Some(&cookie))).await;
        assert_eq!(eventual.body(), "0", "control: {eventual:?}");
        let forgetful = send(&two, get_note(text, false, None)).await;
        assert_eq!(forgetful.body(), "0", "control: {forgetful:?}");
    }
}

#[tokio::test]
async fn a_replica_that_has_it_serves_it_and_nothing_new_means_no_cookie() {
    let cluster = start().await;
    let router = router(&cluster).await;
    let app = app(&router);
    let written = send(&app, post_note("/notes", "a")).await;
    let mut token = cookie(&written).unwrap();
    cluster.wait_caught_up(0, DEADLINE).await.unwrap();
    eventually("a replica serves the proof", async || {
        let seen = send(&app, get_note("a", false, Some(&token))).await;
        assert_eq!(seen.body(), "1");
        if let Some(newer) = cookie(&seen) {
            token = newer;
        }
        seen.headers()["x-node"] != cluster.nodes[0].name.as_str()
    })
    .await;
    // With nobody writing, reads come to a rest: what the token says is all there is.
    eventually("no more cookies", async || {
        let seen = send(&app, get_note("a", false, Some(&token))).await;
        match cookie(&seen) {
            Some(newer) => {
                token = newer;
                false
            }
            None => true,
        }
    })
    .await;
}

#[tokio::test]
async fn tokens_of_strangers_and_of_other_clusters_are_replaced_and_never_an_error() {
    let cluster = start().await;
    let router = router(&cluster).await;
    let app = app(&router);
    let stranger = KeyRing::from(Key::from_bytes(&[9; 32]).unwrap());
    let foreign = Token::new(4711, 1, Lsn(0x300_0000));
    for bad in [
        foreign.sign(&keys()),
        foreign.sign(&stranger),
        "garbage".into(),
        String::new(),
    ] {
        let cookie_sent = format!("__Host-ha-causal={bad}");
        let mut request = post_note("/notes", "mine");
        request
            .headers_mut()
            .insert(header::COOKIE, cookie_sent.parse().unwrap());
        let written = send(&app, request).await;
        assert_eq!(written.status(), StatusCode::CREATED, "{bad}: {written:?}");
        let fresh = cookie(&written).unwrap();
        let fresh = fresh.strip_prefix("__Host-ha-causal=").unwrap();
        let fresh = Token::verify(fresh, &keys()).unwrap();
        assert_ne!(fresh.system_id(), 4711);

        let seen = send(&app, get_note("mine", false, Some(&cookie_sent))).await;
        assert_eq!(seen.status(), StatusCode::OK, "{bad}: {seen:?}");
    }
}

#[tokio::test]
async fn a_keyed_write_and_its_replay_both_carry_the_token() {
    let cluster = start().await;
    let (one, two) = (router(&cluster).await, router(&cluster).await);
    idempotency::migrate(&one).await.unwrap();
    let keyed = |router: &postgres::Router| {
        routes(router)
            .layer(IdempotencyLayer::new(router.clone()))
            .layer(CausalLayer::cookie(keys()))
    };
    let (one, two) = (keyed(&one), keyed(&two));
    for replica in [1, 2] {
        cluster.pause_replay(replica).await.unwrap();
    }
    let request = || {
        let mut request = post_note("/notes", "keyed");
        request
            .headers_mut()
            .insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let first = send(&one, request()).await;
    let again = send(&two, request()).await;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    for answer in [first, again] {
        let cookie = cookie(&answer).expect("a token");
        let seen = send(&two, get_note("keyed", false, Some(&cookie))).await;
        assert_eq!(seen.body(), "1", "{seen:?}");
    }
    let control = send(&two, get_note("keyed", true, None)).await;
    assert_eq!(control.body(), "0", "control: {control:?}");
}
