//! What the laws have to know of each layer.

mod data;
mod edge;
mod failing;
mod limits;
mod repeat;
mod upstream;

pub(crate) use data::{causal, idempotency, router_to_nowhere, session};
pub(crate) use edge::{
    balance, breaker, breaker_http, deadline, drain, policies, policy, propagate, proxy, timeout,
};
pub(crate) use failing::{chaos, fallback, fallback_answer};
pub(crate) use limits::{
    limit, limit_adaptive, limit_generic, limit_queue, load_shed, rate_limit, throttle,
};
pub(crate) use repeat::{hedge, hedge_generic, retry, retry_generic, retry_grpc};
pub(crate) use upstream::upstream;

use crate::laws::Shared;
use crate::probe::Step;
use crate::subject::Driven;

/// One call through each service is under way: the first one's layer has two.
async fn both_are_in_flight(shared: Shared<'_>) -> Result<bool, String> {
    shared.probe.plan(&[Step::Hold]);
    let mut calls = Vec::new();
    for mut subject in [shared.a, shared.b] {
        subject.ready().await?.map_err(|error| error.to_string())?;
        let mut call = Driven::new(subject.call((shared.request)()));
        let _ = call.turn();
        calls.push(call);
    }
    Ok(shared.bed.given_out() == 2)
}

/// One request through each service; the first one's layer has counted both.
async fn both_are_counted(mut shared: Shared<'_>) -> Result<bool, String> {
    shared.probe.plan(&[Step::Answer(200)]);
    for subject in [&mut shared.a, &mut shared.b] {
        let _ = subject.exchange((shared.request)()).await?;
    }
    Ok(shared.bed.counted() == 2)
}
