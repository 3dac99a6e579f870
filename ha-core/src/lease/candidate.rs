use std::time::{Duration, Instant};

use super::{Answer, Config, Hold, Owner, Sight};
use crate::config::ConfigError;

/// What a candidate asks of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Show the record.
    Look,
    /// Grant the lease if this is still what the store has: see [`take`](super::take).
    Take(Sight),
}

/// What a candidate does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Ask the store, wait for its answer at most [`Config::answer_within`], and tell [`Candidate::answered`] or
    /// [`Candidate::failed`].
    Ask(Ask),
    /// Nothing until then.
    Wait(Instant),
}

/// Somebody who wants the lease. One request is under way at a time.
#[derive(Debug, Clone)]
pub struct Candidate {
    config: Config,
    owner: Owner,
    /// The highest epoch that an answer has had.
    epoch: u32,
    /// What the store shows, and since when it has been known to show that.
    watched: Option<(Sight, Instant)>,
    look_at: Instant,
    /// Nothing is asked earlier: the store has just failed to answer.
    rest_until: Instant,
}

impl Candidate {
    /// A candidate that has seen nothing.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn new(config: Config, owner: Owner, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            owner,
            epoch: 0,
            watched: None,
            look_at: now,
            rest_until: now,
        })
    }

    /// Who asks.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Who holds the lease as far as is known, and from when on it can be taken.
    #[must_use]
    pub fn watched(&self) -> Option<(Sight, Instant)> {
        let (sight, since) = self.watched?;
        Some((sight, since + self.patience(&sight)))
    }

    /// What to do at `now`.
    #[must_use]
    pub fn next(&self, now: Instant) -> Next {
        let take = self.watched();
        let due = take.map_or(self.look_at, |(_, at)| at.min(self.look_at));
        let due = due.max(self.rest_until);
        match take {
            _ if now < due => Next::Wait(due),
            Some((sight, at)) if now >= at => Next::Ask(Ask::Take(sight)),
            _ => Next::Ask(Ask::Look),
        }
    }

    /// The store has answered `ask`, which was sent not before `sent`. Returns the lease if it was granted.
    #[must_use = "a lease that is granted and not held blocks it for its whole time"]
    pub fn answered(
        &mut self,
        ask: Ask,
        answer: Answer,
        sent: Instant,
        now: Instant,
        random: u64,
    ) -> Option<Hold> {
        let sight = answer.sight;
        if sight.epoch < self.epoch {
            // A side that has been left, and does not know it.
            self.failed(now, random);
            return None;
        }
        self.epoch = sight.epoch;
        if matches!(ask, Ask::Take(_)) {
            // Whatever was waited for is over.
            self.watched = None;
        }
        let granted = sight.record.filter(|record| {
            answer.applied && matches!(ask, Ask::Take(_)) && record.owner == Some(self.owner)
        });
        if let Some(record) = granted {
            return Some(Hold::new(
                self.config,
                self.owner,
                record.fence,
                sight.epoch,
                sent,
            ));
        }
        if self.watched.is_none_or(|(known, _)| known != sight) {
            self.watched = Some((sight, now));
        }
        self.look_at = now + spread(self.config.look_every, random);
        None
    }

    /// No answer came in time, or an error: what was asked may be carried out or not.
    pub fn failed(&mut self, now: Instant, random: u64) {
        // An eighth of a look's time after the first failure, so that a store that is back is soon noticed.
        self.rest_until = now + spread(self.config.look_every / 4, random);
        self.look_at = self.look_at.max(self.rest_until);
    }

    /// How long a sight has to stay the same before the lease may be taken.
    fn patience(&self, sight: &Sight) -> Duration {
        match sight.record {
            // Before the first failover there is no grant that could have been lost.
            None if sight.epoch <= 1 => Duration::ZERO,
            // Given back since the last failover, or granted to us without an answer, so not in use: the grant had waited for every
            // older one, and a later one would show. From before a failover it proves nothing, as a later one may be lost.
            Some(record)
                if record.fence.epoch() == sight.epoch
                    && record.owner.is_none_or(|owner| owner == self.owner) =>
            {
                Duration::ZERO
            }
            _ => self.config.ttl,
        }
    }
}

/// Between a half and the whole of it, so that many candidates do not ask in step.
fn spread(time: Duration, random: u64) -> Duration {
    let half = time / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
    half + Duration::from_nanos(((u128::from(nanos) * u128::from(random)) >> 64) as u64)
}
