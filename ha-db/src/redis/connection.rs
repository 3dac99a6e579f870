//! The handle, and one command's way through it.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, FromRedisValue, RedisError, Value};
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::config::{Builder, Config, Servers};
use super::error::{ConfigError, Error, NotSent, Unknown};
use super::follow::{self, Outcome, Reason};
use super::sentinel::Sentinel;
use super::status::Status;
use super::supervisor;

/// The right to use one connection to one master, until it is revoked.
pub(super) struct Lease {
    pub(super) link: MultiplexedConnection,
    pub(super) master: String,
    /// Counts leases, so that a late result cannot revoke the successor of its own.
    pub(super) number: u64,
    pub(super) epoch: u64,
    timeouts: AtomicU32,
    revoked: OnceLock<Reason>,
    revoking: Notify,
}

impl Lease {
    pub(super) fn new(
        link: MultiplexedConnection,
        master: String,
        number: u64,
        epoch: u64,
    ) -> Self {
        Self {
            link,
            master,
            number,
            epoch,
            timeouts: AtomicU32::new(0),
            revoked: OnceLock::new(),
            revoking: Notify::new(),
        }
    }

    fn revoke(&self, reason: Reason) {
        if self.revoked.set(reason).is_ok() {
            self.revoking.notify_waiters();
        }
    }

    /// Runs `sending` until it ends or the lease is revoked.
    async fn guard<T>(&self, sending: impl Future<Output = T>) -> Result<T, Reason> {
        let revoking = self.revoking.notified();
        tokio::pin!(revoking, sending);
        // Registered before the flag is read, or a revocation in between would be missed.
        revoking.as_mut().enable();
        if let Some(reason) = self.revoked.get() {
            return Err(*reason);
        }
        let answer = tokio::select! {
            biased;
            () = revoking => None,
            answer = sending => Some(answer),
        };
        match (self.revoked.get(), answer) {
            (Some(reason), _) => Err(*reason),
            (None, Some(answer)) => Ok(answer),
            (None, None) => Err(Reason::Io),
        }
    }
}

/// What the handles and the background tasks share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) sentinels: Vec<Sentinel>,
    lease: ArcSwapOption<Lease>,
    /// A lease that takes no new commands while those under way end.
    retired: Mutex<Option<Arc<Lease>>>,
    /// Number of the newest lease, for those who wait for one.
    published: watch::Sender<u64>,
    /// Wakes the supervisor.
    pub(super) wake: Notify,
    last_reason: Mutex<Option<Reason>>,
    pub(super) last_failure: Mutex<Option<String>>,
    waiting: AtomicUsize,
    connects: AtomicU64,
    switches: AtomicU64,
    not_sent: AtomicU64,
    unknown: AtomicU64,
}

impl Shared {
    pub(super) fn lease(&self) -> Option<Arc<Lease>> {
        self.lease.load_full()
    }

    /// Makes a lease the one to use.
    pub(super) fn publish(&self, lease: Lease, switched: bool) {
        self.drop_retired(Reason::SwitchMaster);
        let number = lease.number;
        self.lease.store(Some(Arc::new(lease)));
        self.connects.fetch_add(1, Ordering::Relaxed);
        if switched {
            self.switches.fetch_add(1, Ordering::Relaxed);
        }
        self.published.send_replace(number);
    }

    /// Gives the node of lease `number` up, if it is still the one in use, and wakes the supervisor.
    pub(super) fn give_up(&self, number: u64, reason: Reason) {
        let current = self.lease.load();
        let Some(lease) = current.as_ref().filter(|lease| lease.number == number) else {
            return;
        };
        let taken = self.lease.compare_and_swap(&*current, None);
        if !taken
            .as_ref()
            .is_some_and(|taken| Arc::ptr_eq(taken, lease))
        {
            return;
        }
        tracing::info!(node = %lease.master, %reason, "gave up redis node");
        self.drop_retired(reason);
        *lock(&self.last_reason) = Some(reason);
        if reason == Reason::FailoverStarted {
            // What is under way was sent before the failover began and is still being replicated.
            *lock(&self.retired) = Some(Arc::clone(lease));
        } else {
            lease.revoke(reason);
        }
        self.wake.notify_one();
    }

    pub(super) fn drop_retired(&self, reason: Reason) {
        if let Some(retired) = lock(&self.retired).take() {
            retired.revoke(reason);
        }
    }

    /// Takes in what a command on `lease` came to.
    pub(super) fn observe(&self, lease: &Lease, outcome: Outcome) {
        let timeouts = match outcome {
            Outcome::TimedOut => lease.timeouts.fetch_add(1, Ordering::Relaxed) + 1,
            _ => {
                if lease.timeouts.load(Ordering::Relaxed) != 0 {
                    lease.timeouts.store(0, Ordering::Relaxed);
                }
                0
            }
        };
        if let Some(reason) = follow::give_up(outcome, timeouts, self.config.timeouts_in_a_row) {
            self.give_up(lease.number, reason);
        }
    }

    /// The lease in use, or the next one if it comes before the deadline.
    async fn wait(&self, start: Instant, deadline: Instant) -> Result<Arc<Lease>, Error> {
        if let Some(lease) = self.lease() {
            return Ok(lease);
        }
        let refuse = |why| {
            self.not_sent.fetch_add(1, Ordering::Relaxed);
            Err(Error::NotSent {
                why,
                waited: start.elapsed(),
            })
        };
        let limit = self.config.max_waiting;
        let _place = match Place::take(&self.waiting, limit) {
            Some(place) => place,
            None => return refuse(NotSent::Overloaded { limit }),
        };
        let mut published = self.published.subscribe();
        loop {
            if let Some(lease) = self.lease() {
                return Ok(lease);
            }
            match timeout_at(deadline, published.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return refuse(NotSent::NoMaster),
            }
        }
    }
}

/// One of the places among those who wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the background tasks with the last handle.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// A connection to the master of a Redis set-up, wherever the master is. Cheap to clone; all clones share one link.
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
                &self.shared.lease().map(|lease| lease.master.clone()),
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
        let sentinels = match &config.servers {
            Servers::Single(_) => Vec::new(),
            Servers::Sentinel { sentinels, .. } => sentinels
                .iter()
                .map(|address| Sentinel::new(address.clone()))
                .collect(),
        };
        let timeout = config.command_timeout;
        let shared = Arc::new(Shared {
            config,
            sentinels,
            lease: ArcSwapOption::empty(),
            retired: Mutex::new(None),
            published: watch::Sender::new(0),
            wake: Notify::new(),
            last_reason: Mutex::new(None),
            last_failure: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            connects: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            not_sent: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        });
        let mut tasks = vec![tokio::spawn(supervisor::run(Arc::clone(&shared)))];
        tasks.extend(
            (0..shared.sentinels.len())
                .map(|index| tokio::spawn(supervisor::listen(Arc::clone(&shared), index))),
        );
        Self {
            shared,
            timeout,
            _tasks: Arc::new(Tasks(tasks)),
        }
    }

    /// The same connection with another deadline for its commands.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// Runs one command on the master.
    ///
    /// A command that a node refuses because it is not, or not yet, a working master (`READONLY`, `LOADING`, `MASTERDOWN`) has not run; it is
    /// sent again to the next master within the same deadline.
    ///
    /// # Errors
    /// [`Error`], whose variants say whether the command may have run.
    ///
    /// # Cancel safety
    /// A dropped future leaves the command's outcome unknown, as [`Error::Unknown`] does; the connection stays good.
    pub async fn run<T: FromRedisValue>(&self, command: &::redis::Cmd) -> Result<T, Error> {
        let send = |mut link: MultiplexedConnection| async move {
            command.query_async::<Value>(&mut link).await
        };
        read(self.perform(true, send).await?)
    }

    /// Runs a script on the master, by its hash where the server knows it and by its text otherwise.
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
        let send = |mut link: MultiplexedConnection| async move {
            script.invoke_async::<Value>(&mut link).await
        };
        read(self.perform(true, send).await?)
    }

    /// Runs a pipeline on the master, as one transaction where it is [`atomic`](redis::Pipeline::atomic). It is never sent
    /// again by itself: a part of it may have run before a refusal.
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
        let send = |mut link: MultiplexedConnection| async move {
            pipeline.query_async::<Value>(&mut link).await
        };
        read(self.perform(false, send).await?)
    }

    async fn perform<F, Fut>(&self, again: bool, send: F) -> Result<Value, Error>
    where
        F: Fn(MultiplexedConnection) -> Fut,
        Fut: Future<Output = Result<Value, RedisError>>,
    {
        let shared = &*self.shared;
        let start = Instant::now();
        let deadline = start + self.timeout;
        let unknown = |why, source| {
            shared.unknown.fetch_add(1, Ordering::Relaxed);
            Err(Error::Unknown {
                why,
                after: start.elapsed(),
                source,
            })
        };
        loop {
            let lease = shared.wait(start, deadline).await?;
            let sending = timeout_at(deadline, send(lease.link.clone()));
            let error = match lease.guard(sending).await {
                Ok(Ok(Ok(value))) => {
                    shared.observe(&lease, Outcome::Answered);
                    return Ok(value);
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(_elapsed)) => {
                    shared.observe(&lease, Outcome::TimedOut);
                    return unknown(Unknown::TimedOut, None);
                }
                Err(reason) => return unknown(Unknown::Demoted(reason), None),
            };
            let outcome = follow::classify(&error);
            shared.observe(&lease, outcome);
            match outcome {
                Outcome::Refused(_) if again && Instant::now() < deadline => {}
                Outcome::TimedOut => return unknown(Unknown::TimedOut, Some(error)),
                Outcome::Broken => return unknown(Unknown::Broken, Some(error)),
                Outcome::Refused(_) | Outcome::Answered => {
                    return Err(match error.kind() {
                        ErrorKind::Client | ErrorKind::InvalidClientConfig => Error::Invalid(error),
                        _ => Error::Server(error),
                    });
                }
            }
        }
    }

    /// Waits until a master is connected. For start-up and tests; commands wait by themselves.
    ///
    /// # Errors
    /// [`Error::NotSent`] when there is none within `limit`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let start = Instant::now();
        self.shared.wait(start, start + limit).await.map(drop)
    }

    /// What the connection knows and does right now.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &*self.shared;
        let lease = shared.lease();
        Status {
            master: lease.as_ref().map(|lease| lease.master.clone()),
            epoch: lease.map_or(0, |lease| lease.epoch),
            connects: shared.connects.load(Ordering::Relaxed),
            switches: shared.switches.load(Ordering::Relaxed),
            last_reason: *lock(&shared.last_reason),
            last_failure: lock(&shared.last_failure).clone(),
            waiting: shared.waiting.load(Ordering::Relaxed),
            not_sent: shared.not_sent.load(Ordering::Relaxed),
            unknown: shared.unknown.load(Ordering::Relaxed),
            sentinels: shared.sentinels.iter().map(Sentinel::status).collect(),
        }
    }
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, Error> {
    ::redis::from_redis_value(value).map_err(|error| Error::Reply(error.into()))
}
