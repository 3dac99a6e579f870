//! Which share of the traffic goes to which group of endpoints: priorities, regions, zones, and panic.
//!
//! # Rules, in order
//! 1. Endpoints fall into groups of equal priority, region and, in the caller's own region, zone (own or another). Weight 0
//!    belongs to none. Capacity is counted by weight.
//! 2. A region most of which (by weight) says that it cannot serve is skipped as a whole, its healthy endpoints
//!    included, as long as another region has anything available. When none has, the word of a region decides nothing:
//!    an answer from a sick region is better than none.
//! 3. The health of a priority is `min(1, 1.4 · available / total)`. The lowest number takes its health's share of the
//!    traffic, the next one what is left, and so on. When all together stay below 1, each takes more in proportion.
//! 4. A priority panics when less than half of what passes its active checks is available, and the healths of all
//!    priorities together stay below 1. Then it uses all that pass their active checks: it is more likely that the rest is
//!    overloaded than that most of a fleet is broken. A failing active check is never ignored. Panic changes
//!    who is picked in a priority and not how much it gets, unless nothing is available anywhere.
//! 5. Inside a priority the same ladder goes over regions: the caller's own, then
//!    [`next_regions`](Config::next_regions) in order, then all others at once, by capacity.
//! 6. Inside the caller's own region it goes over zones: the caller's own, then all others at once.
//!
//! The factor 1.4 is Envoy's over-provisioning factor and the rules for priorities and panic are Envoy's, but for two things: an
//! endpoint that fails its active check does not return by panic, and regions are taken in order instead of by the
//! callers' distribution. So own zones first is right for callers that are spread over zones as the endpoints are; a
//! single endpoint in a zone full of callers gets all of their requests.
//!
//! # How it is used
//! A [`Layout`] is made when the set of endpoints changes, [`Shares`] whenever a standing changes: that is one pass over the
//! endpoints without sorting. A pick draws a group with one random number and without allocation, and then picks among
//! the group's members by any policy.
//!
//! ```
//! use ha_core::endpoint::Endpoint;
//! use ha_core::spread::{Config, Layout, Standing};
//!
//! let mut endpoints: Vec<Endpoint> = (1..=4)
//!     .map(|i| format!("http://10.0.0.{i}").parse())
//!     .collect::<Result<_, _>>()?;
//! endpoints[2].priority = 1;
//! endpoints[3].priority = 1;
//! let layout = Layout::new(&Config::default(), &endpoints)?;
//! assert_eq!(*layout.groups()[0].members, [0, 1]);
//!
//! // Half of the first priority is left: it takes 70 %, the next one the rest.
//! let shares = layout.shares(|i| if i == 0 { Standing::Failing } else { Standing::Available });
//! assert!((shares.share(0) - 0.7).abs() < 1e-9);
//! assert_eq!(shares.draw(0), Some(0));
//! assert_eq!(shares.draw(u64::MAX), Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod ladder;
mod layout;
mod shares;

#[cfg(all(test, not(ha_loom)))]
mod tests;

pub use config::Config;
pub use layout::{Group, Layout};
pub use shares::{Shares, Standing};
