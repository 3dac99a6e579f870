use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::{BoxError, Pieces};

/// Trailers of more fields are not kept, and a body that ends with them is sent once.
const MOST_TRAILERS: usize = 256;

/// A request body that can be handed to one attempt after another.
///
/// Chunks go straight to the attempt that reads; a copy (cheap: [`Bytes`] are shared) is kept for the next attempt as
/// long as all of them together fit the limit. An attempt that takes over reads the kept chunks first and then
/// continues with the stream where the one before stopped.
///
/// Only the newest reader may read. An HTTP client can go on polling a body for a while after its response was
/// dropped; such a reader gets [`ReplayError::Revoked`] instead of stealing bytes from the attempt that counts.
pub struct Replay<B> {
    source: Source<B>,
}

enum Source<B> {
    /// Nothing to send: costs no allocation and can be replayed for ever.
    Empty,
    /// There will be no other reader.
    Only(B),
    Shared {
        shared: Arc<Mutex<Shared<B>>>,
        reader: u32,
        position: usize,
    },
}

/// Keeps the right to start another reader.
pub(crate) struct ReplayHandle<B> {
    shared: Option<Arc<Mutex<Shared<B>>>>,
}

struct Shared<B> {
    body: B,
    kept: Pieces,
    kept_bytes: usize,
    limit: usize,
    trailers: Option<HeaderMap>,
    state: State,
    /// Which reader is the current one.
    reader: u32,
    waiting: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Everything read so far is kept, the stream goes on.
    Open,
    /// Everything there was is kept.
    Ended,
    /// Too large to keep: whoever reads now is the last reader.
    TooLarge,
    /// The stream itself broke; no attempt can send it any more.
    Failed,
}

/// Why a [`Replay`] body stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A newer attempt has taken the body over; this reader belongs to one that no longer counts.
    #[error("request body was taken over by a newer attempt")]
    Revoked,
    /// The body given by the caller failed.
    #[error("request body failed")]
    Body(#[source] BoxError),
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// The one and only reader.
    pub(crate) fn once(body: B) -> Self {
        Self {
            source: Source::Only(body),
        }
    }

    /// The first reader, and the handle that can start further ones.
    pub(crate) fn new(body: B, limit: usize) -> (Self, ReplayHandle<B>) {
        if body.is_end_stream() {
            return (
                Self {
                    source: Source::Empty,
                },
                ReplayHandle { shared: None },
            );
        }
        // What says itself that it is too large is not kept in the first place.
        let fits = body.size_hint().lower() <= limit as u64;
        let limit = if fits { limit } else { 0 };
        let shared = Arc::new(Mutex::new(Shared {
            body,
            kept: Pieces::default(),
            kept_bytes: 0,
            limit,
            trailers: None,
            state: State::Open,
            reader: 0,
            waiting: None,
        }));
        let handle = ReplayHandle {
            shared: Some(Arc::clone(&shared)),
        };
        (
            Self {
                source: Source::Shared {
                    shared,
                    reader: 0,
                    position: 0,
                },
            },
            handle,
        )
    }
}

impl<B> ReplayHandle<B> {
    /// A reader from the first byte on, and the end of the one before; `None` when not everything is kept.
    pub(crate) fn restart(&self) -> Option<Replay<B>> {
        let Some(shared) = &self.shared else {
            return Some(Replay {
                source: Source::Empty,
            });
        };
        let (reader, waiting) = {
            let mut inner = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if !inner.is_replayable() {
                return None;
            }
            inner.reader = inner.reader.wrapping_add(1);
            (inner.reader, inner.waiting.take())
        };
        // The old reader may sleep on the stream: wake it so that it learns that it is over.
        if let Some(waker) = waiting {
            waker.wake();
        }
        let shared = Arc::clone(shared);
        Some(Replay {
            source: Source::Shared {
                shared,
                reader,
                position: 0,
            },
        })
    }

    pub(crate) fn is_replayable(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            shared
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_replayable()
        })
    }
}

impl<B> Shared<B> {
    fn is_replayable(&self) -> bool {
        matches!(self.state, State::Open | State::Ended)
    }
}

impl<B: Body> ReplayHandle<B> {
    /// A reader from the first byte on beside the present one, which goes on; `None` unless the whole body is here.
    ///
    /// Two readers of a stream that goes on would have to wait for each other.
    pub(crate) fn fork(&self) -> Option<Replay<B>> {
        let Some(shared) = &self.shared else {
            return Some(Replay {
                source: Source::Empty,
            });
        };
        let inner = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = match inner.state {
            State::Ended => true,
            State::Open => inner.body.is_end_stream(),
            State::TooLarge | State::Failed => false,
        };
        whole.then(|| Replay {
            source: Source::Shared {
                shared: Arc::clone(shared),
                reader: inner.reader,
                position: 0,
            },
        })
    }
}

impl<B> Shared<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        position: &mut usize,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError>>> {
        if self.state == State::Failed {
            // An end here would make what was sent so far look whole.
            return Poll::Ready(Some(Err(ReplayError::Body("it had failed before".into()))));
        }
        // A body that panics must not be read by another attempt.
        let state = std::mem::replace(&mut self.state, State::Failed);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.state = state;
        let Poll::Ready(polled) = polled else {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let frame = match polled {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.state = State::Failed;
                self.kept = Pieces::default();
                return Poll::Ready(Some(Err(ReplayError::Body(error.into()))));
            }
            None => {
                self.end(position);
                return Poll::Ready(None);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                self.keep(&data, position);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    if self.state == State::Open && trailers.len() <= MOST_TRAILERS {
                        self.trailers = Some(trailers.clone());
                    } else {
                        self.too_large();
                    }
                    self.end(position);
                    *position += 1;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
        }
    }

    fn keep(&mut self, data: &Bytes, position: &mut usize) {
        if self.state != State::Open || data.is_empty() {
            return;
        }
        if self.kept_bytes + data.len() > self.limit {
            self.too_large();
        } else {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
            // Whoever reads from the stream has read all that is kept, in whatever pieces.
            *position = self.kept.as_slice().len();
        }
    }

    fn too_large(&mut self) {
        self.state = State::TooLarge;
        self.kept = Pieces::default();
    }

    fn end(&mut self, position: &mut usize) {
        if self.state == State::Open {
            self.state = State::Ended;
            *position = self.kept.as_slice().len();
        }
    }
}

impl<B> Body for Replay<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = ReplayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError>>> {
        let (shared, reader, position) = match &mut self.source {
            Source::Empty => return Poll::Ready(None),
            Source::Only(body) => {
                return Pin::new(body)
                    .poll_frame(cx)
                    .map_err(|error| ReplayError::Body(error.into()));
            }
            Source::Shared {
                shared,
                reader,
                position,
            } => (shared, reader, position),
        };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.reader != *reader {
            return Poll::Ready(Some(Err(ReplayError::Revoked)));
        }
        if shared.is_replayable() {
            let kept = shared.kept.as_slice();
            if let Some(chunk) = kept.get(*position) {
                *position += 1;
                return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
            }
            if shared.state == State::Ended {
                let read = kept.len();
                let trailers = shared.trailers.clone().filter(|_| *position == read);
                *position = read + 1;
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
        }
        shared.poll_stream(cx, position)
    }

    fn is_end_stream(&self) -> bool {
        let (shared, reader, position) = match &self.source {
            Source::Empty => return true,
            Source::Only(body) => return body.is_end_stream(),
            Source::Shared {
                shared,
                reader,
                position,
            } => (shared, reader, position),
        };
        let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.reader != *reader {
            return false;
        }
        let kept = shared.kept.as_slice().len();
        match shared.state {
            State::Open => *position >= kept && shared.body.is_end_stream(),
            State::Ended => *position >= kept + usize::from(shared.trailers.is_some()),
            State::TooLarge => shared.body.is_end_stream(),
            State::Failed => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (shared, reader, position) = match &self.source {
            Source::Empty => return SizeHint::with_exact(0),
            Source::Only(body) => return body.size_hint(),
            Source::Shared {
                shared,
                reader,
                position,
            } => (shared, reader, position),
        };
        let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.reader != *reader {
            return SizeHint::new();
        }
        let kept = shared
            .kept
            .as_slice()
            .iter()
            .skip(*position)
            .map(|chunk| chunk.len() as u64)
            .sum::<u64>();
        if shared.state == State::Ended {
            return SizeHint::with_exact(kept);
        }
        let stream = shared.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = stream.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint.set_lower(stream.lower().saturating_add(kept));
        hint
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Replay");
        match &self.source {
            Source::Empty => debug.field("empty", &true),
            Source::Only(_) => debug.field("only", &true),
            Source::Shared {
                reader, position, ..
            } => debug.field("reader", reader).field("position", position),
        };
        debug.finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for ReplayHandle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayHandle").finish_non_exhaustive()
    }
}
