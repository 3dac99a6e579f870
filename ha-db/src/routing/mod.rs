//! Which node is what, how far each is, and which may serve what: rules over what probes have seen.
//!
//! Nothing here knows a driver, opens a socket, reads a clock or draws a random number. A shell asks the nodes, hands in what
//! they said with the time at which they said it, and acts on the [`View`](view::View) that comes out. Any store whose log is one
//! line of positions, cut and continued at promotions, can be driven by these rules; the simulated one in `sim` is.
//!
//! # The rules
//! 1. The primary is the reachable node of our cluster that takes writes on the newest timeline ever seen. Timelines never go back
//!    down, not even when the newest one's node is gone.
//! 2. Two of them on one timeline are a tie, and nobody gets writes. It lasts until one of the two is seen to be something
//!    else, leaves the set, or is outbid by a newer timeline: that one of them cannot be reached any more decides nothing.
//!    A standby that was of that timeline then gets no reads until its server is started anew: its branch cannot be told.
//! 3. A standby that has received anything past the point where its timeline was cut is diverged and gets nothing. One of an older
//!    timeline that has not may still come to follow the part that was cut off, so it serves only while there is no primary.
//! 4. What a node is known to have replayed is forgotten when its server restarts or changes timeline.
//! 5. Lag is the age of the oldest position of the primary that a standby has not replayed; without a primary it grows.
//! 6. Two names of one server count once.

pub(crate) mod history;
pub(crate) mod lag;
pub(crate) mod lsn;
pub(crate) mod read;
pub(crate) mod role;
pub(crate) mod topology;
pub(crate) mod view;

#[cfg(test)]
mod sim;
