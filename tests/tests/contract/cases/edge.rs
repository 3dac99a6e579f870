use std::time::Duration;

use ha_core::endpoint::Endpoint;
use ha_tower::balance::{Balance, Http};
use ha_tower::breaker::{BreakerLayer, Config};
use ha_tower::drain::Drain;
use ha_tower::proxy::ReverseProxy;
use ha_tower::route::{self, Policy, PolicyLayer};
use ha_tower::timeout::{DeadlineLayer, PropagateLayer, TimeoutLayer};

use super::both_are_in_flight;
use crate::laws::{Case, Errors};
use crate::probe::{Probe, Step};
use crate::subject::{Bed, pass};

const FAILURES: u32 = 5;

pub(crate) fn balance() -> Case {
    Case {
        shared: Some(|shared| Box::pin(both_are_in_flight(shared))),
        ..Case::new(|probe| {
            let endpoint: Endpoint = "http://10.0.0.1:3000".parse().unwrap();
            let balance = Balance::builder([(endpoint, probe.clone())])
                .protocol(Http)
                .build()
                .unwrap();
            let counted = balance.clone();
            Bed::service(balance).permits(move || usize::try_from(counted.in_flight()).unwrap())
        })
    }
}

pub(crate) fn breaker() -> Case {
    tripping(|probe| {
        let layer = BreakerLayer::new(Config::default(), Http).unwrap();
        Bed::layer(probe, layer)
    })
}

pub(crate) fn breaker_http() -> Case {
    tripping(|probe| Bed::layer(probe, BreakerLayer::http(Config::default()).unwrap()))
}

/// Failures through the first service open it for the second.
fn tripping(build: fn(&Probe) -> Bed) -> Case {
    Case {
        arrange: Some(|bed, probe| Box::pin(half_open(bed, probe))),
        shared: Some(|mut shared| {
            Box::pin(async move {
                shared.probe.plan(&[Step::Fail]);
                for _ in 0..FAILURES {
                    let _ = shared.a.exchange((shared.request)()).await?;
                }
                let before = shared.probe.calls();
                let _ = shared.b.exchange((shared.request)()).await?;
                Ok(shared.probe.calls() == before)
            })
        }),
        ..Case::new(build)
    }
}

/// Where one probe at a time is let through.
async fn half_open(bed: &Bed, probe: &Probe) {
    probe.plan(&[Step::Fail]);
    for _ in 0..FAILURES {
        let _ = bed.apply().exchange(crate::laws::get()).await.unwrap();
    }
    let mut refused = bed.apply();
    let before = probe.calls();
    drop(refused.exchange(crate::laws::get()).await.unwrap());
    assert_eq!(probe.calls(), before);
    pass(Duration::from_secs(10)).await;
}

pub(crate) fn timeout() -> Case {
    Case::new(|probe| Bed::layer(probe, TimeoutLayer::deadline(Duration::from_secs(30))))
}

pub(crate) fn drain() -> Case {
    Case {
        shared: Some(|shared| Box::pin(both_are_in_flight(shared))),
        ..Case::new(|probe| {
            let drain = Drain::new();
            let layer = drain.layer();
            Bed::layer(probe, layer).permits(move || drain.in_flight())
        })
    }
}

pub(crate) fn proxy() -> Case {
    Case {
        errors: Errors::Answered(502),
        ..Case::new(|probe| Bed::service(ReverseProxy::new(probe.clone())))
    }
}

pub(crate) fn deadline() -> Case {
    Case::new(|probe| Bed::layer(probe, DeadlineLayer::server()))
}

pub(crate) fn propagate() -> Case {
    Case::new(|probe| Bed::layer(probe, PropagateLayer))
}

fn patient() -> Policy {
    let minute = Duration::from_secs(60);
    Policy::builder().deadline(minute).build().unwrap()
}

pub(crate) fn policies() -> Case {
    Case::new(|probe| {
        let table = PolicyLayer::builder().route(route::path("/"), patient());
        Bed::layer(probe, table.build().unwrap())
    })
}

pub(crate) fn policy() -> Case {
    Case::new(|probe| Bed::layer(probe, patient()))
}
