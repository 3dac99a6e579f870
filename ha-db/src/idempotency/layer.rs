use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ha_core::config::ConfigError;
use http::StatusCode;
use http::request::Parts;
use tokio::task::JoinHandle;
use tower_layer::Layer;

use super::service::IdempotencyService;
use super::store::{Settings, Store};
use crate::postgres::Router;

type Scope = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// How many expired rows one statement deletes: few enough that it is over in milliseconds.
const SWEEP_BATCH: u32 = 500;

/// Adds [`IdempotencyService`] to a stack, inside of [`CausalLayer`](crate::causal::CausalLayer). See the
/// [module](super).
#[derive(Clone)]
pub struct IdempotencyLayer {
    shared: Arc<Shared>,
}

impl IdempotencyLayer {
    /// A layer with default settings, which keeps the outcomes in the router's database. Call [`migrate`](super::migrate) first.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self::from_parts(Store::new(router.clone()), Builder::new(router))
    }

    /// Starts a configuration.
    pub fn builder(router: Router) -> Builder {
        Builder::new(router)
    }

    fn from_parts(store: Store, builder: Builder) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                scope: builder.scope,
                max_body: builder.max_body,
                max_answer: builder.max_answer,
                hold: builder.hold,
                sweep_interval: builder.sweep_interval,
                sweeper: OnceLock::new(),
            }),
        }
    }
}

impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = IdempotencyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyService::new(inner, Arc::clone(&self.shared))
    }
}

/// Settings of an [`IdempotencyLayer`].
#[must_use = "nothing happens before `build`"]
pub struct Builder {
    router: Router,
    settings: Settings,
    scope: Option<Arc<Scope>>,
    max_body: usize,
    max_answer: usize,
    hold: Duration,
    sweep_interval: Duration,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("settings", &self.settings)
            .field("scope", &self.scope.is_some())
            .field("max_body", &self.max_body)
            .field("max_answer", &self.max_answer)
            .field("hold", &self.hold)
            .field("sweep_interval", &self.sweep_interval)
            .finish_non_exhaustive()
    }
}

impl Builder {
    fn new(router: Router) -> Self {
        Self {
            router,
            settings: Settings::default(),
            scope: None,
            max_body: 1024 * 1024,
            max_answer: 256 * 1024,
            hold: Duration::from_secs(30),
            sweep_interval: Duration::from_secs(60),
        }
    }

    /// Whose key it is, usually the signed-in user, read from the request (an extension that an outer layer put there, a
    /// header). Keys of different scopes never meet. `None` is a scope as well; default: all requests are in that one.
    pub fn scope(
        mut self,
        scope: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.scope = Some(Arc::new(scope));
        self
    }

    /// How long outcomes are kept; default 24 h.
    pub fn expiry(mut self, expiry: Duration) -> Self {
        self.settings.expiry = expiry;
        self
    }

    /// How long a repetition waits for a first request that is still running; default 2 s. Zero answers `409` at once.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Most bytes in the body of a request with a key; default 1 MiB. It is held in memory while its digest is made.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Most bytes in the body of an answer to a request with a key; default 256 KiB, because each is stored for as long as
    /// [`expiry`](Self::expiry) says. A longer one is rolled back and becomes `500`.
    pub fn max_answer(mut self, bytes: usize) -> Self {
        self.max_answer = bytes;
        self
    }

    /// How long a request with a key may take, once for its body to arrive and once for the handler's answer; default
    /// 30 s. A transaction is open during the latter.
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// How often expired outcomes are looked for; default 60 s, plus up to as much again at random.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`], naming setting and value.
    pub fn build(self) -> Result<IdempotencyLayer, ConfigError> {
        ConfigError::positive("hold", self.hold)?;
        ConfigError::positive("sweep_interval", self.sweep_interval)?;
        for (field, value) in [("max_body", self.max_body), ("max_answer", self.max_answer)] {
            if value == 0 {
                return Err(ConfigError::new(field, value, "must be at least 1"));
            }
        }
        let store = Store::with_settings(self.router.clone(), self.settings.clone())?;
        Ok(IdempotencyLayer::from_parts(store, self))
    }
}

/// What the services of one layer share.
pub(super) struct Shared {
    pub(super) store: Store,
    scope: Option<Arc<Scope>>,
    pub(super) max_body: usize,
    pub(super) max_answer: usize,
    pub(super) hold: Duration,
    sweep_interval: Duration,
    sweeper: OnceLock<Sweeper>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("store", &self.store)
            .field("max_body", &self.max_body)
            .field("max_answer", &self.max_answer)
            .field("hold", &self.hold)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn scope(&self, parts: &Parts) -> String {
        // The prefix keeps a request without a principal apart from a principal with an empty name.
        match self.scope.as_ref().and_then(|scope| scope(parts)) {
            Some(scope) => format!("+{scope}"),
            None => String::new(),
        }
    }

    /// Starts the cleaning with the first keyed request, which surely runs inside a runtime.
    pub(super) fn sweep(&self) {
        self.sweeper.get_or_init(|| {
            let (store, interval) = (self.store.clone(), self.sweep_interval);
            Sweeper(tokio::spawn(async move {
                loop {
                    // Spread out, so that app servers that started together do not sweep together.
                    tokio::time::sleep(interval.mul_f64(1.0 + fastrand::f64())).await;
                    loop {
                        match store.sweep(SWEEP_BATCH).await {
                            Ok(count) if count < SWEEP_BATCH.into() => break,
                            Ok(_) => tokio::task::yield_now().await,
                            Err(error) => {
                                tracing::debug!(%error, "expired outcomes were not deleted");
                                break;
                            }
                        }
                    }
                }
            }))
        });
    }
}

/// Ends the cleaning with the last service of the layer.
struct Sweeper(JoinHandle<()>);

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether an answer is final, so that a repetition shall get it too. Server errors are not, nor are the three client
/// errors that ask for the same request again later.
pub(super) fn is_final(status: StatusCode) -> bool {
    !status.is_server_error()
        && !matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_another_try_is_not_final() {
        for (status, expected) in [
            (200, true),
            (201, true),
            (303, true),
            (400, true),
            (404, true),
            (409, true),
            (422, true),
            (408, false),
            (425, false),
            (429, false),
            (500, false),
            (503, false),
            (599, false),
        ] {
            assert_eq!(
                is_final(StatusCode::from_u16(status).unwrap()),
                expected,
                "{status}"
            );
        }
    }
}
