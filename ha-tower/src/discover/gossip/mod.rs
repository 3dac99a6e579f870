//! Discovery by gossip between the nodes themselves, without a registry. Feature `gossip`, by the crate `chitchat`.
//!
//! Every app and every edge runs a [`Node`]. An app [announces](Builder::announce) the endpoints it serves: address, weight, priority,
//! locality and metadata. A few times a second each node tells three others what it knows, so that after a few rounds every
//! node knows all, and a [`Source`](super::Source) of the endpoints of one service is there for the asking:
//!
//! ```no_run
//! use ha_tower::discover::gossip::Node;
//! use ha_tower::upstream::Upstream;
//!
//! # async fn run() -> Result<(), tower::BoxError> {
//! // In an app:
//! let app = Node::builder("shop", "10.0.0.5:7946".parse()?)
//!     .seeds(["10.0.0.1:7946", "edges.internal:7946"])
//!     .announce("catalog", "http://10.0.0.5:3000".parse()?)
//!     .join()
//!     .await?;
//!
//! // In an edge:
//! let edge = Node::builder("shop", "10.0.0.1:7946".parse()?)
//!     .seeds(["10.0.0.2:7946"])
//!     .join()
//!     .await?;
//! let upstream = Upstream::builder("catalog").discover(edge.source("catalog")).build()?;
//!
//! // In the app, when it is told to stop: first the others hear of it, then it goes.
//! app.drain().await;
//! // … finish what is in flight, see `ha_tower::drain` …
//! app.leave().await;
//! # drop(upstream);
//! # Ok(())
//! # }
//! ```
//!
//! # Who is in the set
//! - A node that **drains** stays with weight 0: no new picks, and no edge mistakes an announced end for a failure.
//! - A node that is **silent** for about eight times its usual interval is dead, and its endpoints leave the set. Health checks and breakers
//!   are faster; this is what cleans up. When it is heard again, they are back.
//! - A node that **restarts** counts with what it announces since. When two nodes announce the same key, the one that started later
//!   counts; if their addresses differ, that is a failure that listeners hear of as well.
//! - A node cut off from all others sees all of them dead. That would be an empty set, so the last good one stays.
//!
//! An announcement that cannot be read is an [`AnnouncementError`], and the other nodes' endpoints count all the same.
//!
//! # Not promised
//! Messages are UDP, neither encrypted nor signed: whoever reaches the port can announce endpoints, and traffic follows. Run it in
//! a network of its own. The name of the cluster keeps clusters apart that meet by mistake, not by intent.

mod announcement;
mod error;
mod node;

pub use error::{AnnouncementError, Error};
pub use node::{Builder, Node};
