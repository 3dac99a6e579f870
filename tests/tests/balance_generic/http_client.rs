use axum::Router;
use axum::body::Body;
use axum::routing::get;
use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, Http, RoundRobin};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt as _};

use super::*;

/// An app that ends with the set.
async fn app(tasks: &mut JoinSet<()>, name: &'static str, fails: Arc<AtomicBool>) -> Endpoint {
    let answer = async move || {
        let answers = !fails.load(Ordering::Relaxed);
        answers.then_some(name).ok_or(StatusCode::BAD_GATEWAY)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", get(answer));
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    endpoint.parse().unwrap()
}

async fn run(breaker: ha_tower::breaker::Config) -> [Tally; 2] {
    let (fails, mut tasks, mut apps) = (Fails::default(), JoinSet::new(), Vec::new());
    for (name, fails) in NAMES.into_iter().zip(&fails) {
        let endpoint = app(&mut tasks, name, fails.clone()).await;
        let authority = endpoint.address.authority().to_owned();
        let aim = move |mut request: Request<Body>| {
            let target = format!("http://{authority}{}", request.uri());
            *request.uri_mut() = target.parse().unwrap();
            request
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        apps.push((
            endpoint,
            ServiceBuilder::new().map_request(aim).service(client),
        ));
    }
    let balance = Balance::builder(apps).policy(RoundRobin).breaker(breaker);
    let balance = balance.protocol(Http).build().unwrap();
    let call = async || {
        let response = balance
            .clone()
            .oneshot(Request::new(Body::empty()))
            .await
            .ok()?;
        let answered = response.status() == StatusCode::OK;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        answered.then(|| String::from_utf8(body.to_vec()).unwrap())
    };
    before_and_after(&fails, call).await
}

#[tokio::test]
async fn an_app_that_answers_502_is_left_alone() {
    assert_left_alone(&run(ha_tower::breaker::Config::default()).await);
}

#[tokio::test]
async fn without_a_breaker_an_app_that_answers_502_keeps_its_share() {
    assert_keeps_its_share(&run(never_trips()).await);
}
