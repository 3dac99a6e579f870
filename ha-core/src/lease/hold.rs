use std::time::Instant;

use super::{Answer, Config, Fence, Owner};

/// Why a lease is no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal was confirmed in time. Nobody else has it yet; after the margin somebody may.
    #[error("no renewal of the lease was confirmed in time")]
    Expired,
    /// The store says that it is not ours: somebody took it while we could not see it, or a failover has lost the grant.
    #[error("the lease belongs to somebody else")]
    Taken,
    /// It was given back by its own holder.
    #[error("the lease was given back")]
    Released,
}

/// What a holder does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Renew: add one to the record's beat, if owner and fence are still ours. Wait for the answer at most
    /// [`Config::answer_within`], and not past [`Hold::until`]; then tell [`Hold::answered`] or [`Hold::failed`].
    Renew,
    /// Nothing until then.
    Wait(Instant),
    /// It is over.
    Lost(Loss),
}

/// A lease that was granted.
#[derive(Debug, Clone)]
pub struct Hold {
    config: Config,
    owner: Owner,
    fence: Fence,
    epoch: u32,
    until: Instant,
    renew_at: Instant,
    lost: Option<Loss>,
}

impl Hold {
    pub(super) fn new(
        config: Config,
        owner: Owner,
        fence: Fence,
        epoch: u32,
        sent: Instant,
    ) -> Self {
        Self {
            config,
            owner,
            fence,
            epoch,
            until: sent + (config.ttl - config.margin),
            renew_at: sent + config.renew_every,
            lost: None,
        }
    }

    /// The fence of this grant.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Who holds it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Until when it is held without another renewal.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Whether it is held at `now`.
    ///
    /// # Errors
    /// [`Loss`] when it is not, and never will be again.
    pub fn check(&self, now: Instant) -> Result<Fence, Loss> {
        match self.lost {
            Some(loss) => Err(loss),
            None if now >= self.until => Err(Loss::Expired),
            None => Ok(self.fence),
        }
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: Instant) -> Due {
        if let Err(loss) = self.check(now) {
            return Due::Lost(self.lose(loss));
        }
        if now >= self.renew_at {
            Due::Renew
        } else {
            Due::Wait(self.renew_at.min(self.until))
        }
    }

    /// The store has answered a renewal that was sent not before `sent`.
    ///
    /// # Errors
    /// [`Loss`] when the lease is lost. One that ran out before the answer came stays lost, even if the store has renewed it.
    pub fn answered(&mut self, answer: Answer, sent: Instant, now: Instant) -> Result<(), Loss> {
        self.check(now).map_err(|loss| self.lose(loss))?;
        if answer.sight.epoch < self.epoch {
            // A side that has been left confirms nothing.
            self.failed(now);
            return Ok(());
        }
        self.epoch = answer.sight.epoch;
        if !answer.applied {
            return Err(self.lose(Loss::Taken));
        }
        self.until = self
            .until
            .max(sent + (self.config.ttl - self.config.margin));
        self.renew_at = sent + self.config.renew_every;
        Ok(())
    }

    /// No answer came in time, or an error: it may be renewed or not, so nothing is counted on.
    pub fn failed(&mut self, now: Instant) {
        self.renew_at = now + self.config.answer_within / 4;
    }

    /// Ends it. What was going on under it must have ended before.
    pub fn lose(&mut self, loss: Loss) -> Loss {
        *self.lost.get_or_insert(loss)
    }
}
