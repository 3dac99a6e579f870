//! Circuit breaker: stop calling what does not answer, and find out cheaply when it does again.
//!
//! Closed, it counts. It opens when at least [`failure_ratio`](Config::failure_ratio) of at least
//! [`minimum_calls`](Config::minimum_calls) calls in the window failed, after
//! [`consecutive_failures`](Config::consecutive_failures) in a row or, where [`slow_calls`](Config::slow_calls) are to count, when too many of the
//! calls in the window were slow. Open, it refuses everything for a wait that doubles with
//! each trip in a row and is drawn from a band, so that many clients do not come back in step. After the wait it lets
//! single probes through: [`probes`](Config::probes) successes close it, one failure opens it again for longer. A probe that
//! never comes back holds the place for [`probe_timeout`](Config::probe_timeout) at most.
//!
//! Only a failure is a reason to look at the ratio of failures, and only a slow call at that of slow ones, so a quick success never trips. A result that arrives after the breaker has changed its
//! state is not counted: it speaks of the time before.
//!
//! A breaker is shared by reference. While closed, admitting reads one word and recording changes one, without a lock;
//! refusing while open reads one word. [`try_admit_with`](Breaker::try_admit_with) and [`succeed`](Breaker::succeed) spare a
//! caller its clock reads while all is well.

mod config;
mod machine;
mod types;
mod window;

#[cfg(test)]
mod tests;

pub use config::{Config, SlowCalls};
pub use machine::Breaker;
pub use types::{Outcome, Permit, Rejected, Snapshot, State, Trip};
