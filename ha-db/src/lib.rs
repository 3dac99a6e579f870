//! Connections to replicated stores that stay right while nodes come and go.
//!
//! # The problem
//! A replicated database survives the loss of a node; the services in front of it mostly do not. Pools keep connections to
//! what was the primary, reads from a replica miss what the same user wrote a moment ago, a frozen server holds requests
//! until they time out, and after a failover nobody can tell a client that its acknowledged write is gone. A `POST` whose
//! answer was lost may have been applied or not. This crate owns every connection to the store and answers for these.
//!
//! # What is promised
//! 1. **Writes go to the primary of the newest timeline, and to no other node that would take them**
//!    ([`postgres::Router`]). They wait for one, up to a deadline.
//! 2. **Reads show what their client wrote and do not go back in time**, mostly from replicas: a signed token says how far a
//!    replica must be ([`postgres::Token`]; over HTTP with `causal::CausalLayer`).
//! 3. **Reads go on while there is no primary**, from replicas that can prove themselves.
//! 4. **An outcome is what it says**: not sent, rolled back, applied, or unknown ([`postgres::Error`]). What the server
//!    acknowledged is never reported as failed; what a failover cut off is reported as lost.
//! 5. **A write under an idempotency key is applied once**, however often it is sent ([`idempotency`]).
//! 6. **A lease is held by one at a time** as long as one side takes writes, and its fencing token only grows, as long as no two promotions take
//!    the same timeline ([`lease`]).
//! 7. **Redis commands go to the master** that the Sentinels or the cluster agree on (`redis::Connection`).
//! 8. **Every wait has a deadline**, also on a frozen server before a connection is lent. A query of yours on one that
//!    freezes ends when the node has been silent for `cut_after` (3 s).
//!
//! # What is not
//! - Promotion and fencing belong to the cluster manager (Patroni, CloudNativePG, a cloud's own). A partitioned primary whose
//!   successor cannot be seen still looks like one.
//! - Replication is the server's. An asynchronous failover can lose acknowledged writes; set up synchronous commit where
//!   that must not be.
//! - A query that fails under you is yours to send again: the crate does not know what it did. The errors say what is safe.
//! - Connections to PostgreSQL are made in plain text unless `tls` is on and `postgres::Builder::tls` is given.
//!
//! # A service in twenty lines
//!
//! ```no_run
//! # #[cfg(feature = "axum")]
//! # mod service {
//! use axum::{Router, routing::post};
//! use ha_core::sign::{Key, KeyRing};
//! use ha_db::causal::CausalLayer;
//! use ha_db::idempotency::{self, IdempotencyLayer};
//! use ha_db::postgres::{self, Db};
//!
//! async fn add(db: Db, text: String) -> Result<(), postgres::Error> {
//!     let tx = db.transaction().await?; // on the primary; with a key, inside the transaction that stores the answer
//!     tx.execute("INSERT INTO notes VALUES ($1)", &[&text]).await?;
//!     tx.commit().await.map(drop)
//! }
//!
//! async fn count(db: Db) -> Result<String, postgres::Error> {
//!     let conn = db.read().await?; // a replica that shows what this client wrote
//!     Ok(conn.query_one("SELECT count(*) FROM notes", &[]).await?.get::<_, i64>(0).to_string())
//! }
//!
//! # #[tokio::main]
//! pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let db = postgres::Router::builder()
//!         .node("a", "host=10.0.0.1 dbname=app user=app")
//!         .node("b", "host=10.0.0.2 dbname=app user=app")
//!         .build()?;
//!     idempotency::migrate(&db).await?;
//!     let app = Router::new()
//!         .route("/notes", post(add).get(count))
//!         .layer(IdempotencyLayer::new(db.clone()))
//!         .layer(CausalLayer::cookie(KeyRing::from(Key::from_base64(&std::env::var("APP_KEY")?)?)))
//!         .with_state(db);
//!     Ok(axum::serve(tokio::net::TcpListener::bind("0.0.0.0:3000").await?, app).await?)
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! # The order of layers
//! From the outside in: drain, session, `CausalLayer`, `IdempotencyLayer`, handlers. The causal layer is outside of the
//! idempotency layer because it carries the unit of work to the handler, and because a replayed answer needs a token too.
//!
//! # Features
//! | feature | default | brings |
//! |---|---|---|
//! | `postgres` | no | [`postgres`], [`idempotency`], [`lease`], `notify`, `registry` in PostgreSQL |
//! | `redis` | no | `redis`, `registry` in Redis |
//! | `tls` | no | `tls`: encrypted links to PostgreSQL and Redis |
//! | `tower` | no | `causal::CausalLayer`, `idempotency::IdempotencyLayer`; turns `postgres` on |
//! | `metrics` | no | counters and gauges of the [PostgreSQL router](postgres) through the `metrics` facade |
//! | `axum` | no | the `Db` extractor, `postgres::Error` as a response; turns `tower` on |
//!

#![cfg_attr(
    not(feature = "postgres"),
    doc = "[`postgres`]: #features\n[`postgres::Router`]: #features\n[`postgres::Token`]: #features\n[`postgres::Error`]: #features\n[`idempotency`]: #features\n[`lease`]: #features"
)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(feature = "postgres")]
mod routing;

#[cfg(feature = "postgres")]
pub mod postgres;

#[cfg(feature = "tower")]
pub mod causal;

#[cfg(feature = "postgres")]
pub mod idempotency;

#[cfg(feature = "postgres")]
pub mod lease;

#[cfg(feature = "postgres")]
mod migrate;

#[cfg(feature = "tower")]
mod problem_document;

#[cfg(feature = "postgres")]
pub mod notify;

#[cfg(feature = "redis")]
pub mod redis;

#[cfg(any(feature = "postgres", feature = "redis"))]
pub mod registry;

#[cfg(feature = "tls")]
pub mod tls;
