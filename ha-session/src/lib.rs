//! Sessions for stateless app servers: any server answers any request, and no single failure signs anybody out or loses
//! an acknowledged write.
//!
//! # The problem
//!
//! The usual session store reads one blob, changes it and writes it back, under the id that the client sent, and takes
//! "no answer" for "no session". Then
//! - two requests at the same time lose one's changes: the last blob wins;
//! - a slow request that ends after the sign-out writes the session back, and the user is signed in again;
//! - an outage of the store looks like an empty session, whose first write replaces the real one;
//! - whatever Redis had acknowledged and not replicated is gone after a failover.
//!
//! # What is promised
//!
//! 1. **Unknown is not gone.** A store has three answers: found, gone for certain, and unknown. On unknown the client gets
//!    503 with `Retry-After` and keeps its cookie; nothing is started, written or cleared. An app may opt in to show a few values
//!    from a copy that the client carries ([`Degraded`]).
//! 2. **Changes merge.** A commit is a patch of the names that changed, applied in one atomic step. Requests that change
//!    different names never lose each other's changes; for the same name [`OnConflict`] says who wins, name by name if need be.
//! 3. **Gone stays gone.** The patch of a slow request is dropped when the session ended under it, and its client gets
//!    409. Which came first is told by two durations on one clock each, never by comparing clocks.
//! 4. **Nothing is acknowledged that is not stored.** The commit happens after the handler and before the answer; if it
//!    fails the client gets 503 instead of the handler's answer.
//! 5. **No acknowledged change is lost** by losing, flushing or failing over Redis, at [`Level::Durable`], the default of
//!    [`Tiered`]; nor by losing a PostgreSQL node that has a synchronous standby.
//! 6. **An id that somebody else knows gains nothing.** New sessions never take an id from the request, and
//!    [`Session::rotate`] moves a session in one step with the changes of the request: the old id then shows the values from
//!    before for [`ROTATION_GRACE`] and takes no writes.
//! 7. **Reading is cheap.** No cookie: the store is not asked. Session not used by the handler: not asked either. Only
//!    changed: not read. Only read: nothing written, except for extending the idle window once a tenth of it has passed. No
//!    change: no `Set-Cookie`. The id is sent when it changes, the version of what changed in a cookie of its own.
//! 8. **Time is the store's.** Both limits of [`Expiry`] are kept on the store's clock; skewed app servers do not matter.
//! 9. **Secrets stay secret.** Ids have 192 random bits; stores see their SHA-256 only, logs a keyed hash of that. The cookie is
//!    `__Host-id`, signed or encrypted, `Secure`, `HttpOnly`, `SameSite=Lax`, `Path=/`; attributes that a browser would refuse
//!    are refused when the layer is built ([`CookieConfig`]). Keys rotate with [`KeyRing`].
//! 10. **Everywhere is everywhere.** [`Session::set_principal`] says whose a session is. [`Session::sessions`] lists the
//!     sessions of a user, [`Session::revoke`] ends one, and [`Session::revoke_all`] ends all of them in one step that no
//!     sign-in under way slips past: one that began before it is refused with 503, stores nothing, and the client sends it again.
//! 11. **Bad input is no session.** A garbled cookie, one of another key, one without a signature: all count as no cookie,
//!     without an error, a panic or a question to the store. They say nothing about any session, and the first
//!     session that the request starts replaces them.
//!
//! # What is not promised
//!
//! - Two changes of one *value* do not merge: `get`, add one, `insert` in two requests at once counts one. Use a name per
//!   thing, [`OnConflict::Refuse`], or a database.
//! - [`Level::Cache`], and [`RedisStore`] alone, lose what Redis loses: a failover drops the last moments, also of a sign-out,
//!   and a flush drops everything.
//! - A 503 for a write does not say that it was not stored: the store may have done it without being able to say so. Sending it
//!   again is safe, since a patch applied twice is the same as once. The exception is a rotation whose answer was lost: the
//!   old id is void, nobody has the new one, and the user signs in again.
//! - Sessions are not encrypted in the store. The cookie holds no data, only the id and a version.
//! - The holder of a *copy* of the cookie may see a session for some seconds after its sign-out in rare double failures;
//!   [`Tiered`] says in which, and how to bound it.
//! - Which came first, a sign-in or a revocation, is told by the store's clock. A primary that takes over between the two with a
//!   clock that is minutes ahead may take a sign-in under way for a later one.
//! - The commit happens once the handler has returned its answer; what a streamed body or a socket does to the session later must be
//!   committed with [`Session::commit`], and can neither start a session nor rotate its id: the cookie would have left already.
//! - A handler that panics has changed nothing, except that a sign-out which it asked for is carried out.
//!
//! # Which store promises what
//!
//! | store | survives | does not survive | acknowledged means |
//! |---|---|---|---|
//! | [`MemoryStore`] | nothing; one process | restart | in memory |
//! | [`RedisStore`], [`Tiered`] at [`Level::Cache`] | restart of app servers | flush; failover drops the last moments | in the master's memory |
//! | [`Tiered`] at [`Level::Replicated`] with all replicas | failover of Redis | flush | in the memory of so many replicas |
//! | [`PostgresStore`] | as PostgreSQL is set up: with a synchronous standby, any node | | committed |
//! | [`Tiered`] at [`Level::Durable`] | the above, and reads survive PostgreSQL's outage | | committed in PostgreSQL |
//! | [`Tiered`] at [`Level::DurableOrJournal`] | the above, and writes of values survive PostgreSQL's outage | in that outage, this machine's disk together with Redis | committed in PostgreSQL, or in Redis and synced to this machine's disk |
//!
//! | outage | reads | writes | signed out |
//! |---|---|---|---|
//! | Redis, at `Durable` | PostgreSQL | go on | nobody |
//! | PostgreSQL, at `Durable` | Redis, for sessions that it holds | 503 | nobody |
//! | PostgreSQL, at `DurableOrJournal` | Redis, for sessions that it holds | go on; sign-ins 503 | nobody |
//! | the primary, without Redis | a replica, where the cookie's version proves that it is new enough | 503 | nobody |
//! | all of it | 503 | 503 | nobody |
//!
//! # Example
//!
//! ```
//! # #[cfg(feature = "axum")] mod example {
//! use axum::{Router, routing::{get, post}};
//! use ha_session::{Key, KeyRing, MemoryStore, Session, SessionError, SessionLayer};
//!
//! async fn add(session: Session) -> Result<String, SessionError> {
//!     let items = session.get::<u32>("items").await?.unwrap_or(0) + 1;
//!     session.insert("items", items)?; // stored before the answer leaves
//!     Ok(format!("{items} in the cart"))
//! }
//!
//! async fn sign_in(session: Session) -> Result<(), SessionError> {
//!     session.insert("user", "ann")?;
//!     session.rotate(); // a new id for the new rights, in the same step
//!     Ok(())
//! }
//!
//! async fn sign_out(session: Session) {
//!     session.destroy();
//! }
//!
//! # pub fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! // In production: Tiered::new(RedisStore::new(redis), PostgresStore::new(router)).
//! let store = MemoryStore::new();
//! let keys = KeyRing::new(Key::from_bytes(&[7; 32])?, [/* the keys before this one */]);
//! let app: Router = Router::new()
//!     .route("/cart", post(add))
//!     .route("/sign-in", post(sign_in))
//!     .route("/sign-out", post(sign_out))
//!     .layer(SessionLayer::new(store, keys)); // .insecure_localhost() for http://localhost
//! # Ok(app)
//! # }
//! # }
//! # #[cfg(feature = "axum")] #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use tower::ServiceExt;
//! # let request = http::Request::post("/cart").body(axum::body::Body::empty())?;
//! # let answer = example::app()?.oneshot(request).await?;
//! # assert_eq!(answer.status(), 200);
//! # assert!(answer.headers()["set-cookie"].to_str()?.starts_with("__Host-id="));
//! # Ok(()) }
//! # #[cfg(not(feature = "axum"))] fn main() {}
//! ```
//!
//! Without axum the handle is the request extension [`Session`].
//!
//! # Where the layer goes
//!
//! Outside: what sheds load, deadlines, request ids. Inside: causal tokens, idempotency keys, the handlers. An idempotency layer
//! inside replays an answer without running the handler, so such a handler should set in the session only what may be set
//! again or not at all.
//!
//! # Features
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `axum` | no | [`Session`] as extractor, [`SessionError`] as answer |
//! | `redis` | no | [`RedisStore`] |
//! | `postgres` | no | [`PostgresStore`] |
//! | `redis` and `postgres` | no | [`Tiered`] |
//! | `journal` | no | [`Level::DurableOrJournal`]: writes go on while PostgreSQL is away |
//! | `conformance` | no | the laws of a [`Store`], for tests of a store of your own |
//! | `tower-sessions-014`, `tower-sessions-015` | no | a store behind tower-sessions' `SessionStore`, and with 0.14 behind axum-login 0.18 |
//! | `migrate-tower-sessions` | no | sessions that tower-sessions left in Redis and PostgreSQL go on |
//! | `metrics` | no | the metrics below, through the metrics facade |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `ha_session_store_total` | `operation` (`load`, `commit`, `destroy`, `touch`, `list`, `revoke`, `revoke_all`), `outcome` (`found`, `gone`, `committed`, `superseded`, `overtaken`, `conflict`, `too_large`, `done`, `unknown`) | counter: answers of the store |
//! | `ha_session_store_seconds` | `operation` | histogram: how long they took |
//! | `ha_session_degraded_total` | | counter: requests that saw the copy that their client carried |
//! | `ha_session_refused_total` | `status` | counter: answers of the layer instead of the handler's |
//!
//! # Log events and spans
//!
//! Target `ha_session`. The layer names a session by [`Session::log_id`], in the field `session`: a keyed hash, which leads from a
//! log neither to the cookie nor to the entry in the store. Span `session_store` (debug) with `operation` and `session` around each
//! conversation with the store. Events: `session state unknown` (warn, with `degraded`), `session failed the request` (warn), `session
//! changes made after the answer were never committed` (warn), `copied session not deleted where it was` (warn), `session not touched`
//! (debug); and of the stores, inside that span, `redis lost acknowledged session changes`, `postgresql lost acknowledged session
//! changes`, `redis was not told of a sign-out` and `too many sign-outs wait for redis, this one is dropped` (warn);
//! of a journal `a part of the session journal is skipped`, `a change from the session journal is dropped, its session has ended
//! elsewhere`, `journal segment not begun` and `journal segment not removed` (warn).
//!
//! [`KeyRing`]: crate::KeyRing

#![cfg_attr(not(feature = "redis"), doc = "[`RedisStore`]: #features")]
#![cfg_attr(not(feature = "postgres"), doc = "[`PostgresStore`]: #features")]
#![cfg_attr(
    not(all(feature = "redis", feature = "postgres")),
    doc = "[`Tiered`]: #features\n[`Level::Durable`]: #features\n[`Level::Cache`]: #features\n[`Level::Replicated`]: #features"
)]
#![cfg_attr(
    not(feature = "journal"),
    doc = "[`Level::DurableOrJournal`]: #features"
)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(any(feature = "tower-sessions-014", feature = "tower-sessions-015"))]
pub mod adapter;
#[cfg(feature = "axum")]
mod axum;
mod conflict;
#[cfg(feature = "conformance")]
pub mod conformance;
mod cookie;
mod engine;
mod error;
mod expiry;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod id;
mod middleware;
#[cfg(feature = "migrate-tower-sessions")]
pub mod migrate_from;
mod observe;
mod principal;
mod record;
mod session;
mod store;
mod value;

#[doc(no_inline)]
pub use ha_core::sign::{Key, KeyRing};

#[cfg(feature = "axum")]
pub use self::axum::MissingLayer;
pub use self::conflict::OnConflict;
pub use self::cookie::{CookieConfig, Degraded, Lifetime, Prefix, Protection, SameSite};
pub use self::error::{ConfigError, SessionError};
pub use self::expiry::Expiry;
pub use self::id::SessionKey;
pub use self::middleware::{ResponseFuture, SessionLayer, SessionLayerBuilder, SessionService};
pub use self::principal::{Claim, Owner, Principal, SessionInfo};
pub use self::record::{Change, FORMAT, Patch, Record, Value, Version};
pub use self::session::{OnServerError, Session};
#[cfg(feature = "redis")]
pub use self::store::RedisStore;
#[cfg(feature = "postgres")]
pub use self::store::{Cleaner, MigrateError, Pace, PostgresStore};
pub use self::store::{
    Commit, Ending, Gone, Load, MAX_LISTED, MemoryStore, Outcome, ROTATION_GRACE, Store, StoreError,
};
#[cfg(feature = "journal")]
pub use self::store::{Journal, JournalError, JournalStatus};
#[cfg(all(feature = "redis", feature = "postgres"))]
pub use self::store::{Level, Tiered};
pub use self::value::ValueFormat;
