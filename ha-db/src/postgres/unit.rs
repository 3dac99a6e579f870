//! One outer transaction around everything that a request does.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::conn::{Guard, Lease};
use super::transaction::{begin, commit, rollback};
use super::{Causal, Error, Router, Token, TransactionOptions};

/// The connection of a unit, used by one at a time.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Nothing, once the unit has ended.
    lease: Arc<Mutex<Option<Lease>>>,
    limit: std::time::Duration,
}

impl Shared {
    /// The connection, as soon as nobody else uses it.
    pub(crate) async fn lock(&self) -> Result<Guard, Error> {
        OwnedMutexGuard::try_map(self.free().await?, Option::as_mut).map_err(|_| Error::UnitEnded)
    }

    async fn free(&self) -> Result<OwnedMutexGuard<Option<Lease>>, Error> {
        let limit = self.limit;
        timeout(limit, Arc::clone(&self.lease).lock_owned())
            .await
            .map_err(|_| Error::Timeout {
                what: "waiting for the unit's connection",
                limit,
            })
    }
}

/// One outer transaction on the primary. While it lives, every [`Db`](super::Db) of the same [`Causal`] works inside it:
/// transactions become savepoints, reads and writes use its connection. Dropped without [`Unit::commit`], it is rolled back.
#[derive(Debug)]
pub struct Unit {
    shared: Option<Arc<Shared>>,
    causal: Causal,
}

impl Unit {
    /// Begins, waiting up to `write_wait` for a primary.
    ///
    /// # Errors
    /// As [`Router::transaction`]. [`Error::UnitOpen`] when `causal` works inside a unit already: the inner one would end the outer
    /// one's hold on what comes after it.
    ///
    /// # Cancel safety
    /// Nothing is begun.
    pub async fn begin(router: &Router, causal: &Causal) -> Result<Self, Error> {
        if causal.unit().is_some() {
            return Err(Error::UnitOpen);
        }
        let lease = begin(router, Some(causal), &TransactionOptions::default()).await?;
        let shared = Arc::new(Shared {
            lease: Arc::new(Mutex::new(Some(lease))),
            limit: router.core.settings.pool_wait,
        });
        if !causal.enter(&shared) {
            // Dropped, what it has begun is rolled back.
            return Err(Error::UnitOpen);
        }
        Ok(Self {
            shared: Some(shared),
            causal: causal.clone(),
        })
    }

    /// The unit's connection, while nobody else uses it.
    ///
    /// # Errors
    /// [`Error::Timeout`] when somebody holds it for longer than `pool_wait`.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn client(&self) -> Result<UnitClient<'_>, Error> {
        match &self.shared {
            Some(shared) => Ok(UnitClient {
                guard: shared.lock().await?,
                _unit: self,
            }),
            None => unreachable!("a unit is used only before it ends"),
        }
    }

    /// Commits, once nobody uses the connection any more.
    ///
    /// # Errors
    /// As [`Transaction::commit`](super::Transaction::commit); [`Error::Timeout`] when somebody keeps the connection: it is
    /// rolled back.
    ///
    /// # Cancel safety
    /// As [`Transaction::commit`](super::Transaction::commit).
    pub async fn commit(mut self) -> Result<Token, Error> {
        let lease = self.take().await?;
        commit(lease).await
    }

    /// Rolls back; the connection is reused after the server has confirmed that.
    ///
    /// # Errors
    /// [`Error::Timeout`] when somebody keeps the connection; it is rolled back when that one lets go. [`Error::Query`] when the
    /// server does not confirm it; the connection is closed, and with it the transaction ends.
    ///
    /// # Cancel safety
    /// Rolled back all the same.
    pub async fn rollback(mut self) -> Result<(), Error> {
        let lease = self.take().await?;
        rollback(lease).await
    }

    /// Takes the connection out, after whoever uses it now; who comes later finds none.
    async fn take(&mut self) -> Result<Lease, Error> {
        let Some(shared) = self.shared.take() else {
            return Err(Error::UnitEnded);
        };
        self.causal.leave(&shared);
        // Dropped in here, the lease is rolled back by the last who holds it.
        shared.free().await?.take().ok_or(Error::UnitEnded)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            self.causal.leave(&shared);
        }
    }
}

/// The connection of a [`Unit`], for one user at a time: dereferences to the [`Client`].
#[derive(Debug)]
pub struct UnitClient<'a> {
    guard: Guard,
    _unit: &'a Unit,
}

impl Deref for UnitClient<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.guard.client()
    }
}
