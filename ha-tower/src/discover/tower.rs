use std::collections::HashMap;
use std::hash::Hash;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::Stream;
use ha_core::endpoint::Endpoint;
use tower::BoxError;
use tower::discover::{Change, Discover};

use super::stream::paced;
use super::{Error, Source};

/// Follows any [`tower::discover::Discover`]. `endpoint` makes an endpoint of each key and service that is inserted.
///
/// A `Discover` brings one change at a time; all that are ready at the same moment become one set, so that taking one
/// endpoint out and putting another in does not pass through an empty set. The [rules of a set](super#the-rules-of-a-set) hold: when
/// the last endpoint is removed, it stays, because nothing tells a `Discover` that has lost its server from one that means it.
/// An error of the `Discover` or of `endpoint` is an [`Event::Failed`](super::Event::Failed) and not the end: the key keeps the endpoint it had.
///
/// ```
/// use ha_core::endpoint::{Endpoint, EndpointError};
/// use ha_tower::discover;
/// use tower::discover::ServiceList;
///
/// # #[derive(Clone)] struct Addr(&'static str);
/// # impl tower::Service<()> for Addr {
/// #     type Response = (); type Error = std::convert::Infallible; type Future = std::future::Ready<Result<(), Self::Error>>;
/// #     fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> { std::task::Poll::Ready(Ok(())) }
/// #     fn call(&mut self, _: ()) -> Self::Future { std::future::ready(Ok(())) }
/// # }
/// let list = ServiceList::new::<()>(vec![Addr("http://10.0.0.1:3000"), Addr("http://10.0.0.2:3000")]);
/// let source = discover::tower(list, |index, service: Addr| {
///     Ok::<_, EndpointError>(service.0.parse::<Endpoint>()?.with_key(format!("app-{index}")))
/// });
/// # drop(source);
/// ```
pub fn tower<D, F, E>(discover: D, endpoint: F) -> Source
where
    D: Discover + Send + 'static,
    D::Key: Hash + Send + 'static,
    D::Error: Into<BoxError>,
    F: FnMut(&D::Key, D::Service) -> Result<Endpoint, E> + Send + Unpin + 'static,
    E: Into<BoxError>,
{
    paced(Sets {
        discover: Box::pin(discover),
        endpoint,
        known: HashMap::new(),
        changed: false,
        ended: false,
    })
}

/// Changes taken into one set. More wait for the next, so that a flood of them delays the first set no longer.
const CHANGES_AT_ONCE: usize = 10_000;

struct Sets<D: Discover, F> {
    discover: Pin<Box<D>>,
    endpoint: F,
    known: HashMap<D::Key, Endpoint>,
    changed: bool,
    ended: bool,
}

// Only the boxed `discover` is ever pinned.
impl<D: Discover, F> Unpin for Sets<D, F> {}

impl<D, F, E> Sets<D, F>
where
    D: Discover,
    D::Key: Hash,
    F: FnMut(&D::Key, D::Service) -> Result<Endpoint, E>,
    E: Into<BoxError>,
{
    fn take(&mut self, change: Change<D::Key, D::Service>) -> Result<(), BoxError> {
        match change {
            Change::Insert(key, service) => {
                let endpoint = (self.endpoint)(&key, service).map_err(Into::into)?;
                self.known.insert(key, endpoint);
            }
            Change::Remove(key) => {
                self.known.remove(&key);
            }
        }
        self.changed = true;
        Ok(())
    }
}

impl<D, F, E> Stream for Sets<D, F>
where
    D: Discover,
    D::Key: Hash,
    D::Error: Into<BoxError>,
    F: FnMut(&D::Key, D::Service) -> Result<Endpoint, E>,
    E: Into<BoxError>,
{
    type Item = Result<Vec<Endpoint>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        for _ in 0..CHANGES_AT_ONCE {
            if self.ended {
                break;
            }
            let taken = match self.discover.as_mut().poll_discover(cx) {
                Poll::Ready(Some(Ok(change))) => self.take(change),
                Poll::Ready(Some(Err(error))) => Err(error.into()),
                Poll::Ready(None) => {
                    self.ended = true;
                    break;
                }
                Poll::Pending => break,
            };
            if let Err(error) = taken {
                return Poll::Ready(Some(Err(Error::Source(error))));
            }
        }
        if std::mem::take(&mut self.changed) {
            return Poll::Ready(Some(Ok(self.known.values().cloned().collect())));
        }
        if self.ended {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}
