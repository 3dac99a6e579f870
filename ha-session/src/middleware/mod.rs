//! The layer that gives every request its session and commits it before the answer leaves.

mod answer;
mod future;
mod layer;
mod service;

#[cfg(feature = "axum")]
pub(crate) use self::answer::Problem;
pub use self::future::ResponseFuture;
pub use self::layer::{SessionLayer, SessionLayerBuilder};
pub use self::service::SessionService;
