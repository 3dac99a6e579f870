use std::time::Duration;

use ha_core::budget;
use ha_tower::hedge::{Generic, HedgeLayer};
use ha_tower::retry::RetryLayer;
use ha_tower::retry::generic::{GenericLayer, OnError};
use http::Request;

use crate::laws::{Case, Shared};
use crate::probe::{Probe, Step};
use crate::subject::{Bed, Body, Driven, Subject};

/// More than any test here asks for.
const PLENTY: f64 = 1_000.0;
/// Ten in ten seconds, and a fifth of the requests.
const FEW: f64 = 1.0;

fn budget(reserve_per_second: f64) -> budget::Config {
    budget::Config {
        reserve_per_second,
        ..budget::Config::default()
    }
}

/// Retries of requests through the first service leave none for those through the second.
async fn retries_are_used_up(mut shared: Shared<'_>) -> Result<bool, String> {
    shared.probe.plan(&[Step::Fail]);
    for _ in 0..10 {
        let _ = shared.a.exchange((shared.request)()).await?;
    }
    let before = shared.probe.calls();
    let _ = shared.b.exchange((shared.request)()).await?;
    Ok(shared.probe.calls() == before + 1)
}

fn retrying(build: fn(&Probe) -> Bed, scarce: fn(&Probe) -> Bed) -> Case {
    Case {
        steps: &[Step::Fail, Step::Fail, Step::Answer(200)],
        scarce: Some(scarce),
        shared: Some(|shared| Box::pin(retries_are_used_up(shared))),
        ..Case::new(build)
    }
}

pub(crate) fn retry() -> Case {
    fn build(probe: &Probe, reserve: f64) -> Bed {
        let layer = RetryLayer::builder().budget(budget(reserve));
        Bed::layer(probe, layer.build().unwrap())
    }
    Case {
        steps: &[Step::Answer(503), Step::Fail, Step::Answer(200)],
        ..retrying(|probe| build(probe, PLENTY), |probe| build(probe, FEW))
    }
}

pub(crate) fn retry_grpc() -> Case {
    fn build(probe: &Probe, reserve: f64) -> Bed {
        let layer = RetryLayer::grpc_builder().idempotent(|_| true);
        Bed::layer(probe, layer.budget(budget(reserve)).build().unwrap())
    }
    Case {
        steps: &[Step::Answer(503), Step::Fail, Step::Answer(200)],
        ..retrying(|probe| build(probe, PLENTY), |probe| build(probe, FEW))
    }
}

pub(crate) fn retry_generic() -> Case {
    fn build(probe: &Probe, reserve: f64) -> Bed {
        let layer = GenericLayer::builder(OnError).budget(budget(reserve));
        Bed::layer(probe, layer.build().unwrap())
    }
    retrying(|probe| build(probe, PLENTY), |probe| build(probe, FEW))
}

const LATE: Duration = Duration::from_millis(20);

/// How often one request that gets no answer reaches the service while it is hedged.
async fn sent(shared: &Shared<'_>, subject: &mut Subject) -> Result<usize, String> {
    shared.probe.plan(&[Step::Hold]);
    let before = shared.probe.calls();
    subject.ready().await?.map_err(|error| error.to_string())?;
    let mut call = Driven::new(subject.call((shared.request)()));
    drop(call.during(3 * LATE).await);
    Ok(shared.probe.calls() - before)
}

async fn hedges_are_used_up(shared: Shared<'_>) -> Result<bool, String> {
    let (mut a, mut b) = (shared.a.clone(), shared.b.clone());
    for _ in 0..20 {
        sent(&shared, &mut a).await?;
    }
    Ok(sent(&shared, &mut b).await? == 1)
}

fn hedging(build: fn(&Probe) -> Bed, scarce: fn(&Probe) -> Bed) -> Case {
    Case {
        steps: &[Step::Hold, Step::Answer(200)],
        places: 2,
        scarce: Some(scarce),
        shared: Some(|shared| Box::pin(hedges_are_used_up(shared))),
        ..Case::new(build)
    }
}

pub(crate) fn hedge() -> Case {
    fn build(probe: &Probe, reserve: f64) -> Bed {
        let layer = HedgeLayer::builder().after(LATE).budget(budget(reserve));
        Bed::layer(probe, layer.build().unwrap())
    }
    hedging(|probe| build(probe, PLENTY), |probe| build(probe, FEW))
}

pub(crate) fn hedge_generic() -> Case {
    fn build(probe: &Probe, reserve: f64) -> Bed {
        let reads: fn(&Request<Body>) -> bool = |_| true;
        let reads = Generic::when(reads);
        let layer = HedgeLayer::of(reads).after(LATE).budget(budget(reserve));
        Bed::layer(probe, layer.build().unwrap())
    }
    hedging(|probe| build(probe, PLENTY), |probe| build(probe, FEW))
}
