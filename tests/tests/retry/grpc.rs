//! Calls of gRPC through `tonic`, over real HTTP/2.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ha_tower::body::Replay;
use ha_tower::retry::{Builder, RetryLayer};
use http::Request as HttpRequest;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::{Layer as _, ServiceBuilder};

type Check = Request<HealthCheckRequest>;

/// Fails so in turn, and then answers. Notes how many attempts came before each, as it is told.
#[derive(Clone, Default)]
struct Scripted {
    failures: Arc<Mutex<VecDeque<Status>>>,
    told: Arc<Mutex<Vec<Option<String>>>>,
}

#[tonic::async_trait]
impl Health for Scripted {
    async fn check(&self, request: Check) -> Result<Response<HealthCheckResponse>, Status> {
        let told = request.metadata().get("grpc-previous-rpc-attempts");
        let told = told.map(|value| value.to_str().unwrap().to_owned());
        self.told.lock().unwrap().push(told);
        match self.failures.lock().unwrap().pop_front() {
            Some(status) => Err(status),
            None => Ok(Response::new(HealthCheckResponse { status: 1 })),
        }
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(&self, _: Check) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

fn pushback(code: Code, millis: &'static str) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("grpc-retry-pushback-ms", millis.parse().unwrap());
    Status::with_metadata(code, "not now", metadata)
}

/// What one call gave, how often it was made, and what the server was told.
async fn call(
    builder: Builder,
    failures: impl IntoIterator<Item = Status>,
) -> (Result<(), Code>, Vec<Option<String>>) {
    let server = Scripted::default();
    server.failures.lock().unwrap().extend(failures);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = HealthServer::new(server.clone());
    let serving = Server::builder().serve_with_incoming(service, TcpIncoming::from(listener));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { serving.await.unwrap() });

    let channel = Channel::from_shared(url).unwrap().connect_lazy();
    let channel = ServiceBuilder::new()
        .map_request(|request: HttpRequest<Replay<Body>>| request.map(Body::new))
        .service(channel);
    let layer = builder.build().unwrap();
    let mut client = HealthClient::new(layer.layer(channel));
    let answer = client.check(HealthCheckRequest::default()).await;
    let told = server.told.lock().unwrap().clone();
    (answer.map(drop).map_err(|status| status.code()), told)
}

fn declared() -> Builder {
    RetryLayer::grpc_builder().idempotent(|call| call.uri.path().ends_with("/Check"))
}

fn told(before: &[&str]) -> Vec<Option<String>> {
    let first = [None];
    let others = before.iter().map(|number| Some((*number).to_owned()));
    first.into_iter().chain(others).collect()
}

#[tokio::test]
async fn a_declared_call_survives_a_server_that_is_unavailable_twice() {
    let twice = [Status::unavailable("a"), Status::unavailable("b")];
    assert_eq!(call(declared(), twice).await, (Ok(()), told(&["1", "2"])));
}

#[tokio::test]
async fn what_is_not_declared_and_what_is_no_reason_is_passed_on() {
    let unavailable = || Status::unavailable("once");
    let undeclared = RetryLayer::grpc_builder();
    let passed_on = (Err(Code::Unavailable), told(&[]));
    assert_eq!(call(undeclared, [unavailable()]).await, passed_on);

    let aborted = || [Status::aborted("once")];
    let passed_on = (Err(Code::Aborted), told(&[]));
    assert_eq!(call(declared(), aborted()).await, passed_on);
    let chosen = declared().codes([Code::Unavailable, Code::Aborted]);
    assert_eq!(call(chosen, aborted()).await, (Ok(()), told(&["1"])));
}

#[tokio::test]
async fn the_server_says_when_and_whether() {
    let started = Instant::now();
    let later = [pushback(Code::ResourceExhausted, "300")];
    assert_eq!(call(declared(), later).await, (Ok(()), told(&["1"])));
    assert!(started.elapsed() >= Duration::from_millis(300));

    for (code, wish) in [(Code::Unavailable, "-1"), (Code::Unavailable, "soon")] {
        let passed_on = (Err(code), told(&[]));
        assert_eq!(call(declared(), [pushback(code, wish)]).await, passed_on);
    }
}
