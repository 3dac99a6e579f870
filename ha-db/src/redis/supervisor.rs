//! The background tasks: one per master that finds and connects it, and one per Sentinel that listens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisError, Value};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};

use super::config::Servers;
use super::dial::refused;
use super::error::Failure;
use super::follow::{self, Choice, Event, Outcome, Reason};
use super::seat::{Held, Lease, Seat};
use super::shared::Shared;

/// How long after the last answer those Sentinels are waited for that have not answered, once most have. A live one takes a millisecond.
const LATE: Duration = Duration::from_millis(100);

/// Which master a supervisor keeps connected.
pub(super) enum Finder {
    /// The one of the configuration, or the one that the Sentinels name.
    Main,
    /// A node of a cluster.
    Node(String),
}

/// What the supervisor remembers between tries.
#[derive(Default)]
struct Memory {
    /// Newest epoch acted upon.
    epoch: u64,
    last_master: Option<String>,
    /// Since when a failover is waited for.
    holding: Option<Instant>,
    /// The last node was given up because a failover starts: the one Sentinel that knows of it is not to be missed.
    wary: bool,
}

impl Memory {
    /// A failover that was waited for in vain stays remembered until it is over, or it would be waited for again.
    fn settle(&mut self, settled: bool) {
        if settled {
            self.holding = None;
        }
    }
}

/// Keeps a lease published at this seat for as long as there is a master.
pub(super) async fn run(shared: Arc<Shared>, seat: Arc<Seat>, finder: Finder) {
    let mut memory = Memory::default();
    let backoff = shared.config.backoff;
    let mut attempt = 0_u32;
    loop {
        memory.wary = seat.last_reason() == Some(Reason::FailoverStarted);
        while seat.lease().is_none() {
            match establish(&shared, &finder, &mut memory).await {
                Ok(lease) => {
                    let switched = memory
                        .last_master
                        .replace(lease.master.clone())
                        .is_some_and(|last| last != lease.master);
                    tracing::info!(master = %lease.master, epoch = lease.epoch, switched, "connected to redis master");
                    shared.publish(&seat, lease, switched);
                }
                Err(failure) => {
                    if failure.needs_repair() {
                        tracing::warn!(failure = failure.chain(), attempt, "no redis master");
                    } else {
                        tracing::debug!(failure = failure.chain(), attempt, "no redis master yet");
                    }
                    let failing_over = matches!(failure, Failure::Failover);
                    seat.failed(failure);
                    // A failover ends within moments and everybody waits for it: look often.
                    let retry = if failing_over {
                        attempt.min(2)
                    } else {
                        attempt
                    };
                    attempt = attempt.saturating_add(1);
                    let pause = backoff.delay(retry, fastrand::u64(..));
                    // An announcement cuts the pause short.
                    let _ = timeout(pause, seat.wake.notified()).await;
                }
            }
        }
        memory.wary = false;
        let connected = Instant::now();
        while let Some(held) = Held::of(&seat) {
            let _ = timeout(shared.config.check_interval, seat.wake.notified()).await;
            if seat.lease().is_none() {
                break;
            }
            let checked = tokio::select! {
                biased;
                () = seat.wake.notified() => false,
                () = check(&shared, &finder, &held, &mut memory) => true,
            };
            if !checked {
                // Given up meanwhile, which ends this; or there is news, and what was asked for before it is asked again.
                seat.wake.notify_one();
            }
        }
        // A node that says it is a master and refuses all the same would be reconnected without a pause.
        if connected.elapsed() < backoff.ceiling(u32::MAX) {
            sleep(backoff.delay(attempt, fastrand::u64(..))).await;
            attempt = attempt.saturating_add(1);
        } else {
            attempt = 0;
        }
    }
}

/// Finds the master, connects it and makes sure that it is one.
async fn establish(
    shared: &Shared,
    finder: &Finder,
    memory: &mut Memory,
) -> Result<Lease, Failure> {
    let (master, epoch) = match finder {
        Finder::Main => locate(shared, memory).await?,
        Finder::Node(address) => (address.clone(), 0),
    };
    let (dialer, login) = (&shared.config.dialer, &shared.config.login);
    let mut link = dialer.link(&master, login, shared.config.db).await?;
    let failed = |error| refused(&master, login, error);
    let role = dialer.within(&master, role(&mut link.commands)).await?;
    let role = role.map_err(failed)?;
    if role != "master" {
        return Err(Failure::NotMaster {
            address: master,
            role,
        });
    }
    // ROLE is answered while the data set is still being loaded; PING is not.
    let ping = ::redis::cmd("PING");
    let ping = ping.exec_async(&mut link.commands);
    dialer.within(&master, ping).await?.map_err(failed)?;
    memory.epoch = epoch;
    Ok(Lease::new(link, master, epoch))
}

/// Where the master is, by configuration or by the Sentinels.
async fn locate(shared: &Shared, memory: &mut Memory) -> Result<(String, u64), Failure> {
    match consult(shared, memory).await? {
        Choice::Use {
            master,
            epoch,
            settled,
        } => {
            memory.settle(settled);
            Ok((master, epoch))
        }
        Choice::Hold => {
            memory.holding.get_or_insert_with(Instant::now);
            Err(Failure::Failover)
        }
        Choice::Nobody => Err(no_sentinel(shared)),
    }
}

fn no_sentinel(shared: &Shared) -> Failure {
    let asked: Vec<&str> = shared.sentinels.iter().map(|s| s.address()).collect();
    Failure::NoSentinel {
        asked: asked.join(", "),
    }
}

/// What the Sentinels say; a failure when none of them says anything and one of them says why.
async fn consult(shared: &Shared, memory: &Memory) -> Result<Choice, Failure> {
    let config = &shared.config;
    let name = match &config.servers {
        Servers::Single(node) => {
            return Ok(Choice::Use {
                master: node.clone(),
                epoch: 0,
                settled: true,
            });
        }
        Servers::Sentinel { name, .. } => name,
        Servers::Cluster(_) => return Ok(Choice::Nobody),
    };
    let mut asking: FuturesUnordered<_> = shared
        .sentinels
        .iter()
        .map(|sentinel| sentinel.ask(name, config))
        .collect();
    let mut answers = Vec::new();
    let mut failure = None;
    loop {
        // A dead host would cost its whole deadline in every failover, and is often the one that has the master as well.
        let enough = !memory.wary && follow::is_quorum(answers.len(), shared.sentinels.len());
        let limit = if enough { LATE } else { Duration::MAX };
        match timeout(limit, asking.next()).await {
            Ok(Some(Ok(answer))) => answers.push(answer),
            Ok(Some(Err(found))) => {
                tracing::debug!(failure = found.chain(), "sentinel did not answer");
                if found.needs_repair() {
                    failure = Some(found);
                }
            }
            Ok(None) | Err(_) => break,
        }
    }
    if answers.is_empty()
        && let Some(failure) = failure
    {
        return Err(failure);
    }
    let hold = memory
        .holding
        .is_none_or(|since| since.elapsed() < config.failover_hold)
        && !config.failover_hold.is_zero();
    Ok(follow::choose(
        &answers,
        shared.sentinels.len(),
        memory.epoch,
        hold,
    ))
}

/// Compares the connection in use with what the node and the Sentinels say.
async fn check(shared: &Shared, finder: &Finder, held: &Held, memory: &mut Memory) {
    let lease = &held.lease;
    let mut link = lease.link.commands.clone();
    let sent = Instant::now();
    let consulting = async {
        match finder {
            // The Sentinels being away says nothing about the master.
            Finder::Main => consult(shared, memory).await.unwrap_or(Choice::Nobody),
            Finder::Node(_) => Choice::Nobody,
        }
    };
    let (choice, role) = tokio::join!(
        consulting,
        timeout(shared.config.connect_timeout, role(&mut link)),
    );
    match role {
        Ok(Ok(role)) if role == "master" => shared.observe(held, &Outcome::Answered, sent),
        Ok(Ok(_)) => shared.give_up(held, Reason::NotMaster),
        Ok(Err(error)) => shared.observe(held, &follow::classify(&error), sent),
        Err(_) => shared.observe(held, &Outcome::TimedOut, sent),
    }
    match choice {
        Choice::Use {
            master,
            epoch,
            settled,
        } => {
            memory.settle(settled);
            if master != lease.master {
                shared.give_up(held, Reason::SentinelsDisagree);
            } else {
                memory.epoch = epoch;
            }
        }
        Choice::Hold => {
            memory.holding.get_or_insert_with(Instant::now);
            shared.give_up(held, Reason::FailoverStarted);
        }
        Choice::Nobody => {}
    }
}

async fn role(link: &mut MultiplexedConnection) -> Result<String, RedisError> {
    let reply: Vec<Value> = ::redis::cmd("ROLE").query_async(link).await?;
    match reply.into_iter().next() {
        Some(value) => Ok(::redis::from_redis_value(value)?),
        None => Ok(String::new()),
    }
}

/// Hears the announcements of one Sentinel, for ever.
pub(super) async fn listen(shared: Arc<Shared>, index: usize) {
    let (Some(sentinel), Servers::Sentinel { name, .. }) =
        (shared.sentinels.get(index), &shared.config.servers)
    else {
        return;
    };
    let config = &shared.config;
    let mut attempt = 0;
    loop {
        match sentinel.subscribe(config).await {
            Ok(channel) => {
                attempt = 0;
                sentinel.subscribed.store(true, Ordering::Relaxed);
                // What was announced while nobody listened has to be asked for.
                shared.main.wake.notify_one();
                let (mut sink, mut messages) = channel.split();
                loop {
                    match timeout(config.check_interval, messages.next()).await {
                        Ok(Some(message)) => {
                            let payload: String = message.get_payload().unwrap_or_default();
                            let event =
                                follow::parse_event(message.get_channel_name(), &payload, name);
                            if let Some(event) = event {
                                announce(&shared, sentinel.address(), event);
                            }
                        }
                        Ok(None) => break,
                        Err(_) => {
                            let ping = sink.ping::<Value>();
                            if !matches!(timeout(config.connect_timeout, ping).await, Ok(Ok(_))) {
                                break;
                            }
                        }
                    }
                }
                sentinel.subscribed.store(false, Ordering::Relaxed);
            }
            Err(failure) => {
                tracing::debug!(failure = failure.chain(), "cannot listen to sentinel");
            }
        }
        sleep(config.backoff.delay(attempt, fastrand::u64(..))).await;
        attempt = attempt.saturating_add(1);
    }
}

fn announce(shared: &Shared, sentinel: &str, event: Event) {
    tracing::info!(sentinel, ?event, "sentinel announced");
    let seat = &shared.main;
    match event {
        Event::Switched { to } => {
            seat.drop_retired(Reason::SwitchMaster);
            match seat.lease() {
                Some(lease) if lease.master != to => {
                    seat.give_up(&lease, Reason::SwitchMaster);
                }
                _ => seat.wake.notify_one(),
            }
        }
        Event::FailoverStarted if !shared.config.failover_hold.is_zero() => {
            seat.vacate(Reason::FailoverStarted);
        }
        Event::FailoverStarted => {}
    }
}
