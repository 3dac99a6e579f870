use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::Config;
use super::counters::Counters;
use super::detect::{self, Host};
use crate::config::ConfigError;
use crate::endpoint::EndpointKey;
use crate::health;

/// Why an endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cause {
    /// Failures in a row.
    ConsecutiveFailures,
    /// Connections in a row that could not be made.
    ConsecutiveConnectFailures,
    /// Far fewer successes than the others.
    SuccessRate,
    /// Nearly nothing but failures.
    FailureRatio,
}

/// Why an ejection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ReturnCause {
    /// Its time was over.
    Time,
    /// An active check that failed passes again.
    Check,
    /// The set has shrunk, and more than the cap were ejected.
    Cap,
}

/// What happened to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// No requests until the time is over, except in panic.
    Ejected {
        /// Which.
        key: EndpointKey,
        /// Why.
        cause: Cause,
        /// When its time is over.
        until: Instant,
        /// The factor by which this ejection is longer than the first.
        times: u32,
    },
    /// It takes requests again.
    Returned {
        /// Which.
        key: EndpointKey,
        /// Why.
        cause: ReturnCause,
    },
}

/// The result of [`Outliers::sweep`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sweep {
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// How many ejections the cap prevented.
    pub spared: usize,
    /// When to sweep again, if no call of [`Counters::record`] asks for it before. Later than `now`.
    pub next: Instant,
}

/// Decides who is ejected. See the [module](super).
#[derive(Debug)]
pub struct Outliers {
    config: Config,
    interval_ends: Instant,
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    key: EndpointKey,
    counters: Arc<Counters>,
    until: Option<Instant>,
    // Ejections on its account.
    times: u32,
    // Was not ejected during any part of this interval.
    clean: bool,
}

impl Watched {
    fn returns(&mut self, cause: ReturnCause) -> Change {
        self.until = None;
        self.counters.forget();
        self.counters.set_ejected(false);
        Change::Returned {
            key: self.key.clone(),
            cause,
        }
    }
}

impl Outliers {
    /// Watches nobody yet. The first interval begins at `now`.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            interval_ends: now + config.interval,
            config,
            watched: Vec::new(),
        })
    }

    /// Replaces the set of endpoints. One whose key is known keeps its ejection and its account as long as its counters
    /// are the same. When a key comes twice, the last one counts.
    pub fn update(&mut self, endpoints: impl IntoIterator<Item = (EndpointKey, Arc<Counters>)>) {
        let mut new: BTreeMap<_, _> = endpoints.into_iter().collect();
        self.watched.retain(|known| {
            new.get(&known.key)
                .is_some_and(|counters| Arc::ptr_eq(counters, &known.counters))
        });
        for known in &self.watched {
            new.remove(&known.key);
        }
        self.watched
            .extend(new.into_iter().map(|(key, counters)| Watched {
                key,
                counters,
                until: None,
                times: 0,
                clean: true,
            }));
        // The cap spares by order, and that must not depend on who came first.
        self.watched.sort_by(|a, b| a.key.cmp(&b.key));
    }

    /// How many endpoints are ejected.
    #[must_use]
    pub fn ejected(&self) -> usize {
        self.watched.iter().filter(|w| w.until.is_some()).count()
    }

    /// Applies the rules of the [module](super). Asked earlier than needed, it changes nothing.
    pub fn sweep(&mut self, now: Instant) -> Sweep {
        let mut changes = self.end_ejections(now);
        let mut spared = 0;
        let mut eject = |outliers: &mut Self, found: Vec<(usize, Cause)>| {
            for (i, cause) in found {
                match outliers.eject(i, cause, now) {
                    Ejection::Done(change) => changes.push(change),
                    Ejection::Spared => spared += 1,
                    Ejection::Already => {}
                }
            }
        };
        let trips = self.trips();
        eject(self, trips);
        if now >= self.interval_ends {
            let found = detect::outliers(&self.config, &self.windows());
            eject(self, found);
            self.settle_accounts();
            self.interval_ends = now + self.config.interval;
        }
        Sweep {
            changes,
            spared,
            next: self.next(),
        }
    }

    /// Tells of an active check that changed its mind. Ends the ejection when it goes from failing, whatever it gave as the
    /// reason, to passing; nothing else does.
    pub fn check_changed(
        &mut self,
        key: &EndpointKey,
        from: health::State,
        to: health::State,
    ) -> Option<Change> {
        let failed = !matches!(from, health::State::Passing | health::State::Unchecked);
        if !failed || to != health::State::Passing {
            return None;
        }
        let watched = self.watched.iter_mut().find(|w| w.key == *key)?;
        if watched.until.is_none() {
            // The cap has spared it, or its interval is not over: a run of failures from before would eject it now that it is well.
            watched.counters.forget();
            return None;
        }
        Some(watched.returns(ReturnCause::Check))
    }

    fn next(&self) -> Instant {
        let returns = self.watched.iter().filter_map(|w| w.until);
        returns.fold(self.interval_ends, Instant::min)
    }

    fn end_ejections(&mut self, now: Instant) -> Vec<Change> {
        let mut changes: Vec<Change> = self
            .watched
            .iter_mut()
            .filter(|w| w.until.is_some_and(|until| until <= now))
            .map(|w| w.returns(ReturnCause::Time))
            .collect();
        let most = self.config.most_ejected(self.watched.len());
        let mut still: Vec<&mut Watched> = self
            .watched
            .iter_mut()
            .filter(|w| w.until.is_some())
            .collect();
        let surplus = still.len().saturating_sub(most);
        still.sort_by_key(|w| w.until);
        let returned = still.into_iter().take(surplus);
        changes.extend(returned.map(|w| w.returns(ReturnCause::Cap)));
        changes
    }

    fn trips(&self) -> Vec<(usize, Cause)> {
        let watched = self.watched.iter().enumerate();
        watched
            .filter(|(_, w)| w.until.is_none())
            .filter_map(|(i, w)| w.counters.take_trip().map(|cause| (i, cause)))
            .collect()
    }

    /// Takes the windows of all, and returns those of whom they say something.
    fn windows(&self) -> Vec<Host> {
        let watched = self.watched.iter().enumerate();
        watched
            .map(|(i, w)| (i, w.counters.take_window()))
            .filter(|(i, _)| self.watched[*i].until.is_none())
            .collect()
    }

    fn eject(&mut self, i: usize, cause: Cause, now: Instant) -> Ejection {
        let spare = self.ejected() >= self.config.most_ejected(self.watched.len());
        let watched = &mut self.watched[i];
        if watched.until.is_some() {
            return Ejection::Already;
        }
        if spare {
            return Ejection::Spared;
        }
        watched.times = (watched.times + 1).min(self.config.most_times());
        let until = now + self.config.ejection(watched.times);
        watched.until = Some(until);
        watched.clean = false;
        watched.counters.set_ejected(true);
        Ejection::Done(Change::Ejected {
            key: watched.key.clone(),
            cause,
            until,
            times: watched.times,
        })
    }

    fn settle_accounts(&mut self) {
        for watched in &mut self.watched {
            if watched.clean {
                watched.times = watched.times.saturating_sub(1);
            }
            watched.clean = watched.until.is_none();
        }
    }
}

enum Ejection {
    Done(Change),
    Spared,
    Already,
}
