use std::time::{Duration, Instant};

/// Which requests are hedged, and how they are copied.
pub trait Policy<Request> {
    /// What the service inside is called with.
    type Inner;
    /// What further attempts are made from.
    type Template: Copies<Self::Inner>;

    /// Takes a request apart into its first attempt and what is needed for others.
    fn split(&self, request: Request) -> Split<Self::Inner, Self::Template>;
}

/// A request that was made ready to be sent, perhaps more than once.
#[derive(Clone, Debug)]
pub struct Split<Inner, Template> {
    /// The first attempt.
    pub first: Inner,
    /// What others are made from; `None` when there must not be any.
    pub template: Option<Template>,
    /// After which time, in place of what the layer knows.
    pub delay: Option<Duration>,
    /// When nobody waits any more.
    pub deadline: Option<Instant>,
}

/// Makes further attempts of one request.
pub trait Copies<Inner> {
    /// Hedge number `hedge`, counted from 1; `None` when it cannot be sent again now.
    fn copy(&self, hedge: u32) -> Option<Inner>;
}

/// Which answers win.
pub trait Classify<Response, Error> {
    /// Whether this outcome ends the race. What does not is kept until all attempts have ended.
    fn is_success(&self, result: Result<&Response, &Error>) -> bool;

    /// Notes on what is passed on, that `sent` hedges were sent for it, and that attempt `winner` brought it: 0 is the first one.
    /// Called when at least one was sent. Default nothing.
    fn report(&self, response: &mut Response, sent: u32, winner: u32) {
        let _ = (response, sent, winner);
    }
}
