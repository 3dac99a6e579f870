use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ha_core::config::ConfigError;
use ha_core::endpoint::Endpoint;
use ha_core::health::Finding;
use tower::BoxError;

use super::{Check, Failure};

pub(super) type Answer<'a> = Pin<Box<dyn Future<Output = Result<Finding, Failure>> + Send + 'a>>;

pub(super) trait Ask: fmt::Debug + Send + Sync + 'static {
    /// Whether the settings make sense.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Asks once, on a connection of its own that ends with the future. The caller sets the time limit.
    fn ask(&self, endpoint: Endpoint) -> Answer<'_>;
}

/// A way to ask an endpoint how it is: [`Http`](super::Http), [`Tcp`](super::Tcp), `Grpc` or [`Custom`]. Sealed: what is missing
/// here is a function for [`custom`].
#[expect(private_bounds, reason = "sealed")]
pub trait Probe: Ask {}

/// Any [`Probe`]; what a [`Check`] asks when nobody needs to know how.
#[derive(Debug, Clone)]
pub struct Any(pub(super) Arc<dyn Ask>);

/// A check that asks by a function of yours. Made by [`custom`].
pub struct Custom<F>(F);

impl<F> fmt::Debug for Custom<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}

/// Asks by an async function. `Ok(())` passes and an error fails; a [`Finding`] says more. The function has the check's timeout, and is
/// dropped when it is over or the endpoint is gone. It should not block the thread. A panic is a failure.
///
/// ```
/// use std::time::Duration;
/// use ha_tower::health;
///
/// let check = health::custom(|endpoint| async move {
///     let address = (endpoint.address.host(), endpoint.address.port());
///     tokio::net::TcpStream::connect(address).await.map(drop)
/// })
/// .interval(Duration::from_secs(1));
/// ```
pub fn custom<F, Fut, T, E>(check: F) -> Check<Custom<F>>
where
    F: Fn(Endpoint) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Into<Finding>,
    E: Into<BoxError>,
{
    Check::new(Custom(check))
}

impl<F, Fut, T, E> Ask for Custom<F>
where
    F: Fn(Endpoint) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Into<Finding>,
    E: Into<BoxError>,
{
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn ask(&self, endpoint: Endpoint) -> Answer<'_> {
        let answer = (self.0)(endpoint);
        Box::pin(async move {
            match answer.await {
                Ok(finding) => Ok(finding.into()),
                Err(error) => Err(Failure::Custom(error.into())),
            }
        })
    }
}

impl<F, Fut, T, E> Probe for Custom<F>
where
    F: Fn(Endpoint) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Into<Finding>,
    E: Into<BoxError>,
{
}
