//! The laws. Each takes a [`Case`] and says how it is broken, if it is.

mod calling;
mod ending;
mod sharing;
mod waiting;

pub(crate) use calling::{clones_are_safe, readied_is_called, readiness_is_driven};
pub(crate) use ending::{drop_returns_all, error_is_kept, poll_after_end_is_defined};
pub(crate) use sharing::{can_be_sent_and_shared, no_lock_is_held, state_is_shared};
pub(crate) use waiting::never_busy_polls;

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::Request;

use super::probe::{Probe, Readiness, Step};
use super::subject::{Bed, Body, Subject};

/// How a law is broken.
pub(crate) type Verdict = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($says:tt)+) => {
        if !$holds {
            return Err(format!($($says)+));
        }
    };
}

use ensure;

const MS: Duration = Duration::from_millis(1);

/// What becomes of an error of the service inside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Errors {
    /// It is the error, or a source of it.
    Kept,
    /// It becomes a local answer of this status.
    Answered(u16),
    /// It cannot be passed on, but what has failed is told by the type.
    Told(fn(&(dyn Error + 'static)) -> bool),
}

pub(crate) type Async<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the state of a layer is asked for.
pub(crate) struct Shared<'a> {
    /// Two services, made by applying the layer twice.
    pub(crate) a: Subject,
    pub(crate) b: Subject,
    /// The bed of the first one.
    pub(crate) bed: &'a Bed,
    pub(crate) probe: &'a Probe,
    pub(crate) request: fn() -> Request<Body>,
}

type Shows = for<'a> fn(Shared<'a>) -> Async<'a, Result<bool, String>>;

/// One layer, and what the laws have to know of it.
pub(crate) struct Case {
    pub(crate) build: Box<dyn Fn(&Probe) -> Bed>,
    pub(crate) request: fn() -> Request<Body>,
    /// What the probe brings to one request so that the layer calls it as often as it ever does.
    pub(crate) steps: &'static [Step],
    /// When the service inside is ready where that is to be driven.
    pub(crate) readiness: Readiness,
    /// How many calls one request may have under way at once.
    pub(crate) places: usize,
    pub(crate) errors: Errors,
    /// Brings a new bed to where its permits are scarce.
    pub(crate) arrange: Option<for<'a> fn(&'a Bed, &'a Probe) -> Async<'a, ()>>,
    /// How it is built where its state shall be used up soon.
    pub(crate) scarce: Option<fn(&Probe) -> Bed>,
    /// Whether what went through the first service shows in the second.
    pub(crate) shared: Option<Shows>,
}

impl Case {
    pub(crate) fn new(build: impl Fn(&Probe) -> Bed + 'static) -> Self {
        Self {
            build: Box::new(build),
            request: get,
            steps: &[Step::Answer(200)],
            readiness: Readiness::SecondTime,
            places: 1,
            errors: Errors::Kept,
            arrange: None,
            scarce: None,
            shared: None,
        }
    }

    fn bed(&self) -> (Probe, Bed) {
        let probe = Probe::new();
        let bed = (self.build)(&probe);
        (probe, bed)
    }
}

pub(crate) fn get() -> Request<Body> {
    Request::get("http://service/")
        .header("host", "service")
        .body(Body::default())
        .unwrap()
}
