use http::Extensions;

use super::layer::MOST_ATTEMPTS;
use crate::route;

/// Request extension: what the route of this request asks of a [`RetryLayer`](super::RetryLayer) instead of the layer's own
/// settings. What is not set stays as the layer has it.
///
/// Whatever stands in front puts it into the request's extensions: an axum middleware on a route, or a policy by route. It
/// cannot come from the wire. Without one, a [`route::Policy`] in the extensions says the same. The budget, the deadline and the waits are the layer's in any case.
///
/// ```
/// use ha_tower::retry::Override;
/// use http::Request;
///
/// let mut search = Request::post("/search").body(()).unwrap();
/// search.extensions_mut().insert(Override::new().attempts(2).idempotent(true));
///
/// let mut transfer = Request::put("/transfer").body(()).unwrap();
/// transfer.extensions_mut().insert(Override::off());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it works in the extensions of a request"]
pub struct Override {
    attempts: Option<u32>,
    idempotent: Option<bool>,
}

impl Override {
    /// Changes nothing.
    pub const fn new() -> Self {
        Self {
            attempts: None,
            idempotent: None,
        }
    }

    /// Sent once, whatever happens.
    pub const fn off() -> Self {
        Self::new().attempts(1)
    }

    /// How often the request is sent at most, the first time included. Taken as 1 where it is 0, and as 10 where it is
    /// more.
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = Some(attempts);
        self
    }

    /// Whether the request may be sent again after any failure, whatever its method and headers say. With false only one
    /// that provably never reached the application is sent again, even a GET.
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = Some(idempotent);
        self
    }

    /// What a request's extensions say: an override, or else the policy of its route.
    pub(super) fn of(extensions: &Extensions) -> Self {
        if let Some(own) = extensions.get() {
            return *own;
        }
        let policy = extensions.get::<route::Policy>();
        policy.map_or(Self::new(), |policy| Self {
            attempts: policy.retry().map(|retry| match retry {
                route::Retry::Off => 1,
                route::Retry::Attempts(attempts) => attempts,
            }),
            idempotent: policy.idempotent(),
        })
    }

    pub(super) fn attempts_or(self, layers: u32) -> u32 {
        self.attempts
            .map_or(layers, |attempts| attempts.clamp(1, MOST_ATTEMPTS))
    }

    pub(super) const fn declared_idempotent(self) -> Option<bool> {
        self.idempotent
    }
}
