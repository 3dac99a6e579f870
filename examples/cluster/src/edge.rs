//! One load balancer: a reverse proxy over the apps, with health checks, outlier ejection, breakers and retries.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::middleware;
use axum::response::Response;
use axum::routing::get;
use clap::Args as ClapArgs;
use ha_core::config::ConfigError;
use ha_tower::proxy::ReverseProxy;
use ha_tower::retry::RetryLayer;
use ha_tower::timeout::TimeoutLayer;
use ha_tower::upstream::{BuildError, Upstream};
use ha_tower::{balance, breaker, discover, health, outlier};
use http::{HeaderName, HeaderValue};
use tower::ServiceBuilder;

use crate::cluster::Defence;
use crate::serve;

/// The header that says which edge served.
pub const EDGE: HeaderName = HeaderName::from_static("x-ha-edge");

/// Two missed checks in a row take an app out, so a bad one gets requests for about a second at most.
const HEALTH_INTERVAL: Duration = Duration::from_millis(750);
const HEALTH_DOUBT: Duration = Duration::from_millis(250);
const HEALTH_TIMEOUT: Duration = HEALTH_INTERVAL;

/// Longer than an app waits for its database, so that the app can say "try again" itself.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Room for three attempts and the pauses between them.
const DEADLINE: Duration = Duration::from_secs(8);

/// What `edge` takes.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Where to listen, as IP:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// The servers behind it: http://HOST:PORT, several with commas or by repeating the flag
    #[arg(long, required = true, value_name = "URL,…", value_delimiter = ',')]
    pub upstream: Vec<String>,
    /// Where to answer questions about the edge itself, as IP:PORT: /livez, /status [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// What the edge calls itself in the x-ha-edge header
    #[arg(long, default_value = "edge", value_name = "NAME")]
    pub name: String,
    /// Switch a defence off, may be repeated; retry and health are the edge's
    #[arg(long, value_enum, value_name = "DEFENCE")]
    pub without: Vec<Defence>,
}

/// Why an edge does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An upstream is not a usable URL.
    #[error("--upstream is refused")]
    Upstream(#[from] discover::FixedError),
    /// The settings make no sense together.
    #[error("the edge cannot be built")]
    Build(#[from] BuildError),
    /// A setting of the retries or of the deadline makes no sense.
    #[error("the edge's client cannot be built")]
    Client(#[from] ConfigError),
    /// The listener could not be opened, or failed.
    #[error(transparent)]
    Serve(#[from] serve::Error),
}

/// Runs an edge until SIGTERM or Ctrl-C.
///
/// # Errors
/// See [`Error`]; it did not start then. Upstreams that are down are no reason not to start.
pub async fn run(args: Args) -> Result<(), Error> {
    serve::log();
    let mut upstream = Upstream::builder("apps")
        .discover(discover::fixed(&args.upstream)?)
        .balance(balance::P2c::peak_ewma())
        .breaker(breaker::Config::default())
        // A check that passes again ends an ejection, so an app that was restarted waits for its checks and not for the 30 s.
        .outlier(outlier::Config::default())
        .attempt_timeout(ATTEMPT);
    if !args.without.contains(&Defence::Health) {
        upstream = upstream.health(
            health::Http::get("/readyz")
                .interval(HEALTH_INTERVAL)
                .transition_interval(HEALTH_DOUBT)
                .timeout(HEALTH_TIMEOUT),
        );
    }
    let upstream = upstream.build()?;

    let listener = serve::bind("--listen", args.listen).await?;
    let admin = match args.admin {
        Some(address) => Some((
            serve::bind("--admin", address).await?,
            questions(upstream.clone()),
        )),
        None => None,
    };
    let drain = serve::drain()?;
    let proxy = if args.without.contains(&Defence::Retry) {
        let client = ServiceBuilder::new()
            .layer(TimeoutLayer::deadline(DEADLINE))
            .service(upstream);
        axum::Router::new().fallback_service(ReverseProxy::new(client))
    } else {
        let client = ServiceBuilder::new()
            .layer(TimeoutLayer::deadline(DEADLINE))
            // The apps keep their side of `Idempotency-Key`, so a POST that carries one may be sent again.
            .layer(RetryLayer::builder().idempotency_key(true).build()?)
            .service(upstream);
        axum::Router::new().fallback_service(ReverseProxy::new(client))
    };
    let name =
        HeaderValue::from_str(&args.name).unwrap_or_else(|_| HeaderValue::from_static("edge"));
    let service = proxy.layer(drain.layer()).layer(middleware::map_response(
        move |mut response: Response| {
            response.headers_mut().insert(EDGE, name.clone());
            std::future::ready(response)
        },
    ));
    Ok(serve::run(listener, service, admin, drain).await?)
}

/// What the admin address answers.
fn questions(upstream: Upstream) -> axum::Router {
    axum::Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route(
            "/status",
            get(|State(upstream): State<Upstream>| async move { Json(upstream.endpoints()) }),
        )
        .with_state(upstream)
}
