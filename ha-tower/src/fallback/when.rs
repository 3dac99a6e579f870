use std::any::Any;
use std::error::Error as StdError;

use http::{Response, StatusCode};
use tower::BoxError;

use crate::breaker::{Open, refused_by, refused_here};
use crate::{breaker, upstream};

/// Why a fallback is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A breaker of this process is open. The service was not asked.
    Open,
    /// The request was refused in this process for another reason: it was shed, or there is nowhere to send it. The service was not
    /// asked.
    Refused,
    /// No answer came in time.
    Timeout,
    /// The service failed with an error.
    Error,
    /// The service answered with this status.
    Status(StatusCode),
    /// What a closure of yours said.
    Custom(&'static str),
}

impl Reason {
    /// Whether the service provably never saw the request.
    #[must_use]
    pub fn is_unsent(self) -> bool {
        matches!(self, Self::Open | Self::Refused)
    }

    #[cfg(feature = "metrics")]
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Status(_) => "status",
            Self::Custom(reason) => reason,
        }
    }
}

/// Says when a fallback is asked, and why.
///
/// [`Failures`] does, and so does every closure that takes the result and returns a reason or none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot tell when a fallback is needed",
    label = "does not judge this service's responses and errors",
    note = "take `fallback::Failures` (the service answers with `http::Response`), or a closure `|result: Result<&Response, &Error>| -> Option<Reason>`"
)]
pub trait When<Response, Error> {
    /// The reason, if this result calls for a fallback.
    fn reason(&self, result: Result<&Response, &Error>) -> Option<Reason>;
}

#[diagnostic::do_not_recommend]
impl<F, Res, E> When<Res, E> for F
where
    F: Fn(Result<&Res, &E>) -> Option<Reason>,
{
    fn reason(&self, result: Result<&Res, &E>) -> Option<Reason> {
        self(result)
    }
}

/// Failures of an HTTP service: errors, what was refused in this process, timeouts, 502, 503 and 504. The default of a
/// [`FallbackLayer`](super::FallbackLayer).
#[derive(Debug, Clone, Copy, Default)]
pub struct Failures {
    server_errors: bool,
}

impl Failures {
    /// The default, and every other 5xx.
    #[must_use]
    pub const fn server_errors() -> Self {
        Self {
            server_errors: true,
        }
    }
}

impl<B, E: 'static> When<Response<B>, E> for Failures {
    fn reason(&self, result: Result<&Response<B>, &E>) -> Option<Reason> {
        let response = match result {
            Ok(response) => response,
            Err(error) => return Some(of_error(error)),
        };
        let status = response.status();
        if response.extensions().get::<Open>().is_some() {
            return Some(Reason::Open);
        }
        if refused_here(status, response.extensions()) {
            return Some(Reason::Refused);
        }
        match status {
            StatusCode::GATEWAY_TIMEOUT => Some(Reason::Timeout),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
                Some(Reason::Status(status))
            }
            _ if self.server_errors && status.is_server_error() => Some(Reason::Status(status)),
            _ => None,
        }
    }
}

fn of_error<E: 'static>(error: &E) -> Reason {
    if let Some(refusal) = refused_by(error) {
        return match refusal.downcast_ref::<breaker::Error>() {
            Some(_) => Reason::Open,
            None => Reason::Refused,
        };
    }
    if is_timeout(error) {
        Reason::Timeout
    } else {
        Reason::Error
    }
}

fn is_timeout<E: 'static>(error: &E) -> bool {
    let error: &dyn Any = error;
    if let Some(error) = error.downcast_ref::<upstream::Error>() {
        return matches!(error, upstream::Error::Timeout { .. });
    }
    let mut next = error
        .downcast_ref::<BoxError>()
        .map(|error| &**error as &(dyn StdError + 'static));
    while let Some(error) = next {
        if let Some(upstream::Error::Timeout { .. }) = error.downcast_ref() {
            return true;
        }
        if error.is::<tokio::time::error::Elapsed>() {
            return true;
        }
        next = error.source();
    }
    false
}
