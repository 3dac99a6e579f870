use std::error::Error;

use crate::body::BoxError;

/// An error that a policy can look into: every [`std::error::Error`]. A [`BoxError`](tower::BoxError) is none; [`Boxed`] makes it one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not tell a retry whether the request was sent",
    label = "the service inside fails with `{Self}`, which is no `std::error::Error`",
    note = "of a `BoxError`, as `tower::timeout` and `tower::buffer` fail with, make one it can look into: `.map_err(retry::Boxed::from)` between the retry and that service"
)]
pub trait Telling: Error + 'static {}

#[diagnostic::do_not_recommend]
impl<E: Error + 'static> Telling for E {}

/// A boxed error as an error of its own.
///
/// The policies look through an error and all its sources for the word that nothing was sent, so they ask for a
/// [`std::error::Error`], and a `BoxError` is none. What fails with one (`tower::timeout`, `tower::buffer`, `tower::load_shed`) goes
/// inside of a retry by way of this:
///
/// ```
/// use std::time::Duration;
///
/// use ha_tower::retry::{Boxed, RetryLayer};
/// use http::{Request, Response};
/// use http_body_util::{Empty, Full};
/// use tower::buffer::Buffer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut calls = 0;
/// let slow_once = service_fn(move |_: Request<_>| {
///     calls += 1;
///     let delay = Duration::from_secs(if calls == 1 { 60 } else { 0 });
///     async move {
///         tokio::time::sleep(delay).await;
///         Ok::<_, std::convert::Infallible>(Response::new(Full::from("hello")))
///     }
/// });
/// let client = ServiceBuilder::new()
///     .layer(RetryLayer::http())
///     .map_err(Boxed::from)
///     .timeout(Duration::from_millis(20))
///     .service(Buffer::new(slow_once, 8));
/// assert!(client.oneshot(Request::new(Empty::<bytes::Bytes>::new())).await.is_ok());
/// # });
/// ```
#[derive(Debug, thiserror::Error)]
#[error("request failed")]
pub struct Boxed(#[source] BoxError);

impl From<BoxError> for Boxed {
    fn from(error: BoxError) -> Self {
        Self(error)
    }
}

impl Boxed {
    /// What the box holds.
    #[must_use]
    pub fn into_inner(self) -> BoxError {
        self.0
    }
}
