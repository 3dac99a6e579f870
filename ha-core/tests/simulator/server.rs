use std::time::Duration;

use crate::random::Random;

/// What an endpoint does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behaviour {
    /// Answers after exactly this long.
    Constant(Duration),
    /// Answers after a time of this mean, exponentially distributed.
    Exponential(Duration),
    /// Fails after this long, and passes its checks all the same.
    Fails(Duration),
    /// Fails this share of its requests and answers the others after the duration.
    Flaky(f64, Duration),
    /// Refuses connections at once.
    Refuses,
    /// Never answers.
    Freezes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Ok,
    Error,
    Refused,
}

/// An endpoint with a profile: what it does from when on.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    phases: Vec<(Duration, Behaviour)>,
    // When each worker is free again. None is as many as there are requests.
    workers: Vec<Duration>,
}

const REFUSAL: Duration = Duration::from_micros(200);

impl Server {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self {
            phases: vec![(Duration::ZERO, behaviour)],
            workers: Vec::new(),
        }
    }

    /// Does this from `at` on.
    pub(crate) fn then(mut self, at: Duration, behaviour: Behaviour) -> Self {
        self.phases.push((at, behaviour));
        self
    }

    /// Works on so many requests at a time; the others wait in a queue.
    pub(crate) fn workers(mut self, n: usize) -> Self {
        self.workers = vec![Duration::ZERO; n];
        self
    }

    fn behaviour(&self, at: Duration) -> Behaviour {
        let begun = self.phases.iter().rev().find(|(from, _)| *from <= at);
        begun.unwrap_or(&self.phases[0]).1
    }

    /// Whether a check that begins at `at` passes, and how long it takes.
    pub(crate) fn check(&self, at: Duration, timeout: Duration) -> (bool, Duration) {
        match self.behaviour(at) {
            Behaviour::Refuses => (false, REFUSAL),
            Behaviour::Freezes => (false, timeout),
            _ => (true, Duration::ZERO),
        }
    }

    /// When the request that comes at `at` is answered, and how. None is never.
    pub(crate) fn answer(
        &mut self,
        at: Duration,
        random: &mut Random,
    ) -> Option<(Duration, Reply)> {
        let (work, reply) = match self.behaviour(at) {
            Behaviour::Constant(latency) => (latency, Reply::Ok),
            Behaviour::Exponential(mean) => (random.exponential(mean), Reply::Ok),
            Behaviour::Fails(latency) => (latency, Reply::Error),
            Behaviour::Flaky(ratio, latency) if random.unit() < ratio => (latency, Reply::Error),
            Behaviour::Flaky(_, latency) => (latency, Reply::Ok),
            Behaviour::Refuses => return Some((at + REFUSAL, Reply::Refused)),
            Behaviour::Freezes => return None,
        };
        let Some(worker) = self.workers.iter_mut().min() else {
            return Some((at + work, reply));
        };
        *worker = at.max(*worker) + work;
        Some((*worker, reply))
    }
}
