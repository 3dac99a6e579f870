use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::Stream;
use ha_core::endpoint::Endpoint;
use tower::BoxError;

use super::{Error, Source};

/// What a stream of endpoints may bring: a whole set, or a result of one. Implemented for `Vec<Endpoint>` and
/// `Result<Vec<Endpoint>, E>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no set of endpoints",
    label = "the stream brings this",
    note = "`discover::stream` takes streams of `Vec<Endpoint>` or of `Result<Vec<Endpoint>, E>`"
)]
pub trait Delivery: sealed::Sealed {
    #[doc(hidden)]
    fn into_set(self) -> Result<Vec<Endpoint>, BoxError>;
}

mod sealed {
    use super::Endpoint;

    pub trait Sealed {}
    impl Sealed for Vec<Endpoint> {}
    impl<E> Sealed for Result<Vec<Endpoint>, E> {}
}

impl Delivery for Vec<Endpoint> {
    fn into_set(self) -> Result<Vec<Endpoint>, BoxError> {
        Ok(self)
    }
}

impl<E: Into<BoxError>> Delivery for Result<Vec<Endpoint>, E> {
    fn into_set(self) -> Result<Vec<Endpoint>, BoxError> {
        self.map_err(Into::into)
    }
}

/// Follows a stream of your own. Each item is a whole set, `Vec<Endpoint>`, or a result of one.
///
/// The [rules of a set](super#the-rules-of-a-set) hold: an empty one, one that repeats a key and an error leave the last
/// good set in place and become an [`Event::Failed`](super::Event::Failed). After an error the stream is asked again a tenth
/// of a second later. When it ends, the last good set stays for good.
///
/// ```
/// use futures_util::stream::unfold;
/// use ha_core::endpoint::Endpoint;
/// use ha_tower::discover;
/// use tokio::sync::watch;
///
/// // Whoever holds the sender decides which endpoints there are.
/// let (sender, receiver) = watch::channel(vec!["http://10.0.0.1:3000".parse::<Endpoint>()?]);
/// let sets = unfold((receiver, true), |(mut receiver, first)| async move {
///     if !first {
///         receiver.changed().await.ok()?;
///     }
///     let set = receiver.borrow_and_update().clone();
///     Some((set, (receiver, false)))
/// });
/// let source = discover::stream(sets);
/// # drop((source, sender));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn stream<S>(sets: S) -> Source
where
    S: Stream + Send + 'static,
    S::Item: Delivery + Send,
{
    paced(sets.map(|item| item.into_set().map_err(Error::Source)))
}

/// The wait after an error: a stream that brings nothing but errors must not keep a core busy.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn paced(
    sets: impl Stream<Item = Result<Vec<Endpoint>, Error>> + Send + 'static,
) -> Source {
    Source::new(futures_util::stream::unfold(
        (Box::pin(sets), false),
        |(mut sets, failed)| async move {
            if failed {
                tokio::time::sleep(PAUSE).await;
            }
            let item = sets.next().await?;
            let failed = item.is_err();
            Some((item, (sets, failed)))
        },
    ))
}
