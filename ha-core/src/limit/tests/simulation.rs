//! A server with so many workers, clients that give up, and a limit in between, in virtual time and from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::*;
use super::{MS, Random};

/// What stands before the server.
#[derive(Debug, Default)]
pub(super) struct Guard {
    pub(super) adaptive: Option<AdaptiveConfig>,
    pub(super) fixed: Option<u32>,
    pub(super) queue: Option<QueueConfig>,
    /// Whether the queue knows priorities.
    pub(super) blind: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) workers: usize,
    pub(super) service: Duration,
    /// How much a service time differs from the mean at most, as a ratio; none: exponential.
    pub(super) spread: Option<f64>,
    /// When a client gives up.
    pub(super) patience: Duration,
    /// How much is offered, in units of what the workers can do.
    pub(super) factor: f64,
    /// The shares of critical and of sheddable requests.
    pub(super) critical: f64,
    pub(super) sheddable: f64,
    pub(super) length: Duration,
    /// How many times longer the work takes after the first quarter.
    pub(super) slower: f64,
    pub(super) seed: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            workers: 16,
            service: 20 * MS,
            spread: Some(0.2),
            patience: 150 * MS,
            factor: 4.0,
            critical: 0.1,
            sheddable: 0.2,
            length: Duration::from_secs(40),
            slower: 1.0,
            seed: 1,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) offered: [u32; 3],
    /// Answered while the client still waited.
    pub(super) good: [u32; 3],
    pub(super) refused: u32,
    /// Work done for clients that had gone.
    pub(super) wasted: u32,
    pub(super) latencies: Vec<Duration>,
    /// One per second.
    pub(super) limits: Vec<u32>,
    pub(super) most_in_flight: u32,
}

impl Report {
    pub(super) fn all_good(&self) -> u32 {
        self.good.iter().sum()
    }

    pub(super) fn served(&self, priority: Priority) -> f64 {
        let i = priority.index();
        f64::from(self.good[i]) / f64::from(self.offered[i])
    }

    /// The ratio of the best that these workers can do.
    pub(super) fn of_peak(&self, load: &Load) -> f64 {
        let per_second = load.workers as f64 / (load.service.as_secs_f64() * load.slower);
        f64::from(self.all_good()) / (per_second * (load.length * 3 / 4).as_secs_f64())
    }

    pub(super) fn p99(&mut self) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100]
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting(Option<Ticket>),
    /// Let in at this time, with so many.
    Admitted(Instant, u32),
    Gone,
}

#[derive(Debug)]
struct Call {
    priority: Priority,
    came: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Arrive,
    GiveUp(usize),
    WaitedEnough(usize),
    Done(usize),
    Look,
}

struct World {
    load: Load,
    blind: bool,
    places: Places,
    adaptive: Option<Adaptive>,
    queue: Option<Queue<usize>>,
    calls: Vec<Call>,
    backlog: VecDeque<usize>,
    busy: usize,
    events: BTreeMap<(Instant, u64), Event>,
    planned: u64,
    random: Random,
    report: Report,
    counted_from: Instant,
}

/// The first quarter warms up and is not counted.
pub(super) fn run(guard: &Guard, load: &Load) -> Report {
    let start = Instant::now();
    let end = start + load.length;
    let adaptive = guard.adaptive.map(|c| Adaptive::new(c, start).unwrap());
    let limit = adaptive.as_ref().map(Adaptive::limit).or(guard.fixed);
    let mut world = World {
        load: load.clone(),
        blind: guard.blind,
        places: Places::new(limit.unwrap_or(u32::MAX)),
        adaptive,
        queue: guard.queue.map(|config| Queue::new(config).unwrap()),
        calls: Vec::new(),
        backlog: VecDeque::new(),
        busy: 0,
        events: BTreeMap::new(),
        planned: 0,
        random: Random(load.seed),
        report: Report::default(),
        counted_from: start + load.length / 4,
    };
    world.plan(start, Event::Arrive);
    world.plan(start, Event::Look);
    while let Some(((now, _), event)) = world.events.pop_first() {
        if now > end {
            break;
        }
        world.step(now, event);
    }
    world.report
}

impl World {
    fn plan(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        self.events.insert((at, self.planned), event);
    }

    fn step(&mut self, now: Instant, event: Event) {
        match event {
            Event::Arrive => self.arrive(now),
            Event::GiveUp(call) => self.give_up(call, now),
            Event::WaitedEnough(call) => self.waited_enough(call),
            Event::Done(call) => self.done(call, now),
            Event::Look => {
                self.report.limits.push(self.places.limit());
                self.plan(now + Duration::from_secs(1), Event::Look);
            }
        }
    }

    fn arrive(&mut self, now: Instant) {
        let capacity = self.load.workers as f64 / self.load.service.as_secs_f64();
        let gap = -(1.0 - self.random.unit()).ln() / (self.load.factor * capacity);
        self.plan(now + Duration::from_secs_f64(gap), Event::Arrive);
        let draw = self.random.unit();
        let priority = if draw < self.load.critical {
            Priority::Critical
        } else if draw > 1.0 - self.load.sheddable {
            Priority::Sheddable
        } else {
            Priority::Default
        };
        let call = self.calls.len();
        self.calls.push(Call {
            priority,
            came: now,
            state: State::Waiting(None),
        });
        if now >= self.counted_from {
            self.report.offered[priority.index()] += 1;
        }
        self.plan(now + self.load.patience, Event::GiveUp(call));
        if let Some(in_flight) = self.places.try_enter(u32::MAX) {
            self.admit(call, in_flight, now);
        } else {
            self.enqueue(call, now);
        }
    }

    fn enqueue(&mut self, call: usize, now: Instant) {
        let class = if self.blind {
            Priority::Default
        } else {
            self.calls[call].priority
        };
        let pushed = match &mut self.queue {
            Some(queue) => queue.push(class, None, now, call).map_err(drop),
            None => Err(()),
        };
        let Ok(pushed) = pushed else {
            return self.refuse(call);
        };
        self.places.wait();
        self.calls[call].state = State::Waiting(Some(pushed.ticket));
        if let Some(displaced) = pushed.displaced {
            self.places.stop_waiting();
            self.refuse(displaced);
        }
        self.plan(pushed.ticket.until(), Event::WaitedEnough(call));
    }

    fn admit(&mut self, call: usize, in_flight: u32, now: Instant) {
        self.report.most_in_flight = self.report.most_in_flight.max(in_flight);
        self.calls[call].state = State::Admitted(now, in_flight);
        self.backlog.push_back(call);
        self.work(now);
    }

    fn refuse(&mut self, call: usize) {
        self.report.refused += 1;
        self.calls[call].state = State::Gone;
    }

    fn work(&mut self, now: Instant) {
        while self.busy < self.load.workers {
            let Some(call) = self.backlog.pop_front() else {
                return;
            };
            self.busy += 1;
            let draw = self.random.unit();
            let factor = match self.load.spread {
                Some(spread) => spread.mul_add(draw * 2.0 - 1.0, 1.0),
                None => -(1.0 - draw).ln(),
            };
            let slower = if now < self.counted_from {
                1.0
            } else {
                self.load.slower
            };
            let service = self.load.service.mul_f64(factor * slower);
            self.plan(now + service, Event::Done(call));
        }
    }

    fn give_up(&mut self, call: usize, now: Instant) {
        match self.calls[call].state {
            State::Waiting(ticket) => {
                self.leave_queue(ticket);
                self.refuse(call);
            }
            State::Admitted(since, in_flight) => {
                self.calls[call].state = State::Gone;
                // The worker does not notice.
                self.leave(Ending::Abandoned(now - since), in_flight, now);
            }
            State::Gone => {}
        }
    }

    fn waited_enough(&mut self, call: usize) {
        if let State::Waiting(ticket) = self.calls[call].state {
            self.leave_queue(ticket);
            self.refuse(call);
        }
    }

    fn leave_queue(&mut self, ticket: Option<Ticket>) {
        if let (Some(queue), Some(ticket)) = (&mut self.queue, ticket) {
            queue.remove(ticket).expect("it waits");
            self.places.stop_waiting();
        }
    }

    fn done(&mut self, call: usize, now: Instant) {
        self.busy -= 1;
        self.work(now);
        let Call { priority, came, .. } = self.calls[call];
        let State::Admitted(since, in_flight) = self.calls[call].state else {
            self.report.wasted += 1;
            return;
        };
        self.calls[call].state = State::Gone;
        if came >= self.counted_from {
            self.report.good[priority.index()] += 1;
            self.report.latencies.push(now - came);
        }
        self.leave(Ending::Answered(now - since), in_flight, now);
    }

    fn leave(&mut self, ending: Ending, in_flight: u32, now: Instant) {
        let mut someone_waits = self.places.leave();
        if let Some(adaptive) = &self.adaptive
            && let Some(change) = adaptive.record(ending, in_flight, now, || self.random.unit())
        {
            someone_waits |= self.places.set_limit(change.to);
        }
        while someone_waits {
            let Some(in_flight) = self.places.enter_for_waiter(u32::MAX) else {
                return;
            };
            let mut stale = Vec::new();
            let queue = self.queue.as_mut().expect("somebody waits in it");
            let next = queue.pop(now, |_, call| stale.push(call));
            for call in stale {
                self.places.stop_waiting();
                self.refuse(call);
            }
            match next {
                Some(call) => {
                    self.places.stop_waiting();
                    self.admit(call, in_flight, now);
                }
                None => someone_waits = self.places.leave(),
            }
        }
    }
}
