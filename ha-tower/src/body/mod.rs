//! Bodies: one that can be sent again, and one that is partly or wholly known already.

mod buffered;
mod pieces;
mod replay;

pub use buffered::Buffered;
pub use replay::{Replay, ReplayError};

/// Any error that can travel between threads.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) use pieces::Pieces;
pub(crate) use replay::ReplayHandle;
