//! An app whose writes are keyed, its requests, and what the tables hold afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use ha_db::causal::CausalLayer;
use ha_db::idempotency::{self, IdempotencyLayer};
use ha_db::postgres::{self, Db};
use ha_testbed::postgres::{Cluster, Postgres};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tower::ServiceExt;

use crate::support::{self, Failed, keys, started};

pub(crate) async fn start(replicas: usize) -> Cluster {
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

pub(crate) fn builder(cluster: &Cluster) -> postgres::Builder {
    support::builder(cluster)
        .pool_size(20)
        .pool_wait(Duration::from_secs(10))
}

pub(crate) async fn router(cluster: &Cluster) -> postgres::Router {
    started(builder(cluster)).await
}

/// Lets a test stop a handler between its write and its answer.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) written: Notify,
    pub(crate) go: Notify,
}

#[derive(Clone)]
pub(crate) struct App {
    pub(crate) router: postgres::Router,
    runs: Arc<AtomicU32>,
    gate: Option<Arc<Gate>>,
}

impl axum::extract::FromRef<App> for postgres::Router {
    fn from_ref(app: &App) -> Self {
        app.router.clone()
    }
}

impl App {
    pub(crate) fn new(router: &postgres::Router) -> Self {
        Self {
            router: router.clone(),
            runs: Arc::default(),
            gate: None,
        }
    }

    pub(crate) fn gated(router: &postgres::Router) -> (Self, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        (
            Self {
                gate: Some(gate.clone()),
                ..Self::new(router)
            },
            gate,
        )
    }

    pub(crate) fn routes(&self) -> Router<()> {
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
    pub(crate) fn naive(&self) -> Router {
        self.routes().layer(CausalLayer::cookie(keys()))
    }

    pub(crate) fn service(&self) -> Router {
        self.service_with(
            IdempotencyLayer::builder(self.router.clone())
                .wait(Duration::from_secs(15))
                .build()
                .unwrap(),
        )
    }

    pub(crate) fn service_with(&self, layer: IdempotencyLayer) -> Router {
        self.routes()
            .layer(layer)
            .layer(CausalLayer::cookie(keys()))
    }

    pub(crate) fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
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

pub(crate) fn request(path: &str, key: &str, text: &str) -> Request<Body> {
    Request::post(path)
        .header("idempotency-key", key)
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Body::from(text.to_owned()))
        .unwrap()
}

pub(crate) async fn send(service: &Router, request: Request<Body>) -> Response<Bytes> {
    let response = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

pub(crate) fn replayed(response: &Response<Bytes>) -> bool {
    response
        .headers()
        .get("idempotency-replayed")
        .is_some_and(|value| value == "true")
}

pub(crate) async fn count(cluster: &Cluster, node: usize, text: &str) -> i64 {
    let client = cluster.nodes[node].client().await.unwrap();
    client
        .query_one("SELECT count(*) FROM note WHERE text = $1", &[&text])
        .await
        .unwrap()
        .get(0)
}

pub(crate) async fn stored(cluster: &Cluster, node: usize) -> i64 {
    let client = cluster.nodes[node].client().await.unwrap();
    client
        .query_one("SELECT count(*) FROM ha_idempotency", &[])
        .await
        .unwrap()
        .get(0)
}
