use std::fmt;
use std::time::{Duration, Instant};

/// What a [`GenericRetry`](super::GenericRetry) needs to know about requests and outcomes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no retry policy for requests of type `{Req}` with responses `{Res}` and errors `{E}`",
    label = "does not say which outcomes ask for another attempt",
    note = "for requests that are `Clone` take `OnError`, or `Classify::new(|outcome: Result<&Response, &Error>| -> Verdict)` around a closure; for others implement `ha_tower::retry::generic::Policy`"
)]
pub trait Policy<Req, Res, E> {
    /// A copy of the request for another attempt; `None` when there must or can be none. Asked before each attempt that may
    /// be followed by another, and only then.
    fn copy(&self, request: &Req) -> Option<Req>;

    /// What this outcome asks for. `request` is the copy that the next attempt would be made from. Not asked where there can be
    /// no other attempt.
    fn classify(&self, request: &Req, outcome: Result<&Res, &E>) -> Verdict;

    /// When the caller stops waiting: an attempt that would begin later is not made. Default never.
    fn deadline(&self, request: &Req) -> Option<Instant> {
        let _ = request;
        None
    }

    /// Changes a request before it is sent again, as attempt number `attempt`, from 2: to mark it as a retry, say. Default
    /// nothing.
    fn prepare(&self, request: &mut Req, attempt: u32) {
        let _ = (request, attempt);
    }
}

/// What an outcome asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The outcome is passed on: a success, or a failure that another attempt would not mend.
    Pass,
    /// Another attempt after the layer's backoff.
    Retry,
    /// Another attempt, not before so long, plus the backoff. A wait longer than the layer's cap ends the retries.
    RetryAfter(Duration),
}

/// Each error is followed by another attempt. Only for requests that may be sent any number of times.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnError;

impl<Req: Clone, Res, E> Policy<Req, Res, E> for OnError {
    fn copy(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }

    fn classify(&self, _: &Req, outcome: Result<&Res, &E>) -> Verdict {
        match outcome {
            Ok(_) => Verdict::Pass,
            Err(_) => Verdict::Retry,
        }
    }
}

/// A function decides. Only for requests that may be sent any number of times.
///
/// ```
/// use ha_tower::retry::RetryLayer;
/// use ha_tower::retry::generic::{Classify, Verdict};
///
/// let full = Classify::new(|outcome: Result<&usize, &std::io::Error>| match outcome {
///     Ok(0) => Verdict::Retry,
///     Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Verdict::Retry,
///     _ => Verdict::Pass,
/// });
/// let layer = RetryLayer::generic(full);
/// ```
#[derive(Clone, Copy)]
pub struct Classify<F>(F);

impl<F> Classify<F> {
    /// By this function.
    pub const fn new<Res, E>(classify: F) -> Self
    where
        F: Fn(Result<&Res, &E>) -> Verdict,
    {
        Self(classify)
    }
}

impl<F> fmt::Debug for Classify<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classify").finish_non_exhaustive()
    }
}

impl<F, Req, Res, E> Policy<Req, Res, E> for Classify<F>
where
    F: Fn(Result<&Res, &E>) -> Verdict,
    Req: Clone,
{
    fn copy(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }

    fn classify(&self, _: &Req, outcome: Result<&Res, &E>) -> Verdict {
        self.0(outcome)
    }
}
