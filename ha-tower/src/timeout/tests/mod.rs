//! Poll-level tests with paused time. What a socket does is tested with real servers elsewhere.

mod client;
mod propagated;
mod server;
