//! App servers that announce themselves in the store they have anyway, and an edge that follows.
//!
//! ```console
//! $ redis-server --port 6379 --save "" &
//! $ cargo run -p registry-example -- edge redis://127.0.0.1:6379 8080
//! $ cargo run -p registry-example -- app redis://127.0.0.1:6379 3001     # each in a terminal of its own
//! $ cargo run -p registry-example -- app redis://127.0.0.1:6379 3002
//! $ curl localhost:8080                                                  # 3001 and 3002 in turn
//! ```
//!
//! End an app with Ctrl-C: it drains, and the edge leaves it out before its port closes. End another with `kill -9`: requests go on, and the
//! edge prints when it is sure. Stop the store: nothing changes. In place of the Redis URL (Sentinel and Cluster ones included) a
//! PostgreSQL one works as well: `"postgresql://app@10.0.0.1/app postgresql://app@10.0.0.2/app"`, the nodes with a space in between.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use ha_core::endpoint::Endpoint;
use ha_db::registry::{self, Registry};
use ha_db::{postgres, redis};
use ha_tower::drain::{self, Drain};
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::RetryLayer;
use ha_tower::timeout::TimeoutLayer;
use ha_tower::upstream::Upstream;
use ha_tower::{balance, breaker, discover};
use tokio::net::TcpListener;
use tower::ServiceBuilder;

type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "usage: cargo run -p registry-example -- app|edge STORE PORT

  STORE   redis://…, redis+sentinel://…, redis+cluster://…, or one postgresql://… for each node
  PORT    where to listen on 127.0.0.1";

/// The registry of the service `apps`, in the store of that URL.
async fn open(store: &str) -> Result<Registry, BoxError> {
    let builder = if store.starts_with("postgres") {
        let nodes = store.split_whitespace().enumerate();
        let router = nodes.fold(postgres::Router::builder(), |builder, (at, url)| {
            builder.node(format!("node-{at}"), url)
        });
        let router = router.build()?;
        registry::migrate(&router).await?;
        Registry::postgres("apps", router)
    } else {
        Registry::redis("apps", redis::Connection::from_url(store)?)
    };
    Ok(builder.heartbeat(Duration::from_secs(1)).build()?)
}

/// Answers until Ctrl-C, and then first takes itself out.
async fn app(registry: Registry, listener: TcpListener) -> Result<(), BoxError> {
    let address = listener.local_addr()?;
    let hello = async move || format!("{address} served you\n");
    let announcement = registry.announce(format!("http://{address}").parse::<Endpoint>()?);
    println!("app on http://{address}; Ctrl-C drains, kill -9 does not");
    let drain = Drain::builder().settle(Duration::from_secs(1)).build()?;
    let server = drain::serve(
        listener,
        Router::new().route("/", get(hello)),
        drain.clone(),
    );
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
        // Before the port closes: nobody is sent here any more, and those who are here are served.
        if let Err(error) = announcement.drain().await {
            eprintln!("not taken out, fades in some seconds: {error}");
        }
        drain.start();
    };
    let (report, ()) = tokio::join!(server, stop);
    println!("drained; {} requests cut", report.requests_cut);
    Ok(())
}

/// Sends requests to whoever is announced.
async fn edge(registry: Registry, listener: TcpListener) -> Result<(), BoxError> {
    let source = discover::stream(registry.watch()).on_event(|event| match event {
        discover::Event::Updated(change) => println!(
            "{} endpoints: came {:?}, went {:?}",
            change.total, change.added, change.removed
        ),
        event => println!("{event:?}"),
    });
    let upstream = Upstream::builder("apps")
        .discover(source)
        .balance(balance::RoundRobin)
        .breaker(breaker::Config::default())
        .build()?;
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::deadline(Duration::from_secs(5)))
        .layer(RetryLayer::http())
        .service(upstream);
    println!("edge on http://{}", listener.local_addr()?);
    let drain = Drain::builder().settle(Duration::ZERO).build()?;
    let app = Router::new().fallback_service(ReverseProxy::new(client));
    let server = drain::serve(listener, app, drain.clone());
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
        drain.start();
    };
    let (_report, ()) = tokio::join!(server, stop);
    Ok(())
}

async fn run(what: &str, store: &str, port: &str) -> Result<(), BoxError> {
    let port: u16 = port
        .parse()
        .map_err(|_| format!("PORT is {port:?}, which is not a port\n{USAGE}"))?;
    let registry = open(store).await?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    match what {
        "app" => app(registry, listener).await,
        "edge" => edge(registry, listener).await,
        _ => Err(USAGE.into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, store, port] = args.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(what, store, port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("registry-example: {error}");
            ExitCode::FAILURE
        }
    }
}
