//! The background tasks: one that finds and connects the master, and one per Sentinel that listens.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisError, Value};
use futures_util::StreamExt;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::config::{Servers, client};
use super::connection::{Lease, Shared, lock};
use super::follow::{self, Choice, Event, Outcome, Reason};

/// What the supervisor remembers between tries.
struct Memory {
    /// Newest epoch acted upon.
    epoch: u64,
    /// Leases made so far.
    leases: u64,
    last_master: Option<String>,
    /// Since when a failover is waited for.
    holding: Option<Instant>,
}

impl Memory {
    /// A failover that was waited for in vain stays remembered until it is over, or it would be waited for again.
    fn settle(&mut self, settled: bool) {
        if settled {
            self.holding = None;
        }
    }
}

/// Why there is no connection yet.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no sentinel names the master")]
    Nobody,
    #[error("a failover is under way")]
    Failover,
    #[error("{master}: {error}")]
    Connect { master: String, error: RedisError },
    #[error("{master}: no answer in time")]
    TimedOut { master: String },
    #[error("{master}: ROLE is {role}, not master")]
    NotMaster { master: String, role: String },
}

/// Keeps a lease published for as long as there is a master.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut memory = Memory {
        epoch: 0,
        leases: 0,
        last_master: None,
        holding: None,
    };
    let backoff = shared.config.backoff;
    let mut attempt = 0_u32;
    loop {
        while shared.lease().is_none() {
            match establish(&shared, &mut memory).await {
                Ok(lease) => {
                    let switched = memory
                        .last_master
                        .replace(lease.master.clone())
                        .is_some_and(|last| last != lease.master);
                    tracing::info!(master = %lease.master, epoch = lease.epoch, switched, "connected to redis master");
                    *lock(&shared.last_failure) = None;
                    shared.publish(lease, switched);
                }
                Err(failure) => {
                    tracing::debug!(%failure, attempt, "no redis master yet");
                    let failing_over = matches!(failure, Failure::Failover);
                    *lock(&shared.last_failure) = Some(failure.to_string());
                    // A failover ends within moments and everybody waits for it: look often.
                    let retry = if failing_over {
                        attempt.min(2)
                    } else {
                        attempt
                    };
                    attempt = attempt.saturating_add(1);
                    let pause = backoff.delay(retry, fastrand::u64(..));
                    // An announcement cuts the pause short.
                    let _ = timeout(pause, shared.wake.notified()).await;
                }
            }
        }
        let connected = Instant::now();
        while shared.lease().is_some() {
            let _ = timeout(shared.config.check_interval, shared.wake.notified()).await;
            check(&shared, &mut memory).await;
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
async fn establish(shared: &Shared, memory: &mut Memory) -> Result<Lease, Failure> {
    let (master, epoch) = locate(shared, memory).await?;
    let config = &shared.config;
    let limit = config.connect_timeout;
    let bounded = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        // Every command has a deadline of its own.
        .set_response_timeout(None);
    let connecting = async {
        let client = client(&master, &config.login, config.db)?;
        client
            .get_multiplexed_async_connection_with_config(&bounded)
            .await
    };
    let timed_out = || Failure::TimedOut {
        master: master.clone(),
    };
    let failed = |error| Failure::Connect {
        master: master.clone(),
        error,
    };
    // Its own timeout as well: the driver's does not cover the handshake.
    let mut link = timeout(limit, connecting)
        .await
        .map_err(|_| timed_out())?
        .map_err(failed)?;
    let role = timeout(limit, role(&mut link))
        .await
        .map_err(|_| timed_out())?
        .map_err(failed)?;
    if role != "master" {
        return Err(Failure::NotMaster { master, role });
    }
    // ROLE is answered while the data set is still being loaded; PING is not.
    timeout(limit, ::redis::cmd("PING").exec_async(&mut link))
        .await
        .map_err(|_| timed_out())?
        .map_err(failed)?;
    memory.epoch = epoch;
    memory.leases += 1;
    Ok(Lease::new(link, master, memory.leases, epoch))
}

/// Where the master is, by configuration or by the Sentinels.
async fn locate(shared: &Shared, memory: &mut Memory) -> Result<(String, u64), Failure> {
    match consult(shared, memory).await {
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
        Choice::Nobody => Err(Failure::Nobody),
    }
}

async fn consult(shared: &Shared, memory: &Memory) -> Choice {
    let config = &shared.config;
    let name = match &config.servers {
        Servers::Single(node) => {
            return Choice::Use {
                master: node.clone(),
                epoch: 0,
                settled: true,
            };
        }
        Servers::Sentinel { name, .. } => name,
    };
    let asking = shared
        .sentinels
        .iter()
        .map(|sentinel| sentinel.ask(name, &config.sentinel_login, config.connect_timeout));
    let answers: Vec<_> = join_all(asking).await.into_iter().flatten().collect();
    let hold = memory
        .holding
        .is_none_or(|since| since.elapsed() < config.failover_hold)
        && !config.failover_hold.is_zero();
    follow::choose(&answers, shared.sentinels.len(), memory.epoch, hold)
}

/// Compares the connection in use with what the node and the Sentinels say.
async fn check(shared: &Shared, memory: &mut Memory) {
    let Some(lease) = shared.lease() else {
        return;
    };
    let mut link = lease.link.clone();
    let (choice, role) = tokio::join!(
        consult(shared, memory),
        timeout(shared.config.connect_timeout, role(&mut link)),
    );
    match role {
        Ok(Ok(role)) if role == "master" => {}
        Ok(Ok(_)) => shared.give_up(lease.number, Reason::NotMaster),
        Ok(Err(error)) => shared.observe(&lease, follow::classify(&error)),
        Err(_) => shared.observe(&lease, Outcome::TimedOut),
    }
    match choice {
        Choice::Use {
            master,
            epoch,
            settled,
        } => {
            memory.settle(settled);
            if master != lease.master {
                shared.give_up(lease.number, Reason::SentinelsDisagree);
            } else {
                memory.epoch = epoch;
            }
        }
        Choice::Hold => {
            memory.holding.get_or_insert_with(Instant::now);
            shared.give_up(lease.number, Reason::FailoverStarted);
        }
        // The Sentinels being away says nothing about the master.
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
        match sentinel
            .subscribe(&config.sentinel_login, config.connect_timeout)
            .await
        {
            Ok(channel) => {
                attempt = 0;
                sentinel.subscribed.store(true, Ordering::Relaxed);
                // What was announced while nobody listened has to be asked for.
                shared.wake.notify_one();
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
            Err(error) => {
                tracing::debug!(sentinel = %sentinel.address(), %error, "cannot listen to sentinel");
            }
        }
        sleep(config.backoff.delay(attempt, fastrand::u64(..))).await;
        attempt = attempt.saturating_add(1);
    }
}

fn announce(shared: &Shared, sentinel: &str, event: Event) {
    tracing::info!(sentinel, ?event, "sentinel announced");
    let lease = shared.lease();
    match event {
        Event::Switched { to } => {
            shared.drop_retired(Reason::SwitchMaster);
            if let Some(lease) = lease.filter(|lease| lease.master != to) {
                shared.give_up(lease.number, Reason::SwitchMaster);
            } else {
                shared.wake.notify_one();
            }
        }
        Event::FailoverStarted if !shared.config.failover_hold.is_zero() => {
            if let Some(lease) = lease {
                shared.give_up(lease.number, Reason::FailoverStarted);
            }
        }
        Event::FailoverStarted => {}
    }
}
