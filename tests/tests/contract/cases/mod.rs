//! What the laws have to know of each layer.

mod data;
mod edge;
mod repeat;
mod upstream;

pub(crate) use data::{causal, idempotency, router_to_nowhere, session};
pub(crate) use edge::{
    balance, breaker, breaker_http, deadline, drain, policies, policy, propagate, proxy, timeout,
};
pub(crate) use repeat::{hedge, hedge_generic, retry, retry_generic, retry_grpc};
pub(crate) use upstream::upstream;
