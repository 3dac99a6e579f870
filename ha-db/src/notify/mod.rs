//! `LISTEN` that survives a failover, and says when something may have been missed.
//!
//! # The problem
//! PostgreSQL delivers notifications to whoever listens at that moment, on the primary, over one connection. When that connection
//! ends, or freezes, or belongs to a node that is no longer the primary, nothing comes any more and nothing says so: a cache that is cleared by
//! notifications serves old entries for good.
//!
//! # What is promised
//! - A [`Subscription`] listens on the primary that the [`Router`](crate::postgres::Router) names, and moves when that changes. A connection that
//!   does not answer is given up, after a second and the router's `probe_timeout`.
//! - **No gap is silent.** As soon as it is known that nothing is heard, [`Event::Interrupted`] comes; once it is listened again,
//!   [`Event::MayHaveMissed`]. What is committed after that moment will be heard of, so whoever reads its state anew on that event has lost nothing.
//! - **The queue is bounded.** What a slow reader has no room for is dropped, and [`Missed::Overflow`] says how many, as soon as there is room.
//!
//! # What is not
//! Nothing is replayed: PostgreSQL keeps no notifications. A notification that was acknowledged to its sender and lost with a primary that
//! had not replicated is lost; the event says so. PgBouncer in transaction mode cannot carry `LISTEN`.
//!
//! ```no_run
//! use futures_util::StreamExt as _;
//! use ha_db::notify::{Event, Subscription};
//!
//! # async fn example(router: ha_db::postgres::Router) -> Result<(), Box<dyn std::error::Error>> {
//! let mut events = Subscription::builder(&router).channel("prices").build()?;
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Notification { payload, .. } => println!("forget {payload}"),
//!         Event::Interrupted => println!("trust nothing"),
//!         Event::MayHaveMissed(_) => println!("forget everything, and trust again"),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod listen;
mod outbox;
mod subscription;

pub use outbox::{Event, Missed};
pub use subscription::{Builder, Subscription};
