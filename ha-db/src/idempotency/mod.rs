//! Writes that are applied once, however often they are sent.
//!
//! # The problem
//! A client that sends a `POST` and gets no answer cannot know whether it was applied. Sending it again may order twice; not
//! sending it again may order never. With a key that names the intent, the second sending can be recognized, but only if
//! the memory of the first is exactly as durable as the first itself. A memory beside the database (Redis, a second
//! transaction) is lost or kept independently of the write, and then lies.
//!
//! # What this does
//! The outcome is stored *in the transaction of the write*: [`Store::claim`] opens it as a
//! [`Unit`](crate::postgres::Unit), everything done through the same [`Db`](crate::postgres::Db) joins it, and
//! [`Run::finish`] stores the outcome and commits both. Either both survive a failover or neither does.
//!
//! With the feature `tower`, [`IdempotencyLayer`] does this for HTTP, as in the IETF draft
//! *The Idempotency-Key HTTP Header Field*:
//!
//! | request | answer |
//! |---|---|
//! | without `Idempotency-Key`, or `GET`, `HEAD`, `OPTIONS`, `TRACE` | the handler's, untouched |
//! | first with this key | the handler's, stored with its writes |
//! | again | the stored one: status, headers and body byte for byte, with `Idempotency-Replayed: true` |
//! | again, while the first still runs | waits for it (2 s), then `409` with `Retry-After` |
//! | same key, other method, path, query, content type or body | `422` |
//! | malformed key, two keys, more than 255 characters | `400` |
//! | body over the cap (1 MiB) | `413` |
//! | handler answers `5xx`, `408`, `425` or `429`, fails, panics, is cancelled | rolled back, nothing stored; the next try starts afresh |
//! | no primary, or the connection broke before the commit | `503` with `Retry-After`; nothing was changed |
//! | an earlier acknowledged write of this client was lost | `503` once, which says so; nothing was changed |
//! | the connection broke during the commit | `503` with `Retry-After`: the next try finds out |
//!
//! # Rules to know
//! - Only what goes through [`Db`](crate::postgres::Db) (or [`Run::unit`]) is part of the transaction.
//!   [`Router::write`](crate::postgres::Router::write) and other connections are not, nor are calls to other services.
//! - A statement that fails outside of a [`Db::transaction`](crate::postgres::Db::transaction) spoils the whole unit, as in any
//!   PostgreSQL transaction. If the handler then answers with an error, that is passed on and nothing is stored; if it
//!   claims success, the answer becomes `500`, because its writes are gone.
//! - Keys belong to a *scope*, by [`Builder::scope`] usually the signed-in user: one user's key can neither collide with nor
//!   fetch another's. Without a scope all clients share one.
//! - `Set-Cookie` is neither stored nor replayed: a cookie is often a credential, and whoever presents the key would get
//!   it. Layers outside of this one (session, causal token) add theirs to a replayed answer as to any other. Hop-by-hop
//!   headers, `Date` and `Content-Length` are made anew.
//! - Stored outcomes expire after 24 h. Expired rows are deleted by a background task of the layer, 500 at a time with
//!   `SKIP LOCKED`, on whichever app server comes first.
//! - The guarantee is as good as the database's: with asynchronous replication a failover can lose the write together with its
//!   outcome. The retry then applies it again, which is right; a client that already has the answer will not retry.
//!
//! The table is created by [`migrate`], which every app server may call at start.
//!
//! ```no_run
//! # #[cfg(feature = "tower")]
//! # async fn example(router: ha_db::postgres::Router, keys: ha_core::sign::KeyRing) -> Result<(), Box<dyn std::error::Error>> {
//! use ha_db::causal::CausalLayer;
//! use ha_db::idempotency::{self, IdempotencyLayer};
//!
//! idempotency::migrate(&router).await?;
//! let app: axum::Router = axum::Router::new()
//!     // .route("/orders", post(add_order))
//!     .layer(IdempotencyLayer::new(router.clone()))  // inner
//!     .layer(CausalLayer::cookie(keys));             // outer: needed, carries the unit to the handler
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    not(feature = "tower"),
    doc = "\n[`IdempotencyLayer`]: crate#features\n[`Builder::scope`]: crate#features"
)]

#[cfg(feature = "tower")]
mod answer;
#[cfg(feature = "tower")]
mod body;
mod error;
mod fingerprint;
#[cfg(feature = "tower")]
mod future;
mod key;
#[cfg(feature = "tower")]
mod layer;
#[cfg(feature = "tower")]
mod problem;
mod schema;
#[cfg(feature = "tower")]
mod service;
mod store;

pub use ha_core::config::ConfigError;

#[cfg(feature = "tower")]
pub use body::ResponseBody;
pub use error::Error;
pub use fingerprint::Fingerprint;
#[cfg(feature = "tower")]
pub use future::ResponseFuture;
pub use key::{Key, KeyError, MAX_KEY_LEN};
#[cfg(feature = "tower")]
pub use layer::{Builder, IdempotencyLayer};
pub use schema::migrate;
#[cfg(feature = "tower")]
pub use service::IdempotencyService;
pub use store::{Claim, Run, Settings, Store};
