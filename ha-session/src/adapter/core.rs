//! The adapter, in terms that no version of tower-sessions has a part in.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::base::{self, Base, Data};
use crate::error::{ConfigError, SessionError};
use crate::expiry::Expiry;
use crate::id::SessionKey;
use crate::middleware::SessionLayerBuilder;
#[cfg(feature = "migrate-tower-sessions")]
use crate::migrate_from::{Import, Legacy};
use crate::record::{Patch, Record, Version};
use crate::store::{Commit, Load, Outcome, Store, StoreError};

/// Why the adapter refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The store did not answer. That says nothing about the session.
    #[error("the session store did not answer")]
    Store(#[source] StoreError),
    /// The session ended, or went on under another id, while the request was under way. Nothing was saved.
    #[error("the session ended while the request was under way")]
    Ended,
    /// The session would be too large. Nothing was saved.
    #[error("session would have {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// What it would have had.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A name or a value cannot be stored or read. Nothing was saved.
    #[error("a session value cannot be used")]
    Value(#[source] SessionError),
    /// The operating system gave no random bytes for an id.
    #[error("no random bytes for a session id")]
    Random(#[source] getrandom::Error),
}

/// A [`Store`] as a `SessionStore` of tower-sessions; see the [module](super) for what it brings and what that trait cannot carry.
pub struct TowerSessions<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    store: S,
    settings: Settings,
}

#[derive(Clone)]
struct Settings {
    absolute: Duration,
    max_session: usize,
    timeout: Duration,
    #[cfg(feature = "migrate-tower-sessions")]
    legacy: Option<Arc<dyn Legacy>>,
}

/// A session as tower-sessions has it.
pub(super) struct Loaded {
    pub(super) data: Data,
    /// How long it lives if it is not used.
    pub(super) left: Duration,
}

impl<S: Store + Clone> TowerSessions<S> {
    /// The longest life of a session, [`Expiry::MAX_ABSOLUTE`]: tower-sessions has an idle limit only.
    pub const DEFAULT_ABSOLUTE: Duration = Expiry::MAX_ABSOLUTE;

    /// An adapter to `store`.
    #[must_use]
    pub fn new(store: S) -> Self {
        let settings = Settings {
            absolute: Self::DEFAULT_ABSOLUTE,
            max_session: SessionLayerBuilder::DEFAULT_MAX_SESSION,
            timeout: SessionLayerBuilder::DEFAULT_STORE_TIMEOUT,
            #[cfg(feature = "migrate-tower-sessions")]
            legacy: None,
        };
        Self {
            inner: Arc::new(Inner { store, settings }),
        }
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.inner.settings.clone();
        change(&mut settings);
        Self {
            inner: Arc::new(Inner {
                store: self.inner.store.clone(),
                settings,
            }),
        }
    }

    /// The longest life of a session, however much it is used. Default: [`DEFAULT_ABSOLUTE`](Self::DEFAULT_ABSOLUTE).
    ///
    /// # Errors
    /// [`ConfigError`] when it is shorter than a second or longer than [`Expiry::MAX_ABSOLUTE`].
    pub fn absolute(self, absolute: Duration) -> Result<Self, ConfigError> {
        Expiry::new(Duration::from_secs(1), absolute)?;
        Ok(self.with(|settings| settings.absolute = absolute))
    }

    /// The most bytes of a session. Default: [`SessionLayerBuilder::DEFAULT_MAX_SESSION`].
    #[must_use]
    pub fn max_session(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_session = bytes)
    }

    /// How long one conversation with the store may take. Default: [`SessionLayerBuilder::DEFAULT_STORE_TIMEOUT`].
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.timeout = timeout)
    }

    /// Reads a session that the store does not know from where tower-sessions' own store left it, and copies it over. Until the old
    /// servers are gone, what they change of a session that was copied already is not seen.
    #[cfg(feature = "migrate-tower-sessions")]
    #[must_use]
    pub fn reading_from(self, legacy: impl Legacy) -> Self {
        self.with(|settings| settings.legacy = Some(Arc::new(legacy)))
    }
}

impl<S: Store> TowerSessions<S> {
    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.inner.store
    }

    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, AdapterError> {
        let after = self.inner.settings.timeout;
        tokio::time::timeout(after, answer)
            .await
            .unwrap_or(Err(StoreError::Timeout { after }))
            .map_err(AdapterError::Store)
    }

    fn expiry(&self, left: Duration) -> Expiry {
        let absolute = self.inner.settings.absolute;
        let idle = left.clamp(Duration::from_secs(1), absolute);
        Expiry::new(idle, absolute).unwrap_or_default()
    }

    async fn commit(&self, commit: Commit) -> Result<Record, AdapterError> {
        let max = commit.max_bytes;
        match self.within(self.inner.store.commit(commit)).await? {
            Outcome::Committed(record) => Ok(record),
            Outcome::TooLarge { bytes } => Err(AdapterError::TooLarge { bytes, max }),
            _ => Err(AdapterError::Ended),
        }
    }

    /// Starts a session under an id of its own, whatever id the record came with: tower-sessions hands back the id of a session
    /// that was flushed.
    pub(super) async fn create(
        &self,
        data: &Data,
        left: Duration,
    ) -> Result<(i128, Data), AdapterError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(AdapterError::Random)?;
        let id = i128::from_le_bytes(id);
        let patch = base::all(data).map_err(AdapterError::Value)?;
        let max = self.inner.settings.max_session;
        let create = Commit::create(key(id), patch, self.expiry(left), max);
        let record = self.commit(create).await?;
        Ok((id, Base::load(&record).map_err(AdapterError::Value)?))
    }

    /// Saves what differs from what was loaded.
    pub(super) async fn save(
        &self,
        id: i128,
        data: &Data,
        left: Duration,
    ) -> Result<(), AdapterError> {
        let key = key(id);
        let expiry = self.expiry(left);
        let patch = match Base::of(data) {
            Some(base) => {
                let patch = base.changes(data).map_err(AdapterError::Value)?;
                if patch.is_empty() {
                    let idle = base.idle_left();
                    let shorter = expiry.idle() + expiry.idle() / 10 < idle;
                    if shorter || expiry.needs_touch(idle, base.absolute_left()) {
                        self.within(self.inner.store.touch(key, expiry)).await?;
                    }
                    return Ok(());
                }
                patch
            }
            None => self.replacing(id, data).await?,
        };
        let max = self.inner.settings.max_session;
        self.commit(Commit::update(key, patch, expiry, max)).await?;
        Ok(())
    }

    async fn replacing(&self, id: i128, data: &Data) -> Result<Patch, AdapterError> {
        let Some(record) = self.record(id).await? else {
            return Err(AdapterError::Ended);
        };
        let stored: BTreeSet<String> = record.values.into_keys().collect();
        base::replacing(data, &stored).map_err(AdapterError::Value)
    }

    async fn record(&self, id: i128) -> Result<Option<Record>, AdapterError> {
        let load = async {
            match self.inner.store.load(key(id), Version::ZERO).await {
                Load::Found(record) => Ok(Some(record)),
                Load::Gone(gone) => {
                    let _ = gone;
                    #[cfg(feature = "migrate-tower-sessions")]
                    if let (Some(legacy), true) = (
                        &self.inner.settings.legacy,
                        gone.ending == crate::store::Ending::Missing,
                    ) {
                        return self.import(&**legacy, id).await;
                    }
                    Ok(None)
                }
                Load::Unknown(error) => Err(error),
            }
        };
        self.within(load).await
    }

    /// Copies a session over, unless another request has just done so.
    #[cfg(feature = "migrate-tower-sessions")]
    async fn import(&self, legacy: &dyn Legacy, id: i128) -> Result<Option<Record>, StoreError> {
        let Some(import) = Import::read(legacy, id).await? else {
            return Ok(None);
        };
        let patch = import.patch()?;
        let expiry = self.expiry(import.left);
        let max = self.inner.settings.max_session;
        let mut create = Commit::create(key(id), patch, expiry, max);
        let names = create.patch.iter().map(|(name, _)| name.to_owned());
        create.expected = Some(names.map(|name| (name, Version::ZERO)).collect());
        match self.inner.store.commit(create).await? {
            Outcome::Committed(record) => Ok(Some(record)),
            Outcome::TooLarge { .. } => Err(StoreError::Corrupt {
                store: "tower-sessions",
                what: "it is larger than allowed",
            }),
            _ => match self.inner.store.load(key(id), Version::ZERO).await {
                Load::Found(record) => Ok(Some(record)),
                Load::Gone(_) => Ok(None),
                Load::Unknown(error) => Err(error),
            },
        }
    }

    pub(super) async fn load(&self, id: i128) -> Result<Option<Loaded>, AdapterError> {
        let Some(record) = self.record(id).await? else {
            return Ok(None);
        };
        Ok(Some(Loaded {
            data: Base::load(&record).map_err(AdapterError::Value)?,
            left: record.idle_left.min(record.absolute_left),
        }))
    }

    pub(super) async fn delete(&self, id: i128) -> Result<(), AdapterError> {
        // The copy first: were it left when the session is gone, the session would come back from it.
        #[cfg(feature = "migrate-tower-sessions")]
        if let Some(legacy) = &self.inner.settings.legacy {
            let name = crate::migrate_from::text(id);
            self.within(legacy.delete(&name)).await?;
        }
        self.within(self.inner.store.destroy(key(id))).await
    }
}

/// What the store knows of an id of tower-sessions.
fn key(id: i128) -> SessionKey {
    let hash = |purpose: &[u8]| {
        Sha256::new()
            .chain_update(purpose)
            .chain_update(id.to_le_bytes())
    };
    let tag = hash(b"tower-sessions slot").finalize();
    SessionKey::from_parts(
        [tag[0], tag[1]],
        hash(b"tower-sessions id").finalize().into(),
    )
}

impl<S> Clone for TowerSessions<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<S> fmt::Debug for TowerSessions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerSessions")
            .field("absolute", &self.inner.settings.absolute)
            .finish_non_exhaustive()
    }
}
