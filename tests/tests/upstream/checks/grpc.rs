use ha_tower::health::Grpc;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::*;

struct GrpcServer {
    addr: SocketAddr,
    reporter: HealthReporter,
    _task: JoinSet<()>,
}

impl GrpcServer {
    async fn start() -> Self {
        let (reporter, service) = tonic_health::server::health_reporter();
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = incoming.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            addr,
            reporter,
            _task: task,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

#[tokio::test]
async fn a_grpc_check_follows_the_health_service_of_a_real_server() {
    let server = GrpcServer::start().await;
    let orders = "shop.Orders";
    server
        .reporter
        .set_service_status(orders, ServingStatus::Serving)
        .await;
    let check = Grpc::service(orders)
        .interval(SHORT)
        .transition_interval(DRIP);
    let mut watched = Watched::start(&server.url(), check);
    let passed = (State::Passing, "Passed".to_owned());
    assert_eq!(watched.next().await, passed);
    server
        .reporter
        .set_service_status(orders, ServingStatus::NotServing)
        .await;
    let not_serving = "the health service says that it does not serve: status 2";
    assert_eq!(
        watched.next().await,
        (State::Failing, not_serving.to_owned())
    );
    server
        .reporter
        .set_service_status(orders, ServingStatus::Serving)
        .await;
    assert_eq!(watched.next().await, passed);
}

#[tokio::test]
async fn a_grpc_check_tells_a_server_that_does_not_know_the_service_from_one_that_is_none() {
    let server = GrpcServer::start().await;
    let first = |url: String, check: Check<Grpc>| async move {
        let check = patient(check).start(Start::FirstPass);
        Watched::start(&url, check).next().await
    };
    let whole = first(server.url(), Grpc::server()).await;
    assert_eq!(whole, (State::Passing, "Passed".to_owned()));
    let unknown = first(server.url(), Grpc::service("shop.Nobody")).await;
    let not_found = "the health service answered with the gRPC status 5";
    assert_eq!(unknown, (State::Failing, not_found.to_owned()));
    let http1 = verdict(says(OK), patient(Grpc::server())).await;
    assert_eq!(http1, (State::Failing, "the exchange broke off".to_owned()));
    let frozen = verdict(silent(), Grpc::server().interval(SHORT)).await;
    let late = "the check was not over within 300ms";
    assert_eq!(frozen, (State::Failing, late.to_owned()));
}
