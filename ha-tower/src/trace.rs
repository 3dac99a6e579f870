//! What is told through `tracing`, where the feature of that name is on; else nothing is built of it.

#[cfg(feature = "tracing")]
pub(crate) use tracing::{debug, error, info, warn};

#[cfg(not(feature = "tracing"))]
macro_rules! silent {
    ($($told:tt)*) => {{}};
}
#[cfg(not(feature = "tracing"))]
pub(crate) use silent as debug;
#[cfg(not(feature = "tracing"))]
pub(crate) use silent as error;
#[cfg(not(feature = "tracing"))]
pub(crate) use silent as info;
#[cfg(not(feature = "tracing"))]
pub(crate) use silent as warn;
