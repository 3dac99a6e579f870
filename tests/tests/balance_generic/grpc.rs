use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Any, Balance, Grpc, RoundRobin};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::health_reporter;

use super::*;

/// Nothing else tells the answers of the health service apart.
const STATUSES: [ServingStatus; 3] = [
    ServingStatus::Serving,
    ServingStatus::NotServing,
    ServingStatus::Unknown,
];

/// Three servers that end with the set, and a channel to each.
async fn servers(fails: &Fails) -> (JoinSet<()>, Vec<(Endpoint, Channel)>) {
    let (mut tasks, mut channels) = (JoinSet::new(), Vec::new());
    for (status, fails) in STATUSES.into_iter().zip(fails) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (reporter, health) = health_reporter();
        reporter.set_service_status("", status).await;
        let fails = fails.clone();
        let may_fail = move |request: Request<()>| {
            let well = !fails.load(Ordering::Relaxed);
            well.then_some(request)
                .ok_or_else(|| Status::unavailable("told to fail"))
        };
        let server = Server::builder()
            .add_service(InterceptedService::new(health, may_fail))
            .serve_with_incoming(TcpIncoming::from(listener));
        tasks.spawn(async move { server.await.unwrap() });
        let channel = Channel::from_shared(url.clone()).unwrap().connect_lazy();
        channels.push((url.parse().unwrap(), channel));
    }
    (tasks, channels)
}

macro_rules! run {
    ($protocol:expr) => {{
        let fails = Fails::default();
        let (_servers, channels) = servers(&fails).await;
        let balance = Balance::builder(channels)
            .policy(RoundRobin)
            .protocol($protocol);
        let client = HealthClient::new(balance.build().unwrap());
        let call = async || {
            let answer = client
                .clone()
                .check(HealthCheckRequest::default())
                .await
                .ok()?;
            let status = answer.into_inner().status;
            let server = STATUSES.iter().position(|s| *s as i32 == status)?;
            Some(NAMES[server].to_owned())
        };
        before_and_after(&fails, call).await
    }};
}

#[tokio::test]
async fn a_server_that_says_unavailable_is_left_alone() {
    assert_left_alone(&run!(Grpc));
}

#[tokio::test]
async fn without_a_look_at_the_status_a_server_that_says_unavailable_keeps_its_share() {
    assert_keeps_its_share(&run!(Any));
}
