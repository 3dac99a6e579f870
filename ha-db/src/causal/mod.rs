//! Carries each client's [`Token`](crate::postgres::Token) over HTTP, so that a client reads its own writes through any app
//! server.
//!
//! [`CausalLayer`] reads the signed token of the request, puts a [`Causal`](crate::postgres::Causal) context into the request's
//! extensions, and writes the token back when the request has moved it. Handlers use the context through
//! [`Db`](crate::postgres::Db), with axum as an extractor.
//!
//! # Rules
//! 1. A token that is garbled, or signed by a key that is not in the ring, counts as no token: the client is served as one that has
//!    written nothing, and its token is replaced. It is counted ([`CausalLayer::refused`]) and logged at `debug`
//!    (`token refused`, field `reason`). A client cannot cause an error with it.
//! 2. A token of another database cluster is found out where the cluster is known, in
//!    [`Db`](crate::postgres::Db), and replaced by the next answer that has one of this cluster.
//! 3. A request that neither wrote nor saw anything newer changes no token, and its response carries none: no change, no
//!    `Set-Cookie`.
//! 4. The token is written whatever the handler answers, errors included: a request can fail after its transaction.
//!
//! # Layer order
//! Outside of everything that uses the database with causality: [`IdempotencyLayer`](crate::idempotency::IdempotencyLayer) and the
//! handlers. On responses that carry a cookie, caches are told by `Cache-Control: no-store` unless the handler said something
//! about caching itself.
//!
//! # Not promised
//! A cookie holds one value. When two answers to the same browser overtake each other, the one that arrives last
//! wins, and it may know less; the next answer repairs it. A client that uses [`CausalLayer::header`] decides by
//! itself: let it wait for an answer before it asks for what it wrote.

#[cfg(feature = "axum")]
mod extract;
mod future;
mod layer;
mod service;
#[cfg(test)]
mod tests;

#[cfg(feature = "axum")]
pub use extract::MissingCausalLayer;
pub use future::ResponseFuture;
pub use layer::CausalLayer;
pub use service::CausalService;
