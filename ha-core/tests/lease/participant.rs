//! Somebody who wants the lease, with a clock of its own.

use std::time::{Duration, Instant};

use ha_core::lease::{Ask, Candidate, Config, Due, Fence, Hold, Next, Owner};

/// A clock that is off, and runs a little fast or slow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) base: Instant,
    pub(crate) offset: Duration,
    pub(crate) rate: f64,
}

impl Clock {
    pub(crate) fn at(&self, time: Duration) -> Instant {
        self.base + self.offset + time.mul_f64(self.rate)
    }

    /// The true time at which this clock shows `shown`, a hair late rather than early.
    pub(crate) fn when(&self, shown: Instant) -> Duration {
        let own = shown.saturating_duration_since(self.base + self.offset);
        own.div_f64(self.rate) + Duration::from_nanos(50)
    }

    /// What a wall clock in its place would show.
    pub(crate) fn wall(&self, time: Duration) -> Duration {
        self.offset + time.mul_f64(self.rate)
    }
}

/// A request on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    Ask(Ask, Owner),
    Renew(Fence, Owner),
    Release(Fence, Owner),
}

#[derive(Debug)]
pub(crate) enum Role {
    Candidate(Candidate),
    Holder(Hold),
}

#[derive(Debug)]
pub(crate) struct Participant {
    pub(crate) clock: Clock,
    pub(crate) role: Role,
    pub(crate) paused_until: Duration,
    /// Grows with each step, so that wake-ups and answers of earlier ones are known.
    pub(crate) step: u64,
    pub(crate) sent: Instant,
    pub(crate) request: Option<Request>,
    /// By the rule of the control: until when, by its own wall clock, it believes to hold it.
    pub(crate) naive_until: Option<Duration>,
    /// On the side that has been left.
    pub(crate) left_behind: bool,
}

impl Participant {
    pub(crate) fn candidate(&mut self, config: Config, owner: Owner, now: Instant) {
        self.role = Role::Candidate(Candidate::new(config, owner, now).unwrap());
        self.naive_until = None;
    }

    /// What it does next by its own clock: a request, a wait, or it has lost the lease.
    pub(crate) fn next(&mut self, now: Instant) -> Act {
        match &mut self.role {
            Role::Candidate(candidate) => match candidate.next(now) {
                Next::Ask(ask) => Act::Send(Request::Ask(ask, candidate.owner())),
                Next::Wait(until) => Act::Wait(until),
            },
            Role::Holder(hold) => match hold.next(now) {
                Due::Renew => Act::Send(Request::Renew(hold.fence(), hold.owner())),
                Due::Wait(until) => Act::Wait(until),
                Due::Lost(_) => Act::Lost,
            },
        }
    }

    /// The fence under which it would act at this moment.
    pub(crate) fn believes(&self, time: Duration) -> Option<Fence> {
        let Role::Holder(hold) = &self.role else {
            return None;
        };
        match self.naive_until {
            Some(until) => (self.clock.wall(time) < until).then(|| hold.fence()),
            None => hold.check(self.clock.at(time)).ok(),
        }
    }
}

pub(crate) enum Act {
    Send(Request),
    Wait(Instant),
    Lost,
}
