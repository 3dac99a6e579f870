use std::sync::Arc;
use std::time::Duration;

use ha_core::config::ConfigError;
use http::Extensions;

use crate::limit::{LimitKey, Priority};

/// More attempts than this are a storm and not a retry.
const MOST_ATTEMPTS: u32 = 10;

/// How requests of a route are treated, where that differs from what the layers do by themselves.
///
/// A request extension, and a [`Layer`](tower_layer::Layer) that puts itself there. Clones share the settings.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug, Default)]
struct Settings {
    deadline: Option<Duration>,
    retry: Option<Retry>,
    idempotent: Option<bool>,
    hedge: Option<Hedge>,
    priority: Option<Priority>,
    limit_key: Option<LimitKey>,
}

/// Whether and how often a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// Never.
    Off,
    /// Sent at most so many times, the first time included; from 1 to 10.
    Attempts(u32),
}

/// Whether and when a request is sent a second time while the first is still under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hedge {
    /// Never.
    Off,
    /// After this time, in place of what the layer has seen or was told.
    After(Duration),
}

impl Policy {
    /// The settings, all of them as the layers have them.
    pub fn builder() -> Builder {
        Builder {
            settings: Settings::default(),
        }
    }

    /// How long the caller waits for the response head.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.settings.deadline
    }

    /// Whether and how often it is sent again.
    #[must_use]
    pub fn retry(&self) -> Option<Retry> {
        self.settings.retry
    }

    /// Whether it is safe to send it twice, whatever its method says.
    #[must_use]
    pub fn idempotent(&self) -> Option<bool> {
        self.settings.idempotent
    }

    /// Whether and when it is hedged.
    #[must_use]
    pub fn hedge(&self) -> Option<Hedge> {
        self.settings.hedge
    }

    /// How much it matters under overload.
    #[must_use]
    pub fn priority(&self) -> Option<Priority> {
        self.settings.priority
    }

    /// Whom it counts for in a rate limit.
    #[must_use]
    pub fn limit_key(&self) -> Option<&LimitKey> {
        self.settings.limit_key.as_ref()
    }

    /// Puts it among `extensions`, over one that is there: what this one does not name stays.
    pub fn apply(&self, extensions: &mut Extensions) {
        let policy = match extensions.get::<Self>() {
            Some(outer) => self.over(outer),
            None => self.clone(),
        };
        if let Some(priority) = self.settings.priority {
            extensions.insert(priority);
        }
        if let Some(key) = &self.settings.limit_key {
            extensions.insert(key.clone());
        }
        extensions.insert(policy);
    }

    fn over(&self, outer: &Self) -> Self {
        let (own, outer) = (&*self.settings, &*outer.settings);
        let settings = Settings {
            deadline: own.deadline.or(outer.deadline),
            retry: own.retry.or(outer.retry),
            idempotent: own.idempotent.or(outer.idempotent),
            hedge: own.hedge.or(outer.hedge),
            priority: own.priority.or(outer.priority),
            limit_key: own.limit_key.clone().or_else(|| outer.limit_key.clone()),
        };
        Self {
            settings: Arc::new(settings),
        }
    }
}

/// Sets what differs in a [`Policy`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder {
    settings: Settings,
}

impl Builder {
    /// The caller waits so long for the response head. Default: as the [`TimeoutLayer`](crate::timeout::TimeoutLayer) has it. An
    /// earlier deadline from further out still wins.
    pub const fn deadline(mut self, limit: Duration) -> Self {
        self.settings.deadline = Some(limit);
        self
    }

    /// Whether and how often a request is sent again. Default: as the layer has it.
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = Some(retry);
        self
    }

    /// Whether sending twice is safe here. Default: the method decides, and the `Idempotency-Key` where the layer allows it.
    ///
    /// Say yes only where two executions do what one does; say no where a GET or PUT of this route does not keep that promise.
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.settings.idempotent = Some(idempotent);
        self
    }

    /// Whether and when a request is hedged. Default: as the layer has it.
    pub const fn hedge(mut self, hedge: Hedge) -> Self {
        self.settings.hedge = Some(hedge);
        self
    }

    /// How much a request matters under overload. Default: what the request has already.
    pub const fn priority(mut self, priority: Priority) -> Self {
        self.settings.priority = Some(priority);
        self
    }

    /// Whom a request counts for in a rate limit; all of a route together, then. Default: what the request has already.
    pub fn limit_key(mut self, key: LimitKey) -> Self {
        self.settings.limit_key = Some(key);
        self
    }

    /// The policy.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that makes no sense, and its value: times of zero or of more than a day, or
    /// attempts outside of 1..=10.
    pub fn build(self) -> Result<Policy, ConfigError> {
        if let Some(limit) = self.settings.deadline {
            ConfigError::positive("route.deadline", limit)?;
            ConfigError::at_most_a_day("route.deadline", limit)?;
        }
        if let Some(Hedge::After(delay)) = self.settings.hedge {
            ConfigError::positive("route.hedge", delay)?;
            ConfigError::at_most_a_day("route.hedge", delay)?;
        }
        if let Some(Retry::Attempts(attempts)) = self.settings.retry
            && !(1..=MOST_ATTEMPTS).contains(&attempts)
        {
            return Err(ConfigError::new(
                "route.retry",
                attempts,
                "must be from 1 to 10 attempts",
            ));
        }
        Ok(Policy {
            settings: Arc::new(self.settings),
        })
    }
}
