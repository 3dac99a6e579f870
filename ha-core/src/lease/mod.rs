//! A lease: at most one of many holds it, for as long as it renews it.
//!
//! What is promised, for any skew between clocks, any delay, loss or late arrival of messages and any pause of a process:
//! 1. **No two grants have the same [`Fence`], and a later grant of one side has a higher one**, also across failovers that lose the newest
//!    writes, and between two sides that both take writes. Whoever guards a resource refuses a fence below the highest it has seen.
//! 2. **A holder knows that its time is over before anybody else is granted the lease**, as long as the store has one history:
//!    no side takes writes after another has taken over. Asynchronous failover is covered, two primaries are not; then the fence
//!    alone protects.
//!
//! # How
//! No two clocks are compared. A holder's time runs from the moment before it *sent* the renewal, on its own monotonic clock,
//! and ends a margin early. Another may take the lease only after it has itself seen the same record for the whole time, from
//! the moment the first answer *arrived*; the store then compares the record it has seen and swaps it in one step. That leaves
//! the difference in speed of two clocks, which the margin is for. This is the rule of Kubernetes' leader election and of
//! DynamoDB's lock client, with three additions:
//! - The count of grants has the store's *epoch* (PostgreSQL's timeline) in front, which grows with each failover. A count alone is
//!   given out twice when a failover loses a grant.
//! - A record that was seen before a failover says nothing after it: the renewals that followed may be lost. So whoever waits
//!   starts to wait afresh.
//! - A lease that was given back, or never existed, is free at once only if nobody can hold a grant that a failover has lost.
//!
//! # Not promised
//! The first promise needs an epoch that is never used twice. A store that numbers its failovers by what the new side happens to know of
//! (PostgreSQL's timelines, where two standbys are promoted that do not know of each other) can grant a fence twice.
//!
//! A monotonic clock that stands still while the machine is suspended (Linux's does) lets a holder wake up too confident. The
//! fence protects then too: pass it along with everything that is done under the lease.

mod candidate;
mod config;
mod fence;
mod hold;

pub use candidate::{Ask, Candidate, Next};
pub use config::Config;
pub use fence::Fence;
pub use hold::{Due, Hold, Loss};

/// Who asks: a number drawn at random for every attempt to get the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner(pub u128);

/// What a store keeps for each lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// Who was granted it last; nobody after it was given back.
    pub owner: Option<Owner>,
    /// The fence of the last grant.
    pub fence: Fence,
    /// Grows with each renewal, so that a renewed record differs from what was seen before.
    pub beat: u64,
}

/// What a store showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sight {
    /// The store's epoch at that moment: it grows with each failover.
    pub epoch: u32,
    /// Nothing, if there has never been a grant.
    pub record: Option<Record>,
}

/// What a store answers to every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether this very request changed the record.
    pub applied: bool,
    /// The store after it.
    pub sight: Sight,
}

/// The rule by which a store must carry out a take: in one step, only if `seen` is still what it has.
///
/// ```
/// use ha_core::lease::{Fence, Owner, Sight, take};
///
/// let empty = Sight { epoch: 3, record: None };
/// let granted = take(empty, &empty, Owner(7)).expect("it is as it was seen");
/// assert_eq!(granted.fence, Fence::new(3, 0));
/// let now = Sight { epoch: 3, record: Some(granted) };
/// assert_eq!(take(now, &empty, Owner(8)), None, "somebody was faster");
/// ```
#[must_use]
pub fn take(store: Sight, seen: &Sight, owner: Owner) -> Option<Record> {
    (store == *seen).then(|| Record {
        owner: Some(owner),
        fence: store.record.map_or(Fence::new(store.epoch, 0), |record| {
            record.fence.next(store.epoch)
        }),
        beat: 0,
    })
}
