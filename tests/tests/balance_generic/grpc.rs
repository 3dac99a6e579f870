use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Any, Balance, Grpc, RoundRobin};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::*;

struct Named {
    name: &'static str,
    fails: Arc<AtomicBool>,
}

type Check = Request<HealthCheckRequest>;

#[tonic::async_trait]
impl Health for Named {
    async fn check(&self, _: Check) -> Result<Response<HealthCheckResponse>, Status> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Status::unavailable("told to fail"));
        }
        let mut response = Response::new(HealthCheckResponse { status: 1 });
        let name = MetadataValue::from_static(self.name);
        response.metadata_mut().insert("served-by", name);
        Ok(response)
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(&self, _: Check) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Three servers that end with the set, and a channel to each.
async fn servers(fails: &Fails) -> (JoinSet<()>, Vec<(Endpoint, Channel)>) {
    let (mut tasks, mut channels) = (JoinSet::new(), Vec::new());
    for (name, fails) in NAMES.into_iter().zip(fails) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fails = fails.clone();
        let service = HealthServer::new(Named { name, fails });
        let server = Server::builder().serve_with_incoming(service, TcpIncoming::from(listener));
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
            let name = answer.metadata().get("served-by")?.to_str().ok()?;
            Some(name.to_owned())
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
