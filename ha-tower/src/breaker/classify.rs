use std::any::Any as Value;
use std::error::Error as StdError;

use ::http::{Extensions, Request, Response, StatusCode};
use tower::BoxError;

use super::Error;
use crate::balance::{Any, Grpc, Http, Protocol, Verdict};
use crate::problem::LocalReply;
use crate::{limit, upstream};

/// Says how the end of a call counts.
///
/// [`Any`], [`Http`] and [`Grpc`] do, and so does every closure that takes the result and returns a [`Verdict`]. Of the verdict, a breaker
/// uses whether the call succeeded, failed, was overload, was [pushed back](Verdict::pushed_back) or [says nothing](Verdict::neutral).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot tell which calls failed",
    label = "no classifier for this service's responses and errors",
    note = "take `balance::Any` (an `Err` failed), `balance::Http` (a 5xx failed too; the service answers with `http::Response`), `balance::Grpc`, or a closure `|result: Result<&Response, &Error>| -> Verdict`"
)]
pub trait Classify<Response, Error> {
    /// How this result counts.
    fn classify(&self, result: Result<&Response, &Error>) -> Verdict;
}

#[diagnostic::do_not_recommend]
impl<F, Res, E> Classify<Res, E> for F
where
    F: Fn(Result<&Res, &E>) -> Verdict,
{
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        self(result)
    }
}

impl<Res, E: 'static> Classify<Res, E> for Any {
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Verdict {
        unless_refused_here(result, |result| {
            Protocol::<(), Res, E>::classify(self, result)
        })
    }
}

impl<B: http_body::Body, E: 'static> Classify<Response<B>, E> for Http {
    #[inline]
    fn classify(&self, result: Result<&Response<B>, &E>) -> Verdict {
        unless_refused_here(result, |result| {
            Protocol::<Request<()>, Response<B>, E>::classify(self, result)
        })
    }
}

impl<B: http_body::Body, E: 'static> Classify<Response<B>, E> for Grpc {
    #[inline]
    fn classify(&self, result: Result<&Response<B>, &E>) -> Verdict {
        unless_refused_here(result, |result| {
            Protocol::<Request<()>, Response<B>, E>::classify(self, result)
        })
    }
}

fn unless_refused_here<Res, E: 'static>(
    result: Result<&Res, &E>,
    classify: impl FnOnce(Result<&Res, &E>) -> Verdict,
) -> Verdict {
    match result {
        Err(error) if refused_by(error).is_some() => Verdict::neutral(),
        result => classify(result),
    }
}

/// Whether an answer was made in this process to refuse a request before it was sent. A 502 or 504 made here is no such answer: it
/// tells that what is behind did not do its work.
pub(crate) fn refused_here(status: StatusCode, extensions: &Extensions) -> bool {
    let refuses =
        status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS;
    refuses && extensions.get::<LocalReply>().is_some()
}

/// The error that says that the request was refused in this process, if it is one, or stands behind the one that a box holds.
pub(crate) fn refused_by<E: 'static>(error: &E) -> Option<&(dyn StdError + 'static)> {
    let value: &dyn Value = error;
    let mut next: Option<&(dyn StdError + 'static)> =
        if let Some(e) = value.downcast_ref::<BoxError>() {
            Some(&**e)
        } else if let Some(e) = value.downcast_ref::<Error>() {
            Some(e)
        } else if let Some(e) = value.downcast_ref::<upstream::Error>() {
            Some(e)
        } else if let Some(e) = value.downcast_ref::<limit::Error>() {
            Some(e)
        } else {
            None
        };
    while let Some(error) = next {
        if is_refusal(error) {
            return Some(error);
        }
        next = error.source();
    }
    None
}

/// Whether this very error says that the request was refused in this process before it was sent.
fn is_refusal(error: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.is_open();
    }
    if let Some(error) = error.downcast_ref::<limit::Error>() {
        return error.is_shed();
    }
    error
        .downcast_ref::<upstream::Error>()
        .is_some_and(|error| error.is_unavailable() || error.is_full())
}
