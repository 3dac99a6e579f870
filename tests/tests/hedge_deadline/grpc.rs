//! A real gRPC server behind the layer, asked through an upstream.

use std::time::Duration;

use ha_tower::timeout::{DeadlineLayer, TimeoutLayer};
use ha_tower::upstream::Http2;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::codegen::BoxStream;
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::Layer as _;

use crate::upstream;

/// Answers after so long, and says in its metadata what it was told.
struct Slow(Duration);

#[tonic::async_trait]
impl Health for Slow {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        tokio::time::sleep(self.0).await;
        let mut response = Response::new(HealthCheckResponse { status: 1 });
        if let Some(told) = request.metadata().get("grpc-timeout") {
            response.metadata_mut().insert("told", told.clone());
        }
        Ok(response)
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// One call with a patience of so many seconds to a server that takes so long and refuses below a minimum.
async fn call(
    patience: u64,
    takes: Duration,
    minimum: Duration,
) -> Result<Response<HealthCheckResponse>, Status> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        Server::builder()
            .layer(DeadlineLayer::builder().minimum(minimum).build().unwrap())
            .add_service(HealthServer::new(Slow(takes)))
            .serve_with_incoming(TcpIncoming::from(listener))
            .await
            .unwrap();
    });
    let upstream = upstream([url])
        .http2(Http2::prior_knowledge())
        .build()
        .unwrap();
    let client = TimeoutLayer::deadline(Duration::from_secs(patience)).layer(upstream);
    HealthClient::new(client)
        .check(HealthCheckRequest::default())
        .await
}

#[tokio::test]
async fn what_is_left_travels_as_grpc_timeout() {
    let answer = call(20, Duration::ZERO, Duration::from_millis(1))
        .await
        .unwrap();
    let told = answer.metadata().get("told").unwrap().to_str().unwrap();
    let micros: u64 = told.strip_suffix('u').unwrap().parse().unwrap();
    assert!((1..20_000_000).contains(&micros), "{told}");
}

#[tokio::test]
async fn a_server_without_enough_time_refuses_as_deadline_exceeded() {
    let refused = call(10, Duration::ZERO, Duration::from_secs(15)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    assert_eq!(refused.message(), "too little time is left for an answer");
}

#[tokio::test]
async fn a_caller_that_waits_in_vain_gets_deadline_exceeded_too() {
    let late = call(1, Duration::from_secs(60), Duration::from_millis(1)).await;
    let late = late.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(late.message(), "no answer within the deadline");
}
