//! Sessions of tower-sessions behind this crate's own layer.

use std::fmt;
use std::sync::Arc;

use cookie::Cookie;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use super::record::is_id;
use super::{Import, Legacy};
use crate::error::ConfigError;
use crate::id::{ID_LEN, SessionId};
use crate::record::Patch;
use crate::store::StoreError;

/// Takes over the sessions of tower-sessions' layer; see the [module](super).
///
/// ```no_run
/// # #[cfg(feature = "redis")]
/// # fn f(redis: ha_db::redis::Connection, key: ha_session::Key) -> Result<(), Box<dyn std::error::Error>> {
/// use ha_session::{RedisStore, SessionLayer, migrate_from::{Migration, TowerSessionsRedis}};
///
/// let layer = SessionLayer::builder(RedisStore::new(redis.clone()), key)
///     .migrate(Migration::from(TowerSessionsRedis::new(redis)))
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Migration {
    legacy: Arc<dyn Legacy>,
    name: String,
    domain: Option<String>,
    path: String,
    verify: Option<Verify>,
}

type Verify = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl Migration {
    /// Reads the sessions from `legacy`, by the cookie `id` on the path `/`: tower-sessions' defaults.
    pub fn from(legacy: impl Legacy) -> Self {
        Self {
            legacy: Arc::new(legacy),
            name: "id".to_owned(),
            domain: None,
            path: "/".to_owned(),
            verify: None,
        }
    }

    /// The name of tower-sessions' cookie. Default: `id`.
    pub fn cookie_name(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// The domain that tower-sessions' cookie was set for, without which browsers do not take it back. Default: none.
    pub fn cookie_domain(self, domain: impl Into<String>) -> Self {
        Self {
            domain: Some(domain.into()),
            ..self
        }
    }

    /// The path that tower-sessions' cookie was set for. Default: `/`.
    pub fn cookie_path(self, path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..self
        }
    }

    /// Turns the cookie's text into the id, or into nothing, for an app that had tower-sessions sign or encrypt it. Default: the
    /// text is the id.
    pub fn verify(self, verify: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            verify: Some(Arc::new(verify)),
            ..self
        }
    }

    pub(crate) fn check(&self, own_name: &str) -> Result<(), ConfigError> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(token) || self.name == own_name {
            return Err(ConfigError::CookieName {
                name: self.name.clone(),
            });
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the old cookie names, if it can be an id.
    pub(crate) fn carried(&self, text: &str) -> Option<Carried> {
        let id = match &self.verify {
            Some(verify) => verify(text)?,
            None => text.to_owned(),
        };
        is_id(&id).then_some(Carried { id })
    }

    pub(crate) async fn read(&self, carried: &Carried) -> Result<Option<Patch>, StoreError> {
        match Import::read_text(&*self.legacy, &carried.id).await? {
            Some(import) => import.patch().map(Some),
            None => Ok(None),
        }
    }

    pub(crate) async fn delete(&self, carried: &Carried) -> Result<(), StoreError> {
        self.legacy.delete(&carried.id).await
    }

    /// `Set-Cookie` that takes the old cookie back.
    pub(crate) fn clear(&self) -> Option<HeaderValue> {
        let mut cookie = Cookie::build((self.name.as_str(), ""))
            .path(self.path.as_str())
            .max_age(cookie::time::Duration::ZERO);
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(domain.as_str());
        }
        HeaderValue::try_from(cookie.build().to_string()).ok()
    }
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migration")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// An id of tower-sessions that a request came with. Never shown.
#[derive(Clone)]
pub(crate) struct Carried {
    id: String,
}

impl Carried {
    /// The id under which the session goes on: always the same one, and nothing that leads back.
    pub(crate) fn successor(&self) -> SessionId {
        let digest = Sha256::new()
            .chain_update(b"ha-session migrated from tower-sessions")
            .chain_update(&self.id)
            .finalize();
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&digest[..ID_LEN]);
        SessionId::from_bytes(id)
    }
}
