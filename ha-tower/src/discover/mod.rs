//! Where endpoints come from.
//!
//! | source | function | feature |
//! |---|---|---|
//! | a list that never changes | [`fixed`], [`Source::endpoints`] | |
//! | any `Stream` of sets | [`stream`] | |
//! | any [`tower::discover::Discover`](::tower::discover::Discover) | [`tower`](fn@tower) | |
//! | A and AAAA records | [`dns`] | `dns` |
//! | SRV records | [`srv`] | `dns` |
//! | a watched file, TOML or JSON | [`file`](fn@file) | `file` |
//! | gossip between the nodes themselves | [`gossip`] | `gossip` |
//!
//! Each makes a [`Source`], and [`Upstream::builder`](crate::upstream::Upstream::builder)`.discover(..)` follows it until the last
//! clone of the upstream is dropped.
//!
//! # The rules of a set
//! A source delivers whole sets; what changed is worked out here. An endpoint whose key stays keeps its state (latency, health,
//! breaker), whatever else about it changes; a new one starts without history, unless it comes back while requests are still in flight there; one that is gone is **drained**: it gets no new
//! request, those in flight finish, and its idle connections close.
//!
//! A set that is no good never takes the place of a good one, whatever the source:
//! - **An empty set is refused.** A registry that has lost its data, a name server that answers nothing and a file cut to zero bytes
//!   look exactly like "there are no endpoints", and the old endpoints are the better guess: if they are really gone, connecting fails, and
//!   health checks and breakers say so. To take every endpoint out on purpose, give them the weight 0.
//! - **A repeated key is refused**, with the whole set: which of the two was meant cannot be known.
//! - An address with a scheme that the client does not speak is refused.
//!
//! A refused set, and every failure of a source, is an [`Event::Failed`] for the listeners of [`Source::on_event`], and a warning in
//! `tracing`. With the feature `metrics` the counter `ha_discover_events_total` counts the events, with the labels `upstream` and `event`:
//! `updated`, `failed`, `recovered` or `ended`.
//!
//! # Examples
//! ```
//! use ha_tower::{discover, upstream::Upstream};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let sets = futures_util::stream::iter([vec!["http://10.0.0.1:3000".parse()?]]);
//! let source = discover::stream(sets).on_event(|event| println!("{event:?}"));
//! let upstream = Upstream::builder("catalog").discover(source).build()?;
//! # drop(upstream);
//! # Ok::<(), tower::BoxError>(())
//! # })?;
//! # Ok::<(), tower::BoxError>(())
//! ```

#[cfg(feature = "dns")]
mod dns;
mod event;
#[cfg(feature = "file")]
mod file;
mod fixed;
#[cfg(feature = "gossip")]
pub mod gossip;
mod set;
mod source;
mod stream;
mod tower;

#[cfg(feature = "dns")]
pub use dns::{Dns, DnsError, LookupError, dns, srv};
pub use event::{Change, Error, Event};
#[cfg(feature = "file")]
pub use file::{File, FileError, Problem, file};
pub use fixed::{FixedError, fixed};
pub use set::SetError;
pub use source::Source;
pub use stream::{Delivery, stream};
pub use tower::tower;
