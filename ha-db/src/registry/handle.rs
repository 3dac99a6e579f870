//! The registry itself: whose, and where it is kept.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ha_core::config::ConfigError;
use ha_core::endpoint::Endpoint;
use tokio::time::timeout;

use super::wire::Row;
use super::{Announcement, Error, Watch};

/// Where announcements are kept.
#[derive(Clone)]
pub(super) enum Store {
    #[cfg(feature = "postgres")]
    Postgres(crate::postgres::Router),
    #[cfg(feature = "redis")]
    Redis(super::redis::Kept),
}

/// Those who serve one service, as announced in a store. Clones share it.
#[derive(Clone)]
pub struct Registry {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) service: String,
    store: Store,
    pub(super) heartbeat: Duration,
    pub(super) look_every: Duration,
    pub(super) threshold: f64,
    limit: Duration,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("service", &self.inner.service)
            .field("heartbeat", &self.inner.heartbeat)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`Registry`].
#[derive(Clone)]
#[must_use = "nothing happens before `build`"]
pub struct Builder {
    service: String,
    store: Store,
    heartbeat: Duration,
    look_every: Option<Duration>,
    threshold: f64,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("service", &self.service)
            .field("heartbeat", &self.heartbeat)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry in PostgreSQL, in the table that [`migrate`](super::migrate) creates.
    #[cfg(feature = "postgres")]
    pub fn postgres(service: impl Into<String>, router: crate::postgres::Router) -> Builder {
        Builder::new(service.into(), Store::Postgres(router))
    }

    /// A registry in Redis, in one hash of the name `ha:registry:{SERVICE}`.
    #[cfg(feature = "redis")]
    pub fn redis(service: impl Into<String>, connection: crate::redis::Connection) -> Builder {
        let service = service.into();
        let kept = super::redis::Kept::new(&service, connection);
        Builder::new(service, Store::Redis(kept))
    }

    /// Announces an endpoint under its key, from now on until it is drained or the announcement is dropped. It does not wait: the
    /// store may be away. Announcing a key again, from this or another process, takes it over.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use = "the announcement ends when it is dropped"]
    pub fn announce(&self, endpoint: Endpoint) -> Announcement {
        Announcement::start(self.clone(), endpoint)
    }

    /// Follows who is there: a stream of whole sets, each of which differs from the one before.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(&self) -> Watch {
        Watch::start(self.clone())
    }

    /// A step in the store, within the deadline that all have.
    async fn within<T>(&self, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.inner.limit;
        timeout(limit, step)
            .await
            .unwrap_or(Err(Error::TimedOut { limit }))
    }

    /// Writes a heartbeat. Returns the incarnation: the one given, or a new one for 0.
    pub(super) async fn beat(
        &self,
        key: &str,
        incarnation: i64,
        beat: i64,
        text: &str,
    ) -> Result<i64, Error> {
        let every = self.inner.heartbeat;
        let step = async {
            match &self.inner.store {
                #[cfg(feature = "postgres")]
                Store::Postgres(router) => {
                    let service = &self.inner.service;
                    super::postgres::beat(router, service, key, incarnation, beat, every, text)
                        .await
                }
                #[cfg(feature = "redis")]
                Store::Redis(kept) => kept.beat(key, incarnation, beat, every, text).await,
            }
        };
        self.within(step).await?.ok_or_else(|| Error::Superseded {
            key: key.to_owned(),
        })
    }

    /// Leaves word that this one has drained.
    pub(super) async fn withdraw(
        &self,
        key: &str,
        incarnation: i64,
        beat: i64,
    ) -> Result<(), Error> {
        self.beat(key, incarnation, beat, "").await.map(drop)
    }

    /// All announcements.
    pub(super) async fn look(&self) -> Result<Vec<Row>, Error> {
        let step = async {
            match &self.inner.store {
                #[cfg(feature = "postgres")]
                Store::Postgres(router) => super::postgres::look(router, &self.inner.service).await,
                #[cfg(feature = "redis")]
                Store::Redis(kept) => kept.look().await,
            }
        };
        self.within(step).await
    }
}

impl Builder {
    fn new(service: String, store: Store) -> Self {
        Self {
            service,
            store,
            heartbeat: Duration::from_secs(1),
            look_every: None,
            threshold: 8.0,
        }
    }

    /// How often an announcement is renewed; default 1 s. One that dies is left out after about 3.4 times this.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = every;
        self
    }

    /// How often a watcher looks; default a quarter of the heartbeat, so that looking adds little to what φ needs.
    pub fn look_every(mut self, every: Duration) -> Self {
        self.look_every = Some(every);
        self
    }

    /// At which φ one is left out; default 8, a false alarm in a hundred million heartbeats by the model.
    pub fn threshold(mut self, phi: f64) -> Self {
        self.threshold = phi;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting and its value.
    pub fn build(self) -> Result<Registry, ConfigError> {
        if self.service.is_empty() || self.service.contains(['{', '}']) {
            return Err(ConfigError::new(
                "service",
                format_args!("{:?}", self.service),
                "must be a name without braces",
            ));
        }
        let look_every = self.look_every.unwrap_or(self.heartbeat / 4);
        for (field, every) in [("heartbeat", self.heartbeat), ("look_every", look_every)] {
            if every < Duration::from_millis(1) {
                return Err(ConfigError::new(
                    field,
                    format_args!("{every:?}"),
                    "must be at least a millisecond",
                ));
            }
            ConfigError::at_most_a_day(field, every)?;
        }
        if self.threshold <= 0.0 || !self.threshold.is_finite() {
            return Err(ConfigError::new(
                "threshold",
                self.threshold,
                "must be a positive number",
            ));
        }
        Ok(Registry {
            inner: Arc::new(Inner {
                service: self.service,
                store: self.store,
                heartbeat: self.heartbeat,
                look_every,
                threshold: self.threshold,
                // Longer than a heartbeat it need not be waited for: the next one says the same.
                limit: self.heartbeat.max(Duration::from_millis(250)),
            }),
        })
    }
}
