//! A store with failovers, a network that loses and delays, and the participants.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use ha_core::lease::{Answer, Ask, Config, Fence, Loss, Owner, Record, Sight, take};

use crate::participant::{Act, Clock, Participant, Request, Role};
use crate::random::Random;

const TTL: Duration = Duration::from_secs(10);
/// Faults end here, and then it has to come to rest.
const STORM: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(100);

/// Which rule is broken, for the controls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// The store never says that a failover happened.
    pub(crate) hide_epoch: bool,
    /// A holder's time runs from the answer instead of the request.
    pub(crate) count_from_answer: bool,
    /// The record holds an expiry by the holder's wall clock, which others compare with theirs.
    pub(crate) wall_clock: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) failovers: bool,
    pub(crate) pauses: bool,
    /// After a failover the old side goes on taking writes of those who still reach it.
    pub(crate) split: bool,
    /// A side that takes over may not know of the failover before, and then counts its epoch a second time.
    pub(crate) forgetful: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            failovers: true,
            pauses: true,
            split: false,
            forgetful: false,
        }
    }
}

/// What all runs together have seen.
#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    pub(crate) grants: u64,
    pub(crate) renewals: u64,
    pub(crate) expired: u64,
    pub(crate) failovers: u64,
    pub(crate) lost_writes: u64,
    pub(crate) late: u64,
    pub(crate) overlaps: u64,
    pub(crate) duplicate_fences: u64,
    /// Grants of one side with a fence that was not higher than all before.
    pub(crate) lower_fences: u64,
    pub(crate) refused_writes: u64,
    pub(crate) orphaned: u64,
    /// The first run in which a rule was broken.
    pub(crate) first_violation: Option<(u64, &'static str)>,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.grants += other.grants;
        self.renewals += other.renewals;
        self.expired += other.expired;
        self.failovers += other.failovers;
        self.lost_writes += other.lost_writes;
        self.late += other.late;
        self.overlaps += other.overlaps;
        self.duplicate_fences += other.duplicate_fences;
        self.lower_fences += other.lower_fences;
        self.refused_writes += other.refused_writes;
        self.orphaned += other.orphaned;
        self.first_violation = self.first_violation.or(other.first_violation);
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Wake {
        who: usize,
        step: u64,
    },
    /// A request reaches the store of this epoch, or whichever there is.
    Arrive {
        who: usize,
        step: u64,
        request: Request,
        old_side: bool,
        answer_after: Option<Duration>,
    },
    Answer {
        who: usize,
        step: u64,
        answer: Answer,
    },
    TimedOut {
        who: usize,
        step: u64,
    },
    Pause {
        who: usize,
        length: Duration,
    },
    Failover,
    Heal,
    Release {
        who: usize,
    },
}

/// One side of the store: its record, what the last writes replaced, and the wall-clock expiry of the control.
#[derive(Debug, Clone, Default)]
struct Side {
    epoch: u32,
    record: Option<Record>,
    expiry: Duration,
    /// What a failover may fall back to, newest last.
    earlier: Vec<(Duration, Option<Record>, Duration)>,
    /// The highest fence that it or one before it has granted, lost ones too.
    highest: Option<Fence>,
}

impl Side {
    fn write(&mut self, now: Duration, record: Record) {
        self.earlier.push((now, self.record, self.expiry));
        if self.earlier.len() > 4 {
            self.earlier.remove(0);
        }
        self.record = Some(record);
    }
}

pub(crate) struct World {
    seed: u64,
    random: Random,
    rules: Rules,
    faults: Faults,
    config: Config,
    time: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: Vec<Event>,
    participants: Vec<Participant>,
    store: Side,
    old_side: Option<Side>,
    /// The store as it was before the last failover.
    before: Option<Side>,
    fences: BTreeSet<Fence>,
    /// The highest fence that the guarded resource has seen.
    resource: Option<Fence>,
    loss: f64,
    slow: f64,
    violated: Option<&'static str>,
    expired: u64,
}

impl World {
    pub(crate) fn new(seed: u64, rules: Rules, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        let base = Instant::now();
        let config = Config::of(TTL);
        let participants = (0..2 + random.bits() % 3)
            .map(|_| {
                let clock = Clock {
                    base,
                    offset: random.between(Duration::ZERO, 3 * TTL),
                    rate: 0.98 + 0.04 * random.unit(),
                };
                let now = clock.at(Duration::ZERO);
                Participant {
                    clock,
                    role: Role::Candidate(
                        ha_core::lease::Candidate::new(config, Owner(0), now).unwrap(),
                    ),
                    paused_until: Duration::ZERO,
                    step: 0,
                    sent: now,
                    request: None,
                    naive_until: None,
                    left_behind: false,
                }
            })
            .collect();
        let (loss, slow) = (0.3 * random.unit(), 0.3 * random.unit());
        let mut world = Self {
            seed,
            random,
            rules,
            faults,
            config,
            time: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            participants,
            store: Side {
                epoch: 1,
                ..Side::default()
            },
            old_side: None,
            before: None,
            fences: BTreeSet::new(),
            resource: None,
            loss,
            slow,
            violated: None,
            expired: 0,
        };
        world.plan();
        world
    }

    fn plan(&mut self) {
        for who in 0..self.participants.len() {
            self.become_candidate(who);
            let pauses = if self.faults.pauses {
                self.random.bits() % 4
            } else {
                0
            };
            for _ in 0..pauses {
                let at = self.random.between(Duration::ZERO, STORM);
                let length = self.random.between(Duration::ZERO, 3 * TTL);
                self.push(at, Event::Pause { who, length });
            }
            if self.random.chance(0.5) {
                let at = self.random.between(Duration::ZERO, STORM);
                self.push(at, Event::Release { who });
            }
        }
        let failovers = if self.faults.failovers {
            self.random.bits() % 4
        } else {
            0
        };
        for _ in 0..failovers {
            let at = self.random.between(Duration::ZERO, STORM);
            self.push(at, Event::Failover);
        }
        self.push(STORM, Event::Heal);
    }

    fn push(&mut self, at: Duration, event: Event) {
        let number = self.events.len();
        self.events.push(event);
        self.queue.push(Reverse((at, number as u64, number)));
    }

    fn become_candidate(&mut self, who: usize) {
        let owner = Owner(u128::from(self.random.bits()) + 1);
        let participant = &mut self.participants[who];
        let now = participant.clock.at(self.time);
        participant.candidate(self.config, owner, now);
        self.step(who);
    }

    pub(crate) fn run(mut self, totals: &mut Totals) {
        while let Some(Reverse((at, _, number))) = self.queue.pop() {
            if at > END {
                break;
            }
            self.time = at;
            self.handle(self.events[number], totals);
            if self.violated.is_some() && totals.first_violation.is_none() {
                totals.first_violation = self.violated.map(|what| (self.seed, what));
            }
        }
        self.time = END;
        let held = self
            .participants
            .iter()
            .any(|one| one.believes(END).is_some());
        totals.orphaned += u64::from(!held);
        totals.expired += self.expired;
    }

    fn handle(&mut self, event: Event, totals: &mut Totals) {
        match event {
            Event::Wake { who, .. } | Event::TimedOut { who, .. } | Event::Answer { who, .. }
                if self.participants[who].paused_until > self.time =>
            {
                // Whoever is stopped finds it when it goes on.
                self.push(self.participants[who].paused_until, event);
            }
            Event::Wake { who, step } => {
                if self.participants[who].step == step {
                    self.act(who, totals);
                    self.step(who);
                }
            }
            Event::TimedOut { who, step } => {
                if self.participants[who].step == step && self.participants[who].request.is_some() {
                    self.failed(who);
                    self.step(who);
                }
            }
            Event::Arrive {
                who,
                step,
                request,
                old_side,
                answer_after,
            } => {
                let answer = self.carry_out(who, request, old_side, totals);
                if self.participants[who].step != step {
                    totals.late += 1;
                }
                if let Some(after) = answer_after {
                    self.push(self.time + after, Event::Answer { who, step, answer });
                }
            }
            Event::Answer { who, step, answer } => {
                if self.participants[who].step == step && self.participants[who].request.is_some() {
                    self.answered(who, answer, totals);
                    self.step(who);
                }
            }
            Event::Pause { who, length } => {
                self.participants[who].paused_until = self.time + length;
            }
            Event::Failover => self.fail_over(totals),
            Event::Heal => {
                (self.loss, self.slow) = (0.0, 0.0);
                self.old_side = None;
                for participant in &mut self.participants {
                    participant.left_behind = false;
                    participant.paused_until = participant.paused_until.min(self.time);
                }
            }
            Event::Release { who } => self.release(who),
        }
    }

    fn fail_over(&mut self, totals: &mut Totals) {
        totals.failovers += 1;
        let old = self.store.clone();
        // Asynchronous replication loses up to three of the writes of the last seconds.
        let back = (self.random.bits() % 4) as usize;
        let recent: Vec<_> = old.earlier.iter().rev().take(back).copied().collect();
        for (at, record, expiry) in recent {
            if self.time.saturating_sub(at) < Duration::from_secs(5) {
                (self.store.record, self.store.expiry) = (record, expiry);
                totals.lost_writes += 1;
            }
        }
        if let Some(before) = &self.before
            && self.faults.forgetful
            && self.random.chance(0.5)
        {
            (self.store.epoch, self.store.record) = (before.epoch, before.record);
        }
        self.store.epoch += 1;
        self.store.earlier.clear();
        self.before = Some(old.clone());
        if self.faults.split {
            self.old_side = Some(old);
            for who in 0..self.participants.len() {
                self.participants[who].left_behind = self.random.chance(0.5);
            }
        }
    }

    fn release(&mut self, who: usize) {
        let participant = &self.participants[who];
        if participant.paused_until > self.time {
            return;
        }
        if let Role::Holder(hold) = &participant.role {
            let request = Request::Release(hold.fence(), hold.owner());
            let old_side = participant.left_behind;
            let after = self.delay();
            let step = u64::MAX;
            self.become_candidate(who);
            self.push(
                self.time + after,
                Event::Arrive {
                    who,
                    step,
                    request,
                    old_side,
                    answer_after: None,
                },
            );
        }
    }

    fn delay(&mut self) -> Duration {
        if self.random.chance(self.slow) {
            self.random.between(Duration::ZERO, 2 * TTL)
        } else {
            self.random
                .between(Duration::from_millis(1), Duration::from_millis(50))
        }
    }

    /// Lets a participant do what is due.
    fn step(&mut self, who: usize) {
        let participant = &mut self.participants[who];
        participant.step += 1;
        participant.request = None;
        let (step, now) = (participant.step, participant.clock.at(self.time));
        let act = if participant
            .naive_until
            .is_some_and(|until| participant.clock.wall(self.time) >= until)
        {
            Act::Lost
        } else {
            participant.next(now)
        };
        match act {
            Act::Wait(until) => {
                let mut at = participant.clock.when(until).max(self.time);
                if let Some(until) = participant.naive_until {
                    let left = until.saturating_sub(participant.clock.wall(self.time));
                    at = at.min(
                        self.time + left.div_f64(participant.clock.rate) + Duration::from_nanos(50),
                    );
                }
                self.push(at, Event::Wake { who, step });
            }
            Act::Lost => {
                self.expired += 1;
                self.become_candidate(who);
            }
            Act::Send(request) => {
                participant.sent = now;
                participant.request = Some(request);
                let old_side = participant.left_behind && self.old_side.is_some();
                let limit = self.config.answer_within.div_f64(participant.clock.rate);
                self.push(self.time + limit, Event::TimedOut { who, step });
                if !self.random.chance(self.loss) {
                    let there = self.delay();
                    let answer_after = (!self.random.chance(self.loss)).then(|| self.delay());
                    self.push(
                        self.time + there,
                        Event::Arrive {
                            who,
                            step,
                            request,
                            old_side,
                            answer_after,
                        },
                    );
                }
            }
        }
    }

    /// A holder uses the resource that the lease is for.
    fn act(&mut self, who: usize, totals: &mut Totals) {
        if let Some(fence) = self.participants[who].believes(self.time) {
            if self.resource.is_some_and(|highest| fence < highest) {
                totals.refused_writes += 1;
            } else {
                self.resource = Some(fence);
            }
        }
    }

    fn carry_out(
        &mut self,
        who: usize,
        request: Request,
        old_side: bool,
        totals: &mut Totals,
    ) -> Answer {
        let wall = self.participants[who].clock.wall(self.time);
        let epoch_hidden = self.rules.hide_epoch;
        let time = self.time;
        let side = match &mut self.old_side {
            Some(old) if old_side => old,
            _ => &mut self.store,
        };
        let epoch = if epoch_hidden { 1 } else { side.epoch };
        let sight = Sight {
            epoch,
            record: side.record,
        };
        let written = match request {
            Request::Ask(Ask::Look, owner) if self.rules.wall_clock => {
                // The control: whoever's clock is past the expiry takes it.
                let over =
                    side.record.is_none_or(|record| record.owner.is_none()) || wall >= side.expiry;
                over.then(|| take(sight, &sight, owner)).flatten()
            }
            Request::Ask(Ask::Look, _) => None,
            Request::Ask(Ask::Take(seen), owner) => take(sight, &seen, owner),
            Request::Renew(fence, owner) => side
                .record
                .filter(|record| record.owner == Some(owner) && record.fence == fence)
                .map(|record| Record {
                    beat: record.beat + 1,
                    ..record
                }),
            Request::Release(fence, owner) => side
                .record
                .filter(|record| record.owner == Some(owner) && record.fence == fence)
                .map(|record| Record {
                    owner: None,
                    ..record
                }),
        };
        if let Some(record) = written {
            side.write(time, record);
            side.expiry = wall + TTL;
            if matches!(request, Request::Ask(..)) {
                totals.grants += 1;
                if !self.fences.insert(record.fence) {
                    totals.duplicate_fences += 1;
                    self.violated = Some("a fence was given out twice");
                }
                if side.highest.is_some_and(|highest| record.fence <= highest) {
                    totals.lower_fences += 1;
                    self.violated = Some("a later grant has no higher fence");
                }
                side.highest = side.highest.max(Some(record.fence));
            }
        }
        let record = side.record;
        Answer {
            applied: written.is_some(),
            sight: Sight { epoch, record },
        }
    }

    fn failed(&mut self, who: usize) {
        let random = self.random.bits();
        let participant = &mut self.participants[who];
        let now = participant.clock.at(self.time);
        match &mut participant.role {
            Role::Candidate(candidate) => candidate.failed(now, random),
            Role::Holder(hold) => hold.failed(now),
        }
    }

    fn answered(&mut self, who: usize, answer: Answer, totals: &mut Totals) {
        let random = self.random.bits();
        let participant = &mut self.participants[who];
        let now = participant.clock.at(self.time);
        let sent = if self.rules.count_from_answer {
            now
        } else {
            participant.sent
        };
        let wall = participant.clock.wall(self.time);
        match (&mut participant.role, participant.request) {
            (Role::Candidate(candidate), Some(Request::Ask(mut ask, _))) => {
                if let (true, Some(record)) =
                    (self.rules.wall_clock && answer.applied, answer.sight.record)
                {
                    ask = Ask::Take(Sight {
                        record: None,
                        ..answer.sight
                    });
                    participant.naive_until = Some(wall + TTL - self.config.margin);
                    debug_assert!(record.owner.is_some());
                }
                if let Some(hold) = candidate.answered(ask, answer, sent, now, random) {
                    participant.role = Role::Holder(hold);
                } else {
                    participant.naive_until = None;
                }
            }
            (Role::Holder(hold), Some(Request::Renew(..))) => {
                match hold.answered(answer, sent, now) {
                    Ok(()) => {
                        totals.renewals += 1;
                        if participant.naive_until.is_some() && answer.applied {
                            participant.naive_until = Some(wall + TTL - self.config.margin);
                        }
                    }
                    Err(loss) => {
                        self.expired += u64::from(loss == Loss::Expired);
                        self.become_candidate(who);
                    }
                }
            }
            _ => {}
        }
        self.judge(totals);
    }

    /// Whether two act at the same moment.
    fn judge(&mut self, totals: &mut Totals) {
        let time = self.time;
        let holders = self
            .participants
            .iter()
            .filter(|one| one.believes(time).is_some());
        if holders.count() > 1 {
            totals.overlaps += 1;
            if !self.faults.split {
                self.violated = Some("two held it at the same moment");
            }
        }
    }
}
