//! Leader election on PostgreSQL: active/standby pairs, singletons, jobs that one instance may run.
//!
//! # Promised
//! - **A fencing token is granted once, and a later grant has a higher one**, whatever clocks, pauses, lost messages and failovers
//!   do, and even if two primaries take writes, as long as each promotion has a timeline of its own ([`Fence`]).
//! - **The holder knows of its loss before another is granted the lease**, as long as no abandoned primary takes writes:
//!   [`Guard::check`], [`Guard::lost`] and [`Guard::run`] end a margin before anybody may take it. No two clocks are compared.
//! - A holder outlives a failover that takes less than what is left of its lease. Renewals have connections of their own, so that a
//!   full pool does not cost the lease.
//!
//! # Not promised
//! - A process that is stopped after it has looked, and goes on after its lease is over, does one more step. Only the resource
//!   can refuse it: pass the fence along, or for writes to the same database use [`Guard::confirm`].
//! - Two primaries at once can make two holders, with different fences. The one with the lower fence is the stale one.
//! - PostgreSQL numbers timelines by what the promoted standby knows of. Two that are promoted without knowing of each other, at once or one
//!   after the other died, get the same number, and with it may grant the same fence. One manager that promotes (Patroni, CloudNativePG), or an
//!   archive of the log that all standbys restore from, keeps numbers apart; a standby promoted by hand after a lost one does not.
//! - A machine that is suspended stops its monotonic clock, and wakes up too confident: the fence protects.
//!
//! How it works and why it is safe stands at [`ha_core::lease`].
//!
//! ```no_run
//! # async fn example(router: ha_db::postgres::Router) -> Result<(), Box<dyn std::error::Error>> {
//! use ha_db::lease::{self, Lease};
//!
//! lease::migrate(&router).await?;
//! let lease = Lease::new(router, "nightly-report")?;
//! loop {
//!     let guard = lease.acquire().await?; // waits as a standby
//!     let fence = guard.fence();
//!     let work = async { /* the singleton's work; everything it changes carries the fence */ };
//!     match guard.run(work).await {
//!         Ok(()) => break guard.release().await?, // the next one starts at once
//!         Err(loss) => eprintln!("lost {fence}: {loss}"), // the work has been dropped
//!     }
//! }
//! # Ok(()) }
//! ```

mod error;
mod guard;
mod store;

use std::sync::Arc;
use std::time::Instant;

use ha_core::lease::{Ask, Candidate, Next, Owner};
use tokio::time::timeout;

pub use self::error::Error;
pub use self::guard::Guard;
pub use ha_core::lease::{Config, Fence, Loss};

use self::store::{Request, Store};
use crate::postgres::Router;

/// The longest name, in bytes.
const LONGEST: usize = 255;

/// Creates the table `ha_lease` where it is missing. Every app server may call it at start, all at once. A role without the right
/// to create tables can call it as well once the table is there; it needs `SELECT`, `INSERT` and `UPDATE`.
///
/// # Errors
/// [`Error::Database`]. Nothing is left half done.
///
/// # Cancel safety
/// Dropped half way, it is rolled back; call it again.
pub async fn migrate(router: &Router) -> Result<(), Error> {
    Ok(crate::migrate::create(
        router,
        "ha_lease",
        store::SCHEMA,
        "creating the lease table",
    )
    .await?)
}

/// A lease by its name, for whoever wants to hold it. Clones are the same lease; each [`Lease::acquire`] is a contender of
/// its own.
#[derive(Debug, Clone)]
pub struct Lease {
    store: Arc<Store>,
    config: Config,
}

impl Lease {
    /// The lease `name` with the default times: 15 s.
    ///
    /// # Errors
    /// [`Error::Name`] when the name is empty, longer than 255 bytes or contains a zero byte.
    pub fn new(router: Router, name: impl Into<String>) -> Result<Self, Error> {
        Self::with_config(router, name, Config::default())
    }

    /// The lease `name` with these times. Everybody must use the same `ttl` for it.
    ///
    /// # Errors
    /// As [`Lease::new`], and [`Error::Config`].
    pub fn with_config(
        router: Router,
        name: impl Into<String>,
        config: Config,
    ) -> Result<Self, Error> {
        let name = name.into();
        if name.is_empty() || name.len() > LONGEST || name.contains('\0') {
            return Err(Error::Name { len: name.len() });
        }
        config.validate()?;
        Ok(Self {
            store: Arc::new(Store { router, name }),
            config,
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.store.name
    }

    /// Waits until the lease is granted, through outages and failovers, however long that takes.
    ///
    /// # Errors
    /// [`Error::NotMigrated`] and [`Error::Database`] when the server refuses for a reason that waiting does not mend. An outage
    /// is not an error.
    ///
    /// # Cancel safety
    /// Dropped in the moment of being granted, the lease stays unused until its time has passed.
    pub async fn acquire(&self) -> Result<Guard, Error> {
        let owner = Owner(u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)));
        let mut candidate = Candidate::new(self.config, owner, Instant::now())?;
        loop {
            let ask = match candidate.next(Instant::now()) {
                Next::Wait(until) => {
                    tokio::time::sleep_until(until.into()).await;
                    continue;
                }
                Next::Ask(ask) => ask,
            };
            let request = match ask {
                Ask::Look => Request::Look,
                Ask::Take(seen) => Request::Take(seen),
            };
            let sent = Instant::now();
            let answer = timeout(self.config.answer_within, self.store.ask(owner, request)).await;
            let random = fastrand::u64(..);
            match answer {
                Ok(Ok(answer)) => {
                    let now = Instant::now();
                    if let Some(hold) = candidate.answered(ask, answer, sent, now, random) {
                        return Ok(Guard::start(Arc::clone(&self.store), self.config, hold));
                    }
                }
                Ok(Err(error)) if error.is_final() => return Err(error),
                Ok(Err(error)) => {
                    tracing::debug!(
                        lease = self.name(),
                        error = &error as &dyn std::error::Error,
                        "no answer"
                    );
                    candidate.failed(Instant::now(), random);
                }
                Err(_) => {
                    tracing::debug!(lease = self.name(), "no answer in time");
                    candidate.failed(Instant::now(), random);
                }
            }
        }
    }

    /// Who holds it now, by the fence of the grant; nobody, if it was given back or never granted. A holder that has died shows
    /// until another takes the lease.
    ///
    /// # Errors
    /// [`Error::Database`], [`Error::NotMigrated`].
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn holder(&self) -> Result<Option<Fence>, Error> {
        let answer = self.store.ask(Owner(0), Request::Look).await?;
        let record = answer.sight.record;
        Ok(record
            .filter(|record| record.owner.is_some())
            .map(|record| record.fence))
    }
}
