use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ha_core::sign::KeyRing;
use tower_layer::Layer;

use crate::conflict::{Conflicts, OnConflict};
use crate::cookie::{CookieConfig, Cookies, Degraded};
use crate::error::ConfigError;
use crate::expiry::Expiry;
use crate::middleware::SessionService;
use crate::session::{OnServerError, Settings, Shared};
use crate::store::Store;
use crate::value::ValueFormat;

/// Gives every request a [`Session`](crate::Session) and commits it before the answer leaves.
///
/// Put it outside everything whose answer depends on the session, and inside whatever sheds load. Clones share the
/// store.
#[derive(Clone)]
pub struct SessionLayer {
    shared: Arc<Shared>,
}

impl SessionLayer {
    /// A layer on `store` that signs its cookie with `keys`, everything else by default; see
    /// [`SessionLayerBuilder`].
    #[must_use]
    pub fn new(store: impl Store, keys: impl Into<KeyRing>) -> Self {
        Self {
            shared: Arc::new(Self::builder(store, keys).shared),
        }
    }

    /// A layer with settings of its own.
    pub fn builder(store: impl Store, keys: impl Into<KeyRing>) -> SessionLayerBuilder {
        SessionLayerBuilder {
            shared: Shared {
                store: Arc::new(store),
                cookies: Cookies::new(keys.into()),
                settings: Settings {
                    expiry: Expiry::default(),
                    format: ValueFormat::default(),
                    max_value: SessionLayerBuilder::DEFAULT_MAX_VALUE,
                    max_session: SessionLayerBuilder::DEFAULT_MAX_SESSION,
                    store_timeout: SessionLayerBuilder::DEFAULT_STORE_TIMEOUT,
                    retry_after: SessionLayerBuilder::DEFAULT_RETRY_AFTER,
                    pass_unknown: false,
                    on_server_error: OnServerError::default(),
                },
                conflicts: Conflicts::default(),
                degraded: None,
                #[cfg(feature = "migrate-tower-sessions")]
                migration: None,
            },
            cookie: None,
        }
    }

    /// Sends the cookie without `Secure` and without a prefix, so that it works on `http://localhost`.
    ///
    /// Only for development: over plain HTTP everybody on the way can read the cookie and use the session, and a
    /// neighbouring host can plant one.
    #[must_use]
    pub fn insecure_localhost(self) -> Self {
        let shared = Shared {
            store: Arc::clone(&self.shared.store),
            cookies: self.shared.cookies.clone().insecure(),
            settings: self.shared.settings,
            conflicts: self.shared.conflicts.clone(),
            degraded: self.shared.degraded.clone(),
            #[cfg(feature = "migrate-tower-sessions")]
            migration: self.shared.migration.clone(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The name of the cookie: `__Host-id` by default.
    #[must_use]
    pub fn cookie_name(&self) -> &str {
        self.shared.cookies.name()
    }
}

impl fmt::Debug for SessionLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("cookies", &self.shared.cookies)
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, Arc::clone(&self.shared))
    }
}

/// Settings of a [`SessionLayer`].
#[must_use = "nothing happens before build()"]
pub struct SessionLayerBuilder {
    shared: Shared,
    cookie: Option<CookieConfig>,
}

impl SessionLayerBuilder {
    /// The most bytes of one encoded value, 16 KiB: what is larger belongs into a database.
    pub const DEFAULT_MAX_VALUE: usize = 16 * 1024;
    /// The most bytes of a whole session, 64 KiB: it is read on almost every request.
    pub const DEFAULT_MAX_SESSION: usize = 64 * 1024;
    /// How long one conversation with the store may take, 5 s: more than the two seconds that a store waits for a
    /// failover, less than clients wait for an answer.
    pub const DEFAULT_STORE_TIMEOUT: Duration = Duration::from_secs(5);
    /// What `Retry-After` says when the store cannot answer, 1 s.
    pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

    /// When sessions end. Default: [`Expiry::DEFAULT_IDLE`] and [`Expiry::DEFAULT_ABSOLUTE`].
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        self.shared.settings.expiry = expiry;
        self
    }

    /// What happens when two requests change the same value, for every name without a policy of its own. Default: the last writer
    /// wins.
    pub fn on_conflict(mut self, policy: OnConflict) -> Self {
        self.shared.conflicts.default = policy;
        self
    }

    /// What happens when two requests change the value `name`. Default: what [`on_conflict`](Self::on_conflict) says.
    ///
    /// ```
    /// use ha_session::{Key, MemoryStore, OnConflict, SessionLayer};
    ///
    /// let layer = SessionLayer::builder(MemoryStore::new(), Key::from_bytes(&[7; 32])?)
    ///     .on_conflict_of("step", OnConflict::Refuse)
    ///     .on_conflict_of("experiment", OnConflict::FirstWriter)
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_conflict_of(mut self, name: impl Into<String>, policy: OnConflict) -> Self {
        self.shared.conflicts.names.insert(name.into(), policy);
        self
    }

    /// How values are written; all formats are read. Default: MessagePack.
    pub fn value_format(mut self, format: ValueFormat) -> Self {
        self.shared.settings.format = format;
        self
    }

    /// The most bytes of one encoded value. Default: [`DEFAULT_MAX_VALUE`](Self::DEFAULT_MAX_VALUE).
    pub fn max_value(mut self, bytes: usize) -> Self {
        self.shared.settings.max_value = bytes;
        self
    }

    /// The most bytes of a whole session. Default: [`DEFAULT_MAX_SESSION`](Self::DEFAULT_MAX_SESSION).
    pub fn max_session(mut self, bytes: usize) -> Self {
        self.shared.settings.max_session = bytes;
        self
    }

    /// How long one conversation with the store may take. Default:
    /// [`DEFAULT_STORE_TIMEOUT`](Self::DEFAULT_STORE_TIMEOUT).
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.shared.settings.store_timeout = timeout;
        self
    }

    /// What `Retry-After` says when the store cannot answer, in whole seconds. Default:
    /// [`DEFAULT_RETRY_AFTER`](Self::DEFAULT_RETRY_AFTER).
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.shared.settings.retry_after = wait;
        self
    }

    /// Name, attributes and protection of the cookie. Default: [`CookieConfig::default`].
    pub fn cookie(mut self, config: CookieConfig) -> Self {
        self.cookie = Some(config);
        self
    }

    /// Shows a few values while no store can say, from an encrypted copy that the client carries. Default: none, the client
    /// gets 503.
    pub fn degraded(mut self, degraded: Degraded) -> Self {
        self.shared.degraded = Some(degraded);
        self
    }

    /// Takes over the sessions that tower-sessions left. Default: none.
    #[cfg(feature = "migrate-tower-sessions")]
    pub fn migrate(mut self, migration: crate::migrate_from::Migration) -> Self {
        self.shared.migration = Some(migration);
        self
    }

    /// What happens to the changes of a handler that answers 5xx. Default: [`OnServerError::Commit`]. A handler that panics
    /// changes nothing either way.
    pub fn on_server_error(mut self, policy: OnServerError) -> Self {
        self.shared.settings.on_server_error = policy;
        self
    }

    /// Sends the handler's answer even when the session could not be read, for an app that can serve something useful
    /// without knowing who asks. Default: off, the client gets 503. Writes to an unknown session fail either way.
    pub fn pass_unknown(mut self, pass: bool) -> Self {
        self.shared.settings.pass_unknown = pass;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting that was refused.
    pub fn build(mut self) -> Result<SessionLayer, ConfigError> {
        let settings = &self.shared.settings;
        for (setting, zero) in [
            ("max_value", settings.max_value == 0),
            ("max_session", settings.max_session == 0),
            ("store_timeout", settings.store_timeout.is_zero()),
        ] {
            if zero {
                return Err(ConfigError::Zero { setting });
            }
        }
        if let Some(config) = self.cookie {
            self.shared.cookies = self.shared.cookies.configured(config)?;
        }
        self.shared.conflicts.check()?;
        if let Some(degraded) = &self.shared.degraded {
            degraded.check()?;
        }
        #[cfg(feature = "migrate-tower-sessions")]
        if let Some(migration) = &self.shared.migration {
            migration.check(self.shared.cookies.name())?;
        }
        Ok(SessionLayer {
            shared: Arc::new(self.shared),
        })
    }
}

impl fmt::Debug for SessionLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayerBuilder")
            .field("settings", &self.shared.settings)
            .field("cookie", &self.cookie)
            .finish_non_exhaustive()
    }
}
