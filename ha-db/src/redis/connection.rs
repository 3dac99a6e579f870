//! The handle, and one command's way through it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, FromRedisValue, RedisError, Value};
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::cluster::asking::{Asking, Overheard};
use super::cluster::keys::{self, Place};
use super::config::{Builder, Config, Servers};
use super::error::{ConfigError, Error, Failure, NotSent, Unknown};
use super::follow::{self, Outcome};
use super::seat::Guarded;
use super::shared::Shared;
use super::status::Status;
use super::supervisor::{self, Finder};
use super::{cluster, url};

/// A command that is sent from node to node pauses from the third on, so that two nodes that point at each other do not keep a core busy.
const FREE_HOPS: u32 = 2;
/// The longest such pause: a slot that moves is settled within moments.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Longer deadlines are slips of units, and an instant has an end.
const A_DAY: Duration = Duration::from_secs(86_400);

/// Ends the background tasks with the last handle.
struct Tasks {
    all: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.all {
            task.abort();
        }
        if let Some(cluster) = &self.shared.cluster {
            cluster.close();
        }
    }
}

/// A connection to the master of a Redis set-up, wherever the master is, or to all masters of a cluster. Cheap to clone; all clones share
/// one link to each.
///
/// See the [module](super) for what it promises. Its background tasks end when the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    timeout: Duration,
    _tasks: Arc<Tasks>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("servers", &self.shared.config.servers)
            .field(
                "master",
                &self.shared.main.lease().map(|lease| lease.master.clone()),
            )
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Starts a configuration.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Connects as the URL says, with default settings.
    ///
    /// # Errors
    /// [`ConfigError`]. Servers that are down are no error.
    pub fn from_url(url: &str) -> Result<Self, ConfigError> {
        Self::builder().url(url)?.build()
    }

    pub(super) fn start(config: Config) -> Self {
        let timeout = config.command_timeout;
        let shared = Arc::new(Shared::new(config));
        let first = match &shared.config.servers {
            Servers::Cluster(_) => tokio::spawn(cluster::run(Arc::clone(&shared))),
            Servers::Single(_) | Servers::Sentinel { .. } => tokio::spawn(supervisor::run(
                Arc::clone(&shared),
                Arc::clone(&shared.main),
                Finder::Main,
            )),
        };
        let mut all = vec![first];
        all.extend(
            (0..shared.sentinels.len())
                .map(|index| tokio::spawn(supervisor::listen(Arc::clone(&shared), index))),
        );
        let tasks = Arc::new(Tasks {
            all,
            shared: Arc::clone(&shared),
        });
        Self {
            shared,
            timeout,
            _tasks: tasks,
        }
    }

    /// The same connection with another deadline for its commands; a day at most.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: timeout.min(A_DAY),
            ..self.clone()
        }
    }

    /// Runs one command on the master; in a cluster, on the owner of its key's slot.
    ///
    /// A command that a node refuses because of what the node is has not run: it is not, or not yet, a working master (`READONLY`, `LOADING`,
    /// `MASTERDOWN`), or not the owner (`MOVED`, `ASK`, `TRYAGAIN`, `CLUSTERDOWN`). It is sent again where it belongs within the same deadline.
    ///
    /// # Errors
    /// [`Error`], whose variants say whether the command may have run.
    ///
    /// # Cancel safety
    /// A dropped future leaves the command's outcome unknown, as [`Error::Unknown`] does; the connection stays good.
    pub async fn run<T: FromRedisValue>(&self, command: &::redis::Cmd) -> Result<T, Error> {
        let send = |mut link: MultiplexedConnection, asking| async move {
            if asking {
                command.query_async::<Value>(&mut Asking(link)).await
            } else {
                command.query_async::<Value>(&mut link).await
            }
        };
        let place = self.place(|| keys::of_command(command));
        read(self.perform(place, |_| true, send).await?)
    }

    /// Runs a script on the master, by its hash where the server knows it and by its text otherwise; in a cluster, on the owner of its
    /// first key's slot.
    ///
    /// # Errors
    /// As [`run`](Self::run). After [`Error::Server`] the script may have done what came before the error.
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &::redis::ScriptInvocation<'_>,
    ) -> Result<T, Error> {
        let send = |mut link: MultiplexedConnection, asking| async move {
            if asking {
                script.invoke_async::<Value>(&mut Asking(link)).await
            } else {
                script.invoke_async::<Value>(&mut link).await
            }
        };
        let place = self.place(|| {
            let mut heard = Overheard::default();
            let _ = script.invoke_async::<Value>(&mut heard).now_or_never();
            heard.0.as_ref().map_or(Place::Anywhere, keys::of_command)
        });
        read(self.perform(place, |_| true, send).await?)
    }

    /// Runs a pipeline on the master, as one transaction where it is [`atomic`](redis::Pipeline::atomic). In a cluster all its keys have
    /// to be in one slot. It is sent again by itself only when none of it has run: a transaction that was aborted, or every command refused.
    /// `WAIT` behind the writes, in a pipeline that is not atomic, says how many replicas have them; see the [module](super).
    ///
    /// # Errors
    /// As [`run`](Self::run). After [`Error::Server`] other commands of a pipeline that is not atomic may have run.
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        pipeline: &::redis::Pipeline,
    ) -> Result<T, Error> {
        let send = |mut link: MultiplexedConnection, asking| async move {
            if asking {
                pipeline.query_async::<Value>(&mut Asking(link)).await
            } else {
                pipeline.query_async::<Value>(&mut link).await
            }
        };
        let again = |error: &RedisError| {
            let acting = pipeline.cmd_iter().enumerate();
            let acting = acting.filter(|(_, command)| !keys::waits(command));
            follow::nothing_ran(error, acting.map(|(at, _)| at))
        };
        let place = self.place(|| keys::of_pipeline(pipeline));
        read(self.perform(place, again, send).await?)
    }

    /// Where a command has to run; only a cluster asks.
    fn place(&self, find: impl FnOnce() -> Place) -> Place {
        match self.shared.cluster {
            Some(_) => find(),
            None => Place::Anywhere,
        }
    }

    async fn perform<F, Fut>(
        &self,
        place: Place,
        nothing_ran: impl Fn(&RedisError) -> bool,
        send: F,
    ) -> Result<Value, Error>
    where
        F: Fn(MultiplexedConnection, bool) -> Fut,
        Fut: Future<Output = Result<Value, RedisError>>,
    {
        let shared = &*self.shared;
        let start = Instant::now();
        let deadline = start + self.timeout;
        if matches!(place, Place::Everywhere | Place::Several) {
            return Err(shared.refuse(NotSent::NotOneSlot, start, None));
        }
        let unknown = |why, source| {
            shared.count_unknown();
            Err(Error::Unknown {
                why,
                after: start.elapsed(),
                source,
            })
        };
        let mut hop: Option<(String, bool)> = None;
        let mut tries = 0_u32;
        loop {
            let hopped = hop.take().and_then(|(to, asking)| {
                let cluster = shared.cluster.as_ref()?;
                Some((cluster.find_node(&to)?, asking))
            });
            let (held, asking) = match hopped {
                Some(there) => there,
                None => (shared.wait(place, start, deadline).await?, false),
            };
            let under_way = shared.enter(start)?;
            let sent = Instant::now();
            let sending = timeout_at(deadline, send(held.lease.link.commands.clone(), asking));
            let error = match held.lease.guard(sending).await {
                Guarded::Done(Ok(Ok(value))) => {
                    shared.observe(&held, &Outcome::Answered, sent);
                    return Ok(value);
                }
                Guarded::Done(Ok(Err(error))) => error,
                Guarded::Done(Err(_elapsed)) => {
                    shared.observe(&held, &Outcome::TimedOut, sent);
                    return unknown(Unknown::TimedOut, None);
                }
                // The node was given up since it was looked up: there is another one, or will be.
                Guarded::NotBegun => continue,
                Guarded::Revoked(reason) => return unknown(Unknown::Demoted(reason), None),
            };
            drop(under_way);
            let outcome = follow::classify(&error);
            shared.observe(&held, &outcome, sent);
            match outcome {
                Outcome::TimedOut => return unknown(Unknown::TimedOut, Some(error)),
                Outcome::Broken => return unknown(Unknown::Broken, Some(error)),
                refused if refused.is_refusal() && nothing_ran(&error) => {
                    // Outside of a cluster a redirection says that the configuration is not one of a cluster.
                    let elsewhere = matches!(refused, Outcome::Redirected { .. });
                    if elsewhere && shared.cluster.is_none() {
                        return Err(Error::Server(error));
                    }
                    tries += 1;
                    let reachable = match refused {
                        Outcome::Redirected { to, asking } => {
                            let to = complete(&to, &held.lease.master);
                            let cluster = shared.cluster.as_ref();
                            let known = cluster.is_some_and(|c| c.find_node(&to).is_some());
                            hop = Some((to, asking));
                            known
                        }
                        Outcome::Refused(_) => true,
                        _ => false,
                    };
                    if !reachable || tries > FREE_HOPS {
                        let pause = Duration::from_millis(1 << tries.min(6)).min(LONGEST_PAUSE);
                        let until = deadline.min(Instant::now() + pause);
                        shared.change_or(until, start).await?;
                    }
                    if Instant::now() >= deadline {
                        let cause = Failure::Link {
                            address: held.lease.master.clone(),
                            source: error,
                        };
                        return Err(shared.refuse(NotSent::Refused, start, Some(Arc::new(cause))));
                    }
                }
                _ => {
                    return Err(match error.kind() {
                        ErrorKind::Client | ErrorKind::InvalidClientConfig => Error::Invalid(error),
                        _ => Error::Server(error),
                    });
                }
            }
        }
    }

    /// Waits until a master is connected, or in a cluster the owner of every slot, for a day at most. For start-up and tests; commands wait by
    /// themselves.
    ///
    /// # Errors
    /// [`Error::NotSent`] when there is none within `limit`; [`Error::failure`] says why.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let start = Instant::now();
        self.shared
            .wait_ready(start, start + limit.min(A_DAY))
            .await
    }

    /// What the connection knows and does right now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }
}

/// The address of a redirection in the canonical form; without a host it means that of the node that said so.
fn complete(to: &str, from: &str) -> String {
    let Some((host, port)) = to.rsplit_once(':') else {
        return to.to_owned();
    };
    let port = port.parse().unwrap_or(url::DEFAULT_PORT);
    let from = url::split_address(from, url::DEFAULT_PORT).map(|(host, _)| host);
    match (host, from) {
        ("", Some(from)) => follow::address(&from, port),
        (host, _) => follow::address(host.trim_matches(['[', ']']), port),
    }
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, Error> {
    ::redis::from_redis_value(value).map_err(|error| Error::Reply(error.into()))
}

#[cfg(test)]
mod tests {
    use super::complete;

    #[test]
    fn a_redirection_without_a_host_means_the_one_that_gave_it() {
        for (to, expected) in [
            ("10.0.0.2:7000", "10.0.0.2:7000"),
            (":7000", "10.0.0.1:7000"),
            ("::1:7000", "[::1]:7000"),
            ("db-1:7000", "db-1:7000"),
        ] {
            assert_eq!(complete(to, "10.0.0.1:6379"), expected, "{to}");
        }
    }
}
