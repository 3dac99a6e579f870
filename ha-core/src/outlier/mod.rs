//! Outlier ejection: what real requests say about an endpoint, compared with what they say about the others.
//!
//! An active check asks one question every few seconds; the requests themselves notice an endpoint that passes its check
//! and fails its work. Four detectors watch them:
//!
//! | detector | ejects | default | when |
//! |---|---|---|---|
//! | consecutive failures | after so many 5xx, timeouts or connect failures in a row | 5 | at once |
//! | consecutive connect failures | after so many connections in a row that could not be made | 3 | at once |
//! | success rate | below mean − 1.9 σ of all, and 5 points below the mean; among ≥ 5 endpoints with ≥ 100 requests | on | each interval |
//! | failure ratio | with ≥ 85 % failures; among ≥ 5 endpoints with ≥ 50 requests | on | each interval |
//!
//! # Rules, in the order in which a sweep applies them
//! 1. An ejection whose time is over ends. Whatever was counted before is forgotten.
//! 2. When the set has shrunk so far that more than the cap are ejected, those whose time is over first return.
//! 3. Completed runs of failures eject.
//! 4. When the interval (10 s) is over, all windows are taken, and the detectors that compare eject, the worst first.
//! 5. An endpoint that was not ejected during any part of the interval has one ejection less on its account.
//!
//! An ejection lasts `base_ejection` (30 s) times the number on the account, that one included, and at most
//! `max_ejection` (300 s). It ends early when an active check that failed passes again; a check that passed all the
//! time says nothing, because it did so when the endpoint was ejected.
//!
//! At most 10 % are ejected at a time, though always one where there are two or more. A run of failures that the
//! cap keeps from ejecting is looked at again at the next sweep, unless an active check that failed has passed since: what was
//! counted before that is forgotten, whether it was ejected or not.
//!
//! # How it is run
//! Each request calls [`Counters::record`], which is two relaxed atomic operations while all is well. One task owns the
//! [`Outliers`] and calls [`sweep`](Outliers::sweep) when [`next`](Sweep::next) has come or when `record` returned true.
//! `next` lies always in the future: the task wakes once per interval and once per ejection that ends, and never polls.
//!
//! The detectors and their numbers are those of Envoy's outlier detection, except for `minimum_gap_ratio`: by the deviation
//! alone, one failed request in a hundred ejects an endpoint where the others had none.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//! use ha_core::endpoint::EndpointKey;
//! use ha_core::outlier::{Config, Counters, Outcome, Outliers};
//!
//! let now = Instant::now();
//! let config = Config::default();
//! let hosts: Vec<_> = (0..3).map(|_| Arc::new(Counters::new(&config))).collect();
//! let mut outliers = Outliers::new(config, now)?;
//! outliers.update(hosts.iter().enumerate().map(|(i, c)| (EndpointKey::new(i.to_string()), c.clone())));
//!
//! let complete = (0..5).filter(|_| hosts[0].record(Outcome::Failure)).count();
//! assert_eq!(complete, 1, "the fifth failure in a row asks for a sweep");
//! assert_eq!(outliers.sweep(now).changes.len(), 1);
//! assert!(hosts[0].is_ejected());
//!
//! outliers.sweep(now + Duration::from_secs(30));
//! assert!(!hosts[0].is_ejected());
//! # Ok::<(), ha_core::config::ConfigError>(())
//! ```

mod config;
mod counters;
mod detect;
mod sweep;

#[cfg(test)]
mod tests;

pub use config::{Config, Failure, SuccessRate};
pub use counters::{Counters, Outcome};
pub use sweep::{Cause, Change, Outliers, ReturnCause, Sweep};
