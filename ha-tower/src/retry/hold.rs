use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response, response};
use http_body::Body;

use crate::body::{Buffered, Pieces};

/// A response that keeps coming is held for this many times as long as one may stall.
pub(super) const STALLS: u32 = 4;

/// A small response on its way in.
pub(super) struct Held<R> {
    head: response::Parts,
    known: Pieces,
    /// How many more bytes are held; a body may turn out longer than it said.
    room: u64,
    /// Whether it said how long it is. One that did not may be a stream, which ends when it likes.
    measured: bool,
    body: R,
}

pub(super) enum End<E> {
    Complete(Option<HeaderMap>),
    Broken(E),
    TooLong,
}

impl<R: Body<Data = Bytes> + Unpin> Held<R> {
    pub(super) fn new(response: Response<R>, room: u64) -> Self {
        let (head, body) = response.into_parts();
        Self {
            head,
            known: Pieces::default(),
            room,
            measured: body.size_hint().exact().is_some(),
            body,
        }
    }

    pub(super) fn is_measured(&self) -> bool {
        self.measured
    }

    /// Ready at the end; `progress` tells whether bytes came.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        progress: &mut bool,
    ) -> Poll<End<R::Error>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(End::Complete(None)),
                Some(Err(error)) => return Poll::Ready(End::Broken(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        *progress = true;
                        let room = self.room.checked_sub(data.len() as u64);
                        self.known.push(data);
                        match room {
                            Some(room) => self.room = room,
                            None => return Poll::Ready(End::TooLong),
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(End::Complete(Some(trailers)));
                        }
                    }
                },
            }
        }
    }

    /// What was held and the rest of the stream.
    pub(super) fn resume(self) -> Response<Buffered<R>> {
        Response::from_parts(self.head, Buffered::resumed(self.known.into(), self.body))
    }

    /// What was held, and nothing after it but `trailers`.
    pub(super) fn complete(self, trailers: Option<HeaderMap>) -> Response<Buffered<R>> {
        Response::from_parts(self.head, Buffered::complete(self.known.into(), trailers))
    }

    /// What was held, and then the error.
    pub(super) fn broken(self, error: R::Error) -> Response<Buffered<R>> {
        Response::from_parts(self.head, Buffered::broken(self.known.into(), error))
    }
}
