//! One app server: sign in, add and list notes. It keeps nothing of its own, so any of them answers any request.
//!
//! The way of a request, from the outside in: drain ▶ session ▶ signed in? ▶ causal ▶ idempotency ▶ handler.
//! - The *session* layer is outside of everything that writes, so that its commit is the last thing before the answer
//!   leaves. When it fails, the client gets a 503 and sends the same request with the same key again; the note is there
//!   already, the idempotency layer replays its answer, and the session is written this time.
//! - The *causal* layer is outside of the idempotency layer, so that a replayed answer carries a token too.
//! - The *idempotency* layer wraps the handler alone: what it stores is the handler's answer, in the handler's
//!   transaction.

mod answer;
mod handlers;
mod schema;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use clap::Args as ClapArgs;
use ha_core::sign::KeyRing;
use ha_db::causal::CausalLayer;
use ha_db::idempotency::{self, IdempotencyLayer};
use ha_db::postgres::{self, Consistency};
use ha_db::redis;
use ha_session::{Level, PostgresStore, RedisStore, SessionLayer, Tiered};
use ha_tower::drain::{Drain, Phase};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

use self::answer::Failure;
use self::handlers::User;
use crate::cluster::{Defence, Fault};
use crate::{keys, serve};

/// The header that says which app served.
pub const APP: HeaderName = HeaderName::from_static("x-ha-app");

/// Longest body of a request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// How long a write waits for a primary before the client is told to try again: less than the edge waits for an answer.
const WRITE_WAIT: Duration = Duration::from_secs(1);

/// How long a commit may take before its outcome counts as unknown, for the same reason.
const COMMIT: Duration = Duration::from_millis(1500);

/// How long a request waits for an earlier one with the same key that is still under way.
const SAME_KEY: Duration = Duration::from_secs(1);

/// What `app` takes.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Where to listen, as IP:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:3000")]
    pub listen: SocketAddr,
    /// What the app calls itself in the x-ha-app header
    #[arg(long, default_value = "app", value_name = "NAME")]
    pub name: String,
    /// A PostgreSQL node, as NAME=CONNECTION STRING; once for each. Passwords belong into the environment: with several
    /// in HA_POSTGRES, separate them by semicolons
    #[arg(long, required = true, env = "HA_POSTGRES", hide_env_values = true, value_delimiter = ';',
          value_name = "NAME=CONNINFO", value_parser = node)]
    pub postgres: Vec<Node>,
    /// Redis: redis://HOST:PORT or redis+sentinel://HOST:PORT,…/MASTER
    #[arg(
        long,
        required = true,
        env = "HA_REDIS",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub redis: String,
    /// Where to answer /livez, /readyz and /status and to take /fault orders, as IP:PORT on a loopback address
    /// [default: nowhere]
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    pub admin: Option<SocketAddr>,
    /// Switch a defence off, may be repeated; causal and durable are the app's
    #[arg(long, value_enum, value_name = "DEFENCE")]
    pub without: Vec<Defence>,
}

/// One PostgreSQL node on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    name: String,
    conninfo: String,
}

fn node(text: &str) -> Result<Node, String> {
    let (name, conninfo) = text
        .split_once('=')
        .ok_or("write NAME=CONNINFO, as in pg-1=host=127.0.0.1 user=app")?;
    let keyword = [
        "host", "hostaddr", "port", "user", "dbname", "password", "options",
    ]
    .contains(&name);
    if name.is_empty()
        || keyword
        || !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        return Err(format!(
            "`{name}` is not a name for the node; write NAME=CONNINFO, as in pg-1={text}"
        ));
    }
    conninfo
        .parse::<tokio_postgres::Config>()
        .map_err(|e| crate::chain(&e))?;
    Ok(Node {
        name: name.to_owned(),
        conninfo: conninfo.to_owned(),
    })
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|e| format!("{e}"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("only a loopback address may give orders".into())
    }
}

/// Why an app does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The signing keys are missing or malformed.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The PostgreSQL settings make no sense.
    #[error("--postgres is refused")]
    Postgres(#[from] postgres::ConfigError),
    /// The Redis settings make no sense.
    #[error("--redis is refused")]
    Redis(#[from] redis::ConfigError),
    /// The settings of the idempotency layer make no sense.
    #[error("the idempotency layer cannot be built")]
    Idempotency(#[from] idempotency::ConfigError),
    /// The listener could not be opened, or failed.
    #[error(transparent)]
    Serve(#[from] serve::Error),
}

/// What the handlers share.
#[derive(Clone)]
struct App(Arc<Inner>);

struct Inner {
    name: String,
    router: postgres::Router,
    redis: redis::Connection,
    drain: Drain,
    consistency: Consistency,
    schema: AtomicBool,
    fault: AtomicU8,
}

impl App {
    fn consistency(&self) -> Consistency {
        self.0.consistency
    }

    fn fault(&self) -> Fault {
        match self.0.fault.load(Ordering::Relaxed) {
            0 => Fault::None,
            1 => Fault::Unready,
            _ => Fault::Wrong,
        }
    }

    /// Why this app wants no traffic, if so.
    ///
    /// It asks only what another app could do better. No primary is no reason: it is gone for all of them, and taking
    /// every app out would end the reads too, which the replicas can still serve.
    fn unready(&self) -> Option<&'static str> {
        use postgres::Role::{Primary, Replica};
        if self.0.drain.phase() != Phase::Serving {
            return Some("draining");
        }
        if self.fault() != Fault::None {
            return Some("told to be unready");
        }
        if !self.0.schema.load(Ordering::Relaxed) {
            return Some("the schema is not there yet");
        }
        let nodes = self.0.router.status().nodes;
        let readable = nodes
            .iter()
            .any(|node| node.reachable && matches!(node.role, Primary | Replica));
        (!readable).then_some("no database node can be read")
    }
}

impl FromRef<App> for postgres::Router {
    fn from_ref(app: &App) -> Self {
        app.0.router.clone()
    }
}

/// Runs an app server until SIGTERM or Ctrl-C.
///
/// # Errors
/// See [`Error`]; it did not start then. Stores that are down are no reason not to start.
pub async fn run(args: Args) -> Result<(), Error> {
    serve::log();
    let keys = keys::from_env()?;
    let durable = !args.without.contains(&Defence::Durable);
    let causal = !args.without.contains(&Defence::Causal);

    let mut router = postgres::Router::builder()
        .write_wait(WRITE_WAIT)
        .commit_timeout(COMMIT);
    for Node { name, conninfo } in args.postgres {
        // Acknowledged before it is on any disk or on any other node: this is what being durable is compared with.
        let conninfo = if durable {
            conninfo
        } else {
            format!("{conninfo} options='-c synchronous_commit=off'")
        };
        router = router.node(name, conninfo);
    }
    let router = router.build()?;
    let redis = redis::Connection::from_url(&args.redis)?;
    let sessions = Tiered::new(
        RedisStore::new(redis.clone()),
        PostgresStore::new(router.clone()),
    )
    .level(if durable {
        Level::Durable
    } else {
        Level::Cache
    });

    let listener = serve::bind("--listen", args.listen).await?;
    let admin = match args.admin {
        Some(address) => Some(serve::bind("--admin", address).await?),
        None => None,
    };
    let drain = serve::drain()?;
    let app = App(Arc::new(Inner {
        name: args.name,
        router,
        redis,
        drain: drain.clone(),
        consistency: if causal {
            Consistency::ReadYourWrites
        } else {
            Consistency::Eventual
        },
        schema: AtomicBool::new(false),
        fault: AtomicU8::new(0),
    }));
    let idempotency = IdempotencyLayer::builder(app.0.router.clone())
        .wait(SAME_KEY)
        // One user's key must never get another user's answer.
        .scope(|request| {
            request
                .extensions
                .get::<User>()
                .map(|User(name)| name.clone())
        })
        .build()?;
    let service = public(app.clone(), sessions, keys, idempotency, causal);
    let admin = admin.map(|listener| (listener, orders(app.clone())));
    let schema = async move {
        schema::ensure(&app.0.router).await;
        app.0.schema.store(true, Ordering::Relaxed);
        tracing::info!("ready");
        std::future::pending().await
    };
    tokio::select! {
        ended = serve::run(listener, service, admin, drain) => Ok(ended?),
        () = schema => Ok(()),
    }
}

fn public(
    app: App,
    sessions: Tiered,
    keys: KeyRing,
    idempotency: IdempotencyLayer,
    causal: bool,
) -> Router {
    let notes = Router::new()
        .route("/notes", post(handlers::add).get(handlers::list))
        .route_layer(idempotency);
    let notes = if causal {
        notes.route_layer(CausalLayer::cookie(keys.clone()).insecure_localhost())
    } else {
        notes.route_layer(middleware::from_fn(forget))
    };
    let signed_in = notes
        .route_layer(middleware::from_fn(handlers::remember_newest))
        .route_layer(middleware::from_fn(handlers::require_user));
    let pages = Router::new()
        .route("/", get(index))
        .route("/sign-in", post(handlers::sign_in))
        .route("/sign-out", post(handlers::sign_out))
        .route("/whoami", get(handlers::who_am_i))
        .route("/mark", put(handlers::set_mark))
        .merge(signed_in)
        // Plain HTTP on this machine is what this example is for; browsers would not send a `Secure` cookie there.
        .layer(SessionLayer::new(sessions, keys).insecure_localhost())
        .layer(app.0.drain.layer());
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .merge(pages)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), misbehave))
        .layer(middleware::from_fn_with_state(app.clone(), say_who))
        .with_state(app)
}

async fn index() -> &'static str {
    "POST /sign-in user=NAME   sign in (a form or JSON)\n\
     GET  /whoami              who is signed in\n\
     POST /notes   text=TEXT   add a note; send an Idempotency-Key to make it safe to send again\n\
     GET  /notes               your notes\n\
     POST /sign-out            sign out\n"
}

async fn ready(State(app): State<App>) -> Response {
    match app.unready() {
        None => "ready\n".into_response(),
        Some(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        )
            .into_response(),
    }
}

/// Names the app on every answer.
async fn say_who(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(name) = HeaderValue::from_str(&app.0.name) {
        response.headers_mut().insert(APP, name);
    }
    response
}

/// Answers reads wrongly when told to: with what a server would say that lost its data without noticing.
async fn misbehave(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.fault() == Fault::Wrong && request.method() == Method::GET {
        match request.uri().path() {
            "/notes" => return Json(json!([])).into_response(),
            "/whoami" => {
                return Json(json!({ "user": "nobody", "mark": null, "last_note": null }))
                    .into_response();
            }
            _ => {}
        }
    }
    next.run(request).await
}

/// In the causal layer's place when it is left out: each request begins as if the client had never written.
async fn forget(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(postgres::Causal::new(None));
    next.run(request).await
}

/// What the admin address answers.
fn orders(app: App) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/fault/{kind}", post(set_fault))
        .with_state(app)
}

async fn status(State(app): State<App>) -> Response {
    Json(json!({
        "name": app.0.name,
        "unready": app.unready(),
        "postgres": app.0.router.status(),
        "redis": app.0.redis.status(),
    }))
    .into_response()
}

async fn set_fault(
    State(app): State<App>,
    Path(kind): Path<String>,
) -> Result<StatusCode, Failure> {
    let faults = [Fault::None, Fault::Unready, Fault::Wrong];
    let code = faults.iter().position(|fault| fault.as_str() == kind);
    let code = code.and_then(|code| u8::try_from(code).ok());
    let code =
        code.ok_or_else(|| Failure::Bad(format!("`{kind}` is none of none, unready and wrong")))?;
    app.0.fault.store(code, Ordering::Relaxed);
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_needs_a_name_and_a_connection_string() {
        let good = node("pg-1=host=127.0.0.1 port=5432 user=app").unwrap();
        assert_eq!(
            (good.name.as_str(), good.conninfo.as_str()),
            ("pg-1", "host=127.0.0.1 port=5432 user=app")
        );
        for bad in [
            "",
            "host=127.0.0.1 user=x",
            "pg-1",
            "=host=x",
            "p g=host=x",
            "pg-1=port=banana",
        ] {
            assert!(node(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn orders_come_from_this_machine_only() {
        assert!(loopback("127.0.0.1:1").is_ok());
        assert!(loopback("[::1]:1").is_ok());
        assert!(loopback("0.0.0.0:1").is_err());
        assert!(loopback("localhost").is_err());
    }
}
