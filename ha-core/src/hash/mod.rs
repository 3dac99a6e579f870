//! Sending the same key to the same endpoint: ring hash, Maglev and rendezvous, each with bounded load.
//!
//! A cache behind a balancer is worth most when each key always comes to the same endpoint. Taking the hash modulo the number of
//! endpoints does that until the number changes; then nearly every key moves and every cache is cold at once. The tables here
//! move only the keys that must move.
//!
//! # Rules, in order
//! 1. [`hash_key`] makes one number of the key. It is the same in every process, on every machine and in every version, so
//!    all clients agree. A number from elsewhere does as well: tables mix it once more.
//! 2. The set decides, not the order in which it is named. Endpoints are told apart by their
//!    [`EndpointKey`](crate::endpoint::EndpointKey); the same keys and weights give the same picks. A key that is there twice is refused.
//! 3. Weight 0 gets no picks; else picks are in proportion to the weights, as exactly as the table below says.
//! 4. `pick` names the endpoint that a key belongs to; `candidates` names everyone who gets picks, in the order in which this key
//!    prefers them. The first is the pick. When it is passed over (dead, tried, full), the second is drawn by weight from another number made
//!    of *this key's* hash, so that the keys of one lost endpoint are spread over all others. Walking on to the neighbour in the
//!    table instead hands them all to one, which fails next.
//! 5. [`Bound`] caps each endpoint at `factor` times its share of the requests in flight, so one hot key cannot drown
//!    its endpoint. What is above the cap goes to the next candidate, and comes back as soon as there is room.
//! 6. No pick allocates, locks or changes anything. Tables do not change either: build another one when the set changes.
//!
//! # Which one
//! | | [`Ring`] | [`Maglev`] | [`Rendezvous`] |
//! |---|---|---|---|
//! | pick | `O(1)` expected: one bucket, then about four points | `O(1)`: one read | `O(n)` |
//! | memory | 8 bytes per point, 160 points per unit of weight, 1 to 2 more for the buckets | 4 bytes per entry, 65,537 entries | 16 bytes per endpoint |
//! | new table | `O(points)` | `O(entries · log n)` | `O(n · log n)` |
//! | share of an endpoint | within `1/√points` of its weight (one standard deviation): 8 % with 160, 2 % with 2,500 | within one entry of the table: 1 % up to 655 equal endpoints | exact |
//! | keys moved when one of `n` comes or goes | its share and no other | its share, and up to 1 % of all keys beside | its share and no other |
//! | keys moved by a new weight | only from or to that endpoint | those, and up to 3 % of all keys beside | only from or to that endpoint |
//! | take it for | caches: fewest cold keys on a change | the best spread and the quickest pick | up to some tens of endpoints; k copies |
//!
//! Figures for Maglev are for a table of 65,537 entries and up to a thousand endpoints, measured. "Its share and no other" holds for the ring while the number of points is within
//! [`RingConfig::min_points`] and [`max_points`](RingConfig::max_points).
//!
//! # Sources
//! - Ring: Karger et al., "Consistent Hashing and Random Trees", STOC 1997; many points per endpoint as in ketama (2007).
//! - Maglev: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Here turns
//!   are taken by weight.
//! - Rendezvous: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM ToN 1998; the weighted score
//!   `-w / ln(u)` is Schindelhauer and Schomaker's logarithmic method (SPAA 2005).
//! - Bounded loads: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018. Going on by a new draw and not to the
//!   neighbour: Chen, Coleman and Shrivastava, "Revisiting Consistent Hashing with Bounded Loads", AAAI 2021.

mod bound;
mod candidates;
mod key;
mod maglev;
mod members;
mod rendezvous;
mod ring;

#[cfg(test)]
mod tests;

pub use bound::{Attempt, Bound, Count, Refused};
pub use candidates::Candidates;
pub use key::hash_key;
pub use maglev::{Maglev, MaglevConfig};
pub use rendezvous::Rendezvous;
pub use ring::{Ring, RingConfig};

pub(crate) use key::mix;
pub(crate) use members::seed;
