//! Three app instances, an edge in front and shared sessions, in one process and without any server.
//!
//! ```console
//! $ cargo run -p quickstart                  # or: -- --port 9000
//! $ curl -c jar -b jar localhost:8080        # who serves, and how often you have been here
//! $ curl -X POST localhost:8080/admin/apps/1/fail
//! ```
//!
//! `fail` closes app 1's port and cuts its connections, as a crash does. Nothing that you ask the edge fails.

mod fleet;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use ha_session::{Key, KeyRing, MemoryStore, Session, SessionError, SessionLayer};
use ha_tower::drain::{self, Drain};
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::RetryLayer;
use ha_tower::timeout::TimeoutLayer;
use ha_tower::upstream::Upstream;
use ha_tower::{balance, breaker, discover, health};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

use fleet::Fleet;

type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: cargo run -p quickstart -- [--port PORT]

  --port PORT   the edge's port on 127.0.0.1, 0 for any free one [default: $PORT, else 8080]";

/// An app as its authors write it: it knows nothing of the edge, and of sessions only the extractor.
fn app(name: &'static str, sessions: SessionLayer) -> Router {
    let hello = async move |session: Session| -> Result<String, SessionError> {
        let visits = session.get::<u32>("visits").await?.unwrap_or(0) + 1;
        session.insert("visits", visits)?; // stored before the answer leaves
        Ok(format!("{name} served visit {visits}\n"))
    };
    Router::new()
        .route("/", get(hello))
        .layer(sessions)
        .route("/readyz", get(|| async { "ready" }))
}

/// The edge: one deadline over all attempts, retries on another app, and balancing that avoids what is broken.
fn edge(fleet: Fleet) -> Result<Router, BoxError> {
    let upstream = Upstream::builder("apps")
        .discover(discover::fixed(
            fleet.addresses.iter().map(|app| format!("http://{app}")),
        )?)
        .balance(balance::P2c::peak_ewma())
        .health(health::Http::get("/readyz").interval(Duration::from_millis(250)))
        .breaker(breaker::Config::default())
        .build()?;
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::deadline(Duration::from_secs(5)))
        .layer(RetryLayer::http())
        .service(upstream);
    Ok(Router::new()
        .route("/admin/apps/{n}/{what}", post(Fleet::command))
        .with_state(fleet)
        .fallback_service(ReverseProxy::new(client)))
}

async fn run(listener: TcpListener) -> Result<(), BoxError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?; // in production: one key for all apps, from your secret store
    let keys = KeyRing::new(Key::from_bytes(&secret)?, []);
    let sessions = SessionLayer::new(MemoryStore::new(), keys).insecure_localhost();
    let edge_at = listener.local_addr()?;
    let app = edge(Fleet::start(sessions).await?)?;

    println!("edge on http://{edge_at}, three apps behind it. Try, in another terminal:\n");
    println!(
        "  curl -c jar -b jar http://{edge_at}          # a few times: the app changes, the count goes on"
    );
    println!(
        "  curl -X POST http://{edge_at}/admin/apps/1/fail   # crash app-1, then the first line again"
    );
    println!(
        "  curl -X POST http://{edge_at}/admin/apps/1/heal   # bring it back\n\nCtrl-C drains and ends."
    );

    // Nothing in front checks our readiness, so there is no reason to go on accepting after Ctrl-C.
    let drain = Drain::builder()
        .settle(Duration::ZERO)
        .deadline(Duration::from_secs(10))
        .build()?;
    let server = drain::serve(listener, app, drain.clone());
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
        drain.start();
    };
    let (report, ()) = tokio::join!(server, stop);
    println!("drained; {} requests cut", report.requests_cut);
    Ok(())
}

/// The port; `None` when only help is wanted.
fn port() -> Result<Option<u16>, String> {
    let mut args = std::env::args().skip(1);
    let value = match (args.next().as_deref(), args.next(), args.next()) {
        (None, ..) => std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned()),
        (Some("-h" | "--help"), None, None) => return Ok(None),
        (Some("--port"), Some(port), None) => port,
        _ => return Err(USAGE.to_owned()),
    };
    let port = value.parse();
    port.map(Some)
        .map_err(|_| format!("{value:?} is not a port\n{USAGE}"))
}

#[tokio::main]
async fn main() -> ExitCode {
    let port = match port() {
        Ok(Some(port)) => port,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("quickstart: {message}");
            return ExitCode::from(2);
        }
    };
    let listener = match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!(
                "quickstart: cannot listen on 127.0.0.1:{port}: {error}; choose another with --port"
            );
            return ExitCode::from(2);
        }
    };
    if let Err(error) = run(listener).await {
        eprintln!("quickstart: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
