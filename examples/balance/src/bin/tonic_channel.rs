//! Balances over one `tonic` channel per endpoint, under a generated client.
//!
//! ```console
//! $ cargo run -p balance-examples --bin tonic_channel
//! ```
//!
//! Three servers answer on loopback. One begins to say UNAVAILABLE: after five such answers nobody asks it any more.
//! (`Channel::balance_list` of tonic sees connections and no statuses, and goes on asking.)

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, Grpc, RoundRobin};
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::BoxError;

/// gRPC's standard health service, because its code is generated already; any other service works alike.
struct Named {
    name: &'static str,
    fails: Arc<AtomicBool>,
}

type Check = Request<HealthCheckRequest>;

#[tonic::async_trait]
impl Health for Named {
    async fn check(&self, _: Check) -> Result<Response<HealthCheckResponse>, Status> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(Status::unavailable("not now"));
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

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let [never, c_fails] = [(); 2].map(|()| Arc::<AtomicBool>::default());
    let mut servers = Vec::new();
    for (name, fails) in [("a", &never), ("b", &never), ("c", &c_fails)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let fails = fails.clone();
        let service = HealthServer::new(Named { name, fails });
        tokio::spawn(Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)));
        // Connects when it is first used, and again when the connection is lost.
        let channel = Channel::from_shared(url.clone())?.connect_lazy();
        servers.push((url.parse::<Endpoint>()?, channel));
    }
    let balance = Balance::builder(servers).policy(RoundRobin).protocol(Grpc);
    let client = HealthClient::new(balance.build()?);
    for round in ["all well", "c fails", "c is left alone"] {
        c_fails.store(round != "all well", Ordering::Relaxed);
        let mut tally = BTreeMap::<_, u32>::new();
        for _ in 0..120 {
            let answer = client.clone().check(HealthCheckRequest::default()).await;
            let name = answer.map(|answer| answer.metadata().get("served-by").cloned());
            let name = name.map_err(|status| status.code());
            *tally.entry(format!("{name:?}")).or_default() += 1;
        }
        println!("{round}: {tally:?}");
    }
    Ok(())
}
